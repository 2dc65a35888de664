"""A model as an ONNX graph that takes a picture of any size and gives its mask: for use without this code."""
import json
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from core.config import STRIDE
from core.errors import UserError
from core.inference.segmenter import Segmenter
from core.inference.upsampling import DOUBLINGS, KERNEL
from core.io.files import write_bytes
from core.io.logs import logger
from core.network import fcn
from core.network.snapshots import Snapshot

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise UserError(f"{error}; the packages for ONNX are installed by: pip install -r export-dependencies.txt"
                    ) from error

OPSET = 13
LOGITS = ("score", "g_score")  # nodes that give them
_IR_VERSION = 7  # of ONNX 1.8, which came with opset 13: older runtimes read the file


def export(snapshot: Snapshot, path: str) -> None:
    """Write what `to_onnx` gives as a file.

    Raises:
        UserError: the file can't be written.
    """
    write_bytes(path, to_onnx(snapshot).SerializeToString(deterministic=True))
    logger.info("%s: %s model, epoch %d, ONNX opset %d, %d classes", path, snapshot.model, snapshot.epoch, OPSET,
                snapshot.config.num_classes)


def to_onnx(snapshot: Snapshot) -> onnx.ModelProto:
    """A snapshot as an ONNX graph.

    Input: image (height, width, 3) uint8 RGB, of any size. Outputs: mask (height, width) uint8 class indices; scores
    (classes, height, width) float32 probabilities. It is the prediction at one scale, without CRF: mean subtraction,
    padding and upsampling are in the graph. The metadata hold the class names as a JSON list.
    """
    model, epoch, config = snapshot.model, snapshot.epoch, snapshot.config
    network = OnnxOperations(fcn.fold_batch_norms(*snapshot.parameters), config.mean_rgb)
    network.output(fcn.probabilities(network, model, config), config.num_classes)
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
    return proto


def open_session(path: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime, on the CPU, with a file that `export` wrote."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def agreement(session: onnxruntime.InferenceSession, segmenter: Segmenter, image: np.ndarray) -> Tuple[float, float]:
    """How far ONNX Runtime and a `segmenter.Segmenter` of the same snapshot agree on an (h, w, 3) uint8 RGB image.

    Returns:
        (share of pixels of the same class, largest difference of a probability).
    """
    mask, probabilities = session.run(["mask", "scores"], {"image": image})
    expected = segmenter.scores(image)
    return float((mask == expected.argmax(0)).mean()), float(np.abs(probabilities - expected).max())


class _Map:
    """Output of a node."""

    def __init__(self, name: str, graph: "OnnxOperations"):
        self.name, self._graph = name, graph

    def __add__(self, other: "_Map") -> "_Map":
        return self._graph.add("Add", self, other)


class OnnxOperations:
    """The operations that the networks consist of, as nodes of an ONNX graph; batch norms are folded.

    Attributes:
        nodes, initializers: of the graph.
    """

    def __init__(self, values: Dict[str, np.ndarray], mean_rgb: Sequence[float]):
        """
        Args:
            values: parameters by name, see `fcn.fold_batch_norms`.
            mean_rgb: what the network's input is subtracted.
        """
        self._values = values
        self._mean_rgb = mean_rgb
        self.nodes: List[onnx.NodeProto] = []
        self.initializers: List[onnx.TensorProto] = []

    def add(self, op: str, *inputs: Union[str, _Map, np.ndarray, np.float32], name: Optional[str] = None,
            **attributes: Any) -> _Map:
        """Append a node. Its inputs are names, outputs of other nodes, or constants."""
        names = [item if isinstance(item, str) else item.name if isinstance(item, _Map) else self._constant(item)
                 for item in inputs]
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name, **attributes))
        return _Map(name, self)

    def _constant(self, array, name=None):
        name = name or f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def input(self) -> _Map:
        """The image as the network takes it: minus the mean, padded with zeros to multiples of the stride."""
        data = self.add("Sub", self.add("Cast", "image", to=TensorProto.FLOAT), np.array(self._mean_rgb, np.float32))
        data = self.add("Unsqueeze", self.add("Transpose", data, perm=[2, 0, 1]), np.array([0]))
        size = self.add("Slice", self.add("Shape", "image"), np.array([0]), np.array([2]), name="size")
        rest = self.add("Mod", self.add("Neg", size), np.array([STRIDE, STRIDE]))
        pads = self.add("Concat", np.zeros(6, np.int64), rest, axis=0)  # none but below and to the right
        return self.add("Pad", data, pads, np.float32(0), name="padded")

    def output(self, probabilities: _Map, classes: int) -> None:
        """Upsample as `upsampling.combine_scales` does, and take the mask."""
        kernel = self._constant(np.tile(np.outer(KERNEL, KERNEL).astype(np.float32), (classes, 1, 1, 1)),
                                "upsampling_weight")
        for _ in range(DOUBLINGS):
            probabilities = self.add("ConvTranspose", probabilities, kernel, group=classes, kernel_shape=[4, 4],
                                     strides=[2, 2], pads=[1, 1, 1, 1])
        cut = self.add("Slice", probabilities, np.array([0, 0]), "size", np.array([2, 3]))
        self.add("Squeeze", cut, np.array([0]), name="scores")
        self.add("Cast", self.add("ArgMax", "scores", axis=0, keepdims=0), to=TensorProto.UINT8, name="mask")

    def convolution(self, data: _Map, name: str, channels: int, kernel: int = 1, stride: int = 1, dilation: int = 1,
                    bias: bool = True, depthwise: bool = False, same: bool = False) -> _Map:
        """With the arguments of the other engines' operations."""
        after = dilation * (kernel // 2)
        before = after - 1 if same and stride == 2 else after
        values = [self._constant(self._values[key], key) for key in [name + "_weight"] + bias * [name + "_bias"]]
        return self.add("Conv", data, *values, name=name, kernel_shape=[kernel] * 2, strides=[stride] * 2,
                        dilations=[dilation] * 2, pads=[before] * 2 + [after] * 2, group=channels if depthwise else 1)

    def normalized(self, data: _Map, name: str, norm: str, channels: int, epsilon: float, bias: bool = False,
                   **shape: Any) -> _Map:
        return self.convolution(data, name, channels, **shape)

    def relu(self, data: _Map) -> _Map:
        return self.add("Relu", data)

    def relu6(self, data: _Map) -> _Map:
        return self.add("Clip", data, np.float32(0), np.float32(6))

    def max_pool(self, data: _Map, kernel: int, stride: int, pad: int, name: str) -> _Map:
        return self.add("MaxPool", data, name=name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def global_max(self, data: _Map, name: str) -> _Map:
        return self.add("GlobalMaxPool", data, name=name)

    def global_mean(self, data: _Map, name: str) -> _Map:
        return self.add("GlobalAveragePool", data, name=name)

    def dropout(self, data: _Map, share: float) -> _Map:
        return data

    def upsample(self, data: _Map, factor: int) -> _Map:
        return self.add("Resize", data, "", np.array([1, 1, factor, factor], np.float32), mode="linear",
                        coordinate_transformation_mode="half_pixel")

    def scale(self, data: _Map, factor: float) -> _Map:
        return self.add("Mul", data, np.float32(factor))

    def concat(self, maps: Sequence[_Map]) -> _Map:
        return self.add("Concat", *maps, axis=1)

    def broadcast_add(self, data: _Map, logits: _Map) -> _Map:
        return self.add("Add", data, logits)

    def softmax(self, logits: _Map, name: str) -> _Map:
        return self.add("Softmax", logits, name=name, axis=1)
