"""What the co-segmentation says of the training images: a foreground posterior for each image-level label."""
import os
from typing import NamedTuple, Tuple

import cv2
import numpy as np

from core.errors import UserError
from core.io.files import read_arrays, write_arrays


class Posteriors(NamedTuple):
    """Co-segmentation of one training image, k times: once for each of its labels, apart from the others.

    Attributes:
        labels: k class indices, rising.
        foreground: (k, h, w) float32 in [0, 1], probability that a pixel shows the label rather than anything else.
        scores: (k,) float32 in [0, 1], how well the foregrounds before and after the CRF agree (Jaccard index).
        likeness: (k,) float32 in [0, 1], probability, in the eyes of the other images, that the foreground shows the
            label rather than an average other class; 0.5 is chance, 1 where the others are too few to tell.
    """
    labels: Tuple[int, ...]
    foreground: np.ndarray
    scores: np.ndarray
    likeness: np.ndarray


def posteriors_path(folder: str, name: str) -> str:
    return os.path.join(folder, name + ".npz")


def write_posteriors(folder: str, name: str, posteriors: Posteriors) -> None:
    """Write <folder>/<name>.npz; probabilities are rounded to 1 / 255."""
    write_arrays(posteriors_path(folder, name), {
        "labels": np.array(posteriors.labels, np.uint8),
        "foreground": np.rint(255 * posteriors.foreground).astype(np.uint8),
        "scores": posteriors.scores.astype(np.float32), "likeness": posteriors.likeness.astype(np.float32),
    }, compressed=True)


def read_posteriors(folder: str, name: str, size: Tuple[int, int]) -> Posteriors:
    """The posteriors of an image, at its size, (h, w).

    Raises:
        UserError: the file is missing or damaged.
    """
    path = posteriors_path(folder, name)
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: run create_web_masks.py --cosegmented-images web+train")
    stored = read_arrays(path)
    try:
        maps = [cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
                for values in stored["foreground"].astype(np.float32) / 255]
        return Posteriors(tuple(stored["labels"].tolist()), np.stack(maps), stored["scores"], stored["likeness"])
    except (KeyError, ValueError, cv2.error) as error:
        raise UserError(f"{path} is damaged: remove it and run create_web_masks.py again") from error
