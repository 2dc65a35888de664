"""Networks that compute, on the engine of a device."""
from typing import Any, Callable, Dict, List

import numpy as np

from core.engines.chooser import load
from core.engines.devices import Device, explaining_engine_errors

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
            dtype: what `chooser.resolve_dtype` gives.
        """
        self._network = load(device.engine, "network").Network(build, args, device, dtype)

    @_explaining
    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """Start the network on (3, h, w) float32; returns a function that waits for its outputs, without batch axes.

        Raises:
            UserError: the engine failed; so does the function that is returned.
        """
        return _explaining(self._network.forward(data))
