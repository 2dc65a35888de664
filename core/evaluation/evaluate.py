"""Evaluate a snapshot on images with masks."""
import dataclasses
import functools
import hashlib
import itertools
import os
import time
from typing import Any, Dict, Optional

import numpy as np

from core.config import Config
from core.data import check_classes
from core.errors import UserError
from core.evaluation.metrics import image_iou, summarise
from core.evaluation.per_image import examples, image_inputs, is_saved, pack_counts, unpack_counts
from core.evaluation.report import best_and_worst, write_report
from core.evaluation.results import ResultFolder, report
from core.inference.options import EvaluationOptions, InferenceOptions
from core.inference.postprocess import compare, masks_folder, scoring_settings
from core.inference.segmenter import Segmenter, scored_images, settled_dtype
from core.io.files import read_list, remove_leftovers
from core.io.locks import locked
from core.io.logs import logger, progress, versions
from core.network.snapshots import load_snapshot
from core.paths import Layout, check_files, check_no_true_mask, image_path
from core.runtime.parallel import ordered_map, process_pool

NO_MASKS = "none"  # stands for the folder of masks where there are none


def evaluation_options(config: Config, model: str, *, epoch: int, ms: bool = False, crf: bool = False,
                       save_masks: bool = False, save_scores: bool = False,
                       **places: Optional[str]) -> EvaluationOptions:
    """Options of an evaluation, of VOC val by default.

    Args:
        ms: add up the scores of `config.scales` instead of taking the image as it is.
        places: list, images, masks, output; None keeps the default. The masks NO_MASKS mean that there are none; the
            predictions are then kept.
    """
    layout = config.layout
    paths: Dict[str, Any] = {"list": layout.val_list, "images": layout.val_images, "masks": layout.val_masks,
                             "output": layout.output(model, epoch)}
    paths.update((name, path) for name, path in places.items() if path is not None)
    if paths["masks"] == NO_MASKS:
        paths["masks"] = None
        save_masks = True
    inference = InferenceOptions(config.scales if ms else (1.0,), crf)
    return EvaluationOptions(inference, save_masks=save_masks, save_scores=save_scores, **paths)


def evaluate(config: Config, model: str, *, epoch: int, devices: list, options: EvaluationOptions,
             path: Optional[str] = None, jobs: int = 1) -> Dict[str, Any]:
    """Predict every image of the list and compare it with its mask, if there are masks.

    Continues where an earlier run with the same snapshot and settings was killed; report.html and result.json appear at
    the end. What is there already is used only where snapshot, images and masks still have the same content.

    Args:
        options: what `evaluation_options` gives; the setting dtype decides in what type the network computes.
        path: of a snapshot from anywhere, of that model.
        jobs: processes that run the CRF.

    Returns:
        dict, as result.json holds it: what `metrics.summarise` gives, the mean IoU of every image, and the settings.

    Raises:
        UserError: list, image, mask or snapshot is missing or wrong, or the masks have other classes.
    """
    layout = config.layout
    check_list(options.list, layout)
    names = read_list(options.list)
    if options.save_masks:
        check_no_true_mask(masks_folder(options.output), names, *{layout.val_masks, options.masks or layout.val_masks})
    check_files(options.images, ".jpg", names, "run create_dataset.py, or see --images")
    if options.masks is not None:
        check_files(options.masks, ".png", names,
                    f"run create_dataset.py, or see --masks; --masks {NO_MASKS} only predicts")
    snapshot = load_snapshot(config, model, epoch, path)
    if options.masks is not None and os.path.realpath(options.masks) == os.path.realpath(layout.val_masks):
        check_classes(snapshot.config)
    inference = dataclasses.replace(options.inference, dtype=settled_dtype(
        snapshot, devices, [image_path(options.images, name) for name in names]))
    options = dataclasses.replace(options, inference=inference)
    inputs = image_inputs(options, names)
    settings = _settings(snapshot, options, inputs)
    saved = ["masks"] * options.save_masks + ["scoremaps"] * options.save_scores
    folder = ResultFolder(options.output)
    with locked(folder.lock, f"evaluation into {options.output}", wait=True):
        finished = folder.find(settings, saved)
        if not finished or not all(is_saved(name, saved, folder.folder) for name in names):
            return _evaluate(snapshot, options, devices=devices, jobs=jobs, inputs=inputs, settings=settings,
                             saved=saved, folder=folder)
    logger.info("%s holds this evaluation already", folder.path)
    report(finished)
    return finished


def check_list(path: str, layout: Layout) -> None:
    """Raise UserError if the val list is wanted and there is none."""
    if path == layout.val_list and not os.path.exists(path):
        raise UserError(f"{path} is missing: create_dataset.py writes it, of val images with masks; without such "
                        "images choose an epoch by its number, or --epoch newest")


def _evaluate(snapshot, options, *, devices, jobs, inputs, settings, saved, folder):
    """Do the work of `evaluate`, under the folder's lock."""
    config = snapshot.config
    remove_leftovers(options.output)
    folder.release(saved)
    record = folder.record(settings, saved)
    record.stale(inputs)
    counted = {name for name in inputs if name in record.values and is_saved(name, saved, options.output)}
    rest = [name for name in inputs if name not in counted]
    if counted:
        logger.info("continuing after %d of %d images", len(counted), len(inputs))
    start = time.perf_counter()
    segmenter = Segmenter(snapshot, devices, options.inference.dtype)
    work = functools.partial(compare, config=config, options=options)
    with record, process_pool(jobs if options.inference.crf else 1) as pool:
        scored_rest = scored_images(segmenter, rest, folder=options.images, options=options.inference)
        compared = ordered_map(work, scored_rest, pool, 2 * jobs)
        for scored, confusion in progress(compared, len(rest), os.path.basename(os.path.abspath(options.output))):
            record.done(scored.name, pack_counts(confusion))
    seconds = (time.perf_counter() - start) / max(1, len(rest))
    logger.info("%.3f seconds an image", seconds)
    total = np.zeros((config.num_classes,) * 2, np.int64)
    ious = {}
    for name in inputs:
        confusion = unpack_counts(record.values[name], config.num_classes)
        total += confusion
        ious[name] = image_iou(confusion)
    result = dict(summarise(total, config.classes), model=snapshot.model, epoch=snapshot.epoch, settings=settings,
                  saved=saved, versions=versions(), device=", ".join(map(str, devices)),
                  seconds_per_image=round(seconds, 4), config=config.changed(), confusion=total.tolist(),
                  image_iou=ious)
    if options.masks is not None:
        shown = list(itertools.chain(*best_and_worst(ious)))
        write_report(options.output, result, examples(config, options, segmenter, shown), folder.others(settings))
    folder.write(result)
    record.finish()
    report(result)
    return result


def _settings(snapshot, options, inputs):
    """What decides the numbers of an evaluation, as JSON keeps it."""
    names, data = (hashlib.sha256("\n".join(values).encode("utf-8")).hexdigest()
                   for values in (inputs, inputs.values()))
    return dict(scoring_settings(snapshot, options.inference),
                images=options.images, masks=options.masks, names_sha256=names, data_sha256=data)
