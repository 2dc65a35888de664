"""What a region and its surroundings look like: two feature sets behind one interface.

"hog" needs no weights: histograms of oriented gradients and colours in windows of three sizes. "resnet" samples the
activations of the ImageNet ResNet-50, which `core.activations` has written, at the region's centre. Both give
(n, d) float32 descriptors; the classifier that reads them does not know which it has.
"""
import os

import cv2
import numpy as np

from core.files import read_array
from core.regions import ORIENTATIONS

_CELLS = (0.028, 0.05, 0.085)  # sides of a HOG cell, as shares of the longest side of the image
_GRID = (-2, -1, 0, 1, 2)      # cells around the region's centre, in both directions


def describe(regions, kind, path=None):
    """Descriptors of the regions of an image.

    Args:
        regions: Regions.
        kind: "hog" or "resnet".
        path: of the activations, (channels, h', w') float16 .npy, for "resnet".

    Returns:
        (n, d) float32.

    Raises:
        UserError: the activations are missing or damaged.
    """
    return hog_windows(regions) if kind == "hog" else sampled(read_array(path), regions)


def hog_windows(regions):
    """HOG (Dalal and Triggs, CVPR 2005) and mean Lab of 5 x 5 cells around each region's centre, at three sizes.

    Gradients come from the Lab channel where they are strongest, are unsigned, and are normalised by the energy of
    3 x 3 cells.

    Returns:
        (n, 756) float32.
    """
    height, width = regions.labels.shape
    lab = cv2.GaussianBlur(cv2.cvtColor(regions.image, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), 0.7)
    gradients = np.stack([cv2.Sobel(lab, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(lab, cv2.CV_32F, 0, 1, ksize=1)])
    strongest = np.hypot(*gradients).argmax(2)
    dx, dy = np.take_along_axis(gradients, np.broadcast_to(strongest[..., None], (2, height, width, 1)), 3)[..., 0]
    magnitude = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx) % np.pi / np.pi * ORIENTATIONS
    low = np.floor(angle).astype(int)
    share = angle - low
    votes = np.zeros((height, width, ORIENTATIONS), np.float32)
    for bin_, weight in ((low, 1 - share), (low + 1, share)):
        part = np.zeros_like(votes)
        np.put_along_axis(part, (bin_ % ORIENTATIONS)[..., None], (magnitude * weight)[..., None], 2)
        votes += part
    x = (regions.x + 1) / 2 * (width - 1)
    y = (regions.y + 1) / 2 * (height - 1)
    parts = []
    for share in _CELLS:
        cell = max(3, round(share * max(height, width)))
        cells = cv2.blur(votes, (cell, cell))
        colours = cv2.blur(lab, (cell, cell)) / 128
        energy = np.sqrt(np.maximum(cv2.blur(magnitude ** 2, (3 * cell, 3 * cell)), 0)) + 4
        for down in _GRID:
            for right in _GRID:
                column = np.clip(x + right * cell, 0, width - 1).astype(int)
                row = np.clip(y + down * cell, 0, height - 1).astype(int)
                parts.append(cells[row, column] / energy[row, column, None])
                if down % 2 == 0 and right % 2 == 0:
                    parts.append(colours[row, column])
    return np.concatenate(parts, 1).astype(np.float32)


def sampled(activations, regions):
    """Activations at the regions' centres, and around them.

    Args:
        activations: (c, h', w') array over the whole image.

    Returns:
        (n, 2 c) float32 of unit length: the activation at the centre (bilinear), and the mean over 3 x 3 positions.
    """
    maps = np.moveaxis(np.asarray(activations, np.float32), 0, 2)
    wide = cv2.blur(np.ascontiguousarray(maps), (3, 3)).reshape(maps.shape)
    height, width = maps.shape[:2]
    x = (regions.x + 1) / 2 * (width - 1)
    y = (regions.y + 1) / 2 * (height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    centre = ((maps[top, left] * (1 - across) + maps[top, right] * across) * (1 - down)
              + (maps[bottom, left] * (1 - across) + maps[bottom, right] * across) * down)
    found = np.concatenate([centre, wide[np.round(y).astype(int), np.round(x).astype(int)]], 1)
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)).astype(np.float32)


def activations_path(folder, name):
    return os.path.join(folder, name + ".npy")
