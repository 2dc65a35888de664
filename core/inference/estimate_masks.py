"""Masks for the training images from a trained model, limited to their image-level labels."""
import collections
import dataclasses
import functools
import os
from typing import Optional

import numpy as np

from core.classes import BACKGROUND
from core.config import Config, network_settings, side_settings
from core.data import check_classes
from core.dataset.samples import listed_web_images, train_images, web_images
from core.errors import UserError
from core.inference.crf import crf_settings
from core.inference.options import InferenceOptions
from core.inference.priors import SAMPLE, lower_to_cosegmentation, web_prior
from core.inference.pseudo_masks import Estimation, estimate
from core.inference.segmenter import Segmenter, scored_images, settled_dtype
from core.io.files import remove, remove_leftovers, write_lines
from core.io.images import read_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.io.provenance import StageRecord
from core.network.snapshots import load_snapshot
from core.paths import check_no_true_mask, class_of, folder_lock, image_path, mask_path, stems
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
    snapshot = load_snapshot(config, model, epoch, path)
    config = snapshot.config
    targets = _targets(config, images, output)
    pictures = [image_path(targets.images, name) for name in targets.names]
    options = InferenceOptions(config.scales, crf, settled_dtype(snapshot, devices, pictures))
    merged = images == "train" and config.cosegmented_images == "web+train"
    posteriors = config.layout.train_posteriors if merged else None
    with locked(folder_lock(targets.masks), f"mask estimation into {targets.masks}"):
        remove_leftovers(targets.masks)
        record, done = _claim(targets, _origin(snapshot, options, images, posteriors), overwrite)
        listing = images == "web" and _same(targets.masks, config.layout.web_estimated)
        if listing:
            remove(config.layout.web_estimated_list, missing_ok=True)  # an earlier run's
        rest = [name for name in targets.names if name not in done]
        logger.info("%d masks to estimate, %d there already", len(rest), len(targets.names) - len(rest))

        segmenter = Segmenter(snapshot, devices, options.dtype)
        prior = _prior(segmenter, snapshot, targets, posteriors, options) if rest else None
        work = functools.partial(estimate, estimation=Estimation(
            config, crf, targets.labels, prior, posteriors, targets.masks))
        with record, process_pool(jobs if crf else 1) as pool:
            scored = scored_images(segmenter, rest, folder=targets.images, options=options)
            for _ in progress(ordered_map(work, scored, pool, 2 * jobs), len(rest), "mask estimation"):
                pass
            record.finish()
        logger.info("masks of %d images are in %s", len(targets.names), targets.masks)
        _conclude(targets, config, listing)


def _targets(config, images, output):
    """`MaskedImages` to estimate masks of; raises UserError if their folder of masks is for other ones."""
    layout = config.layout
    if images == "web":
        targets = web_images(config, listed_web_images(config), estimated=True, masks=output)
        check_classes(config, map(class_of, targets.names))
        targets.check_images("run create_web_masks.py again")
    else:
        targets = train_images(config, masks=output)
        check_classes(config)
        targets.check_images("run create_dataset.py")
    for other, content in ((layout.val_masks, "the true masks of the val images"),
                           (layout.web_masks, "masks by co-segmentation"), (layout.web_corrected, "corrected masks")):
        if _same(targets.masks, other):
            raise UserError(f"{targets.masks} holds {content}: choose another --output")
    check_no_true_mask(targets.masks, targets.names, layout.val_masks)
    return targets


def _same(folder, other):
    return os.path.realpath(folder) == os.path.realpath(other)


def _prior(segmenter, snapshot, targets, posteriors, options):
    """(classes,) array that the model's scores are divided by, or None."""
    prior = web_prior(snapshot)
    if prior is None or posteriors is None:
        return prior
    labelled = collections.defaultdict(list)
    for name in targets.names:
        for label in set(targets.labels[name]):
            labelled[label].append(name)
    sample = {name for names in labelled.values() for name in names[::-(-len(names) // SAMPLE)]}
    scored = scored_images(segmenter, progress(sorted(sample), len(sample), "shares of the classes"),
                           folder=targets.images, options=dataclasses.replace(options, scales=(1.0,)))
    return lower_to_cosegmentation(prior, scored, targets.labels, posteriors, snapshot.config)


def _origin(snapshot, options, images, posteriors):
    """What all masks depend on; float32 goes without saying."""
    config = snapshot.config
    origin = {"model": snapshot.model, "epoch": snapshot.epoch, "snapshot_sha256": snapshot.digest, "images": images,
              "scales": options.scales, "network": network_settings(config),
              "crf": crf_settings(config) if options.crf else None, "logit_adjustment": config.logit_adjustment,
              "min_confidence": config.min_confidence, "cosegmentation": None}
    if posteriors:
        origin["cosegmentation"] = StageRecord(config.layout.web_record, posteriors).origin
    if options.dtype != "float32":
        origin["dtype"] = options.dtype
    return {**origin, **side_settings(config)}


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


def _conclude(targets, config, listing):
    """Log how many of the images labelled with a class have a mask that shows it, and write the list of the web images
    whose masks have as much foreground as co-segmentation asks for, if it is asked for."""
    shown, labelled, kept = collections.Counter(), collections.Counter(), []
    for name in targets.names:
        mask = read_mask(mask_path(targets.masks, name), config.num_classes)
        labelled.update(targets.labels[name])
        shown.update(set(np.unique(mask)).intersection(targets.labels[name]))
        if config.web_min_foreground <= (mask != BACKGROUND).mean() <= config.web_max_foreground:
            kept.append(name)
    logger.info("masks that show a label of their image: %s", ", ".join(
        f"{config.classes[label]} {shown[label]} of {labelled[label]}" for label in sorted(labelled)) or "none")
    lost = [config.classes[label] for label in sorted(labelled) if not shown[label]]
    if lost:
        logger.warning("no mask shows %s, so training on them teaches nothing about it: look at the model's own "
                       "evaluation; longer training or better web images may help", ", ".join(lost))
    if listing:
        listed = config.layout.web_estimated_list
        write_lines(listed, kept)
        logger.info("%d of them, those with a usual share of foreground, are in %s: train_seg_model.py --model init "
                    "--web-masks estimated trains on these", len(kept), listed)
