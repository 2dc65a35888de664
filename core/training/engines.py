"""The training steps of the engine that a device belongs to."""
from typing import Any

from core.runtime.devices import Device


def steps_on(device: Device) -> Any:
    """The module `mxnet_steps` or `torch_steps`."""
    if device.engine == "torch":
        from core.training import torch_steps
        return torch_steps
    from core.training import mxnet_steps
    return mxnet_steps
