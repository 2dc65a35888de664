"""One way to scale images and masks by their longest side."""
from typing import Optional

import cv2
import numpy as np


def resize_longest_side(image: np.ndarray, side: int, interpolation: Optional[int] = None) -> np.ndarray:
    """Scale an image or mask so that its longest side has `side` pixels.

    Args:
        image: (h, w) or (h, w, 3).
        interpolation: OpenCV's constant; by default the mean of areas to shrink, and bilinear to enlarge.

    Returns:
        (h', w') or (h', w', 3), of the image's dtype.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if interpolation is None:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))),
                      interpolation=interpolation)


def shrink(image: np.ndarray, max_side: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """Scale an image or mask down where its longest side has more than `max_side` pixels; else return it as it is."""
    return image if max(image.shape[:2]) <= max_side else resize_longest_side(image, max_side, interpolation)
