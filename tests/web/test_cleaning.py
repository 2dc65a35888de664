"""Cleaning: what is no image to learn from, and what becomes of the others."""
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from web_server import encoded, picture

from core.web.cleaning import decode
from core.web.downloader import Rejected


def bomb(width, height):
    """A PNG of a few bytes that says it has width x height pixels."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content, reason", [
    (b"", "unreadable"), (b"<html></html>", "unreadable"), (encoded(picture(1))[:-900], "unreadable"),
    (encoded(picture(1), "PNG")[:2000], "unreadable"), (encoded(picture(1), "EPS"), "unreadable"),
    (encoded(picture(1, 99, 200)), "tiny: 99 x 200"),
    (encoded(picture(1, 310, 100)), "extreme aspect ratio: 310 x 100"),
    (bomb(8000, 8000), "too many pixels: 8000 x 8000"), (bomb(12000, 12000), "too many pixels: 12000 x 12000"),
    (bomb(100000, 100000), "too many pixels"), (bomb(400, 400), "unreadable")])
def test_what_is_no_image_to_learn_from_is_rejected(web_config, content, reason):
    with pytest.raises(Rejected, match=reason):
        decode(content, web_config, {})


def test_images_of_all_kinds_become_rgb_upright_and_small_enough(web_config):
    image = Image.fromarray(picture(1, 800, 400))
    small = np.asarray(image.resize((500, 250), Image.LANCZOS)).astype(float)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    turned = image.transpose(Image.ROTATE_90)
    for content in (encoded(image, quality=95), encoded(image, "PNG"), encoded(image, "WEBP", quality=95),
                    encoded(image, "BMP"), encoded(image, "TIFF"), encoded(image.convert("CMYK"), quality=95),
                    encoded(image.convert("RGBA"), "PNG"), encoded(turned, exif=exif, quality=95),
                    encoded(image.convert("P", palette=Image.ADAPTIVE), "GIF")):
        row = {}
        decoded = decode(content, web_config, row)
        assert decoded.shape == (250, 500, 3) and decoded.dtype == np.uint8
        assert np.abs(decoded - small).mean() < 6 and sorted(row["source_size"]) == [400, 800]
    grey = decode(encoded(image.convert("L")), web_config, {})
    assert grey.shape == (250, 500, 3) and (grey[..., 0] == grey[..., 2]).all()
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    for content in (encoded(Image.fromarray(wide), "PNG"), encoded(Image.fromarray(wide), "TIFF")):
        assert np.abs(decode(content, web_config, {}).astype(float) - grey).mean() < 2, "16 bits become 8"
    for dtype in (np.float32, np.int32):
        with pytest.raises(Rejected, match="whose range is not known"):
            decode(encoded(Image.fromarray(wide.astype(dtype)), "TIFF"), web_config, {})
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (decode(encoded(clear, "PNG"), web_config, {}) == 255).all()
    assert decode(encoded(picture(1, 130, 110)), web_config, {}).shape == (110, 130, 3), "small images are not enlarged"
