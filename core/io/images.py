"""Images and masks: one decoder for the whole project, and writing that is whole or not at all.

Images are decoded to what an image viewer shows: turned as their EXIF orientation says, 16 bits scaled to 8,
transparent pixels on white, the first picture of a file with several. Colour profiles are not applied.
"""
import base64
import collections
import contextlib
import functools
import io
import os
import struct
import warnings
import zlib
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np
import simplejpeg  # libjpeg-turbo, as in OpenCV, but says what is wrong with a damaged file
from PIL import Image, UnidentifiedImageError

from core.classes import IGNORE_LABEL, voc_palette
from core.errors import UserError
from core.io.files import read_bytes, walk, write_bytes
from core.io.logs import logger
from core.io.palettes import check_palette

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2",
            ".gif", ".avif")
MOST_PIXELS = 1 << 28  # decoded, as RGB, 0.8 GB
_HARMLESS_PIXELS = 1 << 24  # of a file of any size, as of one colour
_PIXELS_PER_BYTE = 8 * 1032  # deflate's best ratio, with pixels of one bit

# Pillow knows more formats. Some of them start programs (EPS), others are no pictures that people have.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
_PALETTE = voc_palette().ravel().tolist()
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads the levels of PNGs of 2 and 4 bits over 0..255
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_TURNS: Dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF orientation: how to get the upright picture
    2: lambda image: image[:, ::-1], 3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1), 6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1), 8: np.rot90}

# Pillow's warnings name no file; what is wrong with a picture is found out here.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # `_check_size` has a limit
Image.init()  # so that Image.OPEN has the formats that this Pillow decodes


class DecodingError(ValueError):
    """Why a picture can't be decoded."""


class Decoded(NamedTuple):
    """A decoded picture.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        damage: what is wrong with the file though a picture came out of it, or None.
    """

    image: np.ndarray
    damage: Optional[str]


def list_pictures(folder: str, endings: Tuple[str, ...] = PICTURES, leave_out: Iterable[str] = ()) -> List[str]:
    """Paths of the files in and below a folder whose names have one of the endings; what else is there, pipes and
    devices too, is counted in the log."""
    paths, others = [], collections.Counter()
    for below, names in walk(folder, leave_out):
        for path in (os.path.join(below, name) for name in names):
            ending = os.path.splitext(path)[1].lower()
            if ending in endings and (os.path.isfile(path) or not os.path.exists(path)):
                paths.append(path)
            else:
                others[ending or "without ending"] += 1
    if others:
        logger.warning("%s: %d files are left out, as their names don't end as those of files that are read here, or "
                       "they are no regular files: %s", folder, sum(others.values()),
                       ", ".join(f"{count} {ending}" for ending, count in others.most_common(8)))
    return paths


def encode_image(image: np.ndarray, ending: str, quality: int = 95) -> bytes:
    """(h, w, 3) uint8 RGB as the content of a .png or, with the given quality, .jpg file."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == ".jpg" else []
    good, content = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    if not good:
        height, width = image.shape[:2]
        raise UserError(f"a picture of {width} x {height} pixels can't be encoded as {ending}")
    return content.tobytes()


def data_uri(content: bytes, mime_type: str) -> str:
    """Content of a MIME type as an address that needs no other file."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode('ascii')}"


def write_image(path: str, image: np.ndarray, quality: int = 95) -> None:
    """Write (h, w, 3) uint8 RGB as PNG or, where the name ends in .jpg, as JPEG of the given quality."""
    write_bytes(path, encode_image(image, os.path.splitext(path)[1], quality))


