"""Cleaning: what is no image to learn from, and what becomes of the others."""

import numpy as np
import pytest
from picture_files import claiming, encoded
from PIL import Image
from web_server import picture

from core.web.cleaning import decode
from core.web.downloader import Rejected


@pytest.mark.parametrize("content, reason", [
    (b"", "unreadable"), (b"<html></html>", "unreadable"), (encoded(picture(1))[:-900], "unreadable"),
    (encoded(picture(1), "PNG")[:2000], "unreadable"), (encoded(picture(1), "EPS"), "unreadable"),
    (encoded(picture(1, 99, 200)), "tiny: 99 x 200"),
    (encoded(picture(1, 310, 100)), "extreme aspect ratio: 310 x 100"),
    (encoded(Image.new("1", (8000, 8000)), "PNG"), "too many pixels: 8000 x 8000"),
    (claiming("PNG", 100000, 100000), "unreadable: .* pixels are too many"), (claiming("PNG", 400, 400), "unreadable")])
def test_what_is_no_image_to_learn_from_is_rejected(web_config, content, reason):
    with pytest.raises(Rejected, match=reason):
        decode(content, web_config, {})


def test_large_images_are_shrunk_and_small_ones_are_not_enlarged(web_config):
    image, row = Image.fromarray(picture(1, 800, 400)), {}
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    found = decode(encoded(image.transpose(Image.ROTATE_90), exif=exif, quality=95), web_config, row)
    assert found.shape == (250, 500, 3) and sorted(row["source_size"]) == [400, 800]
    assert np.abs(found - np.asarray(image.resize((500, 250), Image.LANCZOS)).astype(float)).mean() < 6
    assert decode(encoded(picture(1, 130, 110)), web_config, {}).shape == (110, 130, 3)
