"""Tensors in a file that torch.save wrote, read without torch and without running anything that the file names.

Such a file is a pickle: a program that may call any Python function. The unpickler here knows the few names that
tensors need, gives its own functions for them and refuses all others. Both formats are read: the zip archive of
torch >= 1.6, and the one before it, a row of pickles followed by the raw storages.
"""
import pickle
import struct
import zipfile

import numpy as np

from core.errors import UserError

ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # pickle of torch's magic number
_LEGACY_PICKLES = 3  # magic number, protocol version, system; then the state dict and the list of storages

_DTYPES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
           "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
           "BoolStorage": "?"}
_STATE_KEYS = ("state_dict", "model")  # under which training checkpoints keep the weights


def read_torch(path):
    """Tensors of a state dict, alone or inside a training checkpoint.

    Returns:
        dict from name to array; bfloat16 becomes float32.

    Raises:
        UserError: the file is missing, damaged, holds no state dict, or names anything but tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            value = _read_zip(file, path) if file.read(4) == ZIP_START else _read_legacy(file, path)
    except OSError as error:
        raise UserError("%s can't be read: %s" % (path, error.strerror or error)) from error
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise UserError("%s is damaged or no file of torch.save: %s" % (path, error)) from error
    for key in _STATE_KEYS:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not any(isinstance(tensor, np.ndarray) for tensor in value.values()):
        raise UserError("%s holds no state dict: write one with torch.save(model.state_dict(), FILE)" % path)
    return {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, np.ndarray)}


def _read_zip(file, path):
    with zipfile.ZipFile(file) as archive:
        pickled = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise UserError("%s is a zip archive, but none of torch.save" % path)
        folder = pickled[0][:-len("data.pkl")]
        size = file.seek(0, 2)
        order = ">" if _has(archive, folder + "byteorder") and archive.read(folder + "byteorder") == b"big" else "<"
        storages = {}

        def storage(dtype, key, count):
            if key not in storages:
                entry = archive.getinfo("%sdata/%s" % (folder, key))
                if entry.file_size > size:
                    raise ValueError("a storage is larger than the file")
                storages[key] = _as_array(archive.read(entry), dtype, order)
            return storages[key][:count]

        with archive.open(pickled[0]) as program:
            return _Unpickler(program, path, storage).load()


def _has(archive, name):
    return name in archive.namelist()


def _read_legacy(file, path):
    size = file.seek(0, 2)
    file.seek(0)
    storages = {}

    def storage(dtype, key, count):
        if not 0 <= count * _item_size(dtype) <= size:
            raise ValueError("a storage is larger than the file")
        if key not in storages:  # the content comes behind the pickles: filled in below
            storages[key] = np.zeros(count, "f4" if dtype == "bfloat16" else dtype), dtype
        return storages[key][0]

    for _ in range(_LEGACY_PICKLES):
        _Unpickler(file, path, storage).load()
    value = _Unpickler(file, path, storage).load()
    for key in _Unpickler(file, path, storage).load():
        array, dtype = storages[key]
        count, = struct.unpack("<q", file.read(8))
        content = file.read(len(array) * _item_size(dtype))
        if count != len(array) or len(content) != count * _item_size(dtype):
            raise ValueError("storage %s is cut short" % key)
        array[:] = _as_array(content, dtype, "<")
        del storages[key]
    if storages:
        raise ValueError("storages are missing")
    return value


def _item_size(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _as_array(content, dtype, order):
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(content, order + "u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, order + dtype)


class _Dict(dict):
    """Stands for OrderedDict; attributes that a pickle sets on it are dropped."""

    def __setstate__(self, state):
        pass


class _Unpickler(pickle.Unpickler):

    def __init__(self, file, path, storage):
        """
        Args:
            path: name of the file, for messages.
            storage: function from (dtype, key, number of items) to a 1-D array.
        """
        super().__init__(file)
        self._path = path
        self._storage = storage

    def find_class(self, module, name):
        known = {("collections", "OrderedDict"): _Dict, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
                 ("torch._utils", "_rebuild_tensor"): _tensor, ("torch._utils", "_rebuild_parameter"): _parameter,
                 ("torch", "Size"): tuple}
        if (module, name) in known:
            return known[module, name]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        raise UserError("%s names %s.%s, which a file of weights has no need of, and which is not run: write the "
                        "weights alone, with torch.save(model.state_dict(), FILE), or as .safetensors"
                        % (self._path, module, name))

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or dtype not in _DTYPES.values() or not isinstance(key, str):
            raise ValueError("unknown storage")
        array = self._storage(dtype, key, count)
        if len(pid) > 5 and pid[5] is not None:  # format of old: a part of another storage
            _, offset, length = pid[5]
            array = array[offset:offset + length]
        return array


def _tensor(storage, offset, size, stride, *_):
    """View of a storage. Checked, for numpy's as_strided is not: a wrong stride would show other memory."""
    if len(size) != len(stride) or min((offset,) + size + stride) < 0 or np.prod(size, dtype=object) > len(storage):
        raise ValueError("a tensor does not fit its storage")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    if 0 not in size and last >= len(storage):
        raise ValueError("a tensor reaches past its storage")
    start = storage[offset:] if 0 not in size else storage[:0]
    return np.lib.stride_tricks.as_strided(start, size, [step * storage.itemsize for step in stride], writeable=False)


def _parameter(tensor, *_):
    return tensor
