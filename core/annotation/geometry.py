"""Regions of a mask as polygons and run lengths, the two forms that annotation tools exchange.

Polygons use continuous image coordinates: the pixel in column x and row y covers [x, x + 1] x [y, y + 1].
"""
from typing import List, Sequence, Tuple, Union

import cv2
import numpy as np

_SCALE = 2  # outlines are traced on the mask at this size, which leaves them within 1/4 pixel of the pixels' edges
_RASTER = 4  # polygons are drawn at this size and sampled at the centres of the pixels
_FRACTION_BITS = 8


def components(region: np.ndarray) -> List[np.ndarray]:
    """Connected parts of a region, the largest first.

    Args:
        region: (h, w) bool.

    Returns:
        list of (h, w) bool arrays; pixels that touch at a corner belong together.
    """
    count, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels.ravel(), minlength=count)[1:]
    return [labels == 1 + place for place in np.argsort(-areas, kind="stable")]


def to_polygon(region: np.ndarray) -> np.ndarray:
    """Outline of one connected region as a single ring; holes hang on it by a cut of no width.

    Formats with one ring for an object, such as YOLO's, keep holes this way.

    Args:
        region: (h, w) bool, connected, not empty.

    Returns:
        (n, 2) float64 of x, y; n >= 3.
    """
    height, width = region.shape
    enlarged = cv2.resize(region.astype(np.uint8), (_SCALE * width, _SCALE * height), interpolation=cv2.INTER_NEAREST)
    outlines, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(ring[:, 0] + 0.5) / _SCALE for ring in outlines]
    outer = max((place for place in range(len(rings)) if hierarchy[0, place, 3] < 0),
                key=lambda place: cv2.contourArea(outlines[place]))
    polygon = rings[outer]
    for place, ring in enumerate(rings):
        if hierarchy[0, place, 3] == outer:
            polygon = _cut_open(polygon, ring)
    return polygon


def _cut_open(polygon: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring that runs around the polygon, along a cut to the hole, around the hole, and back."""
    distance = ((polygon[:, None] - hole[None]) ** 2).sum(2)
    start, entry = np.unravel_index(distance.argmin(), distance.shape)
    around = np.concatenate([hole[entry:], hole[:entry + 1]])
    return np.concatenate([polygon[:start + 1], around, polygon[start:]])


def from_polygon(points: Union[np.ndarray, Sequence[Tuple[float, float]]], size: Tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie inside a polygon (even-odd rule).

    Args:
        points: (n, 2) of x, y.
        size: (h, w) of the mask.

    Returns:
        (h, w) bool.
    """
    height, width = size
    canvas = np.zeros((_RASTER * height, _RASTER * width), np.uint8)
    corners = (np.asarray(points, np.float64) * _RASTER - 0.5) * (1 << _FRACTION_BITS)
    cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1, shift=_FRACTION_BITS)
    middle = canvas.reshape(height, _RASTER, width, _RASTER)[:, 1:3, :, 1:3]
    return middle.all(axis=(1, 3))


def to_counts(region: np.ndarray) -> List[int]:
    """COCO's run lengths: pixels outside, inside, outside, ... in column-major order.

    Args:
        region: (h, w) bool.
    """
    flat = np.concatenate([[False], region.ravel(order="F"), [not region[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], ends])).tolist()


def from_counts(counts: Union[List[int], str, bytes], size: Tuple[int, int]) -> np.ndarray:
    """Region of COCO's run lengths, given as numbers or as COCO's compressed text.

    Args:
        counts: list of int, str or bytes.
        size: (h, w).

    Returns:
        (h, w) bool.

    Raises:
        ValueError: the runs do not add up to h * w.
    """
    lengths = counts if isinstance(counts, list) else _decompress(counts)
    if sum(lengths) != size[0] * size[1] or min(lengths, default=0) < 0:
        raise ValueError(f"its run lengths add up to {sum(lengths)} pixels, not {size[0] * size[1]}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size, order="F")


def _decompress(text) -> List[int]:
    """Numbers of COCO's compressed run lengths: 5 bits a character, from the lowest; from the third on, differences."""
    numbers = []
    value = shift = 0
    for code in text.encode("ascii") if isinstance(text, str) else text:
        code -= 48
        value |= (code & 0x1f) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers
