"""Co-segmentation, cell by cell of a trained network's maps.

1. All classes together: regressions of cells (`cell_classifier`), first of the images' classes, then in rounds of
   foreground and background, by the foreground that the round before found in a bounded sample of images.
2. Every image alone: the last round's regression, a random walk (`cells`) and a dense CRF.

Images' maps (`feature_maps`) are made in the main process, a few images before it is their turn, and removed when
nothing needs them any more.
"""
import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import shutil
from typing import Any, Callable, Dict, Sequence, Tuple

import cv2
import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from core.classes import BACKGROUND
from core.config import Config
from core.cosegmentation.cell_classifier import Models, Moments, fold_of, predict
from core.cosegmentation.cells import Cells, relative, unit
from core.cosegmentation.items import ROUNDS, Item, model_path, noise_filter_path
from core.cosegmentation.noise_filter import NoiseFilter, fit_noise_filter, likeness, other_classes
from core.cosegmentation.results import Result, finish_web_image, results_folder, write_result
from core.dataset.train_posteriors import Posteriors, write_posteriors
from core.errors import UserError
from core.inference.crf import refine
from core.io.files import read_array, read_arrays, remove, write_array, write_arrays
from core.io.images import read_image
from core.io.logs import logger, progress
from core.io.resize import shrink
from core.paths import Layout, stems

_START_SHARE = 0.2  # of the first foreground in that of each round
_FOREGROUND = 0.5   # value above which a cell is foreground to the regressions
_SAMPLE = 100       # images of each class that the regressions learn from
_EVEN, _SLOPE = 0.63, 8.0  # value that is as likely foreground as background, and slope of the log-odds there
_CRF: Dict[str, Any] = {"crf_gaussian_sxy": 2.0, "crf_gaussian_compat": 3.0, "crf_bilateral_srgb": 5.0,
                        "crf_bilateral_compat": 4.0}
_CRF_REACH = 0.12   # crf_bilateral_sxy, as a share of the longest side


def cosegment_cells(config: Config, items: Sequence[Item], describer: Any, run: Callable) -> None:
    """Segment every image that has not been segmented: write masks and results of web images, posteriors of training
    images.

    Args:
        describer: `feature_maps.Describer`, which makes the images' maps.
        run: function of (work, items, count, title) that does the work for every item, and yields those that are done.
    """
    layout = config.layout
    _learn(config, items, describer, run)
    masked = stems(results_folder(layout), ".json") & stems(layout.web_masks, ".png")
    judged = stems(layout.train_posteriors, ".npz")
    rest = [item for item in items if item.name not in (masked if item.web else judged)]
    with_maps = _with_maps(layout, rest, describer)
    for item in run(functools.partial(segment, config=config), with_maps, len(rest), "masks"):
        remove(item.maps_file(), missing_ok=True)  # not by the worker: where one is lost, another repeats its work
    for folder in {item.folder for item in items}:
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            if entry.name == "maps" or entry.name.startswith("labels"):
                shutil.rmtree(entry.path, ignore_errors=True)


def summarise(item: Item, config: Config, rounds: int) -> None:
    """Step 1 for an image of the sample: writes what `_foreground_mean` gives after some rounds."""
    with threadpool_limits(1):
        cells = _read_cells(item)
        own, *others = (foreground for foreground, _ in _foregrounds_after(config.layout, cells, item, rounds))
        for other in others:  # a cell shows one class
            own[other > own] = 0
        write_array(item.foreground_file(rounds), _foreground_mean(cells, own))


def segment(item: Item, config: Config) -> None:
    """Step 2 for one image: writes its mask and its result, or its posteriors. O(1) in the number of images."""
    layout = config.layout
    with threadpool_limits(1):
        cells = _read_cells(item)
        foregrounds = _foregrounds_after(layout, cells, item, ROUNDS)
        if item.web:
            _finish_web_image(item, config, cells, *foregrounds[0])
        else:
            posteriors = [scipy.special.expit(_log_odds(learned)).reshape(cells.size) for _, learned in foregrounds]
            write_posteriors(layout.train_posteriors, item.name, Posteriors(item.classes, np.stack(posteriors)))


