"""Accuracy of predicted masks, from one confusion matrix over all pixels that are not 255."""
from typing import Any, Dict, Iterable, Optional, Sequence, Union

import numpy as np


def row_shares(confusion: Union[np.ndarray, Sequence[Sequence[int]]]) -> np.ndarray:
    """The matrix with each row divided by its sum; rows of zeros stay. (classes, classes) float64."""
    confusion = np.asarray(confusion, np.float64)
    return confusion / np.maximum(confusion.sum(1, keepdims=True), 1)


def image_iou(confusion: np.ndarray) -> Optional[float]:
    """Mean IoU over the classes in the truth or the prediction of one image; None where no pixel counts."""
    return summarise(confusion, range(len(confusion)))["mean_iou"]


def summarise(confusion: np.ndarray, classes: Iterable[Any]) -> Dict[str, Any]:
    """Accuracy and IoU by a confusion matrix (Long et al., "Fully Convolutional Networks", CVPR 2015, section 5).

    Args:
        confusion: (classes, classes) array of pixel counts, rows are true classes.
        classes: names of the classes.

    Returns:
        dict: mean_iou, pixel_accuracy, mean_accuracy and frequency_weighted_iou in [0, 1]; iou, from class name to
        value, or None for a class in neither truth nor prediction. Such classes are left out of the means, classes
        without true pixels out of mean_accuracy. A mean over nothing is None.
    """
    hits = np.diag(confusion).astype(float)
    true, predicted = confusion.sum(1), confusion.sum(0)
    union = true + predicted - hits
    iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    accuracy = hits[true > 0] / true[true > 0]
    return {
        "mean_iou": _mean(iou[union > 0]),
        "pixel_accuracy": float(hits.sum() / true.sum()) if true.sum() else None,
        "mean_accuracy": _mean(accuracy),
        "frequency_weighted_iou": (float((true * np.nan_to_num(iou)).sum() / true.sum()) if true.sum() else None),
        "iou": {name: None if np.isnan(value) else float(value) for name, value in zip(classes, iou)},
    }


def _mean(values):
    return float(values.mean()) if len(values) else None
