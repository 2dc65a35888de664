"""EfficientNet-Lite2 (Tan and Le, "EfficientNet", ICML 2019; Google's Lite variant of 2020) as MXNet symbols, and its
ImageNet weights.

Inverted residual blocks without squeeze-and-excitation, ReLU6, TensorFlow's "SAME" padding. Input: (RGB - 127) / 128,
(b, 3, h, w) float32, h and w multiples of the output stride, so that the padding is the same for all sizes.

Layers are `stem`, `block<N>_expand`, `block<N>_depthwise`, `block<N>_project`, `head` and `fc`, N from 0 to 20; the
batch norm of a layer is `<layer>_bn`.
"""
import collections

import numpy as np

from core.errors import UserError
from core.network.imagenet_weights import read_tensors, weights_path
from core.runtime.mxnet_backend import mx

MEAN, SCALE = 127.0, 128.0
BN_EPSILON = 1e-3
IMAGENET_CLASSES = 1000

Stage = collections.namedtuple("Stage", "blocks kernel stride expansion channels")
STAGES = (Stage(1, 3, 1, 1, 16), Stage(3, 3, 2, 6, 24), Stage(3, 5, 2, 6, 48), Stage(4, 3, 2, 6, 88),
          Stage(4, 5, 1, 6, 120), Stage(5, 5, 2, 6, 208), Stage(1, 3, 1, 6, 352))
_STEM, _HEAD = 32, 1280  # channels


def stage_symbols(data, output_stride=32, norm="folded"):
    """Outputs of the seven stages, at strides 2, 4, 8, 16, 16, 32 and 32 as the network was trained.

    Args:
        data: mxnet Symbol of the input.
        output_stride: 8, 16 or 32: from this stride on, convolutions are dilated instead of strided.
        norm: statistics of the batch norms, "stored" or "batch"; "folded": there are none, see `fold_batch_norms`.

    Returns:
        list of Symbols (b, channels, h / stride, w / stride).
    """
    data = _layer(data, "stem", _STEM, norm, kernel=3, stride=2, relu=True)
    found, number, reached, dilation = [], 0, 2, 1
    for stage in STAGES:
        stride = stage.stride
        if reached * stride > output_stride:
            stride = 1
        reached *= stride
        for index in range(stage.blocks):
            data = _block(data, number, stage, stride if index == 0 else 1, dilation, norm, shortcut=index > 0)
            number += 1
            if index == 0 and stride < stage.stride:
                dilation *= stage.stride
        found.append(data)
    return found


def class_scores(stage, norm="folded"):
    """ImageNet logits (b, 1000, h, w) of every cell of the last stage; their mean over the cells is the network's
    logit of the image, so they are its class activation maps (Zhou et al., CVPR 2016)."""
    head = _layer(stage, "head", _HEAD, norm, relu=True)
    return _convolution(head, "fc", IMAGENET_CLASSES, bias=True)


def parameter_shapes(symbol):
    """Names and shapes of all parameters: (dict of arguments, dict of auxiliary states), each from name to tuple."""
    args, _, aux = symbol.infer_shape(data=(1, 3, 64, 64))
    arg_shapes = dict(zip(symbol.list_arguments(), args))
    del arg_shapes["data"]
    return arg_shapes, dict(zip(symbol.list_auxiliary_states(), aux))


def read_imagenet_weights(path=None):
    """The weights of `imagenet_weights` under this module's names.

    Args:
        path: copy of the package's file; None takes that of the installed package.

    Returns:
        (args, aux): dicts from name to float32 array.

    Raises:
        UserError: the package is not installed, or its file is damaged or of another version.
    """
    return from_torch(read_tensors(path), path or weights_path())


def from_torch(tensors, path):
    """State dict of the PyTorch port, as `read_imagenet_weights` returns it.

    Raises:
        UserError: a tensor is missing or has another shape; `path` is named.
    """
    symbol = class_scores(stage_symbols(mx.sym.Variable("data"), norm="stored")[-1], "stored")
    found = []
    for shapes in parameter_shapes(symbol):
        values = {}
        for name, shape in shapes.items():
            source = _torch_name(name)
            tensor = tensors.get(source)
            if tensor is None or np.prod(tensor.shape) != np.prod(shape):
                raise UserError(f"{path}: {source} is missing or not of shape {shape}: this is no EfficientNet-Lite2")
            values[name] = np.asarray(tensor, np.float32).reshape(shape)
        found.append(values)
    return tuple(found)