def _finish_web_image(item, config, cells, foreground, learned):
    layout, (index,) = config.layout, item.classes
    image = read_image(item.image)
    noise_filter, fold, centre = read_noise_filter(layout), fold_of(item.name), _models(layout, 0).centre
    posterior, agreement = refined(image, learned.reshape(cells.size), config)
    finish_web_image(
        layout, config, item.name, cv2.resize(posterior, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), agreement,
        likeness(noise_filter, fold, _descriptor(_foreground_mean(cells, foreground), centre), index),
        other_classes(noise_filter, fold, unit(cells.around(centre)), index))


def _log_odds(foreground):
    """Log-odds of the foreground from what the regressions gave, in [0, 1]."""
    return _SLOPE * (foreground - _EVEN)


def refined(image: np.ndarray, foreground: np.ndarray, config: Config) -> Tuple[np.ndarray, float]:
    """Foreground posterior of the pixels by a dense CRF at a longest side of `web_side`, and how much it agrees with
    what the regressions gave.

    Args:
        image: (h, w, 3) uint8 RGB. foreground: (h', w') in [0, 1], of the cells.

    Returns:
        (h'', w'') float32 in [0, 1], and the Jaccard index of the two foregrounds.
    """
    small = np.ascontiguousarray(shrink(image, config.web_side))
    cells = cv2.resize(foreground.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    odds = _log_odds(cells)
    unary = scipy.special.expit(np.stack([-odds, odds]))
    crf = dataclasses.replace(config, **_CRF, crf_bilateral_sxy=_CRF_REACH * max(small.shape))
    posterior = refine(unary, small, crf)[1]
    first, second = odds > 0, posterior > 0.5
    return posterior, float((first & second).sum() / max((first | second).sum(), 1))


def _learn(config, items, describer, run):
    """Step 1: fit and store each round's models and the noise filter, unless they are there.

    Reads the maps of at most `_SAMPLE` images of a class, one at a time; keeps (c + 1)^2 numbers for each class and
    fold.
    """
    layout = config.layout
    missing = [number for number in range(ROUNDS + 1) if not os.path.exists(model_path(layout, number))]
    if not missing and os.path.exists(noise_filter_path(layout)):
        return
    sample = _draw_sample(config, items, describer)
    if not sample:
        return
    classes, folds = [item.classes for item in sample], [fold_of(item.name) for item in sample]
    single = len({own for own, *_ in classes}) == 1  # its other classes are the borders of its images
    foreground_means = functools.partial(_foreground_means, sample, config, run)
    moments = None
    for number in missing:
        if moments is None:
            with threadpool_limits(1):
                moments = Moments(_features(sample, single))
        logger.info("round %d of %d: learning from %d images", number, ROUNDS, len(sample))
        if number == 0:
            models = moments.fit_classes()
        else:
            foregrounds = list(zip(classes, folds, foreground_means(number - 1)))
            if single:
                foregrounds += [((BACKGROUND,), fold, np.zeros_like(mean)) for _, fold, mean in foregrounds]
            models = moments.fit_foreground(foregrounds)
        write_arrays(model_path(layout, number), models._asdict())

    centre = _models(layout, 0).centre
    # What the last round learned from is there; what it finds would take another pass.
    descriptors = np.stack([_descriptor(mean, centre) for mean in foreground_means(ROUNDS - 1)])
    with threadpool_limits(1):
        noise_filter = fit_noise_filter(descriptors, np.array([own for own, *_ in classes]), np.array(folds))
    write_arrays(noise_filter_path(layout), noise_filter._asdict(), compressed=True)


def _features(sample, borders):
    """(classes, fold, features of its cells) of each image; those of its border, as background, too if wanted."""
    for item in progress(sample, len(sample), "statistics"):
        cells, fold = _read_cells(item), fold_of(item.name)
        yield item.classes, fold, cells.features
        if borders:
            yield (BACKGROUND,), fold, cells.features[cells.border]


def _foreground_means(sample, config, run, number):
    """What `summarise` writes for each image after a round."""
    rest = [item for item in sample if not os.path.exists(item.foreground_file(number))]
    work = functools.partial(summarise, config=config, rounds=number)
    for _ in run(work, rest, len(rest), f"labels of round {number}"):
        pass
    return [read_array(item.foreground_file(number)) for item in sample]


def _draw_sample(config, items, describer):
    """At most `_SAMPLE` readable images of each class, chosen by a hash of their names, with their maps: sorted items,
    each of which counts for the first of its classes."""
    single = [item._replace(classes=(index, *(other for other in item.classes if other != index)))
              for item in items for index in item.classes]
    single.sort(key=lambda item: hashlib.sha256(item.key.encode("utf-8")).hexdigest())
    while True:
        counts: Dict[int, int] = collections.Counter()
        sample = []
        for item in single:
            if counts[item.classes[0]] < _SAMPLE:
                sample.append(item)
                counts[item.classes[0]] += 1
        readable = list(progress(_with_maps(config.layout, sample, describer), len(sample), "maps"))
        if len(readable) == len(sample):
            return sorted(sample, key=lambda item: item.key)
        unreadable = {*sample} - {*readable}
        single = [item for item in single if item not in unreadable]


def _with_maps(layout, items, describer):
    """Yield the items that can be read, in order, once their maps are there. For a web image that can't, a result says
    why.
    """
    items = iter(items)
    started = []
    while True:  # devices compute the next images' maps while those of the last ones are written
        group = list(itertools.islice(items, describer.together))
        finished, started = started, _start_maps(layout, group, describer)
        for item, maps in finished:
            if maps:
                write_arrays(item.maps_file(), maps())
            yield item
        if not group:
            return


def _start_maps(layout, group, describer):
    """Pairs of a readable item and the function that waits for its maps, or None where they are there already."""
    images, readable = {}, []
    for item in group:
        try:
            if item.maps_file() not in images and not os.path.exists(item.maps_file()):
                images[item.maps_file()] = read_image(item.image)
            readable.append(item)
        except UserError as error:
            if not item.web:
                raise
            write_result(layout, Result(item.name, False, 0.0, 0.0, f"unreadable: {error}"))
    started = dict(zip(images, describer.start(list(images.values()))))
    return [(item, started.pop(item.maps_file(), None)) for item in readable]


def _foregrounds_after(layout, cells, item, rounds):
    """For each of the item's classes: (n,) foreground of the cells after the given number of rounds, in [0, 1], and the
    learned one alone."""
    fold, first, foregrounds = fold_of(item.name), _models(layout, 0), []
    for index in item.classes:
        start = learned = cells.start(predict(first, fold, index, cells.features))
        foreground = start
        if rounds:
            learned = predict(_models(layout, rounds), fold, index, cells.features)
            learned = cells.walk(relative(learned), first.centre)
            foreground = relative((1 - _START_SHARE) * learned + _START_SHARE * start)
        foregrounds.append((foreground, learned))
    return foregrounds


def _foreground_mean(cells, foreground):
    """(c + 1,) float32 mean over the cells of features times foreground, 1 or 0; the last one is the share of it."""
    return (cells.features.T @ (foreground > _FOREGROUND) / len(foreground)).astype(np.float32)


def _descriptor(foreground_mean, centre):
    """(c,) mean features of the foreground, around those of all images, of unit length."""
    mean = foreground_mean[:-1] / max(foreground_mean[-1], 1e-6) - centre
    return mean / max(np.linalg.norm(mean), 1e-6)


def _read_cells(item):
    stored = read_arrays(item.maps_file())
    return Cells(stored["maps"], stored["contrast"])


def _models(layout, number):
    return Models(**_read_once(model_path(layout, number)))


def read_noise_filter(layout: Layout) -> NoiseFilter:
    """The noise filter that an earlier run has fitted."""
    return NoiseFilter(**_read_once(noise_filter_path(layout)))


def _read_once(path):
    """Arrays of a file that many images need: kept until the file changes."""
    return _read(path, os.stat(path).st_mtime_ns if os.path.exists(path) else 0)


@functools.lru_cache(maxsize=4)
def _read(path, changed):
    return read_arrays(path)
