"""ResNet-50 weights of other frameworks as the base model that training starts from.

The network's input is RGB minus the mean, in 0..255, without scaling; what a source does to its input otherwise goes
into conv1 and its batch norm. Every stage then outputs what it does in the source framework.

The names don't show what a network does to its input. PyTorch's names also cover networks converted from Caffe, whose
input is BGR in 0..255: folded batch norms, and the size of conv1's weights, give them away (`_preprocessing`).
"""
import dataclasses
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from core.config import Config, network_settings
from core.errors import UserError
from core.io.logs import logger
from core.network.fcn import is_base_parameter, parameter_shapes
from core.network.resnet import BN_EPSILON
from core.network.snapshots import Parameters, adopt_recorded, read_parameters, write_parameters
from core.network.weight_files import READ_ERRORS, Arrays, file_kind, read_keras, read_state_dict

_BASE_SETTINGS = ("width", "units", "stride_on", "mean_rgb")


class Input(NamedTuple):
    """What a network does to a picture: (pixel - mean) / std, with pixels in 0..255, and the order of its channels."""
    channels: str  # rgb or bgr
    mean_rgb: Tuple[float, ...]
    std_rgb: Tuple[float, ...] = (1.0, 1.0, 1.0)


_IMAGENET_MEAN = (123.675, 116.28, 103.53)  # 255 times torchvision's
PREPROCESSING = {
    "torch": Input("rgb", _IMAGENET_MEAN, (58.395, 57.12, 57.375)),
    "caffe": Input("bgr", _IMAGENET_MEAN),
    "tf": Input("rgb", (127.5,) * 3, (127.5,) * 3),
    "unit": Input("rgb", (0.0,) * 3, (255.0,) * 3),
}
_KERAS_INPUT = Input("bgr", (123.68, 116.779, 103.939))


class Family(NamedTuple):
    """How a framework's ResNet-50 differs from this network.

    names: function from a layer's name here, such as res2a_branch2a, to the names of (convolution, batch norm) there.
    backbone: pattern that only names of the ResNet stages' layers there start with.
    kernel: axes that bring its kernels to (out, in, height, width).
    input: None takes pixels minus the mean of Config, in RGB; "unknown" leaves it to the weights, or to the user.
    stride_on: as in Config; None is that of Config; "unknown" is 1x1 with Caffe's input, else 3x3.
    epsilon: what its batch norm adds to the variance.
    statistics: False where its batch norms have none, but scale and shift.
    """
    title: str
    names: Any
    backbone: str
    kernel: Tuple[int, int, int, int]
    input: Any
    stride_on: Optional[str]
    epsilon: float
    statistics: bool = True


def _place(layer: str) -> Tuple[int, int, str]:
    """(stage, unit from 0, branch) of "res2a_branch2a"."""
    parts = re.fullmatch(r"res([2-5])([a-z])_branch(1|2[abc])", layer)
    stage, unit, branch = parts.groups()  # type: ignore[union-attr]  # all layers but conv1 have such names
    return int(stage), ord(unit) - ord("a"), branch


def _caffe_names(layer):
    return layer, ("bn_" if layer == "conv1" else "bn") + layer.replace("res", "")


def _keras_names(layer):
    if layer == "conv1":
        return "conv1_conv", "conv1_bn"
    stage, unit, branch = _place(layer)
    number = {"1": 0, "2a": 1, "2b": 2, "2c": 3}[branch]
    name = f"conv{stage}_block{unit + 1}_{number}_"
    return name + "conv", name + "bn"


def _torch_names(layer):
    if layer == "conv1":
        return "conv1", "bn1"
    stage, unit, branch = _place(layer)
    name = f"layer{stage - 1}.{unit}."
    if branch == "1":
        return name + "downsample.0", name + "downsample.1"
    number = {"2a": 1, "2b": 2, "2c": 3}[branch]
    return f"{name}conv{number}", f"{name}bn{number}"


def _stem_names(layer):
    names = _torch_names(layer)
    return ("stem.conv1", "stem.bn1") if layer == "conv1" else names


def _children_names(layer):
    """Of torch.nn.Sequential(*resnet.children()), which numbers conv1, bn1, ReLU, pooling and the stages."""
    if layer == "conv1":
        return "0", "1"
    return tuple(re.sub("^layer([1-4])", lambda match: str(int(match[1]) + 3), name) for name in _torch_names(layer))


