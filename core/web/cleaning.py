"""Decoding and cleaning of a web image of any origin."""
import io
from typing import Any, Dict

import numpy as np
from PIL import Image, ImageOps

from core.config import Config
from core.web.downloader import Rejected

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")  # not EPS, whose decoder is a programming language


def decode(content: bytes, config: Config, row: Dict[str, Any]) -> np.ndarray:
    """Decode an image of any origin, turned as its EXIF orientation says, transparency on white, shrunk to the limit.

    Args:
        row: dict that gets the width and height as they came, "source_size".

    Returns:
        (h, w, 3) uint8 RGB, the longest side at most `web_longest_side`.

    Raises:
        Rejected: unreadable, too large to decode, tiny, or of an extreme aspect ratio.
    """
    limit = (config.web_longest_side,) * 2
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            row["source_size"] = list(image.size)
            short, long = sorted(image.size)
            if short * long > config.web_pixels:
                raise Rejected("too many pixels: {} x {}".format(*image.size))
            if short < config.web_shortest_side:
                raise Rejected("tiny: %d x %d pixels" % image.size)
            if long > config.web_aspect_ratio * short:
                raise Rejected("extreme aspect ratio: %d x %d pixels" % image.size)
            image.draft("RGB", limit)  # lets a JPEG's decoder shrink it
            image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise Rejected("its pixels are floating-point numbers")
            if image.mode.startswith("I"):  # Pillow would clip its 16 bits
                image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8))
            if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            image.thumbnail(limit, Image.LANCZOS)
            return np.asarray(image)
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected("too many pixels: %s" % error) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise Rejected("unreadable: %s, the content starts with %r" % (error or type(error).__name__, content[:16])
                       ) from error
