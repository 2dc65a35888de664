"""What the models are trained on: lists of images with their masks. Does not import mxnet."""
import hashlib
import json
import os
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.data import MaskedImages, check_classes
from core.errors import UserError
from core.io.files import read_json, read_list
from core.io.images import read_mask
from core.io.logs import logger
from core.io.provenance import StageRecord, content_digests
from core.paths import class_of, image_path, mask_path, web_class
from core.web.corrections import corrected_names, read_decisions, reviewed_list


class Sample(NamedTuple):
    """A training image: its id, its path, that of its mask, and the class index of a web image."""
    name: str
    image: str
    mask: str
    label: Optional[int] = None


def training_samples(model: str, config: Config) -> List[Sample]:
    """Samples that train `model`, in the order of its list; web images follow those of the final model, if the setting
    `final_web_share` asks for them.

    Raises:
        UserError: the list or a file is missing, or classes, labels or images have changed since the masks were made.
    """
    if model == "init":
        return web_samples(config)
    return voc_samples(config) + (web_samples(config) if config.final_web_share else [])


def web_samples(config: Config) -> List[Sample]:
    """Web images with the masks that the setting `web_masks` names, or corrected ones."""
    layout, estimated = config.layout, config.web_masks == "estimated"
    images = web_images(config, listed_web_images(config), estimated=estimated)
    corrected = set(corrected_names(layout))
    remedy = "run est_voc_train_masks.py --images web"
    shown = read_list(layout.web_estimated_list, remedy) if estimated else images.names
    check_classes(config, map(class_of, images.names))
    images.check_images("see dataset/README.md for what belongs there")
    images.check_masks(corrected)
    trained = corrected.union(shown)
    samples = [Sample(name, image_path(images.images, name), layout.web_mask(name, estimated=estimated),
                      class_of(name)) for name in images.names if name in trained]
    if not samples:
        raise UserError(f"{layout.web_estimated_list} names no image of {layout.web_list}: {remedy}")
    return samples


def voc_samples(config: Config) -> List[Sample]:
    """Samples of the final model: training images with estimated masks, or the user's own, which need no labels."""
    check_classes(config)
    images = train_images(config, own_masks=not os.path.exists(f"{config.layout.train_masks}.json"))
    images.check_images("run create_dataset.py")
    images.check_masks()
    return [Sample(name, image_path(images.images, name), mask_path(images.masks, name)) for name in images.names]


def listed_web_images(config: Config) -> List[str]:
    """Names of the web images that pass the noise filter, as changed by the review."""
    layout = config.layout
    listed = read_list(layout.web_list, "run create_web_masks.py, or create_dataset.py where there are masks")
    names = reviewed_list(layout, listed, read_decisions(layout, config.num_classes))
    if names != listed:
        logger.info("%s: %d images are left out of %s, and %d added to it", layout.web_decisions,
                    len(set(listed) - set(names)), layout.web_list, len(set(names) - set(listed)))
    if not names:
        raise UserError(f"{layout.web_decisions} leaves no image of {layout.web_list} to train on: keep some in "
                        "review_web_masks.py")
    return names


def web_images(config: Config, names: Iterable[str], *, estimated: bool = False, masks: Optional[str] = None
               ) -> MaskedImages:
    """Web images with their masks by co-segmentation or, if `estimated`, by a model; these may be in another folder."""
    layout = config.layout
    labels = {name: [web_class(name, config.num_classes)] for name in names}
    if estimated:
        return MaskedImages(config, labels, images=layout.web_images, masks=masks or layout.web_estimated,
                            script="est_voc_train_masks.py --images web")
    return MaskedImages(config, labels, images=layout.web_images, masks=layout.web_masks, script="create_web_masks.py",
                        record=layout.web_record)


def train_images(config: Config, *, masks: Optional[str] = None, own_masks: bool = False) -> MaskedImages:
    """Training images with their estimated masks, which may be in another folder; `own_masks` need no labels."""
    layout = config.layout
    names = read_list(layout.train_list, "run create_dataset.py")
    labels: Dict[str, List[int]] = dict.fromkeys(names, [])
    if os.path.exists(layout.train_labels) or not own_masks:
        labels = read_labels(layout.train_labels, names, config)
    return MaskedImages(config, labels, images=layout.train_images, masks=masks or layout.train_masks,
                        script="est_voc_train_masks.py")


def read_labels(path: str, names: Sequence[str], config: Config) -> Dict[str, List[int]]:
    """Image-level labels of the names: dict from id to class indices, as the JSON file at `path` holds them."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: run create_dataset.py")
    labels = read_json(path)
    if not isinstance(labels, dict):
        raise UserError(f"{path}: a JSON object from image ids to lists of class indices is expected")
    for name in names:
        if name not in labels:
            raise UserError(f"{path} has no labels for {name}: run create_dataset.py")
        values = labels[name]
        if not isinstance(values, list) or not all(
                type(value) is int and 1 <= value < config.num_classes for value in values):
            raise UserError(f"{path}: the labels of {name} are {values}; a list of class indices "
                            f"1..{config.num_classes - 1} is expected")
    return {name: labels[name] for name in names}


def samples_record(samples: List[Sample]) -> Dict[str, str]:
    """Digests that stand for the content that training reads: ids in their order, images, and masks.

    Masks by another snapshot count as other ones, even where they are the same.
    """
    def combined(values):
        return hashlib.sha256("\n".join(values).encode("utf-8")).hexdigest()

    digests = content_digests([path for sample in samples for path in (sample.image, sample.mask)])
    origins = [StageRecord(f"{folder}.json", folder).origin for folder in sorted({os.path.dirname(sample.mask)
                                                                                  for sample in samples})]
    return {"list_sha256": combined(sample.name for sample in samples), "images_sha256": combined(digests[::2]),
            "masks_sha256": combined(digests[1::2] + [json.dumps(origins, sort_keys=True)])}


def class_prior(samples: List[Sample], config: Config) -> np.ndarray:
    """Share of each class among the labelled pixels of the web images that training draws: (classes,)."""
    shares: Dict[Optional[int], List[np.ndarray]] = {}
    for sample in samples:
        counts = np.bincount(read_mask(sample.mask, config.num_classes).ravel(), minlength=IGNORE_LABEL + 1)
        counts = counts[:config.num_classes]
        shares.setdefault(sample.label, []).append(counts / max(counts.sum(), 1))
    groups = [np.mean(values, 0) for values in shares.values()]
    weights = None if config.web_sampling == "balanced" else [len(values) for values in shares.values()]
    return np.average(groups, 0, weights)
