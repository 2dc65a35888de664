"""Activations of the ImageNet ResNet-50 in models/: the "resnet" feature set of the co-segmentation.

Runs in the main process, the only one that may import mxnet or torch; what the workers need they read from files.
"""
import os
from typing import Any, Iterable, NamedTuple

import numpy as np

from core.config import Config
from core.errors import UserError
from core.inference.networks import Network
from core.inference.segmenter import prepare
from core.io.files import write_array
from core.io.images import read_image
from core.io.logs import logger, progress
from core.io.resize import resize_longest_side
from core.network import resnet
from core.network.fcn import fold_batch_norms
from core.network.shapes import ShapeRecorder
from core.network.snapshots import adopt_recorded, matching, read_parameters
from core.paths import image_path, stems
from core.runtime.devices import Device

CHANNELS = 256  # kept of the activations, by a random projection: distances and linear scores survive it


class Backbone(NamedTuple):
    """The base model's stages 1 to 4.

    Attributes:
        path: of its file.
        config: with the mean that its file records.
        network: what `networks.Network` gives.
    """
    path: str
    config: Config
    network: Any


def cache_activations(backbone: Backbone, names: Iterable[str], images: str, folder: str) -> None:
    """Write <folder>/<name>.npy, (256, h', w') float16, for every image that has none; unreadable ones are left out.

    The activations of stages 3 and 4 at a stride of 8 pixels, each stage scaled to unit length and both projected by
    one random matrix (Johnson and Lindenstrauss); O(1) per image.

    Args:
        backbone: Backbone.
        names: ids of the images. images: folder of <id>.jpg.
    """
    there = stems(folder, ".npy")
    rest = [name for name in names if name not in there]
    if not rest:
        return
    path, config, network = backbone
    third = 8 * config.width
    projection = np.random.default_rng((config.seed, 3)).normal(size=(CHANNELS, 3 * third)).astype(np.float32)
    projection /= np.sqrt(CHANNELS)
    logger.info("activations of %s for %d images", path, len(rest))
    for name in progress(rest, len(rest), "activations"):
        try:
            image = resize_longest_side(read_image(image_path(images, name)), config.web_side, smallest=8)
        except UserError:
            continue  # the analysis of the image says why
        maps = network.forward(prepare(image, image.shape[:2], config.mean_rgb))()[0]
        maps = maps[:, :-(-image.shape[0] // 8), :-(-image.shape[1] // 8)]
        for part in (maps[:third], maps[third:]):
            part /= np.maximum(np.linalg.norm(part, axis=0), 1e-6)
        write_array(os.path.join(folder, name + ".npy"), np.tensordot(projection, maps, 1).astype(np.float16))


def load_backbone(config: Config, device: Device) -> Backbone:
    """Backbone of the base model, on a Device.

    Raises:
        UserError: the base model is missing, damaged or of another architecture.
    """
    path = config.layout.base_model
    found = read_parameters(path)
    config = adopt_recorded(config, path, found.settings)
    recorder = ShapeRecorder()
    resnet.activations(recorder, config)
    parts = [{name: matching(path, values, name, shape, "the ResNet-50 base model") for name, shape in shapes.items()}
             for values, shapes in ((found.args, recorder.args), (found.aux, recorder.aux))]
    return Backbone(path, config, Network(lambda ops: [resnet.activations(ops, config)],
                                          fold_batch_norms(*parts), device))
