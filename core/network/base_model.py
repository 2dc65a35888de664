"""ResNet-50 weights of other frameworks as the base model that training starts from.

The network's input is RGB minus the mean, in 0..255, without scaling; what a source does to its input otherwise goes
into conv1 and its batch norm. Every stage then outputs what it does in the source framework.
"""
import dataclasses
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from core.config import Config, network_settings
from core.errors import UserError
from core.io.logs import logger
from core.network.fcn import is_base_parameter, parameter_shapes
from core.network.resnet import BN_EPSILON, convolution_of
from core.network.shapes import Shapes
from core.network.snapshots import Parameters, adopt_recorded, write_parameters
from core.network.weight_files import WeightFile, read_weights

_BASE_SETTINGS = ("width", "units", "stride_on", "mean_rgb")


class Input(NamedTuple):
    """What a network does to a picture: (pixel - mean) / std, with pixels in 0..255, and the order of its channels."""
    channels: str  # rgb or bgr
    mean_rgb: Tuple[float, ...]
    std_rgb: Tuple[float, ...] = (1.0, 1.0, 1.0)


_IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 times torchvision's
KERAS = Input("bgr", (123.68, 116.779, 103.939))
PREPROCESSING = {
    "torch": Input("rgb", _IMAGENET_MEAN, (58.395, 57.12, 57.375)),
    "caffe": Input("bgr", _IMAGENET_MEAN),
    "tf": Input("rgb", (127.5,) * 3, (127.5,) * 3),
    "unit": Input("rgb", (0.0,) * 3, (255.0,) * 3),
}
_FOLDED = 1e-4  # variances this near 1, with means of 0, in every layer: the batch norm's statistics are folded away
# Variance of what conv1 puts out, divided by the sum of its squared weights: about the variance of its input, which is
# 1 after torchvision's preprocessing and 58^2 in 0..255; the limit is their geometric mean.
_MOST_VARIANCE = 58.0


def convert_base_model(config: Config, source: str, output: str, *, preprocessing: Optional[str] = None,
                       epsilon: Optional[float] = None, prefix: Optional[str] = None) -> None:
    """Write the ResNet stages of a weight file of Keras, PyTorch or MXNet as a .params file of this network.

    A setting `mean_rgb` that the user gave is kept, and the difference from the source's mean goes into conv1's bias:
    exact but for the three pixels at the border, where the padding stands for the mean.

    Args:
        source: file to read.
        output: file to write.
        preprocessing: what the source does to its input, a key of PREPROCESSING; None is its framework's way.
        epsilon: what the source's batch norm adds to the variance; None takes its framework's value.
        prefix: what the names of the network's layers in the source start with; None detects it.

    Raises:
        UserError: the source is missing or damaged, or holds no ResNet-50 or several; an array has another shape than
            `config` asks for; it looks preprocessed in another way than `preprocessing`; or the output can't be
            written.
    """
    file = read_weights(source)
    arrays = dict(_choose_network(source, file.networks, prefix))
    all_shapes = parameter_shapes("init", dataclasses.replace(config, backbone="resnet50"))
    values = _take_stages(source, arrays, {name: shape for shapes in all_shapes for name, shape in shapes.items()
                                           if is_base_parameter(name)})
    if file.framework == "PyTorch" and not preprocessing:
        _check_torch_input(source, values)
    config, of_input = _adopt_input(config, source, file, preprocessing)
    if epsilon is None:
        epsilon = 1e-5 if file.framework == "PyTorch" else BN_EPSILON

    logger.info("%s: names of %s; stride on the %s convolution; %s input, minus %s, divided by %s; batch norm epsilon "
                "%g", source, file.framework, config.stride_on, of_input.channels.upper(), of_input.mean_rgb,
                of_input.std_rgb, epsilon)
    logger.info("left over: %s", "; ".join(f"{name} {array.shape}" for name, array in arrays.items()
                                           if not name.endswith("num_batches_tracked")) or "nothing")
    _convert(values, of_input, config.mean_rgb, epsilon)
    args, aux = ({name: values[name].astype(np.float32) for name in shapes if is_base_parameter(name)}
                 for shapes in all_shapes)
    write_parameters(output, Parameters(args, aux, network_settings(config, _BASE_SETTINGS)))
    logger.info("%s holds %d parameters; it goes with %s", output, len(args) + len(aux), "; ".join(
        f"{name}={getattr(config, name)}" for name in _BASE_SETTINGS))


def _choose_network(source, networks, prefix):
    """Arrays of the one ResNet in the file, or of the one below `prefix`."""
    there = {name.rstrip("."): arrays for name, arrays in networks.items() if "res2a_branch2a_weight" in arrays}
    if prefix is None and len(there) == 1:
        return next(iter(there.values()))
    if prefix is not None and prefix.rstrip(".") in there:
        return there[prefix.rstrip(".")]
    if there:
        raise UserError(f"{source} holds several networks or one with another prefix: choose one with --prefix "
                        f"{' or '.join(map(repr, there))}")
    names = sorted(name for arrays in networks.values() for name in arrays)
    raise UserError(f"{source} holds no ResNet-50 with the names of Keras, torchvision, timm or Caffe, but "
                    f"{', '.join(names[:4]) or 'none'}")


