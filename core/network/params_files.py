"""MXNet's format of named arrays, .params and .states, read and written without MXNet.

MXNet's native code trusts the sizes that a file states: a damaged one makes it fill gigabytes. Written files equal
those of mxnet.nd.save to the last bit. The versions read are those of MXNet 1.9.1 (src/ndarray/ndarray.cc,
NDArray::Load), sparse arrays left out.
"""
import os
import struct
from io import BufferedReader
from typing import BinaryIO, Dict, List, Mapping, Tuple

import numpy as np

from core.errors import UserError
from core.io.files import naming_errors, replacing

_LIST_MAGIC = 0x112
_SHAPE32, _SHAPE64 = 0xF993FAC8, 0xF993FAC9  # since MXNet 0.11, and since 1.0; before, the number of axes stood there
_BFLOAT16 = 12
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8", 7: "?", _BFLOAT16: "<u2"}
_NUMBERS = {np.dtype(name): number for number, name in _TYPES.items() if number != _BFLOAT16}
_CPU = 1
_CONTEXTS = (_CPU, 2, 3)  # CPU, GPU, pinned memory; where the array was, not where it goes
_MOST_AXES = 32


def write_params(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, whole or not at all.

    Args:
        arrays: floating-point numbers or integers, with one axis and one item at least: MXNet takes no others.
    """
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            _write(file, arrays)


def _write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    file.write(struct.pack("<QQQ", _LIST_MAGIC, 0, len(arrays)))
    for name, value in arrays.items():
        if not value.size or not value.ndim:
            raise ValueError(f"{name} of shape {value.shape} has no place in a .params file")
        file.write(struct.pack(f"<Iii{value.ndim}qiii", _SHAPE64, 0, value.ndim, *value.shape, _CPU, 0,
                               _NUMBERS[value.dtype]))
        file.write(np.ascontiguousarray(value).data)
    file.write(struct.pack("<Q", len(arrays)))
    for name in arrays:
        text = name.encode("utf-8")
        file.write(struct.pack("<Q", len(text)) + text)


def read_params(path: str) -> Dict[str, np.ndarray]:
    """Named arrays of a file in MXNet's format; bfloat16 becomes float32.

    The numbers themselves can't be checked: the format has no checksum.

    Raises:
        UserError: the file is missing or damaged, or its arrays have no names.
    """
    try:
        with naming_errors(path, "can't be read"), open(path, "rb") as file:
            values, names = _Reader(file).read()
    except ValueError as error:
        raise UserError(f"{path} is damaged, or not an MXNet parameter file: {error}") from error
    if len(names) != len(values):
        raise UserError(f"{path} holds arrays without names: it is not a snapshot")
    return dict(zip(names, values))


class _Reader:
    """Reads a file from its first to its last byte; ValueError says what is wrong with it."""

    def __init__(self, file: BufferedReader):
        self._file = file
        self._rest = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self) -> Tuple[List[np.ndarray], List[str]]:
        magic, _, count = self._numbers("<QQQ")
        if magic != _LIST_MAGIC:
            raise ValueError("it starts with other bytes; convert_base_model.py converts files of other frameworks")
        values = [self._array() for _ in range(count)]
        named, = self._numbers("<Q")
        if named not in (0, count):
            raise ValueError(f"{count} arrays have {named} names")
        names = [self._bytes(*self._numbers("<Q")).decode("utf-8") for _ in range(named)]
        if self._rest:
            raise ValueError(f"{self._rest} bytes follow its end")
        return values, names

    def _array(self) -> np.ndarray:
        version, = self._numbers("<I")
        if version == _SHAPE64:
            storage, = self._numbers("<i")
            if storage:
                raise ValueError("an array is sparse")
        axes = version if version not in (_SHAPE32, _SHAPE64) else self._numbers("<I")[0]
        if axes > _MOST_AXES:
            raise ValueError(f"an array has {axes} axes")
        if not axes:  # an array of nothing: the rest is left out
            return np.zeros(0, np.float32)
        shape = self._numbers(f"<{axes}{'q' if version in (_SHAPE32, _SHAPE64) else 'I'}")
        context, _, number = self._numbers("<iii")
        if context not in _CONTEXTS or number not in _TYPES or min(shape) < 1:
            raise ValueError(f"an array has shape {shape}, type {number}, context {context}")
        size = np.dtype(_TYPES[number]).itemsize
        for length in shape:
            size *= length
        values = np.frombuffer(self._bytes(size), _TYPES[number])
        if number == _BFLOAT16:  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(shape)

    def _numbers(self, layout: str) -> Tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, size: int) -> bytearray:
        if size > self._rest:
            raise ValueError("it is cut short")
        self._rest -= size
        content = bytearray(size)  # not bytes, so that the arrays can be written to
        if self._file.readinto(content) != size:
            raise ValueError("it is cut short")
        return content
