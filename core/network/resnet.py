"""ResNet-50 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016): the paper's backbone.

With stride_on "3x3" it is their later variant "v1.5", of the same parameters. Layers carry the names of He et al.'s
Caffe model: conv1, res<stage><unit>_branch<branch>, and bn in place of res for the batch norms.
"""
from typing import Any, List, Optional, Sequence

from core.config import Config

BN_EPSILON = 1.001e-5
OUTPUT_STRIDE = 8  # of the dense branch
FEATURE_SCALE = 1  # of what the new layers get
SHARED_STAGES, LAST_STAGE = 3, 5  # the last one before the branches part, and the last of all
NAME = "ResNet-50"


def shared_stages(ops: Any, config: Config, data: Any) -> List[Any]:
    """Output of stages 1 to 3, which both branches start from: one map, (b, 8 * width, h / 8, w / 8)."""
    stem = ops.normalized(data, "conv1", "bn_conv1", config.width, BN_EPSILON, kernel=7, stride=2, bias=True)
    stem = ops.max_pool(ops.relu(stem), kernel=3, stride=2, pad=1, name="pool1")
    return [stage(ops, config, stage(ops, config, stem, 2, stride=1), 3, stride=2)]


def dense_stages(ops: Any, config: Config, shared: Sequence[Any]) -> Any:
    """Stages 4 and 5 of the per-cell branch, dilated: (b, 32 * width, h / 8, w / 8)."""
    return stage(ops, config, stage(ops, config, shared[0], 4, stride=1, dilation=2), 5, stride=1, dilation=4)


def global_features(ops: Any, config: Config, shared: Sequence[Any], suffix: str) -> Any:
    """Maximum over the cells of stages 4 and 5 of the global branch: (b, 32 * width, 1, 1)."""
    fourth = stage(ops, config, shared[0], 4, stride=2, suffix=suffix)
    return ops.global_max(stage(ops, config, fourth, 5, stride=2, suffix=suffix), "g_pool")


def cell_maps(ops: Any, config: Config) -> List[Any]:
    """Outputs of stages 3 to 5 for the images: (b, 8, 16 or 32 * width, h / 16, w / 16); cell i is centred on pixel
    16 i."""
    third, = shared_stages(ops, config, ops.input())
    fourth = stage(ops, config, third, 4, stride=2)
    fifth = stage(ops, config, fourth, 5, stride=1, dilation=2)
    return [ops.max_pool(third, kernel=3, stride=2, pad=1, name="pool3"), fourth, fifth]


def stage(ops: Any, config: Config, data: Any, number: int, stride: int, dilation: int = 1, suffix: str = "") -> Any:
    """Residual stage 2 to 5, with 2^number * width channels."""
    channels = config.width * 2 ** (number - 2)
    for index in range(config.units[number - 2]):
        name = f"{number}{'abcdefghijklmnopqrstuvwxyz'[index]}_branch"
        data = _bottleneck(ops, config, data, name, suffix, channels, stride if index == 0 else 1, dilation,
                           project=index == 0)
    return data


def stage_of(name: str) -> Optional[int]:
    """Stage 1 to 5 that a parameter belongs to; None for those of the head and the global branch's own layers."""
    if name.startswith(("conv1_", "bn_conv1_")):
        return 1
    if name.startswith(("res", "bn")):
        return int(name[len("res" if name.startswith("res") else "bn")])
    return None


def convolution_of(norm: str) -> str:
    """Name of the convolution before a batch norm."""
    return "conv1" if norm == "bn_conv1" else "res" + norm[len("bn"):]


def _bottleneck(ops, config, data, name, suffix, channels, stride, dilation, project):
    def conv_bn(inputs, branch, count, **kwargs):
        layer = name + branch + suffix
        return ops.normalized(inputs, "res" + layer, "bn" + layer, count, BN_EPSILON, **kwargs)

    shortcut = conv_bn(data, "1", 4 * channels, stride=stride) if project else data
    strides = (stride, 1) if config.stride_on == "1x1" else (1, stride)
    residual = ops.relu(conv_bn(data, "2a", channels, stride=strides[0]))
    residual = ops.relu(conv_bn(residual, "2b", channels, kernel=3, stride=strides[1], dilation=dilation))
    residual = conv_bn(residual, "2c", 4 * channels)
    return ops.relu(shortcut + residual)
