"""Arrays in weight files of other frameworks: HDF5 of Keras, safetensors, files of torch.save, pickles of arrays.

Whatever the file calls them, the parts of a layer have one name each here: weight and bias of a convolution or of a
fully connected layer; gamma, beta, mean and var of a batch norm.
"""
import io
import math
import re
import struct
import zipfile
import zlib
from typing import Any, Dict, Optional, Tuple

import h5py
import numpy as np
import safetensors

from core.errors import UserError
from core.io.files import read_bytes
from core.network.torch_files import PICKLE_START, ZIP_START, read_entry, read_torch, widen_bfloat16

Arrays = Dict[Tuple[str, str], Any]  # from (layer, part) to an object with shape and dtype that numpy.asarray reads

_HDF5_START = b"\x89HDF\r\n\x1a\n"
_MXNET_START = struct.pack("<Q", 0x112)

_SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
                      "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?"}

_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
_CAFFE2_NAME = re.compile(r"(?P<layer>.*)_(?:(?P<weight>w)|(?P<gamma>s)|(?P<mean>rm)|(?P<var>riv)|b)")

_KERAS_ARCHIVE = "model.weights.h5"  # in the zip that Keras 3 writes as .keras
_KERAS_LAYER = re.compile(r"conv1_(?:conv|bn)|conv[2-5]_block[0-9]+_[0-3]_(?:conv|bn)|"  # since TensorFlow 1.13
                          r"(?:bn_)?conv1|(?:res|bn)[2-5][a-z]_branch(?:1|2[abc])")  # before
_KERAS_PART = re.compile(r"(?:.*_)?(?:(?P<weight>kernel|W)|(?P<bias>bias|b)|(?P<gamma>gamma)|(?P<beta>beta)|"
                         r"(?P<mean>(?:moving|running)_mean)|(?P<var>(?:moving|running)_(?:variance|std)))"
                         r"(?:_[0-9]+)?(?::0)?")
_KERAS_ORDER = {2: ("weight", "bias"), 4: ("gamma", "beta", "mean", "var")}  # by the number of a layer's arrays
_LARGEST_CHUNK = 1 << 26  # bytes; HDF5 unpacks a whole chunk, however little of it an array has

# What numpy.asarray raises for an array of a damaged file
READ_ERRORS = (OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, zipfile.BadZipFile,
               zlib.error)


def file_kind(path: str) -> str:
    """What a file is by its first bytes: "keras", "safetensors", "torch" (a plain pickle, too) or "mxnet".

    Raises:
        UserError: the file is missing, or none of these.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            size = file.seek(0, 2)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    if start.startswith(_HDF5_START):
        return "keras"
    if start.startswith(ZIP_START):
        return "keras" if _keras_archive(path) else "torch"
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < size:
        return "safetensors"
    if start.startswith(PICKLE_START):
        return "torch"
    if start.startswith(_MXNET_START):
        return "mxnet"
    raise UserError(f"{path} is not a weight file: Keras .h5, .safetensors, .pth of torch.save, .pkl of Detectron or "
                    f"MXNet .params is expected; it starts with {start[:24]!r}")


def read_state_dict(path: str) -> Arrays:
    """Weights in a .safetensors, .pth or .pkl file, below whatever names: those of the layers are whole.

    Returns:
        dict from (layer, part), such as ("state_dict.module.layer1.0.bn1", "gamma"), to array.

    Raises:
        UserError: the file is damaged, or a pickle names more than arrays (see `torch_files.read_torch`).
    """
    arrays = read_torch(path) if file_kind(path) == "torch" else _read_safetensors(path)
    found: Arrays = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition(".")
        if layer + ".running_mean" in arrays:
            part = _NORM_PARTS.get(part, part)
        caffe2 = _CAFFE2_NAME.fullmatch(name)
        if caffe2:
            layer = caffe2["layer"]
            part = str(caffe2.lastgroup)
            if part == "layer":  # it ends in _b
                part = "beta" if layer.endswith("_bn") else "bias"
        _add(found, layer, part, array, path)
    return found


def _read_safetensors(path: str) -> Dict[str, np.ndarray]:
    found = {}
    try:
        for name, tensor in safetensors.deserialize(read_bytes(path)):
            kind, content = tensor["dtype"], bytes(tensor["data"])
            if kind != "BF16" and kind not in _SAFETENSORS_TYPES:
                raise UserError(f"{path}: {name} has type {kind}; floating-point numbers are expected, of 16 bits at "
                                "least")
            array = widen_bfloat16(content) if kind == "BF16" else np.frombuffer(content, _SAFETENSORS_TYPES[kind])
            found[name] = array.reshape(tensor["shape"])
    except UserError:
        raise
    except Exception as error:  # the library's own classes have no common base
        raise UserError(f"{path} is damaged or truncated: {error}") from error
    return found


def read_keras(path: str) -> Arrays:
    """Weights in a .h5, .weights.h5 or .keras file of Keras.

    Returns:
        dict from (layer, part), such as ("conv2_block1_1_bn", "gamma"), to h5py.Dataset.

    Raises:
        UserError: the file is damaged.
    """
    found: Arrays = {}

    def visit(name, item):
        # Datasets whose content lies in other files are passed over, as is what the optimizer keeps of each weight.
        if (isinstance(item, h5py.Dataset) and not (name.startswith("optimizer") or item.external or item.is_virtual)
                and math.prod(item.chunks or ()) * item.dtype.itemsize <= _LARGEST_CHUNK):
            layer, part = _keras_name(name, item)
            _add(found, layer, part, item, path)
    try:
        h5py.File(_keras_archive(path) or path, "r").visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged or truncated: {error}") from error
    return found


def _keras_name(name: str, item: h5py.Dataset) -> Tuple[str, str]:
    """(layer, part) of a dataset: from its path; in Keras 3, which numbers both, from an attribute and the order."""
    folders, leaf = name.split("/")[:-1], name.split("/")[-1]
    parts = _KERAS_ORDER.get(len(item.parent), ())
    if folders and folders[-1] == "vars" and leaf.isdigit():
        return str(item.parent.attrs.get("name", folders[-2] if folders[1:] else "")), dict(
            zip(map(str, range(4)), parts)).get(leaf, leaf)
    known = [folder for folder in folders if _KERAS_LAYER.fullmatch(folder)]
    match = _KERAS_PART.fullmatch(leaf)
    return (known or folders or [""])[-1], (match.lastgroup if match else None) or leaf


def _keras_archive(path: str) -> Optional[io.BytesIO]:
    """The HDF5 file in a .keras archive, or None where the file is none."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if _KERAS_ARCHIVE not in archive.namelist():
                return None
            return io.BytesIO(read_entry(archive, _KERAS_ARCHIVE, file.seek(0, 2)))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} is damaged or truncated: {error}") from error


def _add(found: Arrays, layer: str, part: str, array: Any, path: str) -> None:
    if (layer, part) in found:
        raise UserError(f"{path} holds {part} of layer {layer} twice")
    found[layer, part] = array
