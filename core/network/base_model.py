"""ResNet-50 weights of other frameworks as the base model that training starts from.

The network's input is RGB minus the mean, in 0..255, without scaling; what a source does to its input otherwise goes
into conv1 and its batch norm. Every stage then puts out what it puts out in the source framework.
"""
import collections
import re

import numpy as np

from core.config import network_settings
from core.errors import UserError
from core.io.logs import logger
from core.network.fcn import BN_EPSILON, is_base_parameter, parameter_shapes
from core.network.snapshots import Parameters, adopt_recorded, read_parameters, write_parameters
from core.network.weight_files import file_kind, read_keras, read_state_dict
from core.runtime.mxnet_backend import mx

_BASE_SETTINGS = ("width", "units", "stride_on", "mean_rgb")

Family = collections.namedtuple("Family", "title names backbone kernel channels stride_on epsilon mean_rgb std_rgb")
Family.__doc__ = """How a framework's ResNet-50 differs from this network.

names: function from a layer's name here, such as res2a_branch2a, to the names of (convolution, batch norm) there.
backbone: pattern that only names of the ResNet stages' layers there start with.
kernel: axes that bring its kernels to (out, in, height, width).
channels: order of its input's channels, rgb or bgr.
stride_on: as in Config; None is that of Config.
epsilon: what its batch norm adds to the variance.
mean_rgb, std_rgb: it takes (pixel - mean) / std, with pixels in 0..255; a mean of None is that of Config.
"""


def _caffe_names(layer):
    return layer, ("bn_" if layer == "conv1" else "bn") + layer.replace("res", "")


def _keras_names(layer):
    if layer == "conv1":
        return "conv1_conv", "conv1_bn"
    stage, unit, branch = _place(layer)
    name = "conv%d_block%d_%s_" % (stage, unit + 1, {"1": "0", "2a": "1", "2b": "2", "2c": "3"}[branch])
    return name + "conv", name + "bn"


def _torch_names(layer):
    if layer == "conv1":
        return "conv1", "bn1"
    stage, unit, branch = _place(layer)
    name = "layer%d.%d." % (stage - 1, unit)
    if branch == "1":
        return name + "downsample.0", name + "downsample.1"
    number = {"2a": 1, "2b": 2, "2c": 3}[branch]
    return "%sconv%d" % (name, number), "%sbn%d" % (name, number)


def _place(layer):
    """(stage, unit from 0, branch) of "res2a_branch2a"."""
    stage, unit, branch = re.fullmatch(r"res([2-5])([a-z])_branch(1|2[abc])", layer).groups()
    return int(stage), ord(unit) - ord("a"), branch


_HWIO, _OIHW = (3, 2, 0, 1), (0, 1, 2, 3)
_CAFFE_MEAN = (123.68, 116.779, 103.939)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # 255 times torchvision's
_CAFFE_BACKBONE = r"(res|bn)[2-5][a-z]+[0-9]*_branch(1|2[abc])$"
FAMILIES = {
    "keras": (Family("Keras", _keras_names, r"conv[2-5]_block",
                     _HWIO, "bgr", "1x1", BN_EPSILON, _CAFFE_MEAN, None),
              Family("Keras before 2019, as in Caffe", _caffe_names, _CAFFE_BACKBONE,
                     _HWIO, "bgr", "1x1", BN_EPSILON, _CAFFE_MEAN, None)),
    "torch": (Family("PyTorch", _torch_names, r"layer[1-9]\.",
                     _OIHW, "rgb", "3x3", 1e-5, _IMAGENET_MEAN, _IMAGENET_STD),),
    "mxnet": (Family("MXNet, as in Caffe", _caffe_names, _CAFFE_BACKBONE,
                     _OIHW, "rgb", None, BN_EPSILON, None, None),),
}
FAMILIES["safetensors"] = FAMILIES["torch"]


