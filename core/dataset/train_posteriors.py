"""What the co-segmentation says of the training images: a foreground posterior for each image-level label."""
import os
from typing import NamedTuple, Sequence, Tuple

import cv2
import numpy as np
import scipy.special

from core.errors import UserError
from core.io.files import read_arrays, write_arrays

_LEAST = 1e-3  # probability, in either direction: none is sure


class Posteriors(NamedTuple):
    """Co-segmentation of one training image, k times: once for each of its labels, apart from the others.

    Attributes:
        labels: k class indices, rising.
        foreground: (k, h, w) float32 in (0, 1), probability, before any CRF, that a pixel shows the label rather than
            anything else.
    """
    labels: Tuple[int, ...]
    foreground: np.ndarray


def posteriors_path(folder: str, name: str) -> str:
    return os.path.join(folder, name + ".npz")


def write_posteriors(folder: str, name: str, posteriors: Posteriors) -> None:
    """Write <folder>/<name>.npz, in half precision."""
    write_arrays(posteriors_path(folder, name), {"labels": np.array(posteriors.labels, np.uint8),
                                                 "foreground": posteriors.foreground.astype(np.float16)})


def read_posteriors(folder: str, name: str, size: Tuple[int, ...]) -> Posteriors:
    """The posteriors of an image, their log-odds interpolated to its size, (h, w)."""
    path = posteriors_path(folder, name)
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: run create_web_masks.py --cosegmented-images web+train")
    stored = read_arrays(path)
    try:
        odds = scipy.special.logit(np.clip(stored["foreground"].astype(np.float32), _LEAST, 1 - _LEAST))
        odds = [cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR) for values in odds]
        return Posteriors(tuple(stored["labels"].tolist()), scipy.special.expit(np.stack(odds)))
    except (KeyError, ValueError, cv2.error) as error:
        raise UserError(f"{path} is damaged: remove it and run create_web_masks.py again") from error


def read_foreground(folder: str, name: str, labels: Sequence[int], size: Tuple[int, ...]) -> np.ndarray:
    """(labels, h, w) float32 foreground of the posteriors of an image, whose labels have to be these, rising."""
    posteriors = read_posteriors(folder, name, size)
    if list(posteriors.labels) != list(labels):
        raise UserError(f"{folder}: {name} was co-segmented with other labels: run create_web_masks.py again")
    return posteriors.foreground
