"""The layout of MXNet's .params files, checked before MXNet's native code reads them.

That code believes what a file says of its sizes: a damaged one makes it fill gigabytes, for half a minute and more.
The versions of the format are those that MXNet 1.9.1 reads (src/ndarray/ndarray.cc, NDArray::Load), sparse arrays
left out.
"""
import struct

from core.errors import UserError

LIST_MAGIC = 0x112
_SHAPE32, _SHAPE64 = 0xF993FAC8, 0xF993FAC9  # since MXNet 0.11, and since 1.0; before, the number of axes stood there
_ITEM_SIZE = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 12: 2}  # bytes, by MXNet's number of the type
_CONTEXTS = (1, 2, 3)  # CPU, GPU, pinned memory; where the array was, not where it goes
_MOST_AXES = 32


def check_params_file(path):
    """Raise UserError unless a .params file is whole: each array in it as long as its shape says, a name for each.

    The numbers themselves can't be checked: the format has no checksum.
    """
    try:
        with open(path, "rb") as file:
            _Walk(file).check()
    except OSError as error:
        raise UserError("%s can't be read: %s" % (path, error.strerror or error)) from error
    except ValueError as error:
        raise UserError("%s is damaged, or not an MXNet parameter file: %s" % (path, error)) from error


class _Walk:
    """Passes over a file from its first to its last byte; ValueError tells what is wrong with it."""

    def __init__(self, file):
        self._file = file
        self._rest = file.seek(0, 2)
        file.seek(0)

    def check(self):
        magic, _, arrays = self._read("<QQQ")
        if magic != LIST_MAGIC:
            raise ValueError("it starts with other bytes")
        if arrays > self._rest:  # each takes several bytes
            raise ValueError("it tells of %d arrays" % arrays)
        for _ in range(arrays):
            self._array()
        names, = self._read("<Q")
        if names not in (0, arrays):
            raise ValueError("%d arrays have %d names" % (arrays, names))
        for _ in range(names):
            self._skip(*self._read("<Q"))
        if self._rest:
            raise ValueError("%d bytes follow its end" % self._rest)

    def _array(self):
        version, = self._read("<I")
        if version == _SHAPE64:
            storage, = self._read("<i")
            if storage:
                raise ValueError("an array is sparse")
        axes = version if version not in (_SHAPE32, _SHAPE64) else self._read("<I")[0]
        if axes > _MOST_AXES:
            raise ValueError("an array has %d axes" % axes)
        if not axes:  # an array of nothing: the rest is left out
            return
        shape = self._read("<%d%s" % (axes, "q" if version in (_SHAPE32, _SHAPE64) else "I"))
        context, _, kind = self._read("<iii")
        if context not in _CONTEXTS or kind not in _ITEM_SIZE or min(shape) < 1:
            raise ValueError("an array has shape %s, type %d, context %d" % (shape, kind, context))
        size = _ITEM_SIZE[kind]
        for length in shape:
            size *= length
        self._skip(size)

    def _read(self, layout):
        size = struct.calcsize(layout)
        self._count(size)
        return struct.unpack(layout, self._file.read(size))

    def _skip(self, size):
        self._count(size)
        self._file.seek(size, 1)

    def _count(self, size):
        if size > self._rest:
            raise ValueError("it is cut short")
        self._rest -= size