def encode_mask(mask: np.ndarray) -> bytes:
    """(h, w) uint8 class indices, 255 = ignore, as the content of a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    image.putpalette(_PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_mask(path: str, mask: np.ndarray) -> None:
    """Write (h, w) uint8 class indices, 255 = ignore, as a PNG with the VOC palette."""
    write_bytes(path, encode_mask(mask))


@functools.lru_cache(maxsize=None)
def report_damage(path: str, damage: str) -> None:
    """Log that a file is damaged though a picture came out of it; once, however often it is read."""
    logger.warning("%s is damaged (%s): part of the picture may be garbage; look at it, and replace or remove it",
                   path, damage)


def read_image(path: str, on_damage: Callable[[str, str], None] = report_damage) -> np.ndarray:
    """Decode an image file to what an image viewer shows.

    Args:
        on_damage: gets the path of a file that is damaged though a picture came out of it, and what is wrong.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UserError: the file is missing, damaged, truncated, no picture, or of a kind that has no 8-bit RGB form.
    """
    try:
        image, damage = decode_image(read_bytes(path))
    except DecodingError as error:
        raise UserError(f"{path} can't be decoded: {error}") from error
    if damage:
        on_damage(path, damage)
    return image


def image_size(content: bytes) -> Tuple[int, int]:
    """Width and height that an image file's header gives, as an image viewer shows it.

    Raises:
        DecodingError: it is no picture of a format that is read here.
    """
    with _opened(content, _FORMATS) as image:
        _check_size(image, content)  # Pillow decodes a PNG whole before it looks for EXIF data
        return image.size[::-1] if _orientation(image) in (5, 6, 7, 8) else image.size


def read_size(path: str) -> Tuple[int, int]:
    """(h, w) of an image file as `read_image` gives it, by its header.

    Raises:
        UserError: the file is missing, or no picture.
    """
    try:
        return image_size(read_bytes(path))[::-1]
    except DecodingError as error:
        raise UserError(f"{path} can't be decoded: {error}") from error


def is_upright_jpeg(content: bytes) -> bool:
    """Whether every program shows an image file as it is decoded here: a grey or RGB JPEG that isn't turned."""
    with contextlib.suppress(DecodingError), _opened(content, _FORMATS) as image:
        return image.format == "JPEG" and image.mode in ("L", "RGB") and _orientation(image) not in _TURNS
    return False


def decode_image(content: bytes) -> Decoded:
    """Decode the content of an image file to what an image viewer shows.

    Raises:
        DecodingError: it is damaged, truncated, no picture of a format that is read here, too large, or its pixels have
            no 8-bit RGB form.
    """
    with _opened(content, _FORMATS) as image:
        _check_size(image, content)
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            pixels, damage = _decode_jpeg(content)
        else:
            pixels, damage = _to_rgb(image, content), None
        return Decoded(turned(pixels, _orientation(image)), damage)


def read_mask(path: str, num_classes: int, size: Optional[Tuple[int, ...]] = None) -> np.ndarray:
    """Read class indices from a palette or greyscale PNG, turned as an image is.

    Args:
        num_classes: indices 0..num_classes-1 and 255 are allowed.
        size: (h, w) that the mask must have, or None.

    Returns:
        (h, w) uint8.

    Raises:
        UserError: the file is missing or damaged, is a colour picture, has another size, or a label out of range.
    """
    try:
        mask, palette = _decode_png(read_bytes(path))
    except DecodingError as error:
        raise UserError(f"{path} can't be decoded: {error}") from error
    if palette is not None:
        check_palette(path, palette, mask, num_classes)
    check_mask(path, mask, num_classes, size)
    return mask


def decode_labels(content: bytes) -> np.ndarray:
    """(h, w) uint8 samples of the content of a palette or greyscale PNG: indices, and of 2 or 4 bits their levels.

    Raises:
        DecodingError: it is damaged, or another picture.
    """
    return _decode_png(content)[0]


def _decode_png(content):
    with _opened(content, ("PNG",)) as image:
        _check_size(image, content)
        raw_mode = image.tile[0][3] if image.tile else image.mode
        if image.mode not in ("P", "L", "1"):
            raise DecodingError(f"it is a picture of mode {image.mode}; a mask is a palette or 8-bit greyscale PNG of "
                                "class indices")
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3) if image.mode == "P" else None
        mask = turned(np.array(image).astype(np.uint8), _orientation(image))  # the samples of mode 1: 0 and 1
    mask //= _GREY_STEPS.get(raw_mode, 1)
    return mask, palette


