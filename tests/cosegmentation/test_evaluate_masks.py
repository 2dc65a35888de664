"""P and J of web masks."""
import numpy as np
import pytest

from core.config import Config
from core.cosegmentation.evaluate_masks import evaluate_web_masks, precision_and_jaccard
from core.errors import UserError
from core.io.files import write_lines
from core.io.images import write_mask


def test_precision_and_jaccard_by_hand():
    truth = np.array([[7, 7, 0, 255]])
    assert precision_and_jaccard(truth, np.array([[7, 0, 255, 7]]), 7) == (pytest.approx(2 / 3), 0.5)
    assert precision_and_jaccard(truth * 0, np.zeros((1, 4), int), 7) == (1, 1)


def test_evaluation_reports_what_the_list_keeps_and_leaves_out(tmp_path, caplog):
    config = Config(root=str(tmp_path))
    half, empty = np.repeat([[8, 0]], 2, 0).astype(np.uint8), np.zeros((2, 2), np.uint8)
    for name, truth, mask in (("8_a", half, half), ("8_b", half, half | 8), ("8_c", empty, half),
                              ("8_d", half // 8, empty)):  # d shows class 1 and not 8
        write_mask(config.path("truth", name + ".png"), truth)
        write_mask(config.path("dataset", "web_labels", name + ".png"), mask)
    write_lines(config.path("dataset", "web_train_list.txt"), ["8_a", "8_c"])
    with caplog.at_level("INFO"):
        assert evaluate_web_masks(config, config.path("truth"))["mean"] == (pytest.approx(0.75), pytest.approx(0.625))
    assert "2 of 4 images are on" in caplog.text and "P 75.0  J 50.0" in caplog.text
    assert "left out: 1 of the 2 images that show their class, 1 of the 2 that don't" in caplog.text


def test_true_masks_that_hold_no_class_but_1_are_binary(tmp_path):
    config = Config(root=str(tmp_path))
    write_mask(config.path("truth", "8_a.png"), np.array([[1, 255, 0]], np.uint8))
    write_mask(config.path("masks", "8_a.png"), np.array([[8, 8, 8]], np.uint8))
    assert evaluate_web_masks(config, config.path("truth"), config.path("masks"))["cat"] == (0.5, 0.5)


@pytest.mark.parametrize("truth, message", [
    (np.array([[255, 255, 0]], np.uint8), "no mask in .*truth shows the class of its image: .* 255 is not counted"),
    (np.array([[8], [8]], np.uint8), "truth/8_a.png is 1 x 2 pixels, .*masks/8_a.png 3 x 1: one of them"),
])
def test_true_masks_that_can_not_be_compared_are_reported(tmp_path, truth, message):
    config = Config(root=str(tmp_path))
    write_mask(config.path("truth", "8_a.png"), truth)
    write_mask(config.path("masks", "8_a.png"), np.array([[8, 8, 8]], np.uint8))
    with pytest.raises(UserError, match=message):
        evaluate_web_masks(config, config.path("truth"), config.path("masks"))
