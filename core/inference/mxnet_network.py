"""A network by MXNet."""
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from core.network.precision import convert, unsafe_convolutions
from core.network.symbols import SymbolOperations
from core.runtime.devices import Device
from core.runtime.mxnet_backend import context, mx


class Network:
    """The network on one device, bound for the last input shape.

    Binding takes 20 to 80 ms. On the CPU every bound shape has its own copy of all weights, as oneDNN orders them:
    more than one would take more memory than the published way.
    """

    def __init__(self, build: Callable[[Any], List], args: Dict[str, np.ndarray], device: Device,
                 dtype: str = "float32"):
        """As `networks.Network`. Shapes that are not safe in bfloat16 are computed in float32."""
        self._float32 = mx.sym.Group(build(SymbolOperations("folded")))
        self._fast = convert(self._float32, dtype) if dtype != "float32" else self._float32
        self._dtype = dtype
        self._device = context(device)
        self._args = {name: mx.nd.array(value, self._device) for name, value in args.items()}
        self._shape: Optional[Tuple[int, ...]] = None
        self._bound: Any = None
        self._executor: Any = None

    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """As `networks.Network.forward`."""
        if data.shape != self._shape:
            self._bind(data.shape)
        self._executor.forward(is_train=False, data=mx.nd.array(data[None], ctx=self._device))
        outputs = [output.copy() for output in self._executor.outputs]
        return lambda: [output.asnumpy()[0] for output in outputs]

    def _bind(self, shape):
        if self._executor is not None:  # what is still to run would keep its copy of the weights
            self._executor.outputs[0].wait_to_read()
        unsafe = self._dtype == "bfloat16" and unsafe_convolutions(self._float32, (1,) + shape)
        symbol = self._float32 if unsafe else self._fast
        memory = self._executor if symbol is self._bound else None  # to be used again
        self._executor = symbol.bind(self._device, dict(self._args, data=mx.nd.empty((1,) + shape, self._device)),
                                     grad_req="null", shared_exec=memory)
        self._bound, self._shape = symbol, shape
