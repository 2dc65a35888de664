"""Comparison of a predicted mask with the ground truth. Does not import mxnet: it runs in workers."""
import numpy as np

from core.classes import IGNORE_LABEL


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by true and predicted class.

    Args:
        truth: (h, w) uint8 class indices, 255 = not counted.
        prediction: (h, w) class indices.

    Returns:
        (classes, classes) int64; rows are true, columns predicted classes.
    """
    counted = truth != IGNORE_LABEL
    pairs = truth[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(pairs, minlength=num_classes ** 2).reshape(num_classes, num_classes)
