"""Decoding and cleaning of a web image of any origin."""
from typing import Any, Dict

import numpy as np

from core.config import Config
from core.io.images import DecodingError, decode_image, image_size
from core.io.resize import shrink
from core.web.downloader import Rejected

_ASPECT_RATIO = 3.0  # longer : shorter side, at most
_MOST_PIXELS = 40000000  # that are decoded


def decode(content: bytes, config: Config, row: Dict[str, Any]) -> np.ndarray:
    """Decode an image of any origin, as `images.decode_image` does, shrunk to the limit; its size goes into the row.

    Raises:
        Rejected: unreadable, damaged, too large to decode, tiny, or of an extreme aspect ratio.
    """
    try:
        width, height = image_size(content)
        row["source_size"] = [width, height]
        short, long = sorted((width, height))
        if short * long > _MOST_PIXELS:
            raise Rejected(f"too many pixels: {width} x {height}")
        if short < config.web_shortest_side:
            raise Rejected(f"tiny: {width} x {height} pixels")
        if long > _ASPECT_RATIO * short:
            raise Rejected(f"extreme aspect ratio: {width} x {height} pixels")
        image, damage = decode_image(content)
    except DecodingError as error:
        raise Rejected(f"unreadable: {error}; the content starts with {content[:16]!r}") from error
    if damage:
        raise Rejected(f"damaged: {damage}")
    return shrink(image, config.web_longest_side)
