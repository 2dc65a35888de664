"""The outlines of one image's objects."""
import numpy as np

from core.config import Config
from core.cosegmentation.by_cells import refined


def test_the_crf_follows_the_edges_of_the_image():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[15:45, 20:60] = 200
    labels = np.full((6, 8), 0.3)
    labels[1:5, 2:6] = 0.9
    posterior, agreement = refined(image, labels, Config(web_side=80))
    truth = image[..., 0] > 100
    assert posterior.shape == (60, 80) and ((posterior > 0.5) == truth).mean() > 0.98 and 0.7 < agreement < 1
