"""The outlines of one image's objects."""
import cv2
import numpy as np
import pytest

from core.config import Config
from core.cosegmentation.by_cells import refined


def test_the_crf_follows_the_edges_of_the_image():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[15:45, 20:60] = 200
    foreground = np.full((6, 8), 0.3)
    foreground[1:5, 2:6] = 0.9
    posterior, agreement = refined(image, foreground, Config(web_side=80))
    truth = image[..., 0] > 100
    assert posterior.shape == (60, 80) and ((posterior > 0.5) == truth).mean() > 0.98
    before = cv2.resize(foreground.astype(np.float32), (80, 60)) > 0.63
    assert agreement == pytest.approx((before & (posterior > 0.5)).sum() / (before | (posterior > 0.5)).sum())
    assert 0.7 < agreement < 1


def test_a_foreground_that_the_crf_takes_away_agrees_with_nothing():
    """The score is the Jaccard index: the share of equal pixels would be high where hardly anything is foreground."""
    foreground = np.zeros((6, 8))
    foreground[2, 3] = 0.66
    posterior, agreement = refined(np.full((60, 80, 3), 90, np.uint8), foreground, Config(web_side=80))
    assert posterior.max() < 0.5 and agreement == 0