def check_mask(path: str, mask: np.ndarray, num_classes: int, size: Optional[Tuple[int, ...]] = None) -> None:
    """Raise UserError, naming `path`, if a mask has another size than (h, w) or a label out of range."""
    if size is not None and mask.shape != tuple(size):
        turned = ", turned as its EXIF orientation says, if it has one" if mask.shape == tuple(size)[::-1] else ""
        raise UserError(f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}{turned}: "
                        f"a mask has its image's size")
    wrong = (mask < 0) | (mask >= num_classes) & (mask != IGNORE_LABEL)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise UserError(f"{path} has label {mask[y, x]} at x={x}, y={y}; labels are 0..{num_classes - 1}, and 255 for "
                        f"pixels to ignore")


@contextlib.contextmanager
def _opened(content: bytes, formats: Tuple[str, ...]) -> Iterator[Image.Image]:
    """Pillow's view of an image file. Whatever its decoders raise within the block becomes a DecodingError."""
    try:
        with Image.open(io.BytesIO(content), formats=[name for name in formats if name in Image.OPEN]) as image:
            if image.format == "PNG":
                _check_png(content)
            yield image
    except DecodingError:
        raise
    except UnidentifiedImageError as error:  # its text names a BytesIO
        raise DecodingError("it is empty" if not content else "the file is damaged, truncated, or not a picture of a "
                            f"format that is read here ({', '.join(formats)}, of 8 or 16 bits)") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DecodingError(f"the file is damaged or truncated ({error or type(error).__name__})") from error


def _check_size(image: Image.Image, content: bytes) -> None:
    """Raise DecodingError if a header gives more pixels than memory should hold, or than the file can."""
    width, height = image.size
    if width * height > max(_HARMLESS_PIXELS, min(MOST_PIXELS, _PIXELS_PER_BYTE * len(content))):
        raise DecodingError(f"{width} x {height} pixels are too many for {len(content)} bytes, or more than "
                            f"{MOST_PIXELS // 10 ** 6} million: the file is damaged, or too large to be read")


def _check_png(content: bytes) -> None:
    """Raise DecodingError if a chunk of a PNG file is damaged: Pillow doesn't look at the checksums of the pixels."""
    start, chunk = 8, b""
    while start + 12 <= len(content) and chunk != b"IEND":
        length, chunk = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if end + 4 <= len(content) and zlib.crc32(content[start + 4:end]) != struct.unpack_from(">I", content, end)[0]:
            raise DecodingError(f"the file is damaged (checksum of a chunk {chunk!r})")
        start = end + 4


def _decode_jpeg(content: bytes) -> Decoded:
    """Decode a grey or three-colour JPEG file, unturned; a damaged one by OpenCV, which gives what can be had."""
    try:
        return Decoded(simplejpeg.decode_jpeg(content, "RGB"), None)
    except ValueError as error:
        damage = str(error)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DecodingError(f"the file is damaged or truncated ({damage})")
    return Decoded(image, damage)


def _to_rgb(image: Image.Image, content: bytes) -> np.ndarray:
    """(h, w, 3) uint8 RGB of a picture of any of Pillow's modes, unturned."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]  # may be 12
    if image.mode == "F" or tags and (image.mode == "I" or set(tags.get(_SAMPLE_FORMAT, ())) - {1, 4}):
        raise DecodingError("its pixels are floating-point, signed or 32-bit numbers, whose range is not known: "
                            "convert it to 8 or 16 bits")
    # What Pillow decodes to garbage. The number of bits of a JPEG 2000 picture is in its SIZ marker segment.
    if (tags.get(_PHOTOMETRIC) == 0) + (tags.get(_PLANAR) == 2) + (bits > 8) > 1 or image.format == "JPEG2000" and (
            not image.mode.startswith("I") and content[content.index(b"\xff\x4f\xff\x51") + 42] & 127 > 7):
        raise DecodingError("its pixels are stored in a way that is not read here: convert it to RGB of 8 bits")
    image.load()
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int32) >> bits - 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, 2)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> Optional[int]:
    """What the file's EXIF data says; damaged data says nothing."""
    with contextlib.suppress(Exception):
        return image.getexif().get(_ORIENTATION)
    return None


def turned(pixels: np.ndarray, orientation: Optional[int]) -> np.ndarray:
    """The upright form of an array (h, w, ...) that was stored with an EXIF orientation, 1..8."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels
