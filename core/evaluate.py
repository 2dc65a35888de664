"""Stages 3 and 6: evaluate snapshots on images with masks."""
import collections
import contextlib
import functools
import hashlib
import os
import re
import time

import numpy as np

from core.backend import resolve_dtype
from core.config import network_settings
from core.errors import UserError
from core.files import file_digest, read_image, read_json, read_list, write_json
from core.inference import Segmenter
from core.layout import Layout, check_pairs, image_path, mask_path
from core.logs import logger, progress, versions
from core.metrics import summarise
from core.parallel import ordered_map, process_pool
from core.predictions import Scored, compare
from core.results import ResultFolder, report
from core.snapshots import load_snapshot

Options = collections.namedtuple("Options", "list images masks output scales crf save_masks save_scores")
Options.__doc__ = """What to evaluate and what to keep.

list, images, masks: file of the ids, folders of their images and masks.
output: folder for result.json, masks/ and scoremaps/.
scales: factors whose scores add up.
crf: whether the dense CRF refines the scores.
save_masks, save_scores: whether to keep predictions as masks/<id>.png and scoremaps/<id>.npy.
"""


def evaluation_options(config, model, epoch, ms=False, crf=False, save_masks=False, save_scores=False, **places):
    """Options of an evaluation, of VOC val by default.

    Args:
        ms: add up the scores of `config.scales` instead of taking the image as it is.
        places: list, images, masks, output; None keeps the default.
    """
    layout = Layout(config)
    paths = {"list": layout.val_list, "images": layout.val_images, "masks": layout.val_masks,
             "output": layout.output(model, epoch)}
    paths.update((name, path) for name, path in places.items() if path is not None)
    return Options(scales=config.scales if ms else (1.0,), crf=crf, save_masks=save_masks, save_scores=save_scores,
                   **paths)


def evaluate(config, model, epoch, devices, options, jobs=1):
    """Predict every image of the list and compare it with its mask.

    Goes on where an earlier run with the same snapshot and settings was killed; result.json appears at the end.

    Args:
        devices: list of mxnet.Context.
        jobs: processes that run the CRF.

    Returns:
        dict, as result.json holds it: what `metrics.summarise` gives, and the settings.

    Raises:
        UserError: list, image, mask or snapshot is missing or wrong.
    """
    layout = Layout(config)
    names = read_list(options.list)
    check_pairs(names, (image_path, options.images, "run create_dataset.py, or see --images"),
                (mask_path, options.masks, "run create_dataset.py, or see --masks"))
    config, parameters = load_snapshot(layout, model, epoch, config)
    dtype = resolve_dtype(config.dtype, devices)
    settings = _settings(config, layout.snapshot(model, epoch), options, names, dtype)
    saved = ["masks"] * options.save_masks + ["scoremaps"] * options.save_scores
    folder = ResultFolder(options.output)
    finished = folder.find(settings, saved)
    if finished:
        logger.info("%s holds this evaluation already", folder.path)
        report(finished)
        return finished

    journal = folder.journal(settings, saved, config.num_classes)
    rest = [name for name in names if name not in journal.done]
    if journal.done:
        logger.info("going on after %d of %d images", len(journal.done), len(names))
    confusion = sum(journal.done.values(), np.zeros((config.num_classes,) * 2, np.int64))
    start = time.perf_counter()
    segmenter = Segmenter(config, model, parameters, devices, dtype)
    work = functools.partial(compare, config=config, options=options)
    with journal, process_pool(jobs) if options.crf and jobs > 1 else contextlib.nullcontext() as pool:
        compared = ordered_map(work, scored_images(segmenter, rest, options.images, options.scales), pool, 2 * jobs)
        for scored, counted in progress(compared, len(rest), os.path.basename(options.output)):
            journal.add(scored.name, counted)
            confusion += counted
    seconds = (time.perf_counter() - start) / max(1, len(rest))
    logger.info("%.3f seconds an image", seconds)
    result = dict(summarise(confusion, config.classes), model=model, epoch=epoch, settings=settings, saved=saved,
                  versions=versions(), device=", ".join(map(str, devices)), seconds_per_image=round(seconds, 4),
                  confusion=confusion.tolist())
    folder.write(result)
    journal.remove()
    report(result)
    return result


