"""A model as an ONNX graph that takes a picture of any size and gives its mask: for use without MXNet."""
import ast
import json
from typing import Any, Optional, Tuple, Union

import numpy as np

from core.config import STRIDE
from core.errors import UserError
from core.inference.segmenter import Segmenter
from core.inference.upsampling import DOUBLINGS, KERNEL
from core.io.files import write_bytes
from core.io.logs import logger
from core.network.snapshots import Snapshot
from core.network.symbols import inference_symbol
from core.runtime.mxnet_backend import mx

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise UserError(f"{error}; the packages for ONNX are installed by: pip install -r export-dependencies.txt"
                    ) from error

OPSET = 13
_IR_VERSION = 7  # of ONNX 1.8, which came with opset 13: older runtimes read the file


def export(snapshot: Snapshot, path: str) -> None:
    """Write a snapshot as an ONNX file.

    Input: image (height, width, 3) uint8 RGB, of any size. Outputs: mask (height, width) uint8 class indices; scores
    (classes, height, width) float32 probabilities. It is the prediction at one scale, without CRF: mean subtraction,
    padding and upsampling are in the graph. The file's metadata holds the class names as a JSON list.

    Raises:
        UserError: the file can't be written.
    """
    model, epoch = snapshot.model, snapshot.epoch
    config, (args, aux) = snapshot.config, snapshot.parameters
    values = {**args, **aux}
    with mx.name.NameManager():  # counts unnamed layers from 0: the same snapshot gives the same file
        symbol = inference_symbol(model, config)
    network = _Graph()
    probabilities = _network(network, symbol, values, _input(network, config.mean_rgb))
    _output(network, probabilities, config.num_classes)
    proto = helper.make_model(
        helper.make_graph(network.nodes, f"{model}_epoch{epoch}",
                          [helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])],
                          [helper.make_tensor_value_info("mask", TensorProto.UINT8, ["height", "width"]),
                           helper.make_tensor_value_info("scores", TensorProto.FLOAT,
                                                         [config.num_classes, "height", "width"])],
                          network.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    helper.set_model_props(proto, {"classes": json.dumps(config.classes), "model": model, "epoch": str(epoch),
                                   "snapshot_sha256": snapshot.digest})
    onnx.checker.check_model(proto)
    write_bytes(path, proto.SerializeToString(deterministic=True))
    logger.info("%s: %s model, epoch %d, ONNX opset %d, %d classes", path, model, epoch, OPSET, config.num_classes)


def open_session(path: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime, on the CPU, with a file that `export` wrote."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def agreement(session: onnxruntime.InferenceSession, segmenter: Segmenter, image: np.ndarray) -> Tuple[float, float]:
    """How far ONNX Runtime and MXNet agree on an image.

    Args:
        session: as `open_session` gives it.
        segmenter: `segmenter.Segmenter` of the same snapshot.
        image: (h, w, 3) uint8 RGB.

    Returns:
        (share of pixels of the same class, largest difference of a score).
    """
    mask, scores = session.run(["mask", "scores"], {"image": image})
    expected = segmenter.scores(image)
    return float((mask == expected.argmax(0)).mean()), float(np.abs(scores - expected).max())


class _Graph:
    """Nodes and constants so far."""

    def __init__(self):
        self.nodes = []
        self.initializers = []

    def add(self, kind: str, *inputs: Union[str, np.ndarray], name: Optional[str] = None, **attributes: Any) -> str:
        """Append a node; inputs are names or arrays. Returns the name of its output."""
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray, name: Optional[str] = None) -> str:
        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def _input(graph, mean_rgb):
    """The image as the network takes it: minus the mean, padded with zeros to multiples of the stride."""
    data = graph.add("Sub", graph.add("Cast", "image", to=TensorProto.FLOAT), np.array(mean_rgb, np.float32))
    data = graph.add("Unsqueeze", graph.add("Transpose", data, perm=[2, 0, 1]), np.array([0]))
    size = graph.add("Slice", graph.add("Shape", "image"), np.array([0]), np.array([2]), name="size")
    rest = graph.add("Mod", graph.add("Neg", size), np.array([STRIDE, STRIDE]))
    pads = graph.add("Concat", np.zeros(6, np.int64), rest, axis=0)  # none but below and to the right
    return graph.add("Pad", data, pads, np.float32(0))


