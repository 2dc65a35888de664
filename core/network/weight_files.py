"""Arrays in weight files of Keras, PyTorch and MXNet, under the parameter names of `resnet`.

Keras's files are read by h5py, .safetensors by its library, .pth by torch where that is installed, without running
what they name.
"""
import argparse
import importlib.util
import io
import os
import pathlib
import re
import zipfile
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import h5py
import numpy as np
from safetensors.numpy import load_file

from core.errors import UserError
from core.network.snapshots import read_parameters

_BRANCHES = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}  # by Keras's number of a layer in its block
_KERAS_LAYER = re.compile(r"conv(?P<stage>[1-5])_(?:block(?P<unit>\d+)_(?P<branch>[0-3])_)?(?P<type>conv|bn)")
_CAFFE_LAYER = re.compile(r"(?:bn_)?conv1|(?:res|bn)[2-5][a-z]_branch(?:1|2[abc])")
_KERAS_PARTS = {"kernel": "weight", "W": "weight", "b": "bias", "running_mean": "moving_mean",
                "moving_variance": "moving_var", "running_std": "moving_var"}
_KERAS_ORDER = {2: ("weight", "bias"), 4: ("gamma", "beta", "moving_mean", "moving_var")}  # Keras 3 numbers them
_TORCH_NAME = re.compile(r"(?P<prefix>.*?\.?)\b(?:layer(?P<stage>[1-4])\.(?P<unit>\d+)\.)?"
                         r"(?P<layer>conv[1-3]|bn[1-3]|downsample\.[01])\.(?P<parameter>\w+)")
_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


class WeightFile(NamedTuple):
    """Content of a file.

    Attributes:
        framework: "Keras", "PyTorch" or "MXNet".
        networks: for each prefix of names in the file, the arrays below it by their names here, kernels as (out, in,
            h, w). Names that are no ResNet's come as they are.
        settings: that an MXNet file records.
    """
    framework: str
    networks: Dict[str, Dict[str, np.ndarray]]
    settings: Dict[str, Any]


def read_weights(path: str) -> WeightFile:
    """Content of a weight file; its name's ending says which reader takes it."""
    ending = os.path.splitext(path)[1].lower()
    if ending in (".pth", ".pt", ".bin") and not importlib.util.find_spec("torch"):
        raise UserError(f"{path} is read by torch, which is not installed: pip install -r dependencies-torch.txt, or "
                        "convert the file to .safetensors where it is")
    if ending not in _READERS:
        raise UserError(f"{path} is not a weight file: the name has to end in {', '.join(_READERS)}")
    framework, read, rename = _READERS[ending]
    try:
        with open(path, "rb"):
            pass
        arrays, settings = read(path)
        networks: Dict[str, Dict[str, np.ndarray]] = {}
        for name, array in arrays:
            prefix, parameter = rename(name)
            if parameter in networks.setdefault(prefix, {}):
                raise UserError(f"{path} holds {name} twice")
            networks[prefix][parameter] = np.asarray(array)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # the libraries' errors have no common base
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(f"{path} names {refused[1]}, which is not run: write the weights alone, with torch.save("
                            "model.state_dict(), FILE), or as .safetensors") from error
        reason = "".join(str(error).strip().splitlines()[:1])
        raise UserError(f"{path} is damaged, or no weight file: {reason}") from error
    return WeightFile(framework, networks, settings)


def _read_torch(path):
    import torch
    # Training scripts store their command line beside the weights.
    torch.serialization.add_safe_globals([argparse.Namespace, pathlib.PurePosixPath, pathlib.PosixPath])
    return _tensors(torch.load(path, map_location="cpu", weights_only=True)), {}


def _tensors(value: Any, name: str = "") -> Iterator[Tuple[str, np.ndarray]]:
    """(name, array) of the tensors in nested dicts and lists, with dots between the keys."""
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif hasattr(value, "detach"):
        value = value.detach()
        yield name, (value.float() if value.is_floating_point() else value).numpy()


def _read_keras(path):
    file: Any = path
    if zipfile.is_zipfile(path):  # .keras of Keras 3
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
    arrays = []

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            array = item[()]
            arrays.append((_keras_name(name, item), array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))

    with h5py.File(file, "r") as content:
        content.visititems(visit)
    return arrays, {}


def _keras_name(name: str, item: h5py.Dataset) -> str:
    """Parameter name here of a dataset: from its path; in Keras 3, from an attribute and the order of the arrays."""
    *folders, leaf = name.split("/")
    if folders[-1:] == ["vars"] and leaf.isdigit():
        layer = str(item.parent.attrs.get("name"))
        parameter = dict(enumerate(_KERAS_ORDER.get(len(item.parent), ()))).get(int(leaf), leaf)
    else:
        layer = next((folder for folder in reversed(folders)
                      if _KERAS_LAYER.fullmatch(folder) or _CAFFE_LAYER.fullmatch(folder)), "/".join(folders))
        parameter = re.sub(r"(_\d+)?(:0)?$", "", leaf)
        parameter = parameter[len(layer) + 1:] if parameter.startswith(layer + "_") else parameter
        parameter = _KERAS_PARTS.get(parameter, parameter)
    match = _KERAS_LAYER.fullmatch(layer)
    if match:
        layer = _layer_name(match["type"] == "bn", match["stage"], int(match["unit"]) - 1 if match["unit"] else None,
                            _BRANCHES.get(match["branch"]))
    return f"{layer}_{parameter}"


def _layer_name(norm: bool, stage: Any, unit: Optional[int], branch: Optional[str]) -> str:
    if unit is None:
        return "bn_conv1" if norm else "conv1"
    return f"{'bn' if norm else 'res'}{stage}{chr(ord('a') + unit)}_branch{branch}"


def _torch_name(name: str) -> Tuple[str, str]:
    """(what the name starts with, parameter name here)."""
    match = _TORCH_NAME.fullmatch(name)
    if not match or not match["stage"] and match["layer"] not in ("conv1", "bn1"):
        return "", name
    layer, parameter = match["layer"], match["parameter"]
    norm = layer.startswith("bn") or layer == "downsample.1"
    branch = "1" if layer.startswith("downsample") else _BRANCHES[layer[-1]]
    unit = int(match["unit"]) if match["stage"] else None
    return match["prefix"], (_layer_name(norm, int(match["stage"] or 0) + 1, unit, branch) + "_"
                             + (_NORM_PARTS.get(parameter, parameter) if norm else parameter))


def _read_mxnet(path):
    parameters = read_parameters(path)
    return [*parameters.args.items(), *parameters.aux.items()], parameters.settings


def _whole(name):
    return "", name


_READERS: Dict[str, Tuple[str, Callable, Callable[[str], Tuple[str, str]]]] = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), ("Keras", _read_keras, _whole)),
    ".safetensors": ("PyTorch", lambda path: (load_file(path).items(), {}), _torch_name),
    **dict.fromkeys((".pth", ".pt", ".bin"), ("PyTorch", _read_torch, _torch_name)),
    ".params": ("MXNet", _read_mxnet, _whole)}
