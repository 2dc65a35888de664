"""A network by torch."""
from typing import Any, Callable, Dict, List

import numpy as np

from core.engines.devices import Device
from core.engines.torch.backend import memory_format, number_format, torch, torch_device
from core.engines.torch.operations import TorchOperations


class Network:
    """The network on one device."""

    def __init__(self, build: Callable[[Any], List], args: Dict[str, np.ndarray], device: Device,
                 dtype: str = "float32"):
        """As `core.engines.network.Network`."""
        self._build = build
        self._device = torch_device(device)
        self._dtype = number_format(dtype)
        self._format = memory_format(self._device, self._dtype)
        self._args = {name: self._tensor(value) for name, value in args.items()}

    def _tensor(self, value):
        tensor = torch.from_numpy(value).to(self._device, self._dtype)
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor

    @torch.inference_mode()
    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """As `core.engines.network.Network.forward`."""
        outputs = self._build(TorchOperations(self._args, self._tensor(data[None])))
        return lambda: [output[0].float().cpu().numpy() for output in outputs]
