"""Masks for the training images from a trained model, limited to their image-level labels."""
import collections
import contextlib
import functools
import os
from typing import Optional

import numpy as np

from core.classes import BACKGROUND
from core.config import Config, network_settings
from core.data import MaskedImages, check_classes
from core.dataset.samples import label_shares, listed_web_images, read_labels, web_samples
from core.engines.chooser import resolve_dtype
from core.errors import UserError
from core.inference.crf import crf_settings
from core.inference.options import InferenceOptions
from core.inference.postprocess import estimate, shown_labels
from core.inference.segmenter import Segmenter, scored_images
from core.io.files import read_list, remove, remove_leftovers, write_lines
from core.io.images import read_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.network.snapshots import load_snapshot
from core.paths import check_no_true_mask, class_of, folder_lock, mask_path, stems, web_class
from core.runtime.parallel import ordered_map, process_pool


def estimate_train_masks(config: Config, epoch: int, *, devices: list, crf: bool = False, overwrite: bool = False,
                         jobs: int = 1, model: str = "init", path: Optional[str] = None, output: Optional[str] = None,
                         images: str = "train") -> None:
    """Write cache/final_voc_masks/<id>.png for every training image, or dataset/web_estimated/<name>.png for every web
    image, of the respective list.

    The scores at `config.scales` are added up; classes that are not among the image's labels are left out, the
    background always stays. Masks of the same image, labels, snapshot and settings that are there already are skipped.

    Args:
        epoch: snapshot of `model` to use.
        devices: list of Device, of one engine.
        crf: refine the scores with the dense CRF.
        overwrite: make all masks again; a killed run that did so with the same settings is continued.
        jobs: processes that run the CRF.
        model: "init"; or "final", whose masks train it in another round.
        path: of a snapshot from anywhere, of that model.
        output: another folder for the masks.
        images: "train"; or "web", whose masks train the init model in another round. Those that show their class are
            then listed in dataset/web_estimated_list.txt, by the limits that co-segmentation has, too.

    Raises:
        UserError: list, labels, image or snapshot is missing or wrong; or masks of another snapshot or other settings
            are there and `overwrite` is not set, or other files.
    """
    layout = config.layout
    web = images == "web"
    folder = os.path.abspath(output or (layout.web_estimated if web else layout.train_masks))
    for other, content in ((layout.val_masks, "the true masks of the val images"),
                           (layout.web_masks, "masks by co-segmentation"), (layout.web_corrected, "corrected masks")):
        if os.path.realpath(folder) == os.path.realpath(other):
            raise UserError(f"{folder} holds {content}: choose another --output")
    names = listed_web_images(config) if web else read_list(layout.train_list, "run create_dataset.py")
    check_no_true_mask(folder, names, layout.val_masks)
    snapshot = load_snapshot(config, model, epoch, path)
    config = snapshot.config
    if web:
        labels = {name: [web_class(name, config.num_classes)] for name in names}
        check_classes(config, map(class_of, names))
    else:
        check_classes(config)
        labels = read_labels(layout.train_labels, names, config)
    source = MaskedImages(config, labels, images=layout.web_images if web else layout.train_images, masks=folder,
                          script="est_voc_train_masks.py")
    source.check_images("run create_web_masks.py again" if web else "run create_dataset.py")
    options = InferenceOptions(config.scales, crf, resolve_dtype(config.dtype, devices))
    with locked(folder_lock(folder), f"mask estimation into {folder}"):
        remove_leftovers(folder)
        priors = _priors(layout, config, model)
        record, done = _claim(source, _origin(snapshot, options, priors, web), overwrite)
        listing = web and os.path.realpath(folder) == os.path.realpath(layout.web_estimated)
        if listing:
            remove(layout.web_estimated_list, missing_ok=True)  # an earlier run's
        rest = [name for name in names if name not in done]
        logger.info("%d masks to estimate, %d there already", len(rest), len(names) - len(rest))

        segmenter = Segmenter(snapshot, devices, options.dtype)
        work = functools.partial(estimate, config=config, crf=crf, labels=labels, folder=folder, priors=priors)
        with record, process_pool(jobs) if crf and jobs > 1 else contextlib.nullcontext() as pool:
            scored = scored_images(segmenter, rest, folder=source.images, options=options)
            made = progress(ordered_map(work, scored, pool, 2 * jobs), len(rest), "mask estimation")
            shown = collections.Counter(label for _, found in made for label in found)
            record.finish()
        for name in filter(done.__contains__, names):
            mask = read_mask(mask_path(folder, name), config.num_classes)
            shown.update(shown_labels(mask, labels[name]))
        logger.info("masks of %d %s images are in %s", len(names), "web" if web else "training", folder)
        if listing:
            _write_web_list(layout, config, labels)
    _log_shown(shown, collections.Counter(label for values in labels.values() for label in values), config)


