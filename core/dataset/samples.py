"""What the models are trained on: lists of images with their masks, checked against the notes of the stages before.

Does not import mxnet.
"""
import hashlib
import json
import os
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.errors import UserError
from core.io.files import read_json, read_list
from core.io.images import read_mask
from core.io.logs import logger
from core.io.provenance import StageRecord, check_classes, content_digests
from core.paths import Layout, check_pairs, class_of, image_path, mask_path, web_class
from core.web.corrections import corrected_names, read_decisions, reviewed_list


class Sample(NamedTuple):
    """A training image: its id, its path, that of its mask, and the class index of a web image."""
    name: str
    image: str
    mask: str
    label: Optional[int] = None


def listed_web_images(config: Config) -> List[str]:
    """Names of the web images that pass the noise filter, as changed by the review.

    Raises:
        UserError: there is no list, or the review leaves nothing of it.
    """
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


def web_samples(config: Config) -> List[Sample]:
    """Samples of the init model: web images with the masks that the setting `web_masks` names.

    With "both", every image occurs with either mask. A corrected mask replaces both.

    Raises:
        UserError: a list or a file is missing, a name has no valid class index, or its class had another one, or its
            image another content, when the masks were made.
    """
    layout = config.layout
    names = listed_web_images(config)
    indices = {name: web_class(name, config.num_classes) for name in names}
    check_classes(layout.classes, config.classes, indices.values())
    samples = []
    if config.web_masks != "estimated":
        samples += _cosegmented(layout, config, names)
    if config.web_masks != "cosegmented":
        samples += _estimated(layout, config, names)
    return samples


def _cosegmented(layout, config, names):
    record = StageRecord(layout.web_record, f"the masks in {layout.web_masks}", earlier_key="settings")
    if record.earlier:
        raise UserError(f"{layout.web_record} was written by another version of this program: run create_web_masks.py "
                        "--overwrite, or remove the file if the masks are your own")
    if record.overwriting:
        raise UserError(f"{layout.web_masks} holds masks of two runs, as create_web_masks.py --overwrite was "
                        "interrupted: run it again")
    _check_web_classes(layout, config, names, (record.origin or {}).get("settings", {}))
    remedy = "see dataset/README.md for what belongs there"
    corrected = set(corrected_names(layout))
    check_pairs(names, (image_path, layout.web_images, remedy))
    check_pairs([name for name in names if name not in corrected], (mask_path, layout.web_masks, remedy))
    samples = [Sample(name, image_path(layout.web_images, name), layout.web_mask(name), class_of(name))
               for name in names]
    _check_images(samples, record.items, layout, "create_web_masks.py")
    return samples


def _estimated(layout, config, names):
    remedy = "run est_voc_train_masks.py --images web"
    shown = set(read_list(layout.web_estimated_list, remedy))
    record = estimation_record(layout.web_estimated)
    if record.origin is None:
        raise UserError(f"{record.path} is missing, so nothing says what the masks beside it show: {remedy} "
                        "--overwrite")
    _check_web_classes(layout, config, names, record.origin.get("network", {}))
    corrected = set(corrected_names(layout))
    check_pairs([name for name in names if name not in record.items and name not in corrected],
                (mask_path, layout.web_estimated, remedy))
    names = [name for name in names if name in shown or name in corrected]
    if not names:
        raise UserError(f"{layout.web_estimated_list} names no image of {layout.web_list}: {remedy}")
    check_pairs(names, (image_path, layout.web_images, "see dataset/README.md for what belongs there"))
    check_pairs([name for name in names if name not in corrected], (mask_path, layout.web_estimated, remedy))
    samples = [Sample(name, image_path(layout.web_images, name), layout.web_mask(name, estimated=True), class_of(name))
               for name in names]
    _check_images(samples, {name: item["image"] for name, item in record.items.items()}, layout,
                  "est_voc_train_masks.py --images web")
    return samples


def _check_web_classes(layout, config, names, then):
    """Raise UserError if the class of a name had another index in the settings with which its mask was made."""
    classes = dict(enumerate(then.get("classes", config.classes)))
    for name in names:
        index = web_class(name, config.num_classes)
        if classes.get(index) != config.classes[index]:
            raise UserError(f"{image_path(layout.web_images, name)} was of class {classes.get(index, 'none')} when its "
                            f"mask was made, and class {index} is {config.classes[index]} now: bring back the order "
                            "of the classes, or fetch and co-segment into another --root")


