"""Comparison of a predicted mask with the ground truth. Does not import mxnet: it runs in workers."""
import numpy as np

from core.classes import IGNORE_LABEL


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of two (h, w) masks by true and predicted class, without those that are 255 in the truth:
    (classes, classes) int64, rows are true classes."""
    counted = truth != IGNORE_LABEL
    pairs = truth[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)