def convert_base_model(config, source, output, epsilon=None, channels=None):
    """Write the ResNet stages of a weight file of Keras, PyTorch or MXNet as a .params file of this network.

    A setting `mean_rgb` that the user gave is kept, and the difference from the source's mean goes into conv1's bias:
    exact but for the three pixels at the border, where the padding stands for the mean.

    Args:
        source: file to read.
        output: file to write.
        epsilon: what the source's batch norm adds to the variance; None takes its framework's value.
        channels: order of the source's input channels, "rgb" or "bgr"; None takes its framework's order.

    Raises:
        UserError: the source is missing, damaged or no ResNet-50, an array has another shape than `config` asks for,
            or the output can't be written.
    """
    kind, weights, recorded = _read(source)
    family = _family(source, kind, weights)
    if epsilon is not None:
        family = family._replace(epsilon=epsilon)
    if channels is not None:
        family = family._replace(channels=channels)
    facts = {} if family.stride_on is None else {"stride_on": family.stride_on}
    if family.mean_rgb and not config.is_set("mean_rgb"):
        facts["mean_rgb"] = family.mean_rgb
    config = adopt_recorded(config, source, dict(facts, **recorded))
    logger.info("%s: names of %s; stride on the %s convolution; %s input; batch norm epsilon %g", source, family.title,
                config.stride_on, family.channels.upper(), family.epsilon)

    arg_shapes, aux_shapes = parameter_shapes("init", config)
    shapes = {name: shape for name, shape in {**arg_shapes, **aux_shapes}.items() if is_base_parameter(name)}
    values = _convert(family, _Weights(source, weights), shapes, config)
    write_parameters(output, Parameters(
        *({name: mx.nd.array(values[name]) for name in part if name in values} for part in (arg_shapes, aux_shapes)),
        settings=network_settings(config, _BASE_SETTINGS)))
    logger.info("%s holds %d parameters; it goes with %s", output, len(values), "; ".join(
        "%s=%s" % (name, getattr(config, name)) for name in _BASE_SETTINGS))


def _read(source):
    """(kind, weights, recorded): dict from (layer, part) to array-like; settings that the file records."""
    kind = file_kind(source)
    if kind == "keras":
        return kind, read_keras(source), {}
    if kind != "mxnet":
        return kind, read_state_dict(source), {}
    parameters = read_parameters(source)
    weights = {}
    for name, value in {**parameters.args, **parameters.aux}.items():
        layer, part = re.fullmatch(r"(.*?)_?(?:moving_)?([^_]*)", name).groups()
        weights[layer, part] = value
    return kind, weights, {name: parameters.settings[name] for name in _BASE_SETTINGS if name in parameters.settings}


def _family(source, kind, weights):
    layers = {layer for layer, _ in weights}
    for family in FAMILIES[kind]:
        if set(family.names("conv1")) <= layers and any(re.match(family.backbone, layer) for layer in layers):
            return family
    raise UserError("%s holds no ResNet-50: layers named as %s are expected, and these are there: %s" % (
        source, " or ".join("%s and %s" % family.names("res2a_branch2a") for family in FAMILIES[kind]),
        ", ".join(sorted(layers)[:4]) or "none"))


