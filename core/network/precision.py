"""Networks that compute in a narrower number format than float32, and the inputs for which that is not safe."""
import json
from typing import List, Tuple

from core.runtime.mxnet_backend import amp, mx

# Cells of the output of a 1 x 1 convolution in bfloat16 with which oneDNN 2.4.4 writes past its buffers on a CPU with
# AMX: the process dies, hangs, or continues with a damaged heap.
UNSAFE_CELLS = (33, 36, 39, 42, 45, 48)


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
