"""Maps of an ImageNet network over each web image: the "imagenet" feature set of the co-segmentation.

Runs in the main process, the only one that may import mxnet or torch; what the workers need they read from files.
"""
import os
from typing import Any, List

import cv2
import numpy as np

from core.cosegmentation.results import write_arrays
from core.errors import UserError
from core.inference.networks import Network
from core.io.images import read_image
from core.io.logs import logger, progress
from core.network import efficientnet_lite, fcn
from core.paths import image_path, stems
from core.runtime.devices import Device

CHANNELS = 256  # kept of the maps, by a random projection: angles and linear scores survive it
CELL = 16       # pixels
_SIDE = 576     # longest side at which the network sees an image, pixels
_PARTS = np.cumsum([efficientnet_lite.STAGES[2].channels] + [stage.channels for stage in efficientnet_lite.STAGES[3:]])


def load_network(device: Device) -> Any:
    """EfficientNet-Lite2 that maps (3, 16 h + 16, 16 w + 16) float32 to its third stage, averaged at the cells,
    (48, h, w), and to its last four stages' channels and the ImageNet logits, (768 + 1000, h + 1, w + 1).

    "SAME" padding of a strided convolution centres the last cell's field on the image's last pixels: cell i of stride
    16 sees what lies around pixel 16 i + 15. With 8 pixels before the image, as `network_view` adds them, that is the
    middle of the cell.

    Raises:
        UserError: the package with the weights is missing or damaged.
    """
    def build(ops):
        stages = efficientnet_lite.stages(ops, ops.input(), CELL)
        others = ops.concat([*stages[3:], efficientnet_lite.class_scores(ops, stages[-1])])
        return [ops.average_pool(stages[2], kernel=3, stride=2), others]

    weights = fcn.fold_batch_norms(*efficientnet_lite.read_imagenet_weights())
    return Network(build, weights, device)


def cache_maps(network: Any, names: List[str], images: str, folder: str, seed: int) -> None:
    """Write <folder>/<name>.npz for every image that has none; unreadable ones are left out. O(1) per image.

    maps: (256, h, w) float16, the stages, each of unit length in every cell, all projected by one random matrix.
    contrast: (h, w) float16, standard deviation of the logits over the ImageNet classes: it is high where the network
    sees anything that it knows, and low on background.

    Args:
        network: what `load_network` gives.
        names: ids of the images. images: folder of <id>.jpg.
        seed: of the projection.
    """
    there = stems(folder, ".npz")
    rest = [name for name in names if name not in there]
    if not rest:
        return
    logger.info("maps of EfficientNet-Lite2 for %d images", len(rest))
    projection = np.linalg.qr(np.random.default_rng((seed, 4)).normal(size=(_PARTS[-1], CHANNELS)))[0].T
    projection = projection.astype(np.float32)
    for name in progress(rest, len(rest), "maps"):
        try:
            image = read_image(image_path(images, name))
        except UserError:
            continue  # the segmentation of the image says why
        third, others = network.forward(network_view(image))()
        found = np.concatenate([third, others[:, :-1, :-1]])
        maps, logits = found[:_PARTS[-1]], found[_PARTS[-1]:]
        for part in np.split(maps, _PARTS[:-1]):
            part /= np.maximum(np.linalg.norm(part, axis=0), 1e-6)
        write_arrays(os.path.join(folder, name + ".npz"), {
            "maps": np.tensordot(projection, maps, 1).astype(np.float16),
            "contrast": logits.std(0).astype(np.float16)})


def network_view(image: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 input of an (h, w, 3) uint8 RGB image: scaled to a longest side of 576 pixels and to multiples
    of 32, with 8 pixels around."""
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(32, round(length * scale / 32) * 32) for length in image.shape[:2])
    image = cv2.resize(image, (width, height),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    half = CELL // 2
    return efficientnet_lite.network_input(
        cv2.copyMakeBorder(image, half, half, half, half, cv2.BORDER_REFLECT_101), CELL)