def _transformers_names(layer):
    if layer == "conv1":
        name = "embedder.embedder"
    else:
        stage, unit, branch = _place(layer)
        name = f"encoder.stages.{stage - 2}.layers.{unit}." + {"1": "shortcut", "2a": "layer.0", "2b": "layer.1",
                                                               "2c": "layer.2"}[branch]
    return name + ".convolution", name + ".normalization"


def _detectron2_names(layer):
    if layer == "conv1":
        return "stem.conv1", "stem.conv1.norm"
    stage, unit, branch = _place(layer)
    name = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}[branch]
    return f"res{stage}.{unit}.{name}", f"res{stage}.{unit}.{name}.norm"


def _caffe2_names(layer):
    if layer == "conv1":
        return "conv1", "res_conv1_bn"
    stage, unit, branch = _place(layer)
    return f"res{stage}_{unit}_branch{branch}", f"res{stage}_{unit}_branch{branch}_bn"


_HWIO, _OIHW = (3, 2, 0, 1), (0, 1, 2, 3)
_CAFFE_BACKBONE = r"(res|bn)[2-5][a-z]+[0-9]*_branch(1|2[abc])$"
_UNKNOWN = "unknown"
FAMILIES = {
    "keras": (Family("Keras", _keras_names, r"conv[2-5]_block", _HWIO, _KERAS_INPUT, "1x1", BN_EPSILON),
              Family("Keras before 2019, as in Caffe", _caffe_names, _CAFFE_BACKBONE, _HWIO, _KERAS_INPUT, "1x1",
                     BN_EPSILON)),
    "torch": (Family("PyTorch", _torch_names, r"layer[1-9]\.", _OIHW, _UNKNOWN, _UNKNOWN, 1e-5),
              Family("maskrcnn-benchmark", _stem_names, r"layer[1-9]\.", _OIHW, _UNKNOWN, _UNKNOWN, 1e-5),
              Family("a torch.nn.Sequential", _children_names, r"[4-7]\.[0-9]+\.", _OIHW, _UNKNOWN, _UNKNOWN, 1e-5),
              Family("transformers", _transformers_names, r"encoder\.stages\.", _OIHW, _UNKNOWN, _UNKNOWN, 1e-5),
              Family("detectron2", _detectron2_names, r"res[2-5]\.", _OIHW, _UNKNOWN, _UNKNOWN, 1e-5),
              Family("Detectron", _caffe2_names, r"res[2-5]_", _OIHW, PREPROCESSING["caffe"], "1x1", 1e-5, False)),
    "mxnet": (Family("MXNet, as in Caffe", _caffe_names, _CAFFE_BACKBONE, _OIHW, None, None, BN_EPSILON),),
}
FAMILIES["safetensors"] = FAMILIES["torch"]

_FOLDED = 1e-4  # variances this near 1, with means of 0, in every layer: the batch norm's statistics are folded away
# Variance of what conv1 puts out, divided by the sum of its squared weights: about the variance of its input, which is
# 1 after torchvision's preprocessing and 58^2 in 0..255; the limit is their geometric mean.
_MOST_VARIANCE = 58.0
_LEAST_MEAN = 0.25  # of the input in every channel: pixels / 255 have about 0.45, standardized ones 0
_EXPLAINED = 0.9  # share of conv1's mean outputs that one mean colour explains, to be believed


