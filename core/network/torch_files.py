"""Tensors in files of torch.save, and arrays in pickles, read without torch and without running what the file names.

Such a file is a pickle: a program that may call any Python function. The unpickler here knows the few names that
tensors need, gives its own functions for them and refuses all others. Both formats of torch.save are read: the zip
archive of torch >= 1.6, and the one before it, a row of pickles followed by the raw storages.

Numbers are read when an array is asked for, so a file takes no more memory than the arrays that a caller wants.
"""
import functools
import io
import math
import os
import pickle
import struct
import zipfile
from typing import Any, BinaryIO, Callable, ClassVar, Dict, Iterator, List, Tuple, Union

import numpy as np

from core.errors import UserError

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the legacy format; then: version, system, value, keys of the storages

_DTYPES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
           "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
           "BoolStorage": "?"}
_NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_LARGEST_GROWTH = 8  # an entry of a zip archive unpacks to this many times the file's size, at most ...
_SMALL_ENTRY = 1 << 20  # ... or to this many bytes; torch and Keras store them as they are
_LONGEST_NAME = 1000
_MOST_AXES = 32  # that numpy 1 takes


def read_torch(path: str) -> Dict[str, Any]:
    """Tensors of a file of torch.save, and numpy arrays of a pickle, wherever in nested dicts and lists they are.

    Returns:
        dict from name, with the keys on the way to it and dots between them, to an object with `shape` and `dtype`
        that numpy.asarray reads; bfloat16 becomes float32. Reading raises ValueError, OSError or zipfile.BadZipFile
        where the file is damaged.

    Raises:
        UserError: the file is missing, damaged, holds no tensors, or names anything but tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            value = _read_zip(file, path) if file.read(4) == ZIP_START else _read_pickles(file, path)
        found = dict(_arrays(value))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise UserError(f"{path} is damaged, or was not written by torch.save: {error}") from error
    if not found:
        raise UserError(f"{path} holds no state dict: write one with torch.save(model.state_dict(), FILE)")
    return found


def read_entry(archive: zipfile.ZipFile, name: str, file_size: int) -> bytes:
    """Content of an entry of a zip archive.

    Raises:
        ValueError: it would unpack to far more than the archive's size.
        KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error: it is missing or damaged.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed by method {entry.compress_type}")
    if entry.file_size > max(_LARGEST_GROWTH * file_size, _SMALL_ENTRY):
        raise ValueError(f"{name} would unpack to {entry.file_size} bytes")
    return archive.read(entry)


def widen_bfloat16(content: bytes, order: str = "<") -> np.ndarray:
    """bfloat16 numbers, each the upper half of a float32, as a 1-D float32 array."""
    return (np.frombuffer(content, order + "u2").astype(np.uint32) << 16).view(np.float32)


def _arrays(value: Any) -> Iterator[Tuple[str, Any]]:
    """(name, array) of all arrays in nested dicts and lists; a part that is there twice comes once."""
    rest, seen = [("", value)], set()
    while rest:
        name, value = rest.pop()
        if len(name) > _LONGEST_NAME:
            raise ValueError("it is nested too deeply")
        if isinstance(value, (Tensor, _Array)):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            rest += [(f"{name}.{key}" if name else str(key), part) for key, part in pairs
                     if isinstance(part, (Tensor, _Array, dict, list, tuple))][::-1]


def _read_zip(file: BinaryIO, path: str) -> Any:
    with zipfile.ZipFile(file) as archive:
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise UserError(f"{path} is a zip archive, but not one of torch.save")
        folder = programs[0][:-len("data.pkl")]
        size = file.seek(0, 2)
        big = folder + "byteorder" in archive.namelist() and read_entry(archive, folder + "byteorder", size) == b"big"

        @functools.lru_cache(maxsize=1)  # for tensors that share a storage
        def content(name):
            with zipfile.ZipFile(path) as archive:
                return read_entry(archive, name, size)

        def storage(dtype, key, count):
            name = f"{folder}data/{key}"
            if count * _item_size(dtype) > archive.getinfo(name).file_size:
                raise ValueError(f"storage {key} is cut short")
            return _Storage(dtype, ">" if big else "<", count, functools.partial(content, name))

        return _Unpickler(io.BytesIO(read_entry(archive, programs[0], size)), path, storage).load()