def _adopt_input(config: Config, source: str, file: WeightFile, preprocessing: Optional[str]) -> Tuple[Config, Input]:
    """Config with what the file says or its framework implies of the network, and what that does to its input."""
    caffe = file.framework == "Keras" or preprocessing == "caffe"
    facts: Dict[str, Any] = {} if file.framework == "MXNet" else {"stride_on": "1x1" if caffe else "3x3"}
    of_input = (PREPROCESSING[preprocessing or "torch"] if preprocessing or file.framework == "PyTorch"
                else KERAS if file.framework == "Keras" else None)
    if of_input and not config.is_set("mean_rgb"):
        facts["mean_rgb"] = of_input.mean_rgb
    facts.update((name, file.settings[name]) for name in _BASE_SETTINGS if name in file.settings)
    config = adopt_recorded(config, source, facts)
    return config, of_input or Input("rgb", config.mean_rgb)


def _take_stages(source: str, arrays: Dict[str, np.ndarray], shapes: Shapes) -> Dict[str, np.ndarray]:
    """The parameters of the ResNet stages, float64, with a bias for each convolution, of zeros where it has none; they
    are no longer left over in `arrays`."""
    biases = {name[:-len("weight")] + "bias": shape[:1] for name, shape in shapes.items() if name.endswith("_weight")}
    values = {name: _take(source, arrays, name, shape) for name, shape in shapes.items() if name not in biases}
    values.update((name, _take(source, arrays, name, shape) if name in arrays else np.zeros(shape))
                  for name, shape in biases.items())
    unknown = [name for name in arrays if is_base_parameter(name) and not name.endswith("num_batches_tracked")]
    if unknown:
        raise UserError(f"{source} has {unknown[0]}, which the network lacks: another network, or another setting "
                        "units")
    return values


def _take(source: str, arrays: Dict[str, np.ndarray], name: str, shape: Tuple[int, ...]) -> np.ndarray:
    """An array, float64, which is no longer left over.

    Raises:
        UserError: it is missing, has another shape, or is not all finite numbers.
    """
    array = arrays.pop(name, None)
    if array is None:
        raise UserError(f"{source} lacks the parameter {name}: another network, or another setting units")
    if array.shape != tuple(shape):
        raise UserError(f"{source}: {name} has shape {array.shape}, the network wants {tuple(shape)}: another network, "
                        "or other settings width and units")
    if array.dtype.kind != "f" or not np.isfinite(array).all() or name.endswith("_var") and array.min() < 0:
        raise UserError(f"{source}: {name} holds other values than finite numbers, or negative variances")
    return array.astype(np.float64)


def _check_torch_input(source: str, values: Dict[str, np.ndarray]) -> None:
    """Raise UserError where the weights show that a network with PyTorch's names takes another input than
    torchvision's, as those converted from Caffe do."""
    choices = f"say with --preprocessing {' or '.join(PREPROCESSING)} what its input is"
    def all_are(value: float, *ends: str) -> bool:
        return all(np.abs(array - value).max() <= _FOLDED for name, array in values.items() if name.endswith(ends))

    if all_are(0, "_mean") and all_are(1, "_var"):
        if all_are(1, "_gamma") and all_are(0, "_beta"):
            logger.warning("%s: all batch norms are as they start: the network was not trained", source)
            return
        raise UserError(f"{source}: all batch norms have mean 0 and variance 1: they are folded, as in networks "
                        f"converted from Caffe (Detectron, mmdetection): {choices}")
    if values["bn_conv1_moving_var"].sum() > _MOST_VARIANCE * np.square(values["conv1_weight"]).sum():
        raise UserError(f"{source}: the variances of the first batch norm are those of pixels in 0..255 that are not "
                        f"divided, as in networks converted from Caffe: {choices}")


def _convert(values: Dict[str, np.ndarray], of_input: Input, mean_rgb: Tuple[float, ...], epsilon: float) -> None:
    """Turn the source's parameters into this network's.

    conv1's output grows by the mean deviation of the source's input, which the batch norm undoes: so the weights keep
    their size, and with it the step that a learning rate means, though the input is no longer divided.
    """
    for norm in [name[:-len("_gamma")] for name in values if name.endswith("_gamma")]:
        mean, var, bias = norm + "_moving_mean", norm + "_moving_var", convolution_of(norm) + "_bias"
        growth = np.mean(of_input.std_rgb) if norm == "bn_conv1" else 1.0
        if norm == "bn_conv1":
            weight = values["conv1_weight"][:, ::-1] if of_input.channels == "bgr" else values["conv1_weight"]
            weight = values["conv1_weight"] = weight * (growth / np.array(of_input.std_rgb))[:, None, None]
            shift = np.subtract(mean_rgb, of_input.mean_rgb)
            values["conv1_bias"] = growth * values["conv1_bias"] + np.einsum("ocij,c->o", weight, shift)
            values[mean] = growth * values[mean]
        else:
            values[mean] = values[mean] - values.pop(bias)  # for the convolution no longer adds it
        values[var] = growth ** 2 * (values[var] + epsilon) - BN_EPSILON
