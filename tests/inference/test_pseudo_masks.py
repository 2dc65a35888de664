"""Pseudo masks of small images from given scores and posteriors."""
import numpy as np
import pytest

from core.config import Config
from core.dataset.train_posteriors import Posteriors, write_posteriors
from core.errors import UserError
from core.inference.postprocess import Scored
from core.inference.pseudo_masks import Estimation, estimate, pseudo_mask
from core.io.images import read_mask

CLASSES = ("bk", "a", "b", "c")


def scored(*rows):
    """Image of one row of pixels with the given scores of each class."""
    scores = np.array(rows, np.float32)[:, None]
    return Scored("x", np.zeros((1, scores.shape[2], 3), np.uint8), scores)


def mask_of(image, labels, foreground=None, **settings):
    return pseudo_mask(image, labels, Config(classes=CLASSES, **settings), crf=False, foreground=foreground)[0].tolist()


def test_only_the_labels_and_the_background_are_in_the_mask():
    image = scored([0.1, 0.3, 0.5], [0.2, 0.1, 0.1], [0.1, 0.2, 0.3], [0.6, 0.4, 0.1])
    assert mask_of(image, [1, 2]) == [1, 0, 0]


def test_a_class_needs_the_model_and_the_cosegmentation():
    image = scored([0.6, 0.4, 0.4, 0.01], [0.4, 0.6, 0.6, 0.99], [0, 0, 0, 0], [0, 0, 0, 0])
    foreground = np.array([[[0.9, 0.9, 0.1, 0.1]]], np.float32)
    assert mask_of(image, [1], foreground) == [1, 1, 0, 1]
    assert mask_of(image, [1]) == [0, 1, 1, 1]


def test_where_neither_is_sure_the_mask_is_255():
    image = scored([0.3, 0.6, 0.9], [0.7, 0.4, 0.1], [0, 0, 0], [0, 0, 0])
    foreground = np.array([[[0.9, 0.5, 0.5]]], np.float32)
    assert mask_of(image, [1], foreground, min_confidence=0.8) == [1, 255, 0]
    assert mask_of(image, [1], min_confidence=0.8) == [1, 255, 0], "a label that would be lost keeps its pixels"


def test_a_label_that_the_mask_does_not_show_gets_its_most_probable_pixels():
    image = scored([0.7, 0.9, 0.6], [0, 0, 0], [0.3, 0.1, 0.4], [0, 0, 0])
    assert mask_of(image, [2]) == [0, 0, 0], "as published"
    assert mask_of(image, [2], min_confidence=0.8) == [2, 0, 2]


def test_labels_of_the_cosegmentation_are_those_of_the_image(tmp_path):
    image = scored([0.4, 0.6], [0.6, 0.4], [0, 0], [0, 0])
    write_posteriors(str(tmp_path), "x", Posteriors((2,), np.ones((1, 1, 2))))
    estimation = Estimation(Config(classes=CLASSES), False, {"x": [1]}, None, str(tmp_path), str(tmp_path))
    with pytest.raises(UserError, match="x was co-segmented with other labels"):
        estimate(image, estimation)
    write_posteriors(str(tmp_path), "x", Posteriors((1,), np.array([[[1.0, 0.0]]])))
    estimate(image, estimation)
    assert read_mask(str(tmp_path / "x.png"), 4).tolist() == [[1, 0]]
