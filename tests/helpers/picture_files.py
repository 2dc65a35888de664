"""Image files as other programs write them, which neither Pillow nor OpenCV would write so."""
import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind="JPEG", **flags):
    """Content of a file that Pillow writes; the image is one of Pillow's, or an array."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **flags)
    return buffer.getvalue()


def tiff(pixels, byte_order="<", planar=False, **tags):
    """Content of an uncompressed TIFF of an array (h, w, channels).

    Args:
        planar: store the channels one after the other.
        tags: photometric, extra_samples, sample_format, bits.
    """
    height, width, channels = pixels.shape
    stored = pixels.astype(pixels.dtype.newbyteorder(byte_order))
    strips = [stored[..., channel].tobytes() for channel in range(channels)] if planar else [stored.tobytes()]
    places = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    entries = {256: (width,), 257: (height,), 258: (tags.get("bits", 8 * pixels.itemsize),) * channels, 259: (1,),
               262: (tags.get("photometric", 2 if channels >= 3 else 1),), 273: places, 277: (channels,),
               278: (height,), 279: [len(strip) for strip in strips], 284: (2 if planar else 1,),
               339: (kind,) * channels}
    if "extra_samples" in tags:
        entries[338] = (tags["extra_samples"],)
    start = 8 + sum(map(len, strips))
    end = start + 2 + 12 * len(entries) + 4
    directory, rest = struct.pack(byte_order + "H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        code, number = ("I", 4) if tag in (273, 279) else ("H", 3)
        raw = struct.pack(byte_order + code * len(values), *values)
        if len(raw) > 4:
            raw, rest = struct.pack(byte_order + "I", end + len(rest)), rest + raw
        directory += struct.pack(byte_order + "HHI", tag, number, len(values)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(byte_order + "I", start)
    return head + b"".join(strips) + directory + bytes(4) + rest


def claiming(kind, width, height):
    """A file of some hundred bytes whose header says that it has width x height pixels."""
    sides = struct.pack(">II", width, height)
    if kind == "PPM":
        return b"P6\n%d %d\n255\n" % (width, height) + bytes(400)
    content = bytearray(encoded(np.zeros((64, 64, 3), np.uint8), kind, **{"TIFF": {"compression": "tiff_lzw"}}.get(
        kind, {})))
    if kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place:place + 4] = struct.pack(">HH", height, width)
    elif kind == "PNG":
        content[16:24] = sides
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif kind == "GIF":
        place = content.index(b"\x2c", 13)  # of the first picture
        content[6:10] = content[place + 5:place + 9] = struct.pack("<HH", width, height)
    elif kind == "BMP":
        content[18:26] = struct.pack("<ii", width, height)
    elif kind == "TIFF":
        start, = struct.unpack_from("<I", content, 4)
        for place in range(start + 2, start + 2 + 12 * content[start], 12):
            tag, = struct.unpack_from("<H", content, place)
            if tag in (256, 257):
                struct.pack_into("<HII", content, place + 2, 4, 1, width if tag == 256 else height)
    elif kind == "WEBP":
        place = content.index(b"\x9d\x01\x2a") + 3
        content[place:place + 4] = struct.pack("<HH", min(width, 16383), min(height, 16383))
    elif kind == "JPEG2000":
        place = content.index(b"ihdr") + 4
        content[place:place + 8] = struct.pack(">II", height, width)
        place = content.index(b"\xff\x4f\xff\x51") + 8
        content[place:place + 8] = content[place + 16:place + 24] = sides
    return bytes(content)
