"""Co-segmentation, cell by cell of a trained network's maps.

1. The network's maps of every image (`feature_maps`, in the main process).
2. All classes together: regressions of cells (`cell_classifier`), first of the images' classes, then in rounds of
   foreground and background, by the labels that the round before found in a bounded sample of images.
3. Every image alone: the last round's regression, a random walk (`cells`) and a dense CRF.
"""
import dataclasses
import functools
import os
from typing import Any, Callable, Dict, List, Tuple

import cv2
import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from core.config import Config
from core.cosegmentation.cell_classifier import Models, Moments, fold_of, scores
from core.cosegmentation.cells import Cells, relative, unit
from core.cosegmentation.noise_filter import fit_check, likeness, other_classes
from core.cosegmentation.results import (
    Result,
    cache_file,
    cache_folder,
    check_path,
    finish_image,
    read_check,
    read_once,
    sample_names,
    write_result,
)
from core.errors import UserError
from core.inference.crf import refine
from core.io.files import read_array, read_arrays, write_array, write_arrays
from core.io.images import read_image
from core.io.logs import logger, progress
from core.io.resize import shrink
from core.paths import Layout, class_of, image_path, stems

_START_SHARE = 0.2  # of the first labels in those of each round
_FOREGROUND = 0.5   # labels above are foreground, to the regression
_PASSES = 3         # of the noise filter
_EVEN, _SLOPE = 0.63, 8.0  # label that is as likely foreground as background, and slope of the log-odds there
_CRF: Dict[str, Any] = {"crf_gaussian_sxy": 2.0, "crf_gaussian_compat": 3.0, "crf_bilateral_srgb": 5.0,
                        "crf_bilateral_compat": 4.0}
_CRF_REACH = 0.12   # crf_bilateral_sxy, as a share of the longest side


def cosegment_cells(layout: Layout, config: Config, names: List[str], run: Callable) -> None:
    """Write the mask and the result of every image that has none, from its maps.

    Args:
        run: function of (work, names, title) that does the work for every name.
    """
    mapped = stems(cache_folder(layout, "maps"), ".npz")
    sound = [name for name in names if name in mapped]
    for name in (name for name in names if name not in mapped):
        try:
            read_image(image_path(layout.web_images, name))
        except UserError as error:
            write_result(layout, Result(name, False, 0.0, 0.0, f"unreadable: {error}"))
    if sound:
        _learn(layout, config, sound, config.web_rounds, run)
    done = stems(cache_folder(layout, "results"), ".json") & stems(layout.web_masks, ".png")
    run(functools.partial(segment, config=config), [name for name in sound if name not in done], "masks")


def label(name: str, config: Config, rounds: int) -> None:
    """Step 2 for an image of the sample: writes the mean of its cells' features times labels, (c + 1,) float32, after
    the given number of rounds."""
    layout = config.layout
    with threadpool_limits(1):
        cells = _read_cells(layout, name)
        labels, _ = _labels_after(layout, cells, name, rounds)
        write_array(_label_path(layout, name, rounds), _labelled(cells, labels))


def segment(name: str, config: Config) -> None:
    """Step 3 for one image: writes its mask and its result. O(1) in the number of images."""
    layout = config.layout
    image = read_image(image_path(layout.web_images, name))
    with threadpool_limits(1):
        cells = _read_cells(layout, name)
        labels, found = _labels_after(layout, cells, name, config.web_rounds)
        posterior, score = refined(image, found.reshape(cells.size), config)
        check, fold, index = read_check(layout), fold_of(name), class_of(name)
        centre = _models(layout, 0).centre
        likely = likeness(check, fold, _foreground(_labelled(cells, labels), centre), index)
        also = other_classes(check, fold, unit(cells.around(centre)), index)
    finish_image(layout, config, name, posterior, score, likely, also)