def _priors(layout, config, model):
    """(classes,) array that the init model's scores are divided by, or None.

    Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), equation 9. Most pixels of web images are
    background, so where the network is unsure it says background; that an image's labels are known makes it too timid.
    """
    if not config.logit_adjustment or model != "init":
        return None
    shares = label_shares(web_samples(config), config)
    logger.info("shares of the classes in the masks of the web images: %s",
                ", ".join(f"{name} {100 * share:.2f} %" for name, share in zip(config.classes, shares)))
    return np.where(shares > 0, shares / shares.max(), 1) ** config.logit_adjustment


def _origin(snapshot, options, priors, web):
    """What all masks depend on; float32 and no priors go without saying."""
    origin = {"model": snapshot.model, "epoch": snapshot.epoch, "snapshot_sha256": snapshot.digest,
              "scales": options.scales, "network": network_settings(snapshot.config),
              "crf": crf_settings(snapshot.config) if options.crf else None}
    if options.dtype != "float32":
        origin["dtype"] = options.dtype
    if web:
        origin["images"] = "web"
    if priors is not None:
        origin["priors"] = [float(f"{prior:.6g}") for prior in priors]
    return origin


def _claim(images, origin, overwrite):
    """(record, ids of the masks that may stay); those that are out of date are removed, and other files stay.

    Raises UserError if masks of another origin are there, or files that are no masks of this script.
    """
    there = stems(images.masks, ".png")
    foreign = there - set(images.names)
    record = images.record()
    if foreign and not os.path.exists(record.path):
        raise UserError(f"{mask_path(images.masks, min(foreign))} is not the mask of a training image: choose another "
                        "folder for the masks")
    record.claim(origin, present=bool(there), overwrite=overwrite)
    outdated = there & record.stale(images.inputs())
    for name in outdated:
        remove(mask_path(images.masks, name))
    return record, there - outdated


def _write_web_list(layout, config, labels):
    """List the web images whose estimated masks have as much foreground as co-segmentation asks for."""
    kept = []
    for name in labels:
        share = (read_mask(mask_path(layout.web_estimated, name), config.num_classes) != BACKGROUND).mean()
        if config.web_min_foreground <= share <= config.web_max_foreground:
            kept.append(name)
    write_lines(layout.web_estimated_list, kept)
    logger.info("%d of them, those with a usual share of foreground, are in %s: train_seg_model.py --model init "
                "--web-masks estimated trains on these", len(kept), layout.web_estimated_list)


def _log_shown(shown, labelled, config):
    """Log how many of the images labelled with a class have a mask that shows it: two Counters of class indices."""
    logger.info("masks that show a label of their image: %s", ", ".join(
        f"{config.classes[label]} {shown[label]} of {labelled[label]}" for label in sorted(labelled)) or "none")
    lost = [config.classes[label] for label in sorted(labelled) if not shown[label]]
    if lost:
        logger.warning("no mask shows %s, so training on them teaches nothing about it: look at the model's own "
                       "evaluation; longer training or better web images may help", ", ".join(lost))
