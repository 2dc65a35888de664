"""Maps of a trained network over each web image, by which the co-segmentation compares the images' cells.

Runs in the main process, the only one that may import mxnet or torch; what the workers need they read from files.
"""
import functools
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

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
_TOGETHER = 16  # images for each device, described shape by shape
_SCALE = 2      # longest side at which the network sees an image, in units of web_side

Outputs = List[np.ndarray]


class MapNetwork(NamedTuple):
    """A trained network that describes the cells of images.

    Attributes:
        build: function from an engine's operations to groups of stages, each group of one size, and the contrast,
            (b, 1, h, w): high where the network sees anything that it knows, low on background.
        channels: of the stages of each group.
        args: parameters of `build`.
        prepare: function from an (16 h + 16, 16 w + 16, 3) uint8 RGB image to the network's input.
        inner: function from the outputs of the groups and the contrast to those over the image's inner h x w cells.
    """
    build: Callable[[Any], Tuple[List[List[Any]], Any]]
    channels: List[List[int]]
    args: Dict[str, np.ndarray]
    prepare: Callable[[np.ndarray], np.ndarray]
    inner: Callable[[Outputs], Outputs]


def imagenet_network() -> MapNetwork:
    """EfficientNet-Lite2: its last five stages. The contrast is the standard deviation of the ImageNet logits over the
    classes.

    "SAME" padding of a strided convolution centres the last cell's field on the image's last pixels: cell i of stride
    16 sees what lies around pixel 16 i + 15. With 8 pixels before the image, as `network_view` adds them, that is the
    middle of the cell.
    """
    def build(ops):
        third, *others = efficientnet_lite.stages(ops, ops.input(), CELL)[2:]
        return ([[ops.average_pool(third, kernel=3, stride=2)], others],
                ops.deviation(efficientnet_lite.class_logits(ops, others[-1])))

    third, *others = [stage.channels for stage in efficientnet_lite.STAGES[2:]]
    return MapNetwork(build, [[third], others], fcn.fold_batch_norms(*efficientnet_lite.read_imagenet_weights()),
                      lambda image: efficientnet_lite.network_input(image, CELL),
                      lambda outputs: [outputs[0], *(output[:, :-1, :-1] for output in outputs[1:])])


def base_network(config: Config) -> MapNetwork:
    """The base model, a ResNet-50: its last three stages. The contrast is the mean of the last one's channels (Wei et
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

    def build(ops):
        stages = resnet.cell_maps(ops, adopted)
        return [stages], ops.channel_mean(stages[-1])

    return MapNetwork(build, [[adopted.width * 2 ** number for number in (3, 4, 5)]], fcn.fold_batch_norms(*parameters),
                      lambda image: prepare(image, image.shape[:2], adopted.mean_rgb),
                      lambda outputs: [output[:, 1:, 1:] for output in outputs])  # cell i is centred on pixel 16 i


class Describer:
    """A `MapNetwork` on one or more devices, and the projection of its maps."""

    def __init__(self, network: MapNetwork, config: Config, devices: Sequence[Device]):
        self._network = network
        self._side = _SCALE * config.web_side
        sizes = [sum(channels) for channels in network.channels]
        random = np.random.default_rng((config.seed, 4)).normal(size=(sum(sizes), CHANNELS))
        with threadpool_limits(1):  # with more threads the last bits would be others
            directions = np.linalg.qr(random)[0].T.astype(np.float32)
        parts = np.split(directions, np.cumsum(sizes[:-1]), axis=1)
        args = {**network.args, **{f"projection{number}_weight": part[..., None, None].copy()
                                   for number, part in enumerate(parts)}}

        def build(ops):
            groups, contrast = network.build(ops)
            return [*(ops.convolution(ops.concat([ops.unit(stage) for stage in stages]), f"projection{number}",
                                      len(directions), bias=False) for number, stages in enumerate(groups)), contrast]

        self._networks = [Network(build, args, device) for device in devices]

    @property
    def together(self) -> int:
        """Images that are best described together."""
        return _TOGETHER * len(self._networks)

    def start(self, images: Sequence[np.ndarray]) -> List[Callable[[], Dict[str, np.ndarray]]]:
        """Start the networks on images, shape by shape, as each change of shape costs time.

        Args:
            images: (h, w, 3) uint8 RGB.

        Returns:
            for each image, a function that waits for the arrays that describe its cells, h' x w' of them.
            maps: (256, h', w') float16, the stages, each of unit length in every cell, all projected by one random
            matrix (Johnson and Lindenstrauss). contrast: (h', w') float16, see `MapNetwork`.
        """
        views = [network_view(image, self._side) for image in images]
        outputs: Dict[int, Callable[[], Outputs]] = {}
        for turn, number in enumerate(sorted(range(len(views)), key=lambda number: views[number].shape)):
            network = self._networks[turn * len(self._networks) // len(views)]
            outputs[number] = network.forward(self._network.prepare(views[number]))
        return [functools.partial(self._finish, outputs[number]) for number in range(len(views))]

    def _finish(self, outputs):
        *groups, contrast = self._network.inner(outputs())
        return {"maps": np.sum(groups, 0).astype(np.float16), "contrast": contrast[0].astype(np.float16)}


def network_view(image: np.ndarray, longest_side: int) -> np.ndarray:
    """An (h, w, 3) uint8 RGB image scaled to a longest side, in pixels, and to multiples of 32, with 8 more pixels on
    every side."""
    scale = longest_side / max(image.shape[:2])
    height, width = (max(32, round(length * scale / 32) * 32) for length in image.shape[:2])
    image = cv2.resize(image, (width, height),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    half = CELL // 2
    return cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101)
