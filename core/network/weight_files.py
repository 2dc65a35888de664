"""Arrays in weight files of other frameworks: HDF5 of Keras, safetensors, and files of torch.save.

Whatever the file calls them, the parts of a layer have one name each here: weight and bias of a convolution or of a
fully connected layer; gamma, beta, mean and var of a batch norm.
"""
import io
import re
import struct
import zipfile

import h5py
import safetensors.numpy

from core.errors import UserError
from core.network.torch_files import LEGACY_START, ZIP_START, read_torch

_HDF5_START = b"\x89HDF\r\n\x1a\n"
_MXNET_START = struct.pack("<Q", 0x112)

_TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
_TORCH_WRAPPERS = re.compile(r"(?:(?:module|model|backbone)\.)*")  # put in front of names by DataParallel and others

_KERAS_ARCHIVE = "model.weights.h5"  # in the zip that Keras 3 writes as .keras
_KERAS_LAYER = re.compile(r"conv1_(?:conv|bn)|conv[2-5]_block[0-9]+_[0-3]_(?:conv|bn)|"  # since TensorFlow 1.13
                          r"(?:bn_)?conv1|(?:res|bn)[2-5][a-z]_branch(?:1|2[abc])")  # before
_KERAS_PART = re.compile(r"(?:.*_)?(?:(?P<weight>kernel|W)|(?P<bias>bias|b)|(?P<gamma>gamma)|(?P<beta>beta)|"
                         r"(?P<mean>(?:moving|running)_mean)|(?P<var>(?:moving|running)_(?:variance|std)))"
                         r"(?:_[0-9]+)?(?::0)?")
_KERAS_ORDER = {2: ("weight", "bias"), 4: ("gamma", "beta", "mean", "var")}  # by the number of a layer's arrays


def file_kind(path):
    """What a file is by its first bytes: "keras", "safetensors", "torch" or "mxnet".

    Raises:
        UserError: the file is missing, or none of these.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            size = file.seek(0, 2)
    except OSError as error:
        raise UserError("%s can't be read: %s" % (path, error.strerror or error)) from error
    if start.startswith(_HDF5_START):
        return "keras"
    if start.startswith(ZIP_START):
        return "keras" if _keras_archive(path) else "torch"
    if start.startswith(LEGACY_START):
        return "torch"
    if start.startswith(_MXNET_START):
        return "mxnet"
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < size:
        return "safetensors"
    raise UserError("%s is no weight file: Keras .h5, .safetensors, .pth of torch.save or MXNet .params is expected; "
                    "it starts with %r" % (path, start[:24]))


def read_state_dict(path):
    """Weights that PyTorch saved, as .safetensors or .pth.

    Returns:
        dict from (layer, part) to array, such as ("layer1.0.bn1", "gamma").

    Raises:
        UserError: the file is damaged, or a .pth names more than tensors (see `torch_files.read_torch`).
    """
    if file_kind(path) == "torch":
        arrays = read_torch(path)
    else:
        try:
            arrays = safetensors.numpy.load_file(path)
        except Exception as error:  # the library's own classes have no common base
            raise UserError("%s is damaged, truncated, or of a type that numpy lacks: %s" % (path, error)) from error
    found = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition(".")
        if layer + ".running_mean" in arrays:
            part = _TORCH_NORM.get(part, part)
        _add(found, _TORCH_WRAPPERS.sub("", layer, 1), part, array, path)
    return found


def read_keras(path):
    """Weights in a .h5, .weights.h5 or .keras file of Keras.

    Returns:
        dict from (layer, part) to h5py.Dataset, such as ("conv2_block1_1_bn", "gamma").

    Raises:
        UserError: the file is damaged.
    """
    found = {}

    def visit(name, item):
        # Datasets whose content lies in other files are passed over, as is what the optimizer keeps of each weight.
        if isinstance(item, h5py.Dataset) and not (name.startswith("optimizer") or item.external or item.is_virtual):
            layer, part = _keras_name(name, item)
            _add(found, layer, part, item, path)
    try:
        h5py.File(_keras_archive(path) or path, "r").visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError("%s is damaged or truncated: %s" % (path, error)) from error
    return found


def _keras_name(name, item):
    """(layer, part) of a dataset: from its path; in Keras 3, which numbers both, from an attribute and the order."""
    folders, leaf = name.split("/")[:-1], name.split("/")[-1]
    parts = _KERAS_ORDER.get(len(item.parent), ())
    if folders and folders[-1] == "vars" and leaf.isdigit():
        return str(item.parent.attrs.get("name", folders[-2] if folders[1:] else "")), dict(
            zip(map(str, range(4)), parts)).get(leaf, leaf)
    known = [folder for folder in folders if _KERAS_LAYER.fullmatch(folder)]
    match = _KERAS_PART.fullmatch(leaf)
    return (known or folders or [""])[-1], match.lastgroup if match else leaf


def _keras_archive(path):
    """The HDF5 file in a .keras archive, or None where the file is none."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return io.BytesIO(archive.read(_KERAS_ARCHIVE)) if _KERAS_ARCHIVE in archive.namelist() else None
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
        raise UserError("%s is damaged or truncated: %s" % (path, error)) from error


def _add(found, layer, part, array, path):
    if (layer, part) in found:
        raise UserError("%s holds %s of layer %s twice" % (path, part, layer))
    found[layer, part] = array
