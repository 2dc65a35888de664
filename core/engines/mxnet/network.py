"""A network by MXNet, in a narrower number format too, and the inputs for which that is not safe."""
import json
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from core.config import Config
from core.engines.devices import Device
from core.engines.mxnet.backend import amp, context, mx
from core.engines.mxnet.operations import SymbolOperations
from core.network import fcn

# Cells of the output of a 1 x 1 convolution in bfloat16 with which oneDNN 2.4.4 writes past its buffers on a CPU with
# AMX: the process dies, hangs, or continues with a damaged heap.
UNSAFE_CELLS = (33, 36, 39, 42, 45, 48)


class Network:
    """The network on one device, bound for the last input shape.

    Binding takes 20 to 80 ms. On the CPU every bound shape has its own copy of all weights, as oneDNN orders them:
    more than one would take more memory than the published way.
    """

    def __init__(self, build: Callable[[Any], List], args: Dict[str, np.ndarray], device: Device,
                 dtype: str = "float32"):
        """As `core.engines.network.Network`. Shapes that are not safe in bfloat16 are computed in float32."""
        self._float32 = mx.sym.Group(build(SymbolOperations("folded")))
        self._fast = convert(self._float32, dtype) if dtype != "float32" else self._float32
        self._dtype = dtype
        self._device = context(device)
        self._args = {name: mx.nd.array(value, self._device) for name, value in args.items()}
        self._shape: Optional[Tuple[int, ...]] = None
        self._bound: Any = None
        self._executor: Any = None

    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """As `core.engines.network.Network.forward`."""
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


def convert(symbol: mx.sym.Symbol, dtype: str) -> mx.sym.Symbol:
    """The network with its convolutions in "bfloat16" or "float16"; parameters, input and output stay float32."""
    return amp.convert_symbol(symbol, target_dtype=dtype, data_names=["data"])


def unsafe_convolutions(symbol: mx.sym.Symbol, shape: Tuple[int, int, int, int]) -> List[str]:
    """Names of the convolutions that damage the heap, or may, if the network computes in bfloat16.

    Depthwise ones count as such: they have not been tried on a CPU with AMX. The rule holds on every CPU, so that an
    image has the same scores on all of them.

    Args:
        shape: of the input, data.
    """
    layers = symbol.get_internals()
    shapes = dict(zip(layers.list_outputs(), layers.infer_shape(data=shape)[1]))
    return [node["name"] for node in json.loads(symbol.tojson())["nodes"]
            if node["op"] == "Convolution" and (
                node["attrs"].get("num_group", "1") != "1" or node["attrs"]["kernel"] == "(1, 1)"
                and shapes[node["name"] + "_output"][2] * shapes[node["name"] + "_output"][3] in UNSAFE_CELLS)]


def inference_symbol(model: str, config: Config, folded: bool = False) -> mx.sym.Symbol:
    """Network that maps data (b, 3, h, w) to class probabilities (b, classes, h/8, w/8).

    Args:
        folded: the network of `fcn.fold_batch_norms`, with biases in place of batch norms.
    """
    return fcn.probabilities(SymbolOperations("folded" if folded else "stored"), model, config)
