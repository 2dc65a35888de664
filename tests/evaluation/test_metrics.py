import numpy as np
import pytest

from core.evaluation.metrics import summarise
from core.inference.confusion import confusion_matrix

NAMES = ("bk", "a", "b", "c")


def test_numbers_equal_a_count_by_hand(rng):
    truth = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    truth[::7] = 255
    prediction = np.where(rng.random((40, 50)) < 0.6, truth % 3, rng.integers(0, 3, (40, 50))).astype(np.uint8)
    result = summarise(confusion_matrix(truth, prediction, 4), NAMES)
    counted = truth != 255
    ious, accuracies, weights = [], [], []
    for label in range(3):
        true, found = (truth == label) & counted, (prediction == label) & counted
        ious.append((true & found).sum() / (true | found).sum())
        accuracies.append((true & found).sum() / true.sum())
        weights.append(true.sum() / counted.sum())
    assert result["mean_iou"] == pytest.approx(np.mean(ious))
    assert result["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["pixel_accuracy"] == pytest.approx((truth == prediction)[counted].mean())
    assert result["frequency_weighted_iou"] == pytest.approx(np.dot(weights, ious))
    assert list(result["iou"].values())[:3] == pytest.approx(ious)


def test_a_class_in_neither_truth_nor_prediction_is_left_out():
    truth, prediction = np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 1, 2]], np.uint8)
    result = summarise(confusion_matrix(truth, prediction, 4), NAMES)
    assert result["iou"] == {"bk": 1.0, "a": 0.5, "b": 0.0, "c": None}
    assert result["mean_iou"] == pytest.approx(0.5)
    assert result["mean_accuracy"] == pytest.approx(0.75)


def test_a_list_of_ignored_pixels_has_no_mean():
    result = summarise(confusion_matrix(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 4), NAMES)
    assert result["mean_iou"] is None and result["pixel_accuracy"] is None


def test_the_last_of_255_classes_is_counted_beside_the_ignore_label():
    truth = np.array([[254, 254, 255, 0]], np.uint8)
    confusion = confusion_matrix(truth, np.array([[254, 0, 254, 0]], np.uint8), 255)
    assert confusion.sum() == 3 and confusion[254, 254] == confusion[254, 0] == confusion[0, 0] == 1
