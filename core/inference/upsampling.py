"""From class probabilities in cells of 8 x 8 pixels to scores at the pixels of the original image.

The published system upsamples by 2 three times, crops, and resizes, each step bilinearly. Each is linear and acts on
rows and columns apart, so all of them together are one matrix for the rows and one for the columns.
"""
import functools
from typing import Sequence, Tuple

import numpy as np

DOUBLINGS = 3  # 2 ^ 3 = the network's stride
KERNEL = (0.25, 0.75, 0.75, 0.25)  # of the bilinear upsampling by 2


def combine_scales(probabilities: Sequence[np.ndarray], scaled_sizes: Sequence[Tuple[int, ...]], size: Tuple[int, ...]
                   ) -> np.ndarray:
    """Upsample the probabilities of each scale to the image's size and add them up.

    Args:
        probabilities: list of (classes, rows, columns) float32, one array for each scale.
        scaled_sizes: list of (h, w), the size of the image at that scale before it was padded.
        size: (h, w) of the original image.

    Returns:
        (classes, h, w) float32.
    """
    widened = [cells @ upsampling_matrix(cells.shape[2], scaled[1], size[1]).T
               for cells, scaled in zip(probabilities, scaled_sizes)]
    rows = [upsampling_matrix(cells.shape[1], scaled[0], size[0])
            for cells, scaled in zip(probabilities, scaled_sizes)]
    return np.concatenate(rows, 1) @ np.concatenate(widened, 1)


@functools.lru_cache(maxsize=256)
def upsampling_matrix(cells: int, scaled: int, original: int) -> np.ndarray:
    """Weights that take samples along one axis of the score map to those of the original image.

    Args:
        cells: length of the score map.
        scaled: length of the scaled image, at most 8 * cells.
        original: length of the original image.

    Returns:
        (original, cells) float32.
    """
    matrix = np.eye(cells)
    for _ in range(DOUBLINGS):
        matrix = _doubling(len(matrix)) @ matrix
    return (_resizing(scaled, original) @ matrix[:scaled]).astype(np.float32)


def _doubling(length):
    """Transposed convolution with the bilinear kernel of size 4, stride 2, padding 1: (2 length, length)."""
    matrix = np.zeros((2 * length, length))
    for tap, weight in enumerate(KERNEL):
        row = 2 * np.arange(length) + tap - 1
        inside = (row >= 0) & (row < 2 * length)
        matrix[row[inside], np.arange(length)[inside]] = weight
    return matrix


def _resizing(source, target):
    """Bilinear resizing with pixel centres at halves and the border repeated, as OpenCV's: (target, source)."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    left = np.floor(position).astype(int)
    share = position - left
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, np.clip(left, 0, source - 1)), 1 - share)
    np.add.at(matrix, (rows, np.clip(left + 1, 0, source - 1)), share)
    return matrix