def _read_pickles(file: BinaryIO, path: str) -> Any:
    size = file.seek(0, 2)
    file.seek(0)
    storages, places = {}, {}

    def content(key):
        start, length = places[key]
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(length)

    def storage(dtype, key, count):
        if count * _item_size(dtype) > size:
            raise ValueError(f"storage {key} is larger than the file")
        found = storages.setdefault(key, _Storage(dtype, "<", count, functools.partial(content, key)))
        if (found.kind, found.count) != (dtype, count):
            raise ValueError(f"storage {key} has two types or sizes")
        return found

    def load():
        return _Unpickler(file, path, storage).load()

    value = load()
    if value != _MAGIC:  # a pickle of numpy arrays
        return value
    for _ in ("version", "system"):
        load()
    value = load()
    for key in load():  # the content of the storages comes behind the pickles
        count, = struct.unpack("<q", file.read(8))
        places[key] = file.tell(), count * _item_size(storages[key].kind)
        if count != storages[key].count or file.seek(places[key][1], os.SEEK_CUR) > size:
            raise ValueError(f"storage {key} is cut short")
    if set(places) != set(storages):
        raise ValueError("storages are missing")
    return value


def _item_size(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


class _Storage:
    """`count` numbers of the type `kind` in the file; `content` reads their bytes."""

    def __init__(self, kind: str, order: str, count: int, content: Callable[[], bytes], start: int = 0):
        self.kind, self.order, self.count, self.content, self._start = kind, order, count, content, start

    def part(self, start: int, count: int) -> "_Storage":
        if not 0 <= start <= start + count <= self.count:
            raise ValueError("a part reaches past its storage")
        return _Storage(self.kind, self.order, count, self.content, self._start + start)

    def read(self) -> np.ndarray:
        """(count,) array."""
        content, size = self.content(), _item_size(self.kind)
        content = content[self._start * size:(self._start + self.count) * size]
        if len(content) != self.count * size:
            raise ValueError("a storage is cut short")
        return (widen_bfloat16(content, self.order) if self.kind == "bfloat16"
                else np.frombuffer(content, self.order + self.kind))


class Tensor:
    """A view of a storage, which numpy.asarray reads.

    Raises:
        ValueError: it reaches past its storage; numpy's as_strided would show other memory.
    """

    def __init__(self, storage: _Storage, offset: int, size: Tuple[int, ...], stride: Tuple[int, ...], *_: Any):
        if not (isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
                and len(size) == len(stride) <= _MOST_AXES and all(type(count) is int and count >= 0
                                                     for count in (offset, *size, *stride))):
            raise ValueError("a tensor is not a view of a storage")
        last = offset + sum((count - 1) * step for count, step in zip(size, stride))
        if math.prod(size) > storage.count or 0 not in size and last >= storage.count:
            raise ValueError("a tensor reaches past its storage")
        self.shape = size
        self.dtype = np.dtype("f4" if storage.kind == "bfloat16" else storage.kind)
        self._storage, self._offset, self._stride = storage, offset, stride

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if 0 in self.shape:
            return np.zeros(self.shape, dtype or self.dtype)
        items = self._storage.read()[self._offset:]
        view = np.lib.stride_tricks.as_strided(items, self.shape, [step * items.itemsize for step in self._stride],
                                               writeable=False)
        return np.array(view, dtype)


class _Array:
    """A numpy array of a pickle, which numpy.asarray reads."""

    shape: Tuple[int, ...] = (0,)
    dtype = np.dtype("f4")
    _content: Union[bytes, str] = b""
    _order: Any = "C"

    def set(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, _Encoded):
            content = content.text
        if not (isinstance(dtype, _Dtype) and isinstance(shape, tuple) and len(shape) <= _MOST_AXES
                and dtype.dtype.itemsize * math.prod(shape) == len(content)):
            raise ValueError("an array has another size than its content")
        self.shape, self.dtype = shape, dtype.dtype
        self._content, self._order = content, "F" if fortran else "C"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        content = self._content
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 wrote text
        return np.array(np.frombuffer(content, self.dtype).reshape(self.shape, order=self._order), dtype)


class _Dtype:
    """numpy.dtype in a pickle: a number's type, and then, as its state, the byte order."""

    def __init__(self, code: str, *_: Any):
        if code not in _NUMPY_TYPES:
            raise ValueError("an array holds no numbers")
        self.dtype = np.dtype(code)

    def set(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Encoded:
    """Bytes that a pickle holds as text; they are made when an array is read."""

    def __init__(self, text: str, encoding: str):
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("unknown encoding")
        self.text = text


class _Dict(dict):
    """Stands for dict and OrderedDict."""

    def __init__(self, pairs: Any = ()):
        super().__init__()
        for key, value in pairs:
            self[key] = value
        if pairs:
            pairs.clear()  # of a list, so that a short pickle can't fill a thousand dicts from one list

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, (str, int)):  # hashing nested tuples may take for ever
            super().__setitem__(key, value)


def _first(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> None:
    return None


def _array(*_: Any) -> _Array:
    return _Array()


_KNOWN = {("collections", "OrderedDict"): _Dict, ("torch", "Size"): _first, ("torch", "device"): _nothing,
          ("torch._utils", "_rebuild_tensor_v2"): Tensor, ("torch._utils", "_rebuild_tensor"): Tensor,
          ("torch._utils", "_rebuild_parameter"): _first, ("_codecs", "encode"): _Encoded,
          ("builtins", "set"): _first, ("__builtin__", "set"): _first, ("numpy", "ndarray"): None,
          ("numpy", "dtype"): _Dtype,
          **{(f"numpy.{core}.multiarray", name): function for core in ("core", "_core")
             for name, function in (("_reconstruct", _array), ("scalar", _nothing))}}

_OPCODES = ("PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
            "SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE "
            "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS SETITEM SETITEMS BINGET LONG_BINGET BINPUT "
            "LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BINPERSID").split()


def _opcode(name: str) -> int:
    return getattr(pickle, name)[0]


class _Unpickler(pickle._Unpickler):
    """Python's unpickler written in Python, cut down to opcodes that cost no more than they read.

    The one in C allocates room up to the largest memo index that a pickle names.

    Args:
        path: name of the file, for messages.
        storage: function from (dtype, key, number of items) to _Storage.
    """

    stack: List[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[Dict[int, Any]] = {_opcode(name): pickle._Unpickler.dispatch[_opcode(name)] for name in _OPCODES}
    for _set, _list in (("EMPTY_SET", "EMPTY_LIST"), ("ADDITEMS", "APPENDS"), ("FROZENSET", "LIST")):
        dispatch[_opcode(_set)] = dispatch[_opcode(_list)]  # lists do for sets, and hash nothing

    def __init__(self, file: BinaryIO, path: str, storage: Callable[[str, str, int], _Storage]):
        super().__init__(file, encoding="latin1")
        self._path = path
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        raise UserError(f"{self._path} names {module}.{name}, which a weight file does not need, and which is not run: "
                        "write the weights alone, with torch.save(model.state_dict(), FILE), or as .safetensors")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or dtype not in _DTYPES.values() or not isinstance(key, str) or not (
                type(count) is int and count >= 0):
            raise ValueError("unknown storage")
        storage = self._storage(dtype, key, count)
        if len(pid) > 5 and pid[5] is not None:  # old format: a part of another storage
            _, start, length = pid[5]
            storage = storage.part(start, length)
        return storage

    def load_empty_dict(self) -> None:
        self.append(_Dict())
    dispatch[_opcode("EMPTY_DICT")] = load_empty_dict

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], (_Array, _Dtype)):  # attributes of anything else are dropped
            self.stack[-1].set(state)
    dispatch[_opcode("BUILD")] = load_build
