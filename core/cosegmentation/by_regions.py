"""Co-segmentation of the feature sets "hog" and "resnet", superpixel by superpixel.

1. Every image alone: superpixels, saliency, GrabCuts of centred boxes -> features of its regions and first labels.
2. All classes together, in rounds: region classifiers learn from the labels of a bounded sample of images, in folds;
   their predictions, joined with the first labels, are the labels of the next round.
   A classifier of whole foregrounds learns to tell the classes apart.
3. Every image alone: the last round's model; the candidate foregrounds that look most like the class, or, with
   activations, more cuts; and what decides whether the image is noise: how well its candidate masks agree, and whether
   it looks like its class at all.
"""
import functools
import hashlib
import os
from typing import Callable, List, NamedTuple, Tuple

import cv2
import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from core.config import Config
from core.cosegmentation.classifier_files import read_models, write_models
from core.cosegmentation.descriptors import describe, describe_foregrounds
from core.cosegmentation.grabcut import cut_prior, views
from core.cosegmentation.noise_filter import fit_check, likeness, log_odds
from core.cosegmentation.region_classifier import Sample, fit, fold_of, predict, relative
from core.cosegmentation.region_features import region_cues
from core.cosegmentation.results import (
    Result,
    cache_file,
    cache_folder,
    check_path,
    finish_image,
    jaccard,
    read_arrays,
    read_check,
    read_once,
    sample_names,
    write_arrays,
    write_result,
)
from core.cosegmentation.superpixels import Regions
from core.errors import UserError
from core.io.files import read_array, write_array
from core.io.images import read_image
from core.io.logs import logger
from core.paths import Layout, class_of, image_path, stems

ROUNDS = 2
_ROWS = 80           # regions of an image in the sample
_THRESHOLDS = (0.4, 0.55)  # above which pixels of a prior start as foreground in its cuts
_CUT_SHARE = 0.3      # of the labels, from the cuts of the prior
_CERTAIN_THRESHOLDS = (0.55, 0.7)  # the same for the last cuts
_CANDIDATE_LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the labels, above which regions are a candidate foreground
_CANDIDATE_AREA = (0.005, 0.97)  # least and largest, as a share of the image
_ODDS_POWER = 4.0     # to which a candidate's odds of being of the class are its weight


class Shares(NamedTuple):
    """What the labels of an image are made of, in [0, 1] each; the rest comes from the image alone.

    Attributes:
        learned: the last round's prediction.
        last_cuts: cuts that start from the labels then.
        likely: candidate foregrounds, by how much they look like the class.
    """
    learned: float
    last_cuts: float
    likely: float


_SHARES = {"hog": Shares(0.35, 0.0, 0.4), "resnet": Shares(0.6, 0.2, 0.0)}  # activations need no candidates


def cosegment_regions(layout: Layout, config: Config, names: List[str], kind: str, run: Callable) -> None:
    """Steps 1 to 3: write the mask and the result of every image that has none.

    Args:
        kind: "hog" or "resnet", whose activations are there.
        run: function of (work, names, title) that does the work for every name.
    """
    rounds = ROUNDS if config.web_rounds < 0 else config.web_rounds
    done = stems(cache_folder(layout, "regions"), ".npz") | stems(cache_folder(layout, "results"), ".json")
    run(functools.partial(analyse, config=config, kind=kind), [name for name in names if name not in done],
        "single images")
    analysed = stems(cache_folder(layout, "regions"), ".npz")
    sound = [name for name in names if name in analysed]
    if sound:
        _learn(layout, config, sound, kind, rounds, run)
    done = stems(cache_folder(layout, "results"), ".json") & stems(layout.web_masks, ".png")
    run(functools.partial(segment, config=config, kind=kind, rounds=rounds),
        [name for name in sound if name not in done], "masks")


