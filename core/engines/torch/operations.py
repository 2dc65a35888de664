"""The networks' operations, carried out by torch."""
from typing import Dict, List, Optional

from core.engines.torch.backend import torch

F = torch.nn.functional


class TorchOperations:
    """The operations that the networks consist of, on tensors (b, channels, h, w).

    ReLUs write over what they are given: no layer needs it again.

    Attributes:
        statistics: with `norm` "batch", mean and variance of each batch norm's input, under the names of the states.
    """

    def __init__(self, values: Dict[str, torch.Tensor], data: torch.Tensor, norm: str = "folded"):
        """
        Args:
            values: parameters by name.
            data: the images.
            norm: as in MXNet's `SymbolOperations`. "stored" scales and shifts in the convolutions: the same numbers and
                gradients, but for rounding, and several passes over the activations less.
        """
        self._values = values
        self._data = data
        self._norm = norm
        self.statistics: Dict[str, torch.Tensor] = {}

    def input(self) -> torch.Tensor:
        return self._data

    def convolution(self, data: torch.Tensor, name: str, channels: int, kernel: int = 1, stride: int = 1,
                    dilation: int = 1, bias: bool = True, depthwise: bool = False, same: bool = False) -> torch.Tensor:
        """As MXNet's."""
        values = self._values
        return _convolve(data, values[name + "_weight"], values[name + "_bias"] if bias else None, kernel, stride,
                         dilation, depthwise, same)

    def normalized(self, data: torch.Tensor, name: str, norm: str, channels: int, epsilon: float, bias: bool = False,
                   kernel: int = 1, stride: int = 1, dilation: int = 1, depthwise: bool = False, same: bool = False
                   ) -> torch.Tensor:
        """As MXNet's."""
        shape = (kernel, stride, dilation, depthwise, same)
        weight = self._values[name + "_weight"]
        shift = self._values[name + "_bias"] if bias or self._norm == "folded" else None
        if self._norm == "folded":
            return _convolve(data, weight, shift, *shape)
        gamma, beta = self._values[norm + "_gamma"], self._values[norm + "_beta"]
        if self._norm == "batch":
            data = _convolve(data, weight, shift, *shape)
            variance, mean = torch.var_mean(data, (0, 2, 3), unbiased=False)
            self.statistics.update({norm + "_moving_mean": mean, norm + "_moving_var": variance})
            return F.batch_norm(data, mean, variance, gamma, beta, eps=epsilon)
        slope = gamma / torch.sqrt(self._values[norm + "_moving_var"] + epsilon)
        mean = self._values[norm + "_moving_mean"]
        shift = beta - slope * (mean if shift is None else mean - shift)
        return _convolve(data, weight * slope[:, None, None, None], shift, *shape)

    def relu(self, data: torch.Tensor) -> torch.Tensor:
        return torch.relu_(data)

    def relu6(self, data: torch.Tensor) -> torch.Tensor:
        return _ReLU6.apply(data) if data.requires_grad else F.hardtanh(data, 0, 6, inplace=True)

    def max_pool(self, data: torch.Tensor, kernel: int, stride: int, pad: int, name: str) -> torch.Tensor:
        return F.max_pool2d(data, kernel, stride, pad)

    def average_pool(self, data: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
        return F.avg_pool2d(data, kernel, stride)

    def global_max(self, data: torch.Tensor, name: str) -> torch.Tensor:
        return data.flatten(2).max(2).values[..., None, None]

    def global_mean(self, data: torch.Tensor, name: str) -> torch.Tensor:
        return data.mean((2, 3), keepdim=True)

    def dropout(self, data: torch.Tensor, share: float) -> torch.Tensor:
        return F.dropout(data, share) if share else data

    def upsample(self, data: torch.Tensor, factor: int) -> torch.Tensor:
        return F.interpolate(data, scale_factor=factor, mode="bilinear", align_corners=False)

    def scale(self, data: torch.Tensor, factor: float) -> torch.Tensor:
        return data * factor

    def concat(self, parts: List[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts, 1)

    def unit(self, data: torch.Tensor) -> torch.Tensor:
        return F.normalize(data, dim=1, eps=1e-6)

    def channel_mean(self, data: torch.Tensor) -> torch.Tensor:
        return data.mean(1, keepdim=True)

    def deviation(self, data: torch.Tensor) -> torch.Tensor:
        return data.std(1, unbiased=False, keepdim=True)

    def broadcast_add(self, data: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return data + logits

    def softmax(self, logits: torch.Tensor, name: str) -> torch.Tensor:
        return torch.softmax(logits.float(), 1)

    def sigmoid(self, logits: torch.Tensor, name: str) -> torch.Tensor:
        return torch.sigmoid(logits.float())


def _convolve(data, weight, bias: Optional[torch.Tensor], kernel, stride, dilation, depthwise, same):
    pad = dilation * (kernel // 2)
    if same and stride == 2:
        weight = F.pad(weight, (1, 0, 1, 0))
    return F.conv2d(data, weight, bias, stride, pad, dilation, len(weight) if depthwise else 1)


class _ReLU6(torch.autograd.Function):
    """Writes over its input, of which torch's would keep a copy."""

    @staticmethod
    def forward(ctx, data):
        ctx.mark_dirty(data.clamp_(0, 6))
        ctx.save_for_backward(data)
        return data

    @staticmethod
    def backward(ctx, grad):
        return torch.ops.aten.hardtanh_backward(grad, ctx.saved_tensors[0], 0, 6)
