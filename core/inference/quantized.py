"""A network in 8-bit integers: its ONNX graph, quantised after training, which OpenVINO computes on CPUs."""
import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Callable, List, Sequence, Tuple

import joblib
import numpy as np

from core.config import network_settings
from core.engines.devices import explaining_engine_errors
from core.errors import UserError
from core.inference.onnx_export import LOGITS, onnx, to_onnx
from core.io.files import file_digest, read_list, replacing
from core.io.images import read_image
from core.io.locks import locked
from core.io.logs import logger
from core.io.resize import shrink
from core.network.snapshots import Snapshot
from core.paths import image_path

try:
    import openvino
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
except ImportError as error:
    raise UserError(f"{error}; the packages for --dtype int8 are installed by: pip install -r export-dependencies.txt"
                    ) from error

IMAGES, _FEWEST, _LONGEST_SIDE = 40, 10, 500  # that the ranges of activations are taken from; pixels of a side
_explaining = explaining_engine_errors("a forward pass in int8", "leave out the largest of --scales")


def quantise(snapshot: Snapshot, pictures: Sequence[str]) -> str:
    """Make the network in int8, unless it is there: an ONNX file like that of `onnx_export.export`.

    Weights have a step for each output channel, activations one for each layer, from the range that they have in
    `IMAGES` training images, or in `pictures` where there is no list of training images. The layers that give the
    logits, and all that follows, stay float32.

    Returns:
        what records say of it, and `segmenter.Segmenter` takes: "int8 " and the start of the file's digest. The file is
        cache/int8/<model>_<digest>.onnx, one for each network, whatever it was quantised on.

    Raises:
        UserError: there are too few pictures, one can't be read, or the file can't be written.
    """
    path = quantised_path(snapshot)
    with locked(path + ".lock", "quantisation", wait=True):
        if os.path.exists(path):
            logger.info("int8: the network is quantised already, %s; delete this file to do it again", path)
        else:
            chosen, source = calibration(snapshot, pictures)
            logger.info("int8: quantising the network on %d of %s", len(chosen), source)
            images = ({"image": shrink(read_image(picture), _LONGEST_SIDE)} for picture in chosen)
            with tempfile.TemporaryDirectory() as folder, replacing(path) as unfinished:
                plain = os.path.join(folder, "float32.onnx")
                proto = to_onnx(snapshot)
                proto.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it warns
                onnx.save(proto, plain)
                sums = [node.name for node in proto.graph.node
                        if node.op_type == "Add" and set(node.input) & set(LOGITS)]
                quantize_static(plain, unfinished, SimpleNamespace(get_next=lambda: next(images, None)),
                                quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                                weight_type=QuantType.QInt8, nodes_to_exclude=[*LOGITS, *sums],
                                op_types_to_quantize=["Conv", "Add", "Relu", "Clip", "MaxPool"])
        return f"int8 {file_digest(path)[:8]}"


def quantised_path(snapshot: Snapshot) -> str:
    """Where `quantise` keeps the file of a network."""
    key = json.dumps([snapshot.digest, network_settings(snapshot.config)])
    name = hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]
    return os.path.join(snapshot.config.layout.int8, f"{snapshot.model}_{name}.onnx")


def calibration(snapshot: Snapshot, pictures: Sequence[str]) -> Tuple[List[str], str]:
    """(paths of the pictures to quantise on, where they are from)."""
    layout, source = snapshot.config.layout, "the pictures at hand, as there is no list of training images"
    if os.path.exists(layout.train_list):
        pictures = [image_path(layout.train_images, name) for name in read_list(layout.train_list)]
        source = f"the training images, {layout.train_images}"
    if len(pictures) < _FEWEST:
        raise UserError(f"--dtype int8 is quantised on training images, and {layout.train_list} lists less than "
                        f"{_FEWEST} or is missing: name {_FEWEST} pictures or more, best {IMAGES}, the first time")
    numbers = np.linspace(0, len(pictures) - 1, min(IMAGES, len(pictures))).astype(int)
    return [pictures[number] for number in numbers], source


class Network:
    """The network of `quantise` on the CPU, with the interface of `core.engines.network.Network`."""

    @_explaining
    def __init__(self, snapshot: Snapshot):
        cells = onnx.utils.Extractor(onnx.load(quantised_path(snapshot))).extract_model(["padded"], ["softmax"])
        engine = openvino.Core()
        compiled = engine.compile_model(engine.read_model(cells.SerializeToString(), b""), "CPU",
                                        {"INFERENCE_NUM_THREADS": joblib.cpu_count(only_physical_cores=True),
                                         "INFERENCE_PRECISION_HINT": "f32"})
        self._request = compiled.create_infer_request()
        self._thread = ThreadPoolExecutor(1)

    def forward(self, data: np.ndarray) -> Callable[[], List[np.ndarray]]:
        """As `core.engines.network.Network.forward`."""
        return _explaining(self._thread.submit(self._infer, data).result)

    def _infer(self, data):
        return [np.array(self._request.infer([data[None]])[0][0])]
