"""Activations of the ImageNet ResNet-50 in models/: the "resnet" feature set of the co-segmentation.

Runs in the main process, the only one that may import mxnet; what the workers need they read from files.
"""
import collections
import os

import numpy as np

from core.errors import UserError
from core.inference.segmenter import Network, prepare
from core.io.files import write_array
from core.io.images import read_image
from core.io.logs import logger, progress
from core.io.resize import resize_longest_side
from core.network.snapshots import adopt_recorded, matching, read_parameters
from core.network.symbols import backbone_symbol, folded_parameters
from core.paths import image_path, stems

CHANNELS = 256  # kept of the activations, by a random projection: distances and linear scores survive it


Backbone = collections.namedtuple("Backbone", "path config network")
Backbone.__doc__ = """The base model's stages 1 to 4.

config: with the mean that its file records. network: inference.Network.
"""


def cache_activations(backbone, names, images, folder):
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
            continue  # the analysis of the image tells why
        maps = network.forward(prepare(image, image.shape[:2], config.mean_rgb)).asnumpy()[0]
        maps = maps[:, :-(-image.shape[0] // 8), :-(-image.shape[1] // 8)]
        for part in (maps[:third], maps[third:]):
            part /= np.maximum(np.linalg.norm(part, axis=0), 1e-6)
        write_array(os.path.join(folder, name + ".npy"), np.tensordot(projection, maps, 1).astype(np.float16))


def load_backbone(config, device):
    """Backbone of the base model, on an mxnet.Context.

    Raises:
        UserError: the base model is missing, damaged or of another architecture.
    """
    path = config.path(config.base_model)
    found = read_parameters(path)
    config = adopt_recorded(config, path, found.settings)
    symbol = backbone_symbol(config)
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 64, 64))
    parts = []
    for values, names, part_shapes in ((found.args, symbol.list_arguments(), shapes),
                                       (found.aux, symbol.list_auxiliary_states(), aux_shapes)):
        parts.append({name: matching(path, values, name, shape, "the ResNet-50 base model")
                      for name, shape in zip(names, part_shapes) if name != "data"})
    return Backbone(path, config, Network(backbone_symbol(config, folded=True), folded_parameters(*parts), device))
