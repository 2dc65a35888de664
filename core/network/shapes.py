"""Names and shapes of a network's parameters, without an engine."""
from typing import Any, Dict, Iterable, Tuple

Shapes = Dict[str, Tuple[int, ...]]


class _Map:
    """A layer's output, of which only the number of channels is known."""

    def __init__(self, channels: int):
        self.channels = channels

    def __add__(self, other: "_Map") -> "_Map":
        return self


class ShapeRecorder:
    """Operations that compute nothing, but keep the shapes of the parameters, in the order of the layers.

    Attributes:
        args, aux: dicts from name to shape: of what is trained, and of the batch norms' statistics.
    """

    def __init__(self):
        self.args: Shapes = {}
        self.aux: Shapes = {}

    def input(self) -> _Map:
        return _Map(3)

    def convolution(self, data: _Map, name: str, channels: int, kernel: int = 1, bias: bool = True,
                    depthwise: bool = False, **_: Any) -> _Map:
        self.args[name + "_weight"] = (channels, 1 if depthwise else data.channels, kernel, kernel)
        if bias:
            self.args[name + "_bias"] = (channels,)
        return _Map(channels)

    def normalized(self, data: _Map, name: str, norm: str, channels: int, epsilon: float, bias: bool = False,
                   **shape: Any) -> _Map:
        data = self.convolution(data, name, channels, bias=bias, **shape)
        self.args.update({norm + "_gamma": (channels,), norm + "_beta": (channels,)})
        self.aux.update({norm + "_moving_mean": (channels,), norm + "_moving_var": (channels,)})
        return data

    def concat(self, parts: Iterable[_Map]) -> _Map:
        return _Map(sum(part.channels for part in parts))

    def _same(self, data, *_, **__):
        return data

    relu = relu6 = max_pool = average_pool = global_max = global_mean = _same
    dropout = upsample = scale = broadcast_add = softmax = sigmoid = _same
