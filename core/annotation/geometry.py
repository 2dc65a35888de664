"""Regions of a mask as polygons and run lengths, the two forms that annotation tools exchange.

Polygons use continuous image coordinates: the pixel in column x and row y covers [x, x + 1] x [y, y + 1].
"""
from typing import Any, Iterator, List, NamedTuple, Tuple, Union

import cv2
import numpy as np
from scipy.spatial import cKDTree

_SCALE = 2  # outlines are traced on the mask at this size, which leaves them within 1/4 pixel of the pixels' edges
_CROSSINGS = 1 << 20  # of edges and rows, computed at once
_LONGEST_NUMBER = 60  # bits of a compressed run length


class Region(NamedTuple):
    """Some pixels of an image: (h, w) bool of a rectangle whose first pixel is in row `top` and column `left`."""
    top: int
    left: int
    pixels: np.ndarray


def components(mask: np.ndarray) -> Iterator[Region]:
    """Connected parts of (h, w) bool; pixels that touch at a corner belong together."""
    count, numbers, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        left, top, width, height, _ = boxes[number].tolist()
        yield Region(top, left, numbers[top:top + height, left:left + width] == number)


def to_polygon(region: Region) -> np.ndarray:
    """Outline of one connected region as a single ring; holes hang on it by cuts of no width.

    Formats with one ring for an object, such as YOLO's, keep holes this way.

    Returns:
        (n, 2) float64 of x, y; n >= 3.
    """
    height, width = region.pixels.shape
    enlarged = cv2.resize(region.pixels.astype(np.uint8), (_SCALE * width, _SCALE * height),
                          interpolation=cv2.INTER_NEAREST)
    outlines, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(ring[:, 0] + 0.5) / _SCALE for ring in outlines]
    outer = next(number for number in range(len(rings)) if hierarchy[0, number, 3] < 0)
    holes = rings[:outer] + rings[outer + 1:]
    pieces, start = [], 0
    if holes:
        _, nearest = cKDTree(rings[outer]).query([hole[0] for hole in holes])
        for number in nearest.argsort(kind="stable"):
            point = int(nearest[number])
            pieces += [rings[outer][start:point + 1], holes[number], holes[number][:1]]
            start = point
    return np.concatenate(pieces + [rings[outer][start:]]) + (region.left, region.top)


def check_points(points: Any, size: Tuple[int, ...]) -> np.ndarray:
    """(n, 2) float64 of (n, 2) or 2 n numbers, x and y in an image of (h, w).

    Raises:
        ValueError: one is no number, or a point lies more than the image's size outside of it.
    """
    points, limit = np.asarray(points, np.float64).reshape(-1, 2), np.array(size[::-1])
    if not ((points >= -limit) & (points <= 2 * limit)).all():
        raise ValueError("a point is far outside of the picture, or no number")
    return points


def from_polygon(points: Any, size: Tuple[int, ...]) -> Region:
    """Pixels whose centres lie inside a polygon (even-odd rule).

    Args:
        points, size: as for `check_points`; what lies outside of the image is cut off.

    Raises:
        ValueError: as `check_points`, or there are fewer than three points.
    """
    points, limit = check_points(points, size), size[::-1]
    if len(points) < 3:
        raise ValueError("a polygon has at least three points")
    left, top = np.clip(np.floor(points.min(0)), 0, limit).astype(int)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, limit).astype(int)
    # Each edge from its upper end to its lower one, so that both ways along a cut give the same crossings.
    edges = np.stack([points, np.roll(points, -1, 0)], 1)
    edges = np.take_along_axis(edges, edges[:, :, 1:].argsort(1, kind="stable"), 1)
    first, last = np.clip(np.ceil(edges[:, :, 1] - 0.5), top, bottom).astype(int).T
    crossings = np.zeros((bottom - top, right - left + 1), np.uint8)  # in the first column whose centre is beyond
    total = np.cumsum(last - first)
    for some in np.split(np.arange(len(edges)), np.searchsorted(total, np.arange(_CROSSINGS, total[-1], _CROSSINGS))):
        counts = (last - first)[some]
        edge = np.repeat(some, counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        (x, y), (end_x, end_y) = edges[edge].transpose(1, 2, 0)
        x = x + (row + 0.5 - y) * (end_x - x) / (end_y - y)
        column = np.clip(np.ceil(x - 0.5), left, right).astype(int)
        np.add.at(crossings, (row - top, column - left), 1)
    return Region(int(top), int(left), np.bitwise_xor.accumulate(crossings & 1, axis=1)[:, :-1].astype(bool))


def to_counts(region: Region, size: Tuple[int, ...]) -> List[int]:
    """COCO's run lengths in an image of (h, w): pixels outside, inside, outside, ... in column-major order."""
    height, width = size
    steps = np.diff(np.pad(region.pixels.T, ((0, 0), (1, 1))).astype(np.int8))
    column, row = np.nonzero(steps)
    changes = (region.left + column) * height + region.top + row
    runs_on = np.repeat(changes[1:-1:2] == changes[2::2], 2)  # from the foot of a column to the head of the next
    changes = changes[~np.concatenate([[False], runs_on, [False]])]
    return np.diff(np.concatenate([[0], changes, [height * width]])).tolist()


def from_counts(counts: Union[List[int], str], size: Tuple[int, ...]) -> Region:
    """Region of COCO's run lengths of an image of (h, w), given as numbers or as COCO's compressed text.

    Raises:
        ValueError: the runs do not add up to h * w.
    """
    height, width = size
    lengths = counts if isinstance(counts, list) else _decompress(counts)
    if sum(lengths) != height * width or min(lengths) < 0:
        raise ValueError(f"its run lengths add up to {sum(lengths)} pixels, not {height * width}")
    ends = np.cumsum(lengths)
    left = ends[0] // height  # the columns before the first run and behind the last are left out
    right = -(-ends[(len(ends) - 2) // 2 * 2 + 1] // height) if len(ends) > 1 else left
    ends = np.clip(ends, left * height, right * height) - left * height
    inside = np.arange(len(ends)) % 2 == 1
    pixels = np.repeat(inside, np.diff(ends, prepend=0))
    return Region(0, int(left), pixels.reshape(height, -1, order="F"))


def _decompress(text: str) -> List[int]:
    """Numbers of COCO's compressed run lengths: 5 bits a character, from the lowest; from the third on, differences."""
    numbers: List[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        code -= 48
        value |= (code & 0x1f) << shift
        shift += 5
        if shift > _LONGEST_NUMBER:
            raise ValueError("a run length has too many digits")
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers
