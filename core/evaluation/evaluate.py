"""Stages 3 and 6: evaluate snapshots on images with masks."""
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import time

import numpy as np

from core.errors import UserError
from core.evaluation.metrics import image_iou, summarise
from core.evaluation.report import Example, best_and_worst, write_report
from core.evaluation.results import ResultFolder, identity, report
from core.inference.options import EvaluationOptions, InferenceOptions
from core.inference.postprocess import compare, masks_folder, predict, scores_path, scoring_settings
from core.inference.segmenter import Segmenter, scored_images
from core.io.files import cached_digest, read_json, read_list, write_json
from core.io.images import read_mask
from core.io.locks import locked
from core.io.logs import logger, progress, versions
from core.network.snapshots import load_snapshot
from core.paths import Layout, check_no_true_mask, check_pairs, image_path, mask_path
from core.runtime.mxnet_backend import resolve_dtype
from core.runtime.parallel import ordered_map, process_pool

NO_MASKS = "none"  # stands for the folder of masks where there are none


def evaluation_options(config, model, *, epoch, ms=False, crf=False, save_masks=False, save_scores=False, flip=False,
                       **places):
    """Options of an evaluation, of VOC val by default.

    Args:
        ms: add up the scores of `config.scales` instead of taking the image as it is.
        flip: add up the scores of the image and of its mirror image.
        places: list, images, masks, output; None keeps the default. The masks NO_MASKS mean that there are none; the
            predictions are then kept.
    """
    layout = Layout(config)
    paths = {"list": layout.val_list, "images": layout.val_images, "masks": layout.val_masks,
             "output": layout.output(model, epoch)}
    paths.update((name, path) for name, path in places.items() if path is not None)
    if paths["masks"] == NO_MASKS:
        paths["masks"] = None
        save_masks = True
    inference = InferenceOptions(config.scales if ms else (1.0,), flip, crf)
    return EvaluationOptions(inference, save_masks=save_masks, save_scores=save_scores, **paths)


def evaluate(config, model, *, epoch, devices, options, jobs=1):
    """Predict every image of the list and compare it with its mask, if there are masks.

    Goes on where an earlier run with the same snapshot and settings was killed; report.html and result.json appear at
    the end.

    Args:
        devices: list of mxnet.Context.
        options: what `evaluation_options` gives; the setting dtype decides in what type the network computes.
        jobs: processes that run the CRF.

    Returns:
        dict, as result.json holds it: what `metrics.summarise` gives, the mean IoU of every image, and the settings.

    Raises:
        UserError: list, image, mask or snapshot is missing or wrong.
    """
    layout = Layout(config)
    _check_list(options.list, layout)
    names = read_list(options.list)
    if options.save_masks:
        check_no_true_mask(masks_folder(options.output), names, *{layout.val_masks, options.masks or layout.val_masks})
    check_pairs(names, (image_path, options.images, "run create_dataset.py, or see --images"))
    if options.masks is not None:
        check_pairs(names, (mask_path, options.masks, "run create_dataset.py, or see --masks; --masks %s only predicts"
                            % NO_MASKS))
    snapshot = load_snapshot(config, model, epoch)
    inference = dataclasses.replace(options.inference, dtype=resolve_dtype(config.dtype, devices))
    options = dataclasses.replace(options, inference=inference)
    keys = _data_keys(options, names)
    settings = _settings(snapshot, options, keys)
    saved = ["masks"] * options.save_masks + ["scoremaps"] * options.save_scores
    folder = ResultFolder(options.output)
    finished = _find(folder, settings, saved, options, names)
    if not finished:
        with locked(folder.lock, "evaluation into %s" % options.output, wait=True):
            finished = _find(folder, settings, saved, options, names)  # what this process waited for, perhaps
            if not finished:
                return _evaluate(snapshot, options, devices=devices, jobs=jobs, keys=keys, settings=settings,
                                 saved=saved, folder=folder)
    logger.info("%s holds this evaluation already", folder.path)
    report(finished)
    return finished


def _find(folder, settings, saved, options, names):
    """The stored result with these settings whose kinds of files are all there, or None."""
    return folder.find(settings, saved) if all(_is_saved(name, saved, options) for name in names) else None


def _is_saved(name, saved, options):
    """Whether an image's files of the kinds `saved` are all there."""
    paths = {"masks": mask_path(masks_folder(options.output), name), "scoremaps": scores_path(options.output, name)}
    return all(os.path.exists(paths[kind]) for kind in saved)


def _check_list(path, layout):
    """Raise UserError if the val list is wanted and there is none."""
    if path == layout.val_list and not os.path.exists(path):
        raise UserError("%s is missing: create_dataset.py writes it, of val images with masks; without such images "
                        "choose an epoch by its number, or --epoch newest" % path)


def _evaluate(snapshot, options, *, devices, jobs, keys, settings, saved, folder):
    """Do the work of `evaluate`, under the folder's lock."""
    config = snapshot.config
    folder.disown(saved)
    journal = folder.journal(settings, saved, config.num_classes)
    counts = {name: journal.done[key] for name, key in keys.items()
              if key in journal.done and _is_saved(name, saved, options)}
    rest = [name for name in keys if name not in counts]
    if counts:
        logger.info("going on after %d of %d images", len(counts), len(keys))
    start = time.perf_counter()
    segmenter = Segmenter(snapshot, devices, options.inference.dtype)
    work = functools.partial(compare, config=config, options=options)
    with journal, process_pool(jobs) if options.inference.crf and jobs > 1 else contextlib.nullcontext() as pool:
        scored_rest = scored_images(segmenter, rest, folder=options.images, options=options.inference)
        compared = ordered_map(work, scored_rest, pool, 2 * jobs)
        for scored, counted in progress(compared, len(rest), os.path.basename(options.output)):
            journal.add(keys[scored.name], counted)
            counts[scored.name] = counted
    seconds = (time.perf_counter() - start) / max(1, len(rest))
    logger.info("%.3f seconds an image", seconds)
    confusion = sum(counts.values(), np.zeros((config.num_classes,) * 2, np.int64))
    result = dict(summarise(confusion, config.classes), model=snapshot.model, epoch=snapshot.epoch, settings=settings,
                  saved=saved, versions=versions(), device=", ".join(map(str, devices)),
                  seconds_per_image=round(seconds, 4), config=config.changed(), confusion=confusion.tolist(),
                  image_iou={name: image_iou(counts[name]) for name in keys})
    if options.masks is not None:
        shown = itertools.chain(*best_and_worst(result["image_iou"]))
        write_report(options.output, result, _examples(config, options, segmenter, list(shown)),
                     [old for old in folder.stored() if identity(old["settings"]) != identity(settings)
                      and old["settings"]["masks"]])
    folder.write(result)
    journal.remove()
    report(result)
    return result


def _examples(config, options, segmenter, names):
    """Dict from id to `reports.Example`, of the images that a report shows."""
    examples = {}
    for scored in scored_images(segmenter, names, folder=options.images, options=options.inference):
        mask, _ = predict(scored, config, options.inference.crf)
        truth = read_mask(mask_path(options.masks, scored.name), config.num_classes, mask.shape)
        examples[scored.name] = Example(scored.name, scored.image, truth, mask)
    return examples


def evaluate_all(config, model, *, devices, ms=False, crf=False, wait_hours=None, jobs=1, flip=False):
    """Evaluate every snapshot of `model` that has no result with these settings yet, then rank them.

    A snapshot that can't be evaluated is reported and left out; the others go on.

    Args:
        wait_hours: hours to wait before looking for new snapshots; None looks once. The loop ends when nothing new
            came in that time.

    Returns:
        list of (epoch, mean IoU), the best first. It is also written to outputs/<model>_ranking.json.

    Raises:
        UserError: there are no val images, or no snapshot could be evaluated.
    """
    layout = Layout(config)
    _check_list(layout.val_list, layout)
    results, failures = {}, {}
    while True:
        new = [epoch for epoch in layout.epochs(model) if epoch not in results and epoch not in failures]
        for epoch in new:
            try:
                options = evaluation_options(config, model, epoch=epoch, ms=ms, crf=crf, flip=flip)
                results[epoch] = evaluate(config, model, epoch=epoch, devices=devices, options=options, jobs=jobs)
            except UserError as error:
                failures[epoch] = str(error)
                logger.error("epoch %d can't be evaluated: %s", epoch, error)
            else:
                _rank(layout, model, config, results, ms, crf, flip)  # now, as training with --keep goes by it
        if wait_hours is None or not new:
            break
        logger.info("waiting %.2f h for new snapshots", wait_hours)
        time.sleep(wait_hours * 3600)

    for epoch, message in failures.items():
        logger.error("left out: epoch %d: %s", epoch, message)
    ranking = _rank(layout, model, config, results, ms, crf, flip)
    if not ranking:
        raise UserError("no snapshot of the %s model in %s could be evaluated" % (model, layout.snapshots))
    for place, (epoch, mean_iou) in enumerate(ranking, 1):
        logger.info("%3d. epoch %3d  mean IoU %.2f %%", place, epoch, 100 * mean_iou)
    logger.info("best epoch of the %s model: %d", model, ranking[0][0])
    return ranking


def _rank(layout, model, config, results, ms, crf, flip):
    """Write the ranking of the epochs whose snapshots are still there, and return it; see `evaluate_all`."""
    there = set(layout.epochs(model))
    ranking = sorted(((epoch, result["mean_iou"] or 0.0) for epoch, result in results.items() if epoch in there),
                     key=lambda row: (-row[1], row[0]))
    rows = [{"epoch": epoch, "mean_iou": iou, "snapshot_sha256": results[epoch]["settings"]["snapshot_sha256"]}
            for epoch, iou in ranking]
    if rows:
        write_json(layout.ranking(model), {"scales": list(config.scales) if ms else [1.0], "crf": crf, "flip": flip,
                                           "ranking": rows})
    return ranking


def find_epoch(config, model, text):
    """Epoch that a flag names: a number, "newest", or "best" for the first of eval_loop.py's ranking.

    Raises:
        UserError: it is none of these, or there is no snapshot or no ranking.
    """
    if text == "newest":
        epochs = Layout(config).epochs(model)
        if not epochs:
            raise UserError("%s is missing: there is no snapshot of the %s model" % (
                Layout(config).snapshot_prefix(model) + "-<epoch>.params", model))
        return epochs[-1]
    if text != "best":
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise UserError("epoch %r: a number is expected, newest, or best" % text)
        return int(text)
    path = Layout(config).ranking(model)
    if not os.path.exists(path):
        raise UserError("%s is missing: eval_loop.py --model %s finds the best epoch where there are val "
                        "images with masks; else give a number, or newest" % (path, model))
    try:
        best = read_json(path)["ranking"][0]
        epoch, ranked = int(best["epoch"]), best.get("snapshot_sha256")  # of older rankings None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        raise UserError("%s is no ranking of eval_loop.py" % path) from None
    snapshot = Layout(config).snapshot(model, epoch)
    if ranked and os.path.exists(snapshot) and cached_digest(snapshot) != ranked:
        raise UserError("%s has changed since %s was made: run eval_loop.py --model %s --once again, or give a number"
                        % (snapshot, path, model))
    return epoch


def _data_keys(options, names):
    """Dict from id to a text that is another one once the image, or its mask, has another content."""
    keys = {}
    for name in names:
        paths = [image_path(options.images, name)]
        if options.masks is not None:
            paths.append(mask_path(options.masks, name))
        keys[name] = " ".join([name] + [cached_digest(path) for path in paths])
    return keys


def _settings(snapshot, options, keys):
    """What decides the numbers of an evaluation, as JSON keeps it."""
    names, data = (hashlib.sha256("\n".join(values).encode("utf-8")).hexdigest() for values in (keys, keys.values()))
    return dict(scoring_settings(snapshot, options.inference),
                images=options.images, masks=options.masks, names_sha256=names, data_sha256=data)
