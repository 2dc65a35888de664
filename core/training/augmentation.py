"""Random variations of a training image: scale, crop and mirroring. Does not import mxnet: threads use it."""
from typing import Tuple

import cv2
import numpy as np

from core.classes import IGNORE_LABEL
from core.config import STRIDE, Config


def augment(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, config: Config
            ) -> Tuple[np.ndarray, np.ndarray]:
    """Random scale, place and mirroring.

    A square of crop_size / s pixels, s drawn from scale_range, is cut from a uniform place and resized to crop_size.
    Where the image is smaller, the mean colour fills it up on the right and at the bottom, labelled 255.

    Args:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) uint8 class indices or 255.

    Returns:
        (crop, crop, 3) uint8 RGB and (crop / 8, crop / 8) uint8 labels.
    """
    lowest, highest = config.scale_range
    side = int(config.crop_size / rng.uniform(lowest, highest))
    height, width = mask.shape
    top = int(rng.integers(max(height - side, 0) + 1))
    left = int(rng.integers(max(width - side, 0) + 1))
    image, mask = image[top:top + side, left:left + side], mask[top:top + side, left:left + side]
    below, right = side - mask.shape[0], side - mask.shape[1]
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=config.mean_rgb)
        mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORE_LABEL)
    if rng.random() < config.flip_probability:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    cells = config.crop_size // STRIDE
    nearest = cv2.INTER_NEAREST if config.label_sampling == "corner" else cv2.INTER_NEAREST_EXACT
    return (cv2.resize(image, (config.crop_size, config.crop_size), interpolation=cv2.INTER_LINEAR),
            cv2.resize(mask, (cells, cells), interpolation=nearest))
