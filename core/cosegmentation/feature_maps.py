"""Maps of a trained network over each web image, by which the co-segmentation compares the images' cells.

Runs in the main process, the only one that may import mxnet or torch; what the workers need they read from files.
"""
from typing import Callable, Dict, NamedTuple, Tuple

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from core.config import Config
from core.engines.devices import Device
from core.engines.network import Network
from core.inference.segmenter import prepare
from core.network import efficientnet_lite, fcn, resnet
from core.network.shapes import ShapeRecorder
from core.network.snapshots import adopt_recorded, matching, read_parameters

CHANNELS = 256  # kept of the maps, by a random projection: angles and linear scores survive it
CELL = 16       # pixels
_SCALE = 2      # longest side at which the network sees an image, in units of web_side


class MapNetwork(NamedTuple):
    """A trained network that describes the cells of images.

    Attributes:
        title: what the log calls it.
        channels: of its stages.
        forward: function from an (16 h + 16, 16 w + 16, 3) uint8 RGB image to the stages' maps over its inner h x w
            cells, (sum of channels, h, w) float32, and their contrast, (h, w) float32: high where the network sees
            anything that it knows, low on background.
    """
    title: str
    channels: Tuple[int, ...]
    forward: Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray]]


def imagenet_network(device: Device) -> MapNetwork:
    """EfficientNet-Lite2: its last five stages. The contrast is the standard deviation of the ImageNet logits over the
    classes.

    "SAME" padding of a strided convolution centres the last cell's field on the image's last pixels: cell i of stride
    16 sees what lies around pixel 16 i + 15. With 8 pixels before the image, as `network_view` adds them, that is the
    middle of the cell.
    """
    def build(ops):
        stages = efficientnet_lite.stages(ops, ops.input(), CELL)
        others = ops.concat([*stages[3:], efficientnet_lite.class_logits(ops, stages[-1])])
        return [ops.average_pool(stages[2], kernel=3, stride=2), others]

    def forward(image):
        third, others = network.forward(efficientnet_lite.network_input(image, CELL))()
        maps, logits = np.split(np.concatenate([third, others[:, :-1, :-1]]), [sum(channels)])
        return maps, logits.std(0)

    channels = tuple(stage.channels for stage in efficientnet_lite.STAGES[2:])
    network = Network(build, fcn.fold_batch_norms(*efficientnet_lite.read_imagenet_weights()), device)
    return MapNetwork(efficientnet_lite.NAME, channels, forward)


def base_network(config: Config, device: Device) -> MapNetwork:
    """The base model, a ResNet-50: its last three stages. The contrast is the sum of the last one's channels (Wei et
    al., "Selective Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval", TIP 2017, section III.B).
    """
    path = config.layout.base_model
    stored = read_parameters(path)
    adopted = adopt_recorded(config, path, stored.settings)
    recorder = ShapeRecorder()
    resnet.cell_maps(recorder, adopted)
    parameters = [{name: matching(path, values, name, shape, "the ResNet-50 base model")
                   for name, shape in shapes.items()}
                  for values, shapes in ((stored.args, recorder.args), (stored.aux, recorder.aux))]
    network = Network(lambda ops: [resnet.cell_maps(ops, adopted)], fcn.fold_batch_norms(*parameters), device)
    channels = tuple(adopted.width * 2 ** number for number in (3, 4, 5))

    def forward(image):
        maps = network.forward(prepare(image, image.shape[:2], adopted.mean_rgb))()[0]
        maps = maps[:, 1:, 1:].copy()  # cell i is centred on pixel 16 i
        return maps, maps[-channels[-1]:].sum(0)
    return MapNetwork(path, channels, forward)


def describer(network: MapNetwork, config: Config) -> Callable[[np.ndarray], Dict[str, np.ndarray]]:
    """Function from an image, (h, w, 3) uint8 RGB, to the arrays that describe its cells, h' x w' of them.

    maps: (256, h', w') float16, the stages, each of unit length in every cell, all projected by one random matrix
    (Johnson and Lindenstrauss). contrast: (h', w') float16, see `MapNetwork`.
    """
    random = np.random.default_rng((config.seed, 4)).normal(size=(sum(network.channels), CHANNELS))
    with threadpool_limits(1):  # with more threads the last bits would be others
        directions = np.linalg.qr(random)[0].T.astype(np.float32)

    def describe(image):
        maps, contrast = network.forward(network_view(image, _SCALE * config.web_side))
        for stage in np.split(maps, np.cumsum(network.channels[:-1])):
            stage /= np.maximum(np.linalg.norm(stage, axis=0), 1e-6)
        with threadpool_limits(1):
            projected = np.tensordot(directions, maps, 1)
        return {"maps": projected.astype(np.float16), "contrast": contrast.astype(np.float16)}
    return describe


def network_view(image: np.ndarray, longest_side: int) -> np.ndarray:
    """An (h, w, 3) uint8 RGB image scaled to a longest side, in pixels, and to multiples of 32, with 8 more pixels on
    every side."""
    scale = longest_side / max(image.shape[:2])
    height, width = (max(32, round(length * scale / 32) * 32) for length in image.shape[:2])
    image = cv2.resize(image, (width, height),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    half = CELL // 2
    return cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