class _Weights:
    """Arrays of a source, checked as they are taken."""

    def __init__(self, source, arrays):
        self.source = source
        self._arrays = arrays
        self._left = dict.fromkeys(arrays)

    def has(self, layer, part):
        return (layer, part) in self._arrays

    def take(self, layer, part, shape, axes=(0,)):
        """Array of a layer, with its axes in the order `axes`, as float64.

        Raises:
            UserError: it is missing, of another shape than `shape`, or not all finite numbers.
        """
        array = self._arrays.get((layer, part))
        if array is None:
            raise UserError("%s lacks %s of layer %s: another network, or another setting units"
                            % (self.source, part, layer))
        self._left.pop((layer, part))
        found = tuple(array.shape[axis] for axis in axes) if len(array.shape) == len(axes) else tuple(array.shape)
        if found != tuple(shape):
            raise UserError("%s: %s of layer %s has shape %s, the network wants %s: another network, or other "
                            "settings width and units" % (self.source, part, layer, found, tuple(shape)))
        try:
            values = array.asnumpy() if isinstance(array, mx.nd.NDArray) else array[()]
        except (OSError, mx.MXNetError) as error:  # HDF5 reads an array when it is asked for
            raise UserError("%s is damaged: %s of layer %s can't be read: %s"
                            % (self.source, part, layer, error)) from error
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise UserError("%s: %s of layer %s are not all finite numbers" % (self.source, part, layer))
        if part == "var" and values.min() < 0:
            raise UserError("%s: var of layer %s is negative" % (self.source, layer))
        return values.astype(np.float64).transpose(axes)

    def left_over(self):
        """(layer, part, shape) of what was not taken."""
        return [(layer, part, tuple(self._arrays[layer, part].shape)) for layer, part in self._left]


def _convert(family, weights, shapes, config):
    """dict from the names in `shapes` to float64 arrays."""
    values = {}
    layers = [name[:-len("_weight")] for name in shapes if name.endswith("_weight")]
    for layer in layers:
        conv, norm = family.names(layer)
        shape = shapes[layer + "_weight"]
        weight = weights.take(conv, "weight", shape, family.kernel)
        bias = weights.take(conv, "bias", shape[:1]) if weights.has(conv, "bias") else np.zeros(shape[0])
        gamma, beta, mean, var = (weights.take(norm, part, shape[:1]) for part in ("gamma", "beta", "mean", "var"))
        scale = 1.0
        if layer == "conv1":
            weight, bias, scale = _fold_input(family, config, weight, bias)
            values["conv1_bias"] = bias
        else:
            mean = mean - bias  # the batch norm takes off the mean what the convolution no longer adds
        name = _caffe_names(layer)[1]
        values[layer + "_weight"] = weight
        values.update({name + "_gamma": gamma, name + "_beta": beta, name + "_moving_mean": scale * mean,
                       name + "_moving_var": scale ** 2 * (var + family.epsilon) - BN_EPSILON})
        logger.info("%-15s %-19s from %s, %s", layer, shape, conv, norm)
    _report_left_over(family, weights)
    return values


def _fold_input(family, config, weight, bias):
    """conv1 for RGB minus config.mean_rgb.

    Its output grows by the mean deviation of the source's input, which the batch norm takes back: so the weights keep
    their size, and with it the step that a learning rate means, though the input is no longer divided.

    Returns:
        (weight, bias, growth of the output).
    """
    if family.channels == "bgr":
        weight = weight[:, ::-1]
    std = np.array(family.std_rgb or (1.0, 1.0, 1.0))
    scale = std.mean()
    weight = weight * (scale / std)[:, None, None]
    shift = np.subtract(config.mean_rgb, family.mean_rgb or config.mean_rgb)
    return weight, scale * bias + np.einsum("ocij,c->o", weight, shift), scale


def _report_left_over(family, weights):
    """Log the arrays that the base model has no use for.

    Raises:
        UserError: one of them belongs to a residual unit, so the source is a larger network.
    """
    left = weights.left_over()
    larger = [layer for layer, part, _ in left if re.match(family.backbone, layer) and part != "num_batches_tracked"]
    if larger:
        raise UserError("%s has layer %s, which the network lacks: another network, or another setting units"
                        % (weights.source, larger[0]))
    counters = [layer for layer, part, _ in left if part == "num_batches_tracked"]
    rest = ["%s %s %s" % row for row in left if row[1] != "num_batches_tracked"]
    if counters:
        rest.append("num_batches_tracked of %d layers" % len(counters))
    logger.info("left over: %s", "; ".join(rest) or "nothing")
