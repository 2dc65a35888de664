"""Networks that compute, on the engine of a device."""
from typing import Any, Callable, Dict, List

import numpy as np

from core.runtime.devices import Device


def make_network(build: Callable[[Any], List], args: Dict[str, np.ndarray], device: Device, dtype: str = "float32"
                 ) -> Any:
    """A network without batch norms, on one device: `mxnet_network.Network` or `torch_network.Network`.

    Args:
        build: function from an engine's operations to the list of the network's outputs.
        args: its parameters, float32; they may have more.
        dtype: what `engines.resolve_dtype` gives.
    """
    if device.engine == "torch":
        from core.inference import torch_network
        return torch_network.Network(build, args, device, dtype)
    from core.inference import mxnet_network
    return mxnet_network.Network(build, args, device, dtype)
