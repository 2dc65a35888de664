"""Masks of the Semantic Boundaries Dataset: field Segmentation of the struct GTcls of a MATLAB file.

scipy.io reads these files too, but a damaged one can crash it, and with it the whole process: SciPy up to 1.17 looks up
an element's type in a table without checking it (of 318 files with a few damaged bytes, five crashed SciPy 1.17.1).
Format: MathWorks, "MAT-File Format", chapter "Level 5 MAT-Files".
"""
import struct
import zlib
from typing import Tuple

import numpy as np

from core.errors import UserError
from core.io.files import read_bytes
from core.io.images import check_mask

_HEADER = 128  # bytes; the last two give the byte order
_BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 12: "i8", 13: "u8"}  # types of elements
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _INTEGERS = 2, range(8, 16)  # classes of matrices
_BYTES_PER_PIXEL, _OTHER_BYTES = 256, 1 << 20  # what a compressed element holds at most; boundaries of 20 classes too


class _Damaged(Exception):
    pass


def read_sbd_mask(path: str, num_classes: int, size: Tuple[int, int]) -> np.ndarray:
    """Class indices of an SBD file.

    Args:
        num_classes: indices 0..num_classes-1 and 255 are allowed.
        size: (h, w) that the mask must have.

    Returns:
        (h, w) uint8.

    Raises:
        UserError: the file is missing or damaged, lacks the field, or has another size or a label out of range.
    """
    content = read_bytes(path)
    try:
        mask = _segmentation(content, _BYTES_PER_PIXEL * size[0] * size[1] + _OTHER_BYTES)
    except (_Damaged, struct.error, zlib.error) as error:
        raise UserError(f"{path} is damaged, or not an SBD mask: GTcls.Segmentation is not an integer matrix"
                        ) from error
    check_mask(path, mask, num_classes, size)
    return mask.astype(np.uint8)


def _segmentation(content, most_bytes):
    """(h, w) integers.

    Args:
        most_bytes: more than these are not unpacked.
    """
    order = _BYTE_ORDERS.get(content[_HEADER - 2:_HEADER])
    if order is None:
        raise _Damaged
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            (kind, data), = _elements(_unpack(data, most_bytes), order, 1)
        if kind == _MATRIX:
            kind, shape, name, parts = _matrix(data, order)
            if name == b"GTcls" and kind == _STRUCT and np.prod(shape, dtype=float) == 1:
                return _integers(_field(parts, order), order)
    raise _Damaged


def _unpack(content, most_bytes):
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, most_bytes)
    if not unpacker.eof:
        raise _Damaged
    return unpacked


def _elements(content, order, count=None):
    """Yield (type, content) of the data elements, and of `count`, if given, that many."""
    place, found = 0, 0
    while found < count if count else place < len(content):
        kind, size = struct.unpack_from(order + "II", content, place)
        start = place + 8
        if kind >> 16:  # the small format: type, size and up to 4 bytes of content in 8 bytes
            kind, size, start = kind & 0xffff, min(kind >> 16, 4), place + 4
        if start + size > len(content):
            raise _Damaged
        yield kind, content[start:start + size]
        place = start + size if kind == _COMPRESSED else -(-(start + size) // 8) * 8
        found += 1


def _matrix(data, order):
    """(class, shape, name, the elements that follow) of a matrix."""
    elements = _elements(data, order)
    (_, flags), shape, (_, name) = (_next(elements) for _ in range(3))
    return struct.unpack_from(order + "I", flags)[0] & 0xff, tuple(_numbers(shape, order).tolist()), name, elements


def _next(elements):
    for element in elements:
        return element
    raise _Damaged


def _field(elements, order):
    """Content of the matrix that is the field Segmentation of a struct of one row and column."""
    length, (_, names) = _numbers(_next(elements), order), _next(elements)
    if len(length) != 1 or length[0] < 1:
        raise _Damaged
    names = [names[start:start + length[0]].split(b"\0")[0] for start in range(0, len(names), length[0])]
    if b"Segmentation" not in names:
        raise _Damaged
    for _ in range(names.index(b"Segmentation")):
        _next(elements)
    kind, data = _next(elements)
    if kind != _MATRIX:
        raise _Damaged
    return data


def _integers(data, order):
    """(h, w) integers of a matrix, which is stored column by column, in numbers that may be shorter than its own."""
    kind, shape, _, elements = _matrix(data, order)
    values = _numbers(_next(elements), order)
    if kind not in _INTEGERS or len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] != len(values):
        raise _Damaged
    return values.reshape(shape, order="F")


def _numbers(element, order):
    kind, content = element
    if kind not in _NUMBERS or len(content) % np.dtype(_NUMBERS[kind]).itemsize:
        raise _Damaged
    return np.frombuffer(content, order + _NUMBERS[kind])
