"""Names and shapes of a network's parameters, without an engine."""
from typing import Dict, Tuple

Shapes = Dict[str, Tuple[int, ...]]


class _Map:
    """A layer's output, of which only the number of channels is known."""

    def __init__(self, channels: int):
        self.channels = channels

    def __add__(self, other):
        return self


class ShapeRecorder:
    """Operations that compute nothing, but keep the shapes of the parameters, in the order of the layers.

    Attributes:
        args, aux: dicts from name to shape: of what is trained, and of the batch norms' statistics.
    """

    def __init__(self):
        self.args: Shapes = {}
        self.aux: Shapes = {}

    def input(self):
        return _Map(3)

    def convolution(self, data, name, channels, kernel=1, bias=True, depthwise=False, **_):
        self.args[name + "_weight"] = (channels, 1 if depthwise else data.channels, kernel, kernel)
        if bias:
            self.args[name + "_bias"] = (channels,)
        return _Map(channels)

    def normalized(self, data, name, norm, channels, epsilon, bias=False, **shape):
        data = self.convolution(data, name, channels, bias=bias, **shape)
        self.args.update({norm + "_gamma": (channels,), norm + "_beta": (channels,)})
        self.aux.update({norm + "_moving_mean": (channels,), norm + "_moving_var": (channels,)})
        return data

    def concat(self, parts):
        return _Map(sum(part.channels for part in parts))

    def _same(self, data, *_, **__):
        return data

    relu = relu6 = max_pool = global_max = dropout = upsample = broadcast_add = average_pool = softmax = sigmoid = _same