def fold_batch_norms(args, aux):
    """Parameters of the "folded" network: scale and shift of each batch norm go into the convolution before it.

    Args:
        args, aux: dicts from name to float32 array.

    Returns:
        dict from name to float32 array; there are no auxiliary states.
    """
    folded = {name: value for name, value in args.items() if not name.endswith(("_gamma", "_beta"))}
    for name, gamma in args.items():
        if name.endswith("_bn_gamma"):
            layer = name[:-len("_bn_gamma")]
            mean, variance = aux[layer + "_bn_moving_mean"], aux[layer + "_bn_moving_var"]
            slope = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + BN_EPSILON)
            folded[layer + "_weight"] = (args[layer + "_weight"] * slope[:, None, None, None]).astype(np.float32)
            folded[layer + "_bias"] = (args[layer + "_bn_beta"] - mean * slope).astype(np.float32)
    return folded


def network_input(image, multiple=32):
    """(3, H, W) float32 input of an (h, w, 3) uint8 RGB image; zeros fill it up to multiples of `multiple` pixels."""
    height, width = image.shape[:2]
    padded = np.zeros((3, -(-height // multiple) * multiple, -(-width // multiple) * multiple), np.float32)
    padded[:, :height, :width] = (image.transpose(2, 0, 1).astype(np.float32) - MEAN) / SCALE
    return padded


def _block(data, number, stage, stride, dilation, norm, shortcut):
    name, inputs = f"block{number}_", data
    if stage.expansion > 1:
        data = _layer(data, name + "expand", _expanded(number), norm, relu=True)
    data = _layer(data, name + "depthwise", _expanded(number), norm, kernel=stage.kernel, stride=stride,
                  dilation=dilation, depthwise=True, relu=True)
    data = _layer(data, name + "project", stage.channels, norm)
    return data + inputs if shortcut else data


def _expanded(number):
    """Channels inside a block: those that come in, times the stage's expansion."""
    incoming = _STEM
    for stage in STAGES:
        for _ in range(stage.blocks):
            if number == 0:
                return incoming * stage.expansion
            number -= 1
            incoming = stage.channels
    raise IndexError(number)


def _layer(data, name, channels, norm, relu=False, **shape):
    data = _convolution(data, name, channels, bias=norm == "folded", **shape)
    if norm != "folded":
        data = mx.sym.BatchNorm(data, name=name + "_bn", fix_gamma=False, eps=BN_EPSILON,
                                use_global_stats=norm == "stored", momentum=0.9 if norm == "stored" else 0.0)
    return mx.sym.clip(data, 0, 6) if relu else data


def _convolution(data, name, channels, bias, kernel=1, stride=1, dilation=1, depthwise=False):
    pad = dilation * (kernel // 2)
    if stride == 2:  # TensorFlow's SAME for even sizes: one row and column less at the top and left
        before, after = kernel // 2 - 1, kernel // 2
        data = mx.sym.Pad(data, mode="constant", pad_width=(0, 0, 0, 0, before, after, before, after))
        pad = 0
    return mx.sym.Convolution(data, name=name, num_filter=channels, kernel=(kernel, kernel), stride=(stride, stride),
                              dilate=(dilation, dilation), pad=(pad, pad), no_bias=not bias,
                              num_group=channels if depthwise else 1)


def _torch_name(name):
    layer, part = name.rsplit("_", 1)
    part = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}.get(part, part)
    layer = layer[:-len("_moving")] if layer.endswith("_moving") else layer
    norm = layer.endswith("_bn")
    layer = layer[:-len("_bn")] if norm else layer
    if layer.startswith("block"):
        number, layer = layer[len("block"):].split("_")
        norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
        return f"_blocks.{number}.{norms[layer] if norm else f'_{layer}_conv'}.{part}"
    if norm:
        return {"stem": "_bn0", "head": "_bn1"}[layer] + "." + part
    return {"stem": "_conv_stem", "head": "_conv_head", "fc": "_fc"}[layer] + "." + part
