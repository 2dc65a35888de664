"""Web images that the tests co-segment, and what the co-segmentation made of them."""
import dataclasses
import os

import make_sample
import numpy as np

from core.classes import VOC_CLASSES
from core.io.files import read_bytes
from core.io.images import write_image, write_mask
from core.paths import stems


def draw_web_images(folder):
    """Draw 4 images of each of 3 classes into dataset/web_images/, and their exact masks into truth/."""
    for name in ("bus", "cat", "bottle"):
        index = VOC_CLASSES.index(name)
        for number in range(4):
            image, mask = make_sample.web_picture(np.random.default_rng((9, index, number)), name)
            stem = f"{index}_{number:06d}"
            write_image(str(folder / "dataset" / "web_images" / (stem + ".jpg")), image)
            write_mask(str(folder / "truth" / (stem + ".png")), mask * index)


def beside(config):
    """Config of another folder with the same web images."""
    other = dataclasses.replace(config, root=os.path.join(config.root, "other"))
    os.makedirs(other.path("dataset"))
    os.symlink(os.path.abspath(config.path("dataset", "web_images")), other.path("dataset", "web_images"))
    return other


def masks(config):
    """Dict from the name of a mask's file to its bytes."""
    folder = config.path("dataset", "web_labels")
    return {name + ".png": read_bytes(os.path.join(folder, name + ".png")) for name in sorted(stems(folder, ".png"))}


def write_base_model(config):
    """A ResNet-50 of random weights, with what co-segmentation needs."""
    from core.engines.mxnet.backend import mx
    from core.engines.mxnet.operations import SymbolOperations
    from core.network import resnet
    symbol = mx.sym.Group(resnet.cell_maps(SymbolOperations(), config))
    shapes, _, aux = symbol.infer_shape(data=(1, 3, 64, 64))
    values = {"arg:" + name: mx.nd.random.normal(0, 0.1, shape) for name, shape in
              zip(symbol.list_arguments(), shapes) if name != "data"}
    values.update(("aux:" + name, mx.nd.ones(shape)) for name, shape in zip(symbol.list_auxiliary_states(), aux))
    os.makedirs(os.path.dirname(config.path(config.base_model)), exist_ok=True)
    mx.nd.save(config.path(config.base_model), values)
