"""Networks that compute, on the engine of a device."""
from typing import Any, Callable, Dict, List

import numpy as np

from core.runtime.devices import Device, explaining_engine_errors

_explaining = explaining_engine_errors("a forward pass of the network",
                                       "leave out the largest of --scales, or shrink the images")


class Network:
    """A network without batch norms, on one device."""

    @_explaining
    def __init__(self, build: Callable[[Any], List], args: Dict[str, np.ndarray], device: Device,
                 dtype: str = "float32"):
        """
        Args:
            build: function from an engine's operations to the list of the network's outputs.
            args: its parameters, float32; they may have more.
            dtype: what `engines.resolve_dtype` gives.
        """
        if device.engine == "torch":
            from core.inference import torch_network
            self._network: Any = torch_network.Network(build, args, device, dtype)
        else:
            from core.inference import mxnet_network
            self._network = mxnet_network.Network(build, args, device, dtype)

    @_explaining
    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """Start the network on (3, h, w) float32; returns a function that waits for its outputs, without batch axes.

        Raises:
            UserError: the engine failed; so does the function that is returned.
        """
        return _explaining(self._network.forward(data))
