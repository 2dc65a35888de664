"""What becomes of a posterior, and which web images are kept."""
import numpy as np
import pytest

from core.config import Config
from core.cosegmentation.results import UNLIKE, decide, finish_web_image, read_result
from core.io.images import read_mask
from core.paths import mask_path


def test_decision_between_foreground_uncertain_and_background():
    posterior = np.array([[0.9, 0.61], [0.52, 0.1]], np.float32)
    assert decide(posterior).tolist() == [[1, 1], [255, 0]]


@pytest.mark.parametrize("share, score, likeness, reason", [
    (0.5, 0.5, 0.6, ""), (0.005, 0.5, 0.6, "foreground of 0.5 %"), (0.96, 0.5, 0.6, "foreground of 96.0 %"),
    (0.5, 0.39, 0.6, "score below 0.4"), (0.5, 0.5, 0.49, UNLIKE)])
def test_images_are_left_out_as_noise_by_the_default_settings(tmp_path, share, score, likeness, reason):
    config = Config(root=str(tmp_path))
    posterior = (np.arange(1000).reshape(20, 50) < 1000 * share).astype(np.float32)
    finish_web_image(config.layout, config, "7_000001", posterior, score, likeness, [2])
    found = read_result(config.layout, "7_000001")
    assert (found.kept, found.reason, found.also) == (not reason, reason, [2]) and found.score == score
    mask = read_mask(mask_path(config.layout.web_masks, "7_000001"), 21)
    assert ((mask == 7) == (posterior > 0)).all()
