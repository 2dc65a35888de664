"""The networks' operations as MXNet symbols."""
from typing import Any, Dict, Sequence

from core.engines.mxnet.backend import mx


class SymbolOperations:
    """The operations that the networks consist of, as MXNet symbols of (b, channels, h, w) float32."""

    def __init__(self, norm: str = "stored"):
        """
        Args:
            norm: statistics of the batch norms, "stored" or "batch"; "folded": there are none, see
                `fcn.fold_batch_norms`.
        """
        self._norm = norm

    def input(self) -> mx.sym.Symbol:
        """The images, data."""
        return mx.sym.Variable("data")

    def convolution(self, data: mx.sym.Symbol, name: str, channels: int, kernel: int = 1, stride: int = 1,
                    dilation: int = 1, bias: bool = True, depthwise: bool = False, same: bool = False) -> mx.sym.Symbol:
        """
        Args:
            depthwise: every channel by itself; otherwise, with `same` and a stride of 2, the input has three channels.
            same: pad a stride of 2 as TensorFlow does for even sizes: one row and column less at the top and the left.
                A row and a column of zeros before the kernel do that without a padded copy of the maps.
        """
        pad = dilation * (kernel // 2)
        groups: Dict[str, Any] = {"num_group": channels} if depthwise else {}
        if same and stride == 2:
            weight = mx.sym.Variable(name + "_weight", shape=(channels, 1 if depthwise else 3, kernel, kernel))
            groups["weight"] = mx.sym.Pad(weight, mode="constant", pad_width=(0, 0, 0, 0, 1, 0, 1, 0))
            kernel += 1
        return mx.sym.Convolution(data, name=name, num_filter=channels, kernel=(kernel, kernel),
                                  stride=(stride, stride), dilate=(dilation, dilation), pad=(pad, pad),
                                  no_bias=not bias, **groups)

    def normalized(self, data: mx.sym.Symbol, name: str, norm: str, channels: int, epsilon: float, bias: bool = False,
                   **shape: Any) -> mx.sym.Symbol:
        """A convolution, with the arguments of `convolution`, and its batch norm, called `norm`."""
        data = self.convolution(data, name, channels, bias=bias or self._norm == "folded", **shape)
        if self._norm == "folded":
            return data
        return mx.sym.BatchNorm(data, name=norm, fix_gamma=False, eps=epsilon, use_global_stats=self._norm == "stored",
                                momentum=0.9 if self._norm == "stored" else 0.0)

    def relu(self, data: mx.sym.Symbol) -> mx.sym.Symbol:
        return mx.sym.Activation(data, act_type="relu")

    def relu6(self, data: mx.sym.Symbol) -> mx.sym.Symbol:
        return mx.sym.clip(data, 0, 6)

    def max_pool(self, data: mx.sym.Symbol, kernel: int, stride: int, pad: int, name: str) -> mx.sym.Symbol:
        return mx.sym.Pooling(data, kernel=(kernel, kernel), stride=(stride, stride), pad=(pad, pad), pool_type="max",
                              name=name)

    def global_max(self, data: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
        """(b, channels, 1, 1)."""
        return mx.sym.Pooling(data, kernel=(1, 1), global_pool=True, pool_type="max", name=name)

    def global_mean(self, data: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
        """(b, channels, 1, 1)."""
        return mx.sym.Pooling(data, kernel=(1, 1), global_pool=True, pool_type="avg", name=name)

    def average_pool(self, data: mx.sym.Symbol, kernel: int, stride: int) -> mx.sym.Symbol:
        return mx.sym.Pooling(data, kernel=(kernel, kernel), stride=(stride, stride), pool_type="avg")

    def dropout(self, data: mx.sym.Symbol, share: float) -> mx.sym.Symbol:
        return mx.sym.Dropout(data, p=share) if share else data

    def upsample(self, data: mx.sym.Symbol, factor: int) -> mx.sym.Symbol:
        """Bilinear, with samples at the cells' centres."""
        return mx.sym.contrib.BilinearResize2D(data, scale_height=factor, scale_width=factor, align_corners=False)

    def scale(self, data: mx.sym.Symbol, factor: float) -> mx.sym.Symbol:
        return data * factor

    def concat(self, parts: Sequence[mx.sym.Symbol]) -> mx.sym.Symbol:
        return mx.sym.concat(*parts, dim=1)

    def unit(self, data: mx.sym.Symbol) -> mx.sym.Symbol:
        """Every cell's vector of channels, divided by its length."""
        return mx.sym.broadcast_div(data, mx.sym.maximum(mx.sym.norm(data, axis=1, keepdims=True), 1e-6))

    def channel_mean(self, data: mx.sym.Symbol) -> mx.sym.Symbol:
        """(b, 1, h, w)."""
        return mx.sym.mean(data, axis=1, keepdims=True)

    def deviation(self, data: mx.sym.Symbol) -> mx.sym.Symbol:
        """(b, 1, h, w), the standard deviation over the channels."""
        return mx.sym.sqrt(self.channel_mean(mx.sym.square(mx.sym.broadcast_sub(data, self.channel_mean(data)))))

    def broadcast_add(self, data: mx.sym.Symbol, logits: mx.sym.Symbol) -> mx.sym.Symbol:
        return mx.sym.broadcast_add(data, logits)

    def softmax(self, logits: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
        return mx.sym.softmax(logits, axis=1, name=name)

    def sigmoid(self, logits: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
        return mx.sym.sigmoid(logits, name=name)
