"""Activations of the ImageNet ResNet-50 in models/: the "resnet" feature set of the co-segmentation.

Runs in the main process, the only one that may import mxnet; what the workers need they read from files.
"""
import os

import numpy as np

from core.errors import UserError
from core.files import read_image, write_array
from core.inference import Network, prepare
from core.layout import image_path, stems
from core.logs import logger, progress
from core.network import backbone_symbol
from core.regions import resized
from core.snapshots import read_parameters

CHANNELS = 128  # kept of the activations, by a random projection: distances and linear scores survive it


def cache_activations(config, names, images, folder, device, overwrite=False):
    """Write <folder>/<name>.npy, (128, h', w') float16, for every image that has none; unreadable ones are left out.

    The activations of stages 3 and 4 at a stride of 8 pixels, each stage scaled to unit length and both projected by
    one random matrix (Johnson and Lindenstrauss); O(1) per image.

    Args:
        names: ids of the images. images: folder of <id>.jpg.
        device: mxnet.Context.

    Raises:
        UserError: the base model is missing, damaged or of another architecture.
    """
    there = set() if overwrite else stems(folder, ".npy")
    rest = [name for name in names if name not in there]
    if not rest:
        return
    path = config.path(config.base_model)
    network = Network(*_bound(config, path), device)
    third = 8 * config.width
    projection = np.random.default_rng((config.seed, 3)).normal(size=(CHANNELS, 3 * third)).astype(np.float32)
    projection /= np.sqrt(CHANNELS)
    logger.info("activations of %s for %d images", path, len(rest))
    for name in progress(rest, len(rest), "activations"):
        try:
            image = resized(read_image(image_path(images, name)), config.web_side)
        except UserError:
            continue  # the analysis of the image tells why
        maps = network.forward(prepare(image, image.shape[:2], config.mean_rgb)).asnumpy()[0]
        maps = maps[:, :-(-image.shape[0] // 8), :-(-image.shape[1] // 8)]
        for part in (maps[:third], maps[third:]):
            part /= np.maximum(np.linalg.norm(part, axis=0), 1e-6)
        write_array(os.path.join(folder, name + ".npy"), np.tensordot(projection, maps, 1).astype(np.float16))


def _bound(config, path):
    symbol = backbone_symbol(config)
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 64, 64))
    wanted = dict(zip(symbol.list_arguments(), shapes)), dict(zip(symbol.list_auxiliary_states(), aux_shapes))
    wanted[0].pop("data")
    parts = []
    for found, names in zip(read_parameters(path), wanted):
        for name, shape in names.items():
            if name not in found or found[name].shape != shape:
                raise UserError("%s: %s is missing or has another shape than %s; it is no ResNet-50 base model of "
                                "these settings" % (path, name, shape))
        parts.append({name: found[name] for name in names})
    return symbol, tuple(parts)