def convert_base_model(config: Config, source: str, output: str, *, preprocessing: Optional[str] = None,
                       channels: Optional[str] = None, epsilon: Optional[float] = None, prefix: Optional[str] = None
                       ) -> None:
    """Write the ResNet stages of a weight file of Keras, PyTorch, Detectron or MXNet as a .params file of this network.

    A setting `mean_rgb` that the user gave is kept, and the difference from the source's mean goes into conv1's bias:
    exact but for the three pixels at the border, where the padding stands for the mean.

    Args:
        source: file to read.
        output: file to write.
        preprocessing: what the source does to its input, a key of PREPROCESSING; None detects it.
        channels: order of the source's input channels, "rgb" or "bgr"; None takes that of its preprocessing.
        epsilon: what the source's batch norm adds to the variance; None takes its framework's value.
        prefix: what the names of the network's layers in the source start with; None detects it.

    Raises:
        UserError: the source is missing or damaged, or holds no ResNet-50 or several; an array has another shape than
            `config` asks for; its preprocessing can't be recognised; or the output can't be written.
    """
    kind, arrays, recorded = _read(source)
    family, prefix = _find_network(source, kind, arrays, prefix)
    weights = _Weights(source, arrays, prefix, family)
    arg_shapes, aux_shapes = parameter_shapes("init", dataclasses.replace(config, backbone="resnet50"))
    shapes = {name: shape for name, shape in {**arg_shapes, **aux_shapes}.items() if is_base_parameter(name)}
    layers = _take_layers(family, weights, shapes)
    left_over = weights.left_over()

    if preprocessing and not (preprocessing == "caffe" and family.input == _KERAS_INPUT):
        family = family._replace(input=PREPROCESSING[preprocessing])
    elif family.input == _UNKNOWN:
        family = family._replace(input=PREPROCESSING[_preprocessing(source, layers)])
    if family.stride_on == _UNKNOWN:
        family = family._replace(stride_on="1x1" if family.input == PREPROCESSING["caffe"] else "3x3")
    facts = {} if family.stride_on is None else {"stride_on": family.stride_on}
    if family.input and not config.is_set("mean_rgb"):
        facts["mean_rgb"] = family.input.mean_rgb
    config = adopt_recorded(config, source, {**facts, **recorded})
    of_input = family.input or Input("rgb", config.mean_rgb)
    if channels:
        of_input = of_input._replace(channels=channels)
    epsilon = family.epsilon if epsilon is None else epsilon

    logger.info("%s: names of %s%s; stride on the %s convolution; %s input, minus %s, divided by %s; batch norm "
                "epsilon %g", source, family.title, f" below {prefix}" if prefix else "", config.stride_on,
                of_input.channels.upper(), of_input.mean_rgb, of_input.std_rgb, epsilon)
    for name, layer in layers.items():
        logger.info("%-15s %-19s from %s, %s", name, shapes[name + "_weight"], *family.names(name))
    logger.info("left over: %s", left_over)
    values = _convert(layers, of_input, config.mean_rgb, epsilon)
    args, aux = ({name: values[name].astype(np.float32) for name in shapes if name in values}
                 for shapes in (arg_shapes, aux_shapes))
    write_parameters(output, Parameters(args, aux, network_settings(config, _BASE_SETTINGS)))
    logger.info("%s holds %d parameters; it goes with %s", output, len(values), "; ".join(
        f"{name}={getattr(config, name)}" for name in _BASE_SETTINGS))


def _read(source: str) -> Tuple[str, Arrays, Dict[str, Any]]:
    """(kind, arrays, recorded): dict from (layer, part) to array-like; settings that the file records."""
    kind = file_kind(source)
    if kind == "keras":
        return kind, read_keras(source), {}
    if kind != "mxnet":
        return kind, read_state_dict(source), {}
    parameters = read_parameters(source)
    arrays = {}
    for name, value in {**parameters.args, **parameters.aux}.items():
        parts = re.fullmatch(r"(.*?)_?(?:moving_)?([^_]*)", name)
        layer, part = parts.groups()  # type: ignore[union-attr]  # it matches any name
        arrays[layer, part] = value
    return kind, arrays, {name: parameters.settings[name] for name in _BASE_SETTINGS if name in parameters.settings}


def _find_network(source: str, kind: str, arrays: Arrays, prefix: Optional[str]) -> Tuple[Family, str]:
    """(family, what its layers' names start with) of the one ResNet in the file.

    Args:
        prefix: as in `convert_base_model`.

    Raises:
        UserError: there is none, or more than one with different weights.
    """
    names = {layer for layer, _ in arrays}
    found = {}
    for family in FAMILIES[kind]:
        conv, norm = family.names("conv1")
        for layer in sorted(names):
            start = layer[:-len(conv)]
            if (layer.endswith(conv) and start[-1:] in ("", ".") and start + norm in names
                    and any(re.match(re.escape(start) + family.backbone, name) for name in names)):
                found[start] = family
    if prefix is not None:
        prefix = prefix.rstrip(".") + "." if prefix else ""
        if prefix not in found:
            raise UserError(f"{source} holds no ResNet-50 below {prefix!r}; there is one below: "
                            + (", ".join(map(repr, found)) or "none"))
        return found[prefix], prefix
    if not found:
        raise UserError("{} holds no ResNet-50: layers named as {} are expected, and these are there: {}".format(
            source, " or ".join("{} and {}".format(*family.names("res2a_branch2a")) for family in FAMILIES[kind]),
            ", ".join(sorted(names)[:4]) or "none"))
    first, *others = found
    if not all(_same(arrays, first, other) for other in others):
        raise UserError(f"{source} holds {len(found)} networks, with names that start with "
                        f"{', '.join(map(repr, found))}: choose one with --prefix")
    return found[first], first


