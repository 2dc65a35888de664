"""EfficientNet-Lite2 (Tan and Le, "EfficientNet", ICML 2019; Google's Lite variant of 2020): the backbone for CPUs, and
its ImageNet weights.

Inverted residual blocks without squeeze-and-excitation, ReLU6, TensorFlow's "SAME" padding. Input as it was trained:
(RGB - 127) / 128, (b, 3, h, w) float32, h and w multiples of the output stride, so that the padding is the same for all
sizes.

Layers are `stem`, `block<N>_expand`, `block<N>_depthwise`, `block<N>_project`, `head` and `fc`, N from 0 to 20; the
batch norm of a layer is `<layer>_bn`.
"""
import itertools
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from core.config import Config
from core.errors import UserError
from core.network.imagenet_weights import read_tensors, weights_path
from core.network.shapes import ShapeRecorder

NAME = "EfficientNet-Lite2"
MEAN, SCALE = 127.0, 128.0
BN_EPSILON = 1e-3
OUTPUT_STRIDE = 16  # of the dense branch
FEATURE_SCALE = 1 / 8  # of what the new layers get: the stages' linear outputs have an rms of 2 to 7 on photographs
IMAGENET_CLASSES = 1000


class Stage(NamedTuple):
    """A stage of inverted residual blocks: their number, and kernel, stride, expansion and channels of each."""
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (Stage(1, 3, 1, 1, 16), Stage(3, 3, 2, 6, 24), Stage(3, 5, 2, 6, 48), Stage(4, 3, 2, 6, 88),
          Stage(4, 5, 1, 6, 120), Stage(5, 5, 2, 6, 208), Stage(1, 3, 1, 6, 352))
_STEM, _HEAD = 32, 1280  # channels
_FIRST_BLOCK = (0,) + tuple(itertools.accumulate(stage.blocks for stage in STAGES))  # of stages 1 to 7
SHARED_STAGES, LAST_STAGE = 5, 7  # the last one before the branches part, which differ in stride, and the last of all


def stem(ops: Any, data: Any) -> Any:
    """The first layer, (b, 32, h / 2, w / 2)."""
    return _layer(ops, data, "stem", _STEM, kernel=3, stride=2, relu=True)


def stage(ops: Any, data: Any, number: int, stride: int, dilation: int = 1, first_dilation: Optional[int] = None,
          same: bool = True, suffix: str = "") -> Any:
    """Stage 1 to 7 after the one before it.

    Args:
        stride: of its first block; `STAGES` holds those of the trained network.
        dilation: of the depthwise convolutions. first_dilation: of the first block's one; None: as the others.
        same: whether a stride of 2 pads as TensorFlow does, so that output cell i is centred on input 2 i + 1;
            otherwise on input 2 i.
    """
    for block in range(_FIRST_BLOCK[number - 1], _FIRST_BLOCK[number]):
        first = block == _FIRST_BLOCK[number - 1]
        data = _block(ops, data, block, number, stride if first else 1,
                      first_dilation if first and first_dilation else dilation, same, suffix)
    return data


def stages(ops: Any, data: Any, output_stride: int = 32) -> List[Any]:
    """Outputs of the seven stages, at strides 2, 4, 8, 16, 16, 32 and 32 as the network was trained.

    Args:
        output_stride: 8, 16 or 32: from this stride on, convolutions are dilated instead of strided.

    Returns:
        list of (b, channels, h / stride, w / stride).
    """
    data = stem(ops, data)
    outputs, reached, dilation = [], 2, 1
    for number, (_, _, stride, _, _) in enumerate(STAGES, 1):
        strided = reached * stride <= output_stride
        before, dilation = dilation, dilation * (1 if strided else stride)
        reached *= stride if strided else 1
        data = stage(ops, data, number, stride if strided else 1, dilation, first_dilation=before)
        outputs.append(data)
    return outputs


def class_logits(ops: Any, last_stage: Any) -> Any:
    """ImageNet logits (b, 1000, h, w) of every cell of the last stage; their mean over the cells is the network's
    logit of the image, so they are its class activation maps (Zhou et al., CVPR 2016)."""
    return ops.convolution(_layer(ops, last_stage, "head", _HEAD, relu=True), "fc", IMAGENET_CLASSES)


def shared_stages(ops: Any, config: Config, data: Any) -> List[Any]:
    """Outputs of stages 4 and 5, which both branches start from: (b, 88, h / 16, w / 16) and 120 channels.

    Stage 4 pads evenly: cell i is centred on pixel 16 i + 7.
    """
    data, outputs = stem(ops, data), []
    for number in range(1, SHARED_STAGES + 1):
        data = stage(ops, data, number, STAGES[number - 1].stride, same=number != 4)
        outputs.append(data)
    return outputs[-2:]