def scored_images(segmenter, names, folder, scales):
    """Yield a `predictions.Scored` for each name, in order; images are read when they are needed."""
    images = collections.deque()

    def read():
        for name in names:
            path = image_path(folder, name)
            images.append(read_image(path))
            segmenter.check_memory(path, images[-1].shape[:2], scales)
            yield images[-1]

    for name, scores in zip(names, segmenter.scores_of(read(), scales)):
        yield Scored(name, images.popleft(), scores)


def evaluate_all(config, model, devices, ms=False, crf=False, wait_hours=None, jobs=1):
    """Evaluate every snapshot of `model` that has no result with these settings yet, then rank them.

    A snapshot that can't be evaluated is reported and left out; the others go on.

    Args:
        wait_hours: hours to wait before looking for new snapshots; None looks once. The loop ends when nothing new
            came in that time.

    Returns:
        list of (epoch, mean IoU), the best first. It is also written to outputs/<model>_ranking.json.

    Raises:
        UserError: no snapshot could be evaluated.
    """
    layout = Layout(config)
    results, failures = {}, {}
    while True:
        new = [epoch for epoch in layout.epochs(model) if epoch not in results and epoch not in failures]
        for epoch in new:
            try:
                options = evaluation_options(config, model, epoch, ms, crf)
                results[epoch] = evaluate(config, model, epoch, devices, options, jobs)
            except UserError as error:
                failures[epoch] = str(error)
                logger.error("epoch %d can't be evaluated: %s", epoch, error)
        if wait_hours is None or not new:
            break
        logger.info("waiting %.2f h for new snapshots", wait_hours)
        time.sleep(wait_hours * 3600)

    for epoch, message in failures.items():
        logger.error("left out: epoch %d: %s", epoch, message)
    if not results:
        raise UserError("no snapshot of the %s model in %s could be evaluated" % (model, layout.snapshots))
    ranking = sorted(((epoch, result["mean_iou"] or 0.0) for epoch, result in results.items()),
                     key=lambda row: (-row[1], row[0]))
    for place, (epoch, mean_iou) in enumerate(ranking, 1):
        logger.info("%3d. epoch %3d  mean IoU %.2f %%", place, epoch, 100 * mean_iou)
    write_json(layout.ranking(model), {"scales": list(config.scales) if ms else [1.0], "crf": crf,
                                       "ranking": [{"epoch": epoch, "mean_iou": iou} for epoch, iou in ranking]})
    logger.info("best epoch of the %s model: %d", model, ranking[0][0])
    return ranking


def find_epoch(config, model, text):
    """Epoch that a flag names: a number, or "best" for the first of eval_loop.py's ranking.

    Raises:
        UserError: it is neither, or there is no ranking.
    """
    if text != "best":
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise UserError("epoch %r: a number is expected, or best" % text)
        return int(text)
    path = Layout(config).ranking(model)
    if not os.path.exists(path):
        raise UserError("%s is missing: eval_loop.py --model %s finds the best epoch" % (path, model))
    try:
        return int(read_json(path)["ranking"][0]["epoch"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        raise UserError("%s is no ranking of eval_loop.py" % path) from None


def _settings(config, snapshot, options, names, dtype):
    """What decides the numbers of an evaluation, as JSON keeps it; float32 goes without saying, as in old results."""
    crf = {name: value for name, value in vars(config).items() if name.startswith("crf_")}
    return {**({} if dtype == "float32" else {"dtype": dtype}),
            "snapshot_sha256": file_digest(snapshot), "images": options.images, "masks": options.masks,
            "names_sha256": hashlib.sha256("\n".join(names).encode("utf-8")).hexdigest(),
            "scales": list(options.scales), "crf": crf if options.crf else None, **network_settings(config)}
