"""Pictures for people: masks in colour, over their image, side by side."""
import functools
import os
from typing import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.classes import voc_palette

_BAND = 256  # rows that are mixed at once
_LEGEND_LETTERS = 11, 40  # pixels, of narrow and of wide pictures


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """(h, w) uint8 class indices as (h, w, 3) uint8 RGB in VOC colours."""
    return voc_palette()[mask]


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """The image, (h, w, 3) uint8 RGB, with its mask's colours laid over it; background stays clear."""
    result = np.empty_like(image)
    for top in range(0, len(image), _BAND):  # floats of a whole photograph would take gigabytes
        band = slice(top, top + _BAND)
        mixed = (1 - opacity) * image[band] + opacity * colour_mask(mask[band])
        result[band] = np.where(mask[band, :, None] > 0, mixed, image[band])
    return result


def heat_map(values: np.ndarray) -> np.ndarray:
    """(h, w) values in [0, 1] as (h, w, 3) uint8 RGB, from dark violet for 0 over green to yellow for 1."""
    levels = np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def write_title(picture: np.ndarray, title: str, left: int, baseline: int) -> None:
    """Write black text of 13 pixels into a (h, w, 3) uint8 RGB picture; OpenCV's fonts have no letters but a to z."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((left, baseline), title, (0, 0, 0), _font(13), anchor="ls")
    picture[:] = np.asarray(image)


@functools.lru_cache(maxsize=8)
def _font(size):
    import matplotlib  # for its font, which has Latin, Greek and Cyrillic letters and more
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def legend(mask: np.ndarray, classes: Sequence[str], width: int) -> np.ndarray:
    """The classes of a mask beside their colours, on white.

    Args:
        mask: (h, w) uint8 class indices; background and 255 have no entry.
        classes: names of the classes, in the order of their indices.
        width: pixels. Entries that have no room in a row go into the next one.

    Returns:
        (H, width, 3) uint8 RGB, whose letters are larger where it is wider.
    """
    size = int(np.clip(width // 36, *_LEGEND_LETTERS))
    entries = [(classes[index], tuple(voc_palette()[index].tolist()))
               for index in np.unique(mask).tolist() if 0 < index < len(classes)]
    entries = entries or [("nothing but background", (0, 0, 0))]
    step, left, row, corners = size + size // 2, size // 2, 0, []
    for name, _ in entries:
        length = 2 * size + int(_font(size).getlength(name))
        if left > size and left + length > width:
            left, row = size // 2, row + 1
        corners.append((left, row * step + size // 4))
        left += length
    strip = Image.new("RGB", (width, (row + 1) * step), "white")
    draw = ImageDraw.Draw(strip)
    for (name, colour), (x, y) in zip(entries, corners):
        draw.rectangle((x, y, x + size, y + size), colour)
        draw.text((x + size + size // 3, y + size // 2), name, (0, 0, 0), _font(size), anchor="lm")
    return np.array(strip)