def dense_stages(ops: Any, config: Config, shared: Sequence[Any]) -> Any:
    """Stages 4 to 7 side by side, the last two dilated: (b, 768, h / 16, w / 16).

    Two concatenations for one: oneDNN lays out maps in blocks of 16 channels on CPUs with AVX-512 and can't cut the
    gradient of a concatenation within a block, as at channel 88. That of the inner one comes without blocks.
    """
    sixth = stage(ops, shared[1], 6, stride=1, dilation=2, first_dilation=1)
    return ops.concat([ops.concat(shared), sixth, stage(ops, sixth, 7, stride=1, dilation=2)])


def global_features(ops: Any, config: Config, shared: Sequence[Any], suffix: str) -> Any:
    """Mean over the cells of stages 6 and 7 of the global branch: (b, 352, 1, 1).

    The network was trained with the mean; these outputs are linear, and their maxima are alike in all images. Even
    padding also serves an input of one cell.
    """
    sixth = stage(ops, shared[1], 6, stride=2, same=False, suffix=suffix)
    return ops.global_mean(stage(ops, sixth, 7, stride=1, suffix=suffix), "g_pool")


def stage_of(name: str) -> Optional[int]:
    """Stage 1 to 7 that a parameter belongs to, the stem to the first; None for those of other layers."""
    if name.startswith("stem_"):
        return 1
    if not name.startswith("block"):
        return None
    block = int(name[len("block"):name.index("_")])
    return next(number for number in range(1, len(_FIRST_BLOCK)) if block < _FIRST_BLOCK[number])


def convolution_of(norm: str) -> str:
    """Name of the convolution before a batch norm."""
    return norm[:-len("_bn")]


def read_imagenet_weights(path: Optional[str] = None) -> Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]:
    """The weights of `imagenet_weights` under this module's names.

    Returns:
        (args, aux): dicts from name to float32 array.

    Raises:
        UserError: the package is not installed, or its file is damaged or of another version.
    """
    return from_torch(read_tensors(path), path or weights_path())


def from_torch(tensors: Mapping[str, Any], path: Optional[str]) -> Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]:
    """State dict of the PyTorch port, as `read_imagenet_weights` returns it.

    Raises:
        UserError: a tensor is missing or has another shape; `path` is named.
    """
    recorder = ShapeRecorder()
    class_logits(recorder, stages(recorder, recorder.input())[-1])
    parameters = []
    for shapes in (recorder.args, recorder.aux):
        values = {}
        for name, shape in shapes.items():
            source = _torch_name(name)
            tensor = tensors.get(source)
            if tensor is None or np.prod(tensor.shape) != np.prod(shape):
                raise UserError(f"{path}: {source} is missing or not of shape {shape}: this is no EfficientNet-Lite2")
            values[name] = np.asarray(tensor, np.float32).reshape(shape)
        parameters.append(values)
    return parameters[0], parameters[1]


def network_input(image: np.ndarray, multiple: int = 32) -> np.ndarray:
    """(3, H, W) float32 input of an (h, w, 3) uint8 RGB image; zeros fill it up to multiples of `multiple` pixels."""
    height, width = image.shape[:2]
    padded = np.zeros((3, -(-height // multiple) * multiple, -(-width // multiple) * multiple), np.float32)
    padded[:, :height, :width] = (image.transpose(2, 0, 1).astype(np.float32) - MEAN) / SCALE
    return padded


def _block(ops, data, block, number, stride, dilation, same, suffix):
    name, inputs, (_, kernel, _, expansion, channels) = f"block{block}_", data, STAGES[number - 1]
    incoming = channels if block > _FIRST_BLOCK[number - 1] else STAGES[number - 2].channels if number > 1 else _STEM
    if expansion > 1:
        data = _layer(ops, data, name + "expand" + suffix, incoming * expansion, relu=True)
    data = _layer(ops, data, name + "depthwise" + suffix, incoming * expansion, relu=True, kernel=kernel, stride=stride,
                  dilation=dilation, same=same, depthwise=True)
    data = _layer(ops, data, name + "project" + suffix, channels)
    return data + inputs if block > _FIRST_BLOCK[number - 1] else data


def _layer(ops, data, name, channels, relu=False, same=True, **shape):
    data = ops.normalized(data, name, name + "_bn", channels, BN_EPSILON, same=same, **shape)
    return ops.relu6(data) if relu else data


def _torch_name(name):
    layer, parameter = name.rsplit("_", 1)
    parameter = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}.get(
        parameter, parameter)
    layer = layer[:-len("_moving")] if layer.endswith("_moving") else layer
    norm = layer.endswith("_bn")
    layer = layer[:-len("_bn")] if norm else layer
    if layer.startswith("block"):
        number, layer = layer[len("block"):].split("_")
        norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
        return f"_blocks.{number}.{norms[layer] if norm else f'_{layer}_conv'}.{parameter}"
    if norm:
        return {"stem": "_bn0", "head": "_bn1"}[layer] + "." + parameter
    return {"stem": "_conv_stem", "head": "_conv_head", "fc": "_fc"}[layer] + "." + parameter
