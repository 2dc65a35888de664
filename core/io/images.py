"""Pictures and masks: decoded with clear errors, and written whole or not at all."""
import contextlib
import io
import os
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from core.classes import IGNORE_LABEL, voc_palette
from core.errors import UserError
from core.io.files import read_bytes, write_bytes
from core.io.palettes import check_palette

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a mask of 100 megapixels is no attack

PLAIN_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")
PICTURES = PLAIN_PICTURES + (".gif",)

_PALETTE = voc_palette().ravel().tolist()
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS_PER_BYTE = 8 * 1032  # deflate's best ratio, with pixels of one bit
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads the levels of PNGs of 2 and 4 bits over 0..255


def encode_image(image, ending, quality=95):
    """(h, w, 3) uint8 RGB as the content of a .png or, with the given quality, .jpg file."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == ".jpg" else []
    good, content = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    if not good:
        raise UserError("a picture of %d x %d pixels can't be encoded as %s" % (*image.shape[1::-1], ending))
    return content.tobytes()


def write_image(path, image, quality=95):
    """Write (h, w, 3) uint8 RGB as PNG or, where the name ends in .jpg, as JPEG of the given quality."""
    write_bytes(path, encode_image(image, os.path.splitext(path)[1], quality))


def encode_mask(mask):
    """(h, w) uint8 class indices, 255 = ignore, as the content of a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    image.putpalette(_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_mask(path, mask):
    """Write class indices as a PNG with the VOC palette.

    Args:
        mask: (h, w) uint8 class indices, 255 = ignore.
    """
    write_bytes(path, encode_mask(mask))


def read_image(path):
    """Decode a picture, turned as its EXIF orientation says.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        UserError: the file is missing, damaged, truncated, or no picture.
    """
    content = read_bytes(path)
    if content.startswith(_PNG_START) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        if width * height > _PNG_PIXELS_PER_BYTE * len(content):  # OpenCV would fill gigabytes before it finds out
            raise UserError("%s is damaged: %d x %d pixels can't come out of %d bytes"
                            % (path, width, height, len(content)))
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if content else None
    except cv2.error as error:
        raise UserError("%s can't be decoded: %s" % (path, error.err)) from error
    if image is None:
        with contextlib.suppress(Exception):  # Pillow's decoders raise nearly anything
            with Image.open(io.BytesIO(content), formats=("GIF",)) as image:  # which OpenCV does not know
                return np.array(image.convert("RGB"))
        raise UserError("%s can't be decoded: the file is damaged, truncated, or no picture of a format that is known "
                        "here" % path)
    return image


def read_mask(path, num_classes, size=None):
    """Read class indices from a palette or greyscale PNG.

    Args:
        num_classes: indices 0..num_classes-1 and 255 are allowed.
        size: (h, w) that the mask must have, or None.

    Returns:
        (h, w) uint8.

    Raises:
        UserError: the file is missing or damaged, is a colour picture, has another size, or a label out of range.
    """
    content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:  # Pillow hands some formats to other programs
            mode = image.mode
            raw_mode = image.tile[0][3] if image.tile else mode
            mask = np.array(image).astype(np.uint8) if mode in ("P", "L", "1") else None  # the samples of 1: 0 and 1
            palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3) if mode == "P" else None
    except UnidentifiedImageError as error:  # its own text tells of a BytesIO
        raise UserError("%s can't be decoded: the file is damaged, or no PNG" % path) from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError("%s can't be decoded: %s" % (path, error)) from error
    if mask is None:
        raise UserError("%s is a picture of mode %s; a mask is a palette or 8-bit greyscale PNG of class indices"
                        % (path, mode))
    mask //= _GREY_STEPS.get(raw_mode, 1)
    if palette is not None:
        check_palette(path, palette, mask, num_classes)
    check_mask(path, mask, num_classes, size)
    return mask


def check_mask(path, mask, num_classes, size=None):
    """Raise UserError, naming `path`, if a mask has another size than (h, w) or a label out of range.

    Args:
        mask: (h, w) array of integers; 0..num_classes-1 and 255 are in range.
    """
    if size is not None and mask.shape != tuple(size):
        raise UserError("%s is %d x %d pixels, its image %d x %d%s: a mask has its image's size"
                        % (path, mask.shape[1], mask.shape[0], size[1], size[0],
                           ", turned as its EXIF orientation says, if it has one" * (mask.shape == tuple(size)[::-1])))
    wrong = (mask < 0) | (mask >= num_classes) & (mask != IGNORE_LABEL)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise UserError("%s has label %d at x=%d, y=%d; labels are 0..%d, and 255 for pixels to ignore"
                        % (path, mask[y, x], x, y, num_classes - 1))