def analyse(name: str, config: Config, kind: str) -> None:
    """Step 1 for one image: writes regions/<name>.npz, or a result that says why the image is unreadable.

    O(n^3) in the number of regions, `web_regions`; O(1) in the number of images.
    """
    layout = config.layout
    try:
        image = read_image(image_path(layout.web_images, name))
    except UserError as error:
        write_result(layout, Result(name, False, 0.0, 0.0, f"unreadable: {error}"))
        return
    with threadpool_limits(1):
        regions = Regions(image, config.web_side, config.web_regions)
        features, prior, cuts = region_cues(regions)
        start = relative(prior)
        labels = _with_cuts(regions, start)
        rng = np.random.default_rng(int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:8], 16))
        rows = np.sort(rng.permutation(regions.count)[:_ROWS])
        descriptors = _describe(layout, regions, name, kind)
        foreground = describe_foregrounds(regions, labels[None], kind, descriptors)[0]
    write_arrays(cache_file(layout, "regions", name, ".npz"), {
        "superpixels": regions.labels.astype(np.uint16), "features": features.astype(np.float16),
        "labels": labels.astype(np.float32), "rows": rows, "weights": regions.area[rows].astype(np.float32),
        "descriptors": descriptors[rows].astype(np.float16), "cuts": cuts.astype(np.float16),
        "foreground": foreground}, compressed=True)


def relabel(name: str, config: Config, kind: str, rounds: int) -> None:
    """Step 2 for an image of the sample: writes its labels after the given number of rounds."""
    layout = config.layout
    with threadpool_limits(1):
        stored = _read_regions(layout, name)
        regions = Regions(read_image(image_path(layout.web_images, name)), config.web_side, config.web_regions,
                          stored["superpixels"])
        labels = _labels_after(layout, name, stored, _describe(layout, regions, name, kind), kind, rounds)
        write_array(cache_file(layout, f"round{rounds}", name, ".npy"), labels.astype(np.float32))


def segment(name: str, config: Config, kind: str, rounds: int) -> None:
    """Step 3 for one image: writes its mask and its result. O(1) in the number of images."""
    layout = config.layout
    image = read_image(image_path(layout.web_images, name))
    with threadpool_limits(1):
        stored = _read_regions(layout, name)
        regions = Regions(image, config.web_side, config.web_regions, stored["superpixels"])
        descriptors = _describe(layout, regions, name, kind)
        labels = _labels_after(layout, name, stored, descriptors, kind, rounds)
        shares = _SHARES[kind]
        if shares.last_cuts:
            labels = _with_cuts(regions, labels, shares.last_cuts, _CERTAIN_THRESHOLDS)
        if shares.likely:
            labels = _with_likely(layout, regions, name, stored, descriptors, labels, kind)
        score = agreement(regions, labels, stored["labels"], config)
    likely = likeness(read_check(layout), fold_of(name), stored["foreground"], class_of(name))
    finish_image(layout, config, name, pixel_posterior(regions, labels, image.shape[:2]), score, likely)


def pixel_posterior(regions: Regions, labels: np.ndarray, size: Tuple[int, ...]) -> np.ndarray:
    """Foreground posterior of the pixels, (h, w) float32 in [0, 1], from (n,) labels; `size` is (h, w)."""
    smooth = cv2.GaussianBlur(labels[regions.labels].astype(np.float32), (0, 0), 1.0)
    return cv2.resize(smooth, size[::-1], interpolation=cv2.INTER_LINEAR)


def agreement(regions: Regions, labels: np.ndarray, start: np.ndarray, config: Config) -> float:
    """How sure the labels of an image are: the mean Jaccard index of their foreground with that of a GrabCut that
    starts from them, and with that of the labels of the image alone. In [0, 1].

    Args:
        labels, start: (n,) in [0, 1], after the last round and before the first.
    """
    found = labels > config.web_threshold
    cut = _cut_share(regions, labels, (0.5,)) > 0.5
    return (jaccard(found, cut, regions.area) + jaccard(found, start > config.web_threshold, regions.area)) / 2