def _output(graph, probabilities, classes):
    """Upsample as `upsampling.combine_scales` does, and take the mask."""
    kernel = np.tile(np.outer(KERNEL, KERNEL).astype(np.float32), (classes, 1, 1, 1))
    weight = graph.constant(kernel, "upsampling_weight")
    for _ in range(DOUBLINGS):
        probabilities = graph.add("ConvTranspose", probabilities, weight, group=classes, kernel_shape=[4, 4],
                                  strides=[2, 2], pads=[1, 1, 1, 1])
    cut = graph.add("Slice", probabilities, np.array([0, 0]), "size", np.array([2, 3]))
    graph.add("Squeeze", cut, np.array([0]), name="scores")
    graph.add("Cast", graph.add("ArgMax", "scores", axis=0, keepdims=0), to=TensorProto.UINT8, name="mask")


def _network(graph, symbol, values, data):
    """Append the nodes of an MXNet symbol.

    Args:
        values: dict from parameter name to array.
        data: name of the network's input.

    Returns:
        name of its output.
    """
    names = []
    for node in json.loads(symbol.tojson())["nodes"]:
        inputs = [names[index] for index, _, _ in node["inputs"]]
        if node["op"] == "null":
            names.append(data if node["name"] == "data" else graph.constant(values[node["name"]], node["name"]))
            continue
        attributes = {key: _literal(value) for key, value in node.get("attrs", {}).items()}
        names.append(_NODES[node["op"]](graph, node["name"], inputs, attributes))
    return names[-1]


def _literal(value):
    try:
        return ast.literal_eval(value)
    except ValueError:
        return value


def _convolution(graph, name, inputs, attributes):
    return graph.add("Conv", *inputs, name=name, kernel_shape=attributes["kernel"], strides=attributes["stride"],
                     dilations=attributes["dilate"], pads=attributes["pad"] * 2, group=attributes.get("num_group", 1))


def _batch_norm(graph, name, inputs, attributes):
    return graph.add("BatchNormalization", *inputs, name=name, epsilon=attributes["eps"])


def _pooling(graph, name, inputs, attributes):
    if attributes.get("global_pool"):
        return graph.add("GlobalMaxPool", *inputs, name=name)
    return graph.add("MaxPool", *inputs, name=name, kernel_shape=attributes["kernel"], strides=attributes["stride"],
                     pads=attributes["pad"] * 2)


def _pad(graph, name, inputs, attributes):
    widths = attributes["pad_width"]  # begin and end of every axis in turn
    return graph.add("Pad", *inputs, np.array(widths[::2] + widths[1::2]), np.float32(0), name=name)


def _resize(graph, name, inputs, attributes):
    scales = np.array([1, 1, attributes["scale_height"], attributes["scale_width"]], np.float32)
    return graph.add("Resize", *inputs, "", scales, name=name, mode="linear",
                     coordinate_transformation_mode="half_pixel")


def _add(graph, name, inputs, _):
    return graph.add("Add", *inputs, name=name)


_NODES = {  # of the operators in `symbols.inference_symbol`
    "Convolution": _convolution, "BatchNorm": _batch_norm, "Pooling": _pooling, "elemwise_add": _add,
    "broadcast_add": _add, "Pad": _pad, "_contrib_BilinearResize2D": _resize,
    "_mul_scalar": lambda graph, name, inputs, attributes: graph.add("Mul", *inputs, np.float32(attributes["scalar"]),
                                                                     name=name),
    "Concat": lambda graph, name, inputs, _: graph.add("Concat", *inputs, name=name, axis=1),
    "clip": lambda graph, name, inputs, attributes: graph.add("Clip", *inputs, np.float32(attributes["a_min"]),
                                                              np.float32(attributes["a_max"]), name=name),
    "Activation": lambda graph, name, inputs, _: graph.add("Relu", *inputs, name=name),
    "softmax": lambda graph, name, inputs, attributes: graph.add("Softmax", *inputs, name=name,
                                                                 axis=attributes["axis"])}