def voc_samples(config: Config) -> List[Sample]:
    """Samples of the final model: training images with estimated masks.

    Raises:
        UserError: the list or a file is missing, or classes, labels or images have changed since the masks were
            estimated.
    """
    layout = config.layout
    names = read_list(layout.train_list, "run create_dataset.py")
    check_classes(layout.classes, config.classes)
    images = _check_estimation(layout, config, names)
    check_pairs(names, (image_path, layout.train_images, "run create_dataset.py"),
                (mask_path, layout.train_masks, "run est_voc_train_masks.py"))
    samples = [Sample(name, image_path(layout.train_images, name), mask_path(layout.train_masks, name))
               for name in names]
    _check_images(samples, images, layout, "est_voc_train_masks.py")
    return samples


def estimation_record(folder: str) -> StageRecord:
    """Record of the masks that est_voc_train_masks.py wrote into a folder.

    Its origin names the snapshot, the settings and, as "network", what the network is like; its items are
    {"image": SHA-256, "labels": class indices}.
    """
    return StageRecord(folder + ".json", f"the masks in {folder}", earlier_key="snapshot_sha256")


def _check_estimation(layout, config, names):
    """Dict from id to the SHA-256 of the image that its mask was estimated from, for those that are recorded.

    Raises UserError if the masks were made for other classes, or for other labels of an image, than there are now.
    """
    record = estimation_record(layout.train_masks)
    if record.earlier:
        raise UserError(f"{record.path} was written by another version of this program: run est_voc_train_masks.py "
                        "with --overwrite")
    if record.origin is None:
        logger.warning("%s is missing: nothing says what the masks beside it were estimated with", record.path)
        return {}
    if record.origin.get("network", {}).get("classes", list(config.classes)) != list(config.classes):
        raise UserError(f"{record.path} names other classes than the setting classes has now: run "
                        "est_voc_train_masks.py with --overwrite")
    then = {name: item["labels"] for name, item in record.items.items()}
    now = read_labels(layout.train_labels, names, config) if os.path.exists(layout.train_labels) else then
    for name in names:
        if name in then and then[name] != now[name]:
            raise UserError(f"{mask_path(layout.train_masks, name)} was estimated with other labels than "
                            f"{layout.train_labels} has now: run est_voc_train_masks.py again")
    return {name: item["image"] for name, item in record.items.items()}


def _check_images(samples, then, layout, script):
    """Raise UserError if an image has changed since `script` made its mask; `then`: dict from id to SHA-256."""
    samples = [sample for sample in samples if sample.name in then]
    for sample, digest in zip(samples, content_digests([sample.image for sample in samples], layout.digests)):
        if digest != then[sample.name]:
            raise UserError(f"{sample.image} has changed since {script} made its mask: run {script} again")


def samples_record(samples: List[Sample], layout: Layout) -> Dict[str, str]:
    """Digests that stand for the content that training reads: ids in their order, images, and masks with the labels."""
    def combined(values):
        return hashlib.sha256("\n".join(values).encode("utf-8")).hexdigest()

    digests = content_digests([path for sample in samples for path in (sample.image, sample.mask)], layout.digests)
    masks = digests[1::2]
    if samples and os.path.dirname(samples[0].mask) == layout.train_masks:  # another snapshot counts as other masks
        masks.append(json.dumps(estimation_record(layout.train_masks).origin, sort_keys=True))
    return {"list_sha256": combined(sample.name for sample in samples), "images_sha256": combined(digests[::2]),
            "masks_sha256": combined(masks)}


def label_shares(samples: List[Sample], config: Config) -> np.ndarray:
    """Share of each class among the labelled pixels that the init model is trained on: (classes,).

    Args:
        samples: as `web_samples` gives them.
    """
    shares: Dict[int, List[np.ndarray]] = {}
    for sample in samples:
        counts = np.bincount(read_mask(sample.mask, config.num_classes).ravel(), minlength=IGNORE_LABEL + 1)
        counts = counts[:config.num_classes]
        shares.setdefault(class_of(sample.name), []).append(counts / max(counts.sum(), 1))
    groups = [np.mean(values, 0) for values in shares.values()]
    weights = None if config.web_sampling == "balanced" else [len(values) for values in shares.values()]
    return np.average(groups, 0, weights)


def read_labels(path: str, names: Sequence[str], config: Config) -> Dict[str, List[int]]:
    """Image-level labels.

    Args:
        path: JSON file, from id to a list of class indices.
        names: ids that must be in it.

    Returns:
        dict from id to list of int.

    Raises:
        UserError: the file is missing or wrong, lacks an id, or has a label out of range.
    """
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


def training_samples(model: str, config: Config) -> List[Sample]:
    """Samples that train `model`, in the order of its list; web images follow those of the final model, if the setting
    `final_web_share` asks for them."""
    if model == "init":
        return web_samples(config)
    return voc_samples(config) + (web_samples(config) if config.final_web_share else [])