def _same(arrays: Arrays, first: str, other: str) -> bool:
    """Whether the networks below two prefixes are one, stored twice."""
    parts = [{(layer[len(prefix):], part): array for (layer, part), array in arrays.items() if layer.startswith(prefix)}
             for prefix in (first, other)]
    common = set(parts[0]) & set(parts[1])
    try:
        return all(parts[0][name].shape == parts[1][name].shape
                   and np.array_equal(np.asarray(parts[0][name]), np.asarray(parts[1][name])) for name in common)
    except READ_ERRORS:
        return False


class _Weights:
    """Arrays of a source, checked as they are taken."""

    def __init__(self, source: str, arrays: Arrays, prefix: str, family: Family):
        self.source = source
        self._arrays = arrays
        self._prefix = prefix
        self._family = family
        self._left = dict.fromkeys(arrays)

    def has(self, layer: str, part: str) -> bool:
        return (self._prefix + layer, part) in self._arrays

    def take(self, layer: str, part: str, shape: Tuple[int, ...], axes: Tuple[int, ...] = (0,)) -> np.ndarray:
        """Array of a layer, with its axes in the order `axes`, as float64.

        Raises:
            UserError: it is missing, of another shape than `shape`, or not all finite numbers.
        """
        layer = self._prefix + layer
        array = self._arrays.get((layer, part))
        if array is None:
            raise UserError(f"{self.source} lacks {part} of layer {layer}: another network, or another setting units")
        self._left.pop((layer, part))
        found = tuple(array.shape[axis] for axis in axes) if len(array.shape) == len(axes) else tuple(array.shape)
        if found != tuple(shape):
            raise UserError(f"{self.source}: {part} of layer {layer} has shape {found}, the network wants "
                            f"{tuple(shape)}: another network, or other settings width and units")
        try:  # the numbers are read only now
            values = np.asarray(array)
        except READ_ERRORS as error:
            raise UserError(f"{self.source} is damaged: {part} of layer {layer} can't be read: {error}") from error
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise UserError(f"{self.source}: {part} of layer {layer} are not all finite numbers")
        if part == "var" and values.min() < 0:
            raise UserError(f"{self.source}: var of layer {layer} is negative")
        return values.astype(np.float64).transpose(axes)

    def left_over(self) -> str:
        """What was not taken, in words.

        Raises:
            UserError: some of it belongs to a residual unit, so the source is a larger network.
        """
        counters, rest, elsewhere = 0, [], 0
        for layer, part in sorted(self._left):
            if part == "num_batches_tracked":
                counters += 1
            elif not layer.startswith(self._prefix):
                elsewhere += 1
            elif re.match(self._family.backbone, layer[len(self._prefix):]):
                raise UserError(f"{self.source} has layer {layer}, which the network lacks: another network, or "
                                "another setting units")
            else:
                rest.append(f"{layer} {part} {tuple(self._arrays[layer, part].shape)}")
        if counters:
            rest.append(f"num_batches_tracked of {counters} layers")
        if elsewhere:
            rest.append(f"{elsewhere} arrays with other names")
        return "; ".join(rest) or "nothing"


class _Layer(NamedTuple):
    """Weights (o, i, h, w), bias (o,) and batch norm (o,) of a layer, float64, as the source has them."""
    weight: np.ndarray
    bias: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray


def _take_layers(family: Family, weights: _Weights, shapes: Dict[str, Tuple[int, ...]]) -> Dict[str, _Layer]:
    """_Layer of each name for which `shapes` has a weight."""
    layers = {}
    for name in (name[:-len("_weight")] for name in shapes if name.endswith("_weight")):
        conv, norm = family.names(name)
        shape = shapes[name + "_weight"]
        count = shape[:1]
        layers[name] = _Layer(
            weights.take(conv, "weight", shape, family.kernel),
            weights.take(conv, "bias", count) if weights.has(conv, "bias") else np.zeros(count),
            weights.take(norm, "gamma", count), weights.take(norm, "beta", count),
            *((weights.take(norm, "mean", count), weights.take(norm, "var", count)) if family.statistics
              else (np.zeros(count), np.full(count, 1 - family.epsilon))))
    return layers


def _preprocessing(source: str, layers: Dict[str, _Layer]) -> str:
    """Key of PREPROCESSING for a network with PyTorch's names, as its weights show it.

    Raises:
        UserError: they show that it is another than torchvision's, but not which.
    """
    values: List[_Layer] = list(layers.values())
    if all(np.abs(layer.mean).max() == 0 and np.abs(layer.var - 1).max() <= _FOLDED for layer in values):
        if all((layer.gamma == 1).all() and (layer.beta == 0).all() for layer in values):
            logger.warning("%s: all batch norms are as they start: the network was not trained", source)
            return "torch"
        logger.warning("%s: all batch norms have mean 0 and variance 1: they are folded, as in networks converted from "
                       "Caffe (Detectron, mmdetection's resnet50_caffe), and are taken as such; --preprocessing "
                       "overrides this", source)
        return "caffe"
    first = layers["conv1"]
    known = (f"--preprocessing {' or '.join(PREPROCESSING)}, and --channels where they are in another order, say what "
             "its input is")
    if first.var.sum() > _MOST_VARIANCE * (first.weight ** 2).sum():
        raise UserError(f"{source} has PyTorch's names, but the variances of its first batch norm are those of pixels "
                        f"in 0..255 that are not divided, as in networks converted from Caffe: {known}")
    colours = first.weight.sum((2, 3))  # (o, 3): what conv1 puts out where all of the input has one colour
    means = first.mean - first.bias
    colour = np.linalg.lstsq(colours, means, rcond=None)[0]
    explained = 1 - np.square(colours @ colour - means).sum() / max(np.square(means).sum(), 1e-30)
    if len(means) > 6 and explained > _EXPLAINED and colour.min() > _LEAST_MEAN:
        raise UserError(f"{source} has PyTorch's names, but the means of its first batch norm are those of pixels that "
                        f"no mean is subtracted from, as in 0..1: {known}")
    return "torch"


def _convert(layers: Dict[str, _Layer], of_input: Input, mean_rgb: Tuple[float, ...], epsilon: float
             ) -> Dict[str, np.ndarray]:
    """Parameters of this network, by name, float64.

    Args:
        of_input: what the source does to its input.
        mean_rgb: what this network subtracts.
        epsilon: what the source's batch norm adds to the variance.
    """
    values = {}
    for name, layer in layers.items():
        weight, bias, scale = layer.weight, layer.bias, 1.0
        if name == "conv1":
            weight, bias, scale = _fold_input(of_input, mean_rgb, weight, bias)
            values["conv1_bias"] = bias
            mean = scale * layer.mean
        else:
            mean = layer.mean - bias  # for the convolution no longer adds it
        norm = _caffe_names(name)[1]
        values[name + "_weight"] = weight
        values.update({norm + "_gamma": layer.gamma, norm + "_beta": layer.beta, norm + "_moving_mean": mean,
                       norm + "_moving_var": scale ** 2 * (layer.var + epsilon) - BN_EPSILON})
    return values


def _fold_input(of_input: Input, mean_rgb: Tuple[float, ...], weight: np.ndarray, bias: np.ndarray
                ) -> Tuple[np.ndarray, np.ndarray, float]:
    """conv1 for RGB minus `mean_rgb`.

    Its output grows by the mean deviation of the source's input, which the batch norm undoes: so the weights keep
    their size, and with it the step that a learning rate means, though the input is no longer divided.

    Returns:
        (weight, bias, growth of the output).
    """
    if of_input.channels == "bgr":
        weight = weight[:, ::-1]
    std = np.array(of_input.std_rgb)
    scale = std.mean()
    weight = weight * (scale / std)[:, None, None]
    shift = np.subtract(mean_rgb, of_input.mean_rgb)
    return weight, scale * bias + np.einsum("ocij,c->o", weight, shift), scale