def refined(image: np.ndarray, labels: np.ndarray, config: Config) -> Tuple[np.ndarray, float]:
    """Foreground posterior of the pixels by a dense CRF at a longest side of `web_side`, and how much it agrees with
    the labels.

    Args:
        image: (h, w, 3) uint8 RGB. labels: (h', w') in [0, 1].

    Returns:
        (h, w) float32 in [0, 1], and the Jaccard index of the two foregrounds.
    """
    small = np.ascontiguousarray(shrink(image, config.web_side))
    odds = _SLOPE * (cv2.resize(labels.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_LINEAR) - _EVEN)
    unary = scipy.special.expit(np.stack([-odds, odds]))
    crf = dataclasses.replace(config, **_CRF, crf_bilateral_sxy=_CRF_REACH * max(small.shape))
    posterior = refine(unary, small, crf)[1]
    first, second = odds > 0, posterior > 0.5
    agreement = float((first & second).sum() / max((first | second).sum(), 1))
    return cv2.resize(posterior, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), agreement


def _learn(layout, config, names, rounds, run):
    """Step 2: fit and store each round's models, unless they are there.

    Reads the maps of at most `web_sample_images` of a class, one image at a time; keeps (c + 1)^2 numbers for each
    class and fold.
    """
    sampled, moments = sample_names(names, config.web_sample_images), None

    def labelled(number: int) -> List[np.ndarray]:
        done = stems(cache_folder(layout, f"labels{number}"), ".npy")
        run(functools.partial(label, config=config, rounds=number), [name for name in sampled if name not in done],
            f"labels of round {number}")
        return [read_array(_label_path(layout, name, number)) for name in sampled]

    for number in range(rounds + 1):
        path = _model_path(layout, number)
        if os.path.exists(path):
            continue
        if moments is None:
            with threadpool_limits(1):
                moments = Moments((class_of(name), fold_of(name), _read_cells(layout, name).features)
                                  for name in progress(sampled, len(sampled), "statistics"))
        logger.info("round %d of %d: learning from %d images", number, rounds, len(sampled))
        models = moments.fit_classes() if number == 0 else moments.fit_foreground(
            [(class_of(name), fold_of(name), found) for name, found in zip(sampled, labelled(number - 1))])
        write_arrays(path, models._asdict())

    if not os.path.exists(check_path(layout)):
        centre = _models(layout, 0).centre
        # The labels that the last round learned from are there; those after it would take another pass.
        descriptors = np.stack([_foreground(found, centre) for found in labelled(max(rounds - 1, 0))])
        with threadpool_limits(1):
            check = fit_check(descriptors, np.array([class_of(name) for name in sampled]),
                              np.array([fold_of(name) for name in sampled]), _PASSES)
        write_arrays(check_path(layout), check, compressed=True)


def _labels_after(layout, cells, name, rounds):
    """(n,) labels of the cells after the given number of rounds, and the part of them that was learned."""
    index, fold, first = class_of(name), fold_of(name), _models(layout, 0)
    start = cells.start(scores(first, fold, index, cells.features))
    if not rounds:
        return start, start
    learned = scores(_models(layout, rounds), fold, index, cells.features)
    learned = cells.walk(relative(learned), first.centre)
    return relative((1 - _START_SHARE) * learned + _START_SHARE * start), learned


def _labelled(cells, labels):
    return (cells.features.T @ (labels > _FOREGROUND) / len(labels)).astype(np.float32)


def _foreground(labelled, centre):
    """(c,) mean features of the foreground, around those of all images, of unit length."""
    mean = labelled[:-1] / max(labelled[-1], 1e-6) - centre
    return mean / max(np.linalg.norm(mean), 1e-6)


def _read_cells(layout, name):
    stored = read_arrays(cache_file(layout, "maps", name, ".npz"))
    return Cells(stored["maps"], stored["contrast"])


def _models(layout, number):
    return Models(**read_once(_model_path(layout, number), read_arrays))


def _model_path(layout, number):
    return os.path.join(layout.web_cache, f"cells{number}.npz")


def _label_path(layout, name, number):
    return cache_file(layout, f"labels{number}", name, ".npy")