def _learn(layout, config, names, kind, rounds, run):
    """Step 2: fit and store each round's models, unless they are there."""
    for number in range(1, rounds + 1):
        path = _model_path(layout, number)
        if os.path.exists(path):
            continue
        sampled = sample_names(names, config.web_sample_images)
        if number > 1:
            done = stems(cache_folder(layout, f"round{number - 1}"), ".npy")
            run(functools.partial(relabel, config=config, kind=kind, rounds=number - 1),
                [name for name in sampled if name not in done], f"round {number}")
        sample = _read_sample(layout, sampled, number - 1)
        logger.info("round %d of %d: learning from %d regions of %d images", number, rounds,
                    len(sample.labels), len(sampled))
        with threadpool_limits(1):
            models = fit(sample, config.seed, kind)
        write_models(path, models)

    path = check_path(layout)
    if not os.path.exists(path):
        sampled = sample_names(names, config.web_sample_images)
        with threadpool_limits(1):
            check = fit_check(np.stack([_read_regions(layout, name)["foreground"] for name in sampled]),
                              np.array([class_of(name) for name in sampled]),
                              np.array([fold_of(name) for name in sampled]))
        write_arrays(path, check, compressed=True)


def _labels_after(layout, name, stored, descriptors, kind, rounds):
    """(n,) labels of an image after the given number of rounds."""
    labels = stored["labels"].astype(float)
    if not rounds:
        return labels
    model = read_once(_model_path(layout, rounds), read_models)[fold_of(name)]
    learned = relative(predict(model, stored["features"].astype(np.float32), descriptors, class_of(name)))
    share = _SHARES[kind].learned
    return relative(share * learned + (1 - share) * labels)


def _with_likely(layout, regions, name, stored, descriptors, labels, kind):
    """The labels joined with those candidate foregrounds that look like the image's class to the other images."""
    candidates = np.stack([*stored["cuts"].T.astype(float), *(labels > level for level in _CANDIDATE_LEVELS),
                           *(stored["labels"] > level for level in _CANDIDATE_LEVELS[1::2])])
    area = candidates @ regions.area / regions.area.sum()
    candidates = candidates[(area > _CANDIDATE_AREA[0]) & (area < _CANDIDATE_AREA[1])]
    if not len(candidates):
        return labels
    odds = log_odds(read_check(layout), fold_of(name),
                    describe_foregrounds(regions, candidates, kind, descriptors), class_of(name))
    if odds is None:
        return labels
    likely = scipy.special.softmax(_ODDS_POWER * odds) @ candidates
    share = _SHARES[kind].likely
    return relative(share * relative(likely) + (1 - share) * labels)


def _with_cuts(regions, labels, share=_CUT_SHARE, thresholds=_THRESHOLDS):
    return relative((1 - share) * labels + share * _cut_share(regions, labels, thresholds))


def _cut_share(regions, labels, thresholds):
    """(n,) shares of the regions inside cuts that start from the labels, averaged over thresholds and two views."""
    size = regions.labels.shape[::-1]
    cuts = []
    for view in views(regions.image, 2):
        prior = cv2.resize(labels[regions.labels].astype(np.float32), view.shape[1::-1], interpolation=cv2.INTER_AREA)
        cut = np.mean([cut_prior(view, prior, threshold) for threshold in thresholds], 0).astype(np.float32)
        cuts.append(cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR))
    return regions.mean(np.mean(cuts, 0))


def _describe(layout, regions, name, kind):
    return describe(regions, kind, cache_file(layout, "activations", name, ".npy"))


def _read_sample(layout, names, rounds):
    parts = []
    for name in names:
        stored = _read_regions(layout, name)
        labels = read_array(cache_file(layout, f"round{rounds}", name, ".npy")) if rounds else stored["labels"]
        rows = stored["rows"]
        parts.append((stored["features"][rows].astype(np.float32), stored["descriptors"].astype(np.float32),
                      labels[rows].astype(np.float32), stored["weights"],
                      np.full(len(rows), class_of(name)), np.full(len(rows), fold_of(name))))
    return Sample(*(np.concatenate(column) for column in zip(*parts)))


def _read_regions(layout, name):
    return read_arrays(cache_file(layout, "regions", name, ".npz"))


def _model_path(layout, number):
    return os.path.join(layout.web_cache, f"round{number}.npz")
