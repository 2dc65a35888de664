"""Stage 0: masks for the web images of each class, learned from no mask.

1. Every image alone: superpixels, saliency, GrabCuts of centred boxes -> features of its regions and first labels.
2. All classes together, in rounds: region classifiers learn from the labels of a bounded sample of images, in folds;
   their predictions, joined with the first labels, are the labels of the next round.
   A classifier of whole foregrounds learns to tell the classes apart.
3. Every image alone: the last round's model; the candidate foregrounds that look most like the class, or, with
   activations, more cuts; and what decides whether the image is noise: how well its candidate masks agree, and whether
   it looks like its class at all.

Steps 1 and 3 take the same time for each image whatever their number, and step 2 reads at most `web_sample_images` of
a class: n images take O(n). A process holds one image at a time, the main process also the sample. Every file
appears whole; whatever is there is not made again.
"""
import collections
import csv
import functools
import hashlib
import io
import json
import os

import cv2
import numpy as np
import scipy.special
from threadpoolctl import threadpool_limits

from core.classes import IGNORE_LABEL
from core.cosegmentation.cache import claim
from core.cosegmentation.classifier_files import read_models, write_models
from core.cosegmentation.contact_sheet import write_sheets
from core.cosegmentation.descriptors import activations_path, describe, describe_foregrounds
from core.cosegmentation.grabcut import cut_prior, views
from core.cosegmentation.noise_filter import fit_check, likeness, log_odds, unjudged_classes
from core.cosegmentation.region_classifier import Sample, fit, fold_of, predict, relative
from core.cosegmentation.region_features import region_cues
from core.cosegmentation.superpixels import Regions
from core.errors import UserError
from core.io.files import (
    list_folder,
    read_array,
    read_bytes,
    read_json,
    remove,
    write_array,
    write_bytes,
    write_lines,
    write_text,
)
from core.io.images import read_image, write_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.paths import Layout, folder_lock, image_path, mask_path, stems, web_class
from core.runtime.crew import hire
from core.runtime.parallel import ordered_map

_ROWS = 80           # regions of an image in the sample
_THRESHOLDS = (0.4, 0.55)  # above which pixels of a prior start as foreground in its cuts
_CUT_SHARE = 0.3      # of the labels, from the cuts of the prior
_CERTAIN_THRESHOLDS = (0.55, 0.7)  # the same for the last cuts
_CANDIDATE_LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the labels, above which regions are a candidate foreground
_CANDIDATE_AREA = (0.005, 0.97)  # least and largest, as a share of the image
_ODDS_POWER = 4.0     # to which a candidate's odds of being of the class are its weight

Shares = collections.namedtuple("Shares", "learned last_cuts likely")
Shares.__doc__ = """What the labels of an image are made of, in [0, 1] each; what the image told by itself fills up.

learned: the last round's prediction. last_cuts: cuts that start from the labels then. likely: candidate foregrounds,
by how much they look like the class.
"""
_SHARES = {"hog": Shares(0.35, 0.0, 0.4), "resnet": Shares(0.6, 0.2, 0.0)}  # activations need no candidates

Result = collections.namedtuple("Result", "name kept score foreground reason")
Result.__doc__ = """What became of an image.

score: agreement of its candidate masks, in [0, 1]; foreground: share of its pixels.
reason: why it is left out, or "".
"""


def cosegment(config, jobs=1, scheduler=None, features="auto", device=None, overwrite=False):
    """Write web_labels/<name>.png for every web image, web_train_list.txt, web_report.csv and contact sheets.

    Goes on where an earlier run with the same settings was killed. Images added or changed later are judged by the
    models that are there.

    Args:
        jobs: processes of this machine.
        scheduler: address of a Dask scheduler, instead of jobs.
        features: "hog", "resnet", or "auto": resnet where the base model is there.
        device: function that gives an mxnet.Context, for resnet.
        overwrite: make everything anew.

    Returns:
        list of Result.

    Raises:
        UserError: there are no images, a name has no class, masks of another origin are there, another run is at work,
            or none is kept.
    """
    layout = Layout(config)
    names = sorted(stems(layout.web_images, ".jpg"))
    if not names:
        raise UserError("%s holds no .jpg: fetch_web_images.py brings them, or put your own there as <class>_<id>.jpg"
                        % layout.web_images)
    for name in names:
        web_class(name, config.num_classes)
    others = [name for name in list_folder(layout.web_images) if not name.endswith(".jpg") and not name.startswith(".")]
    if others:
        logger.warning("%d files of %s are passed over, such as %s: web images are <class>_<id>.jpg",
                       len(others), layout.web_images, min(others))
    kind = feature_set(config, features)
    backbone = None
    if kind == "resnet":
        from core.cosegmentation.activations import load_backbone  # imports mxnet, which not everyone here needs
        backbone = load_backbone(config, device())
    with locked(folder_lock(layout.web_cache), "co-segmentation into %s" % layout.web_masks), \
            hire(jobs, scheduler) as crew, claim(layout, config, kind, names, overwrite) as record:
        logger.info("%d images of %d classes, features: %s", len(names), len({_class_of(name) for name in names}), kind)
        if backbone:
            from core.cosegmentation.activations import cache_activations
            cache_activations(backbone, names, layout.web_images, _folder(layout, "activations"))

        run = functools.partial(_run, crew=crew)
        done = stems(_folder(layout, "regions"), ".npz") | stems(_folder(layout, "results"), ".json")
        run(functools.partial(analyse, config=config, kind=kind), [name for name in names if name not in done],
            "single images")
        analysed = stems(_folder(layout, "regions"), ".npz")
        sound = [name for name in names if name in analysed]
        if sound:
            _learn(layout, config, sound, kind, run)
        done = stems(_folder(layout, "results"), ".json") & stems(layout.web_masks, ".png")
        run(functools.partial(segment, config=config, kind=kind), [name for name in sound if name not in done], "masks")
        record.finish()
        return _conclude(layout, config, names)


def feature_set(config, features="auto"):
    """"hog" or "resnet", as asked for; "auto" takes resnet where the base model is there.

    Raises:
        UserError: resnet is asked for and the base model is missing.
    """
    path = config.path(config.base_model)
    if features == "resnet" and not os.path.exists(path):
        raise UserError("%s is missing: it holds the ResNet-50 of --features resnet" % path)
    if features == "auto":
        return "resnet" if os.path.exists(path) else "hog"
    return features


def analyse(name, config, kind):
    """Step 1 for one image: writes regions/<name>.npz, or a result that tells why the image is unreadable.

    O(n^3) in the number of regions, `web_regions`; O(1) in the number of images.
    """
    layout = Layout(config)
    try:
        image = read_image(image_path(layout.web_images, name))
    except UserError as error:
        _write_result(layout, Result(name, False, 0.0, 0.0, "unreadable: %s" % error))
        return
    with threadpool_limits(1):
        regions = Regions(image, config.web_side, config.web_regions)
        features, prior, cuts = region_cues(regions)
        start = relative(prior)
        labels = _with_cuts(regions, start)
        rng = np.random.default_rng(int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:8], 16))
        rows = np.sort(rng.permutation(regions.count)[:_ROWS])
        descriptors = _describe(layout, regions, name, kind)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, features=features.astype(np.float16), labels=labels.astype(np.float32), rows=rows,
                            weights=regions.area[rows].astype(np.float32),
                            descriptors=descriptors[rows].astype(np.float16),
                            cuts=cuts.astype(np.float16),
                            foreground=describe_foregrounds(regions, labels[None], kind, descriptors)[0])
    write_bytes(_file(layout, "regions", name, ".npz"), buffer.getvalue())


def relabel(name, config, kind, rounds):
    """Step 2 for an image of the sample: writes its labels after the given number of rounds."""
    layout = Layout(config)
    with threadpool_limits(1):
        regions = Regions(read_image(image_path(layout.web_images, name)), config.web_side, config.web_regions)
        labels = _labels_after(layout, regions, name, _read_regions(layout, name),
                               _describe(layout, regions, name, kind), kind, rounds)
        write_array(_file(layout, "round%d" % rounds, name, ".npy"), labels.astype(np.float32))


def segment(name, config, kind):
    """Step 3 for one image: writes its mask and its result. O(1) in the number of images."""
    layout = Layout(config)
    image = read_image(image_path(layout.web_images, name))
    with threadpool_limits(1):
        regions = Regions(image, config.web_side, config.web_regions)
        stored = _read_regions(layout, name)
        descriptors = _describe(layout, regions, name, kind)
        labels = _labels_after(layout, regions, name, stored, descriptors, kind, config.web_rounds)
        shares = _SHARES[kind]
        if shares.last_cuts:
            labels = _with_cuts(regions, labels, shares.last_cuts, _CERTAIN_THRESHOLDS)
        if shares.likely:
            labels = _with_likely(layout, regions, name, stored, descriptors, labels, kind)
        score = agreement(regions, labels, stored["labels"], config)
    mask = decide(pixel_posterior(regions, labels, image.shape[:2]), config)
    foreground = float((mask == 1).mean())
    reason = ""
    if not config.web_min_foreground <= foreground <= config.web_max_foreground:
        reason = "foreground of %.1f %%" % (100 * foreground)
    elif score < config.web_min_score:
        reason = "score below %g" % config.web_min_score
    elif config.web_min_likeness and _likeness(layout, name, stored) < config.web_min_likeness:
        reason = "looks unlike the other images of its class"
    mask[mask == 1] = web_class(name, config.num_classes)
    write_mask(mask_path(layout.web_masks, name), mask)
    _write_result(layout, Result(name, not reason, score, foreground, reason))


def pixel_posterior(regions, labels, size):
    """Foreground posterior of the pixels, (h, w) float32 in [0, 1], from (n,) labels; `size` is (h, w)."""
    smooth = cv2.GaussianBlur(labels[regions.labels].astype(np.float32), (0, 0), 1.0)
    return cv2.resize(smooth, size[::-1], interpolation=cv2.INTER_LINEAR)


def decide(posterior, config):
    """Mask of a posterior, (h, w) float32: 1 above `web_threshold`, 255 from there down to `web_uncertain`, else 0."""
    uncertain = np.where(posterior > config.web_uncertain, IGNORE_LABEL, 0)
    return np.where(posterior > config.web_threshold, 1, uncertain).astype(np.uint8)


def agreement(regions, labels, start, config):
    """How sure the labels of an image are: the mean Jaccard index of their foreground with that of a GrabCut that
    starts from them, and with that of the labels of the image alone. In [0, 1].

    Args:
        labels, start: (n,) in [0, 1], after the last round and before the first.
    """
    found = labels > config.web_threshold
    cut = _cut_share(regions, labels, (0.5,)) > 0.5
    return (_jaccard(found, cut, regions.area) + _jaccard(found, start > config.web_threshold, regions.area)) / 2


def _jaccard(first, second, area):
    return float(area[first & second].sum() / max(area[first | second].sum(), 1.0))


def _learn(layout, config, names, kind, run):
    """Step 2: fit and store each round's models, unless they are there."""
    for number in range(1, config.web_rounds + 1):
        path = _model_path(layout, number)
        if os.path.exists(path):
            continue
        sampled = sample_names(names, config.web_sample_images)
        if number > 1:
            done = stems(_folder(layout, "round%d" % (number - 1)), ".npy")
            run(functools.partial(relabel, config=config, kind=kind, rounds=number - 1),
                [name for name in sampled if name not in done], "round %d" % number)
        sample = _read_sample(layout, sampled, number - 1)
        logger.info("round %d of %d: learning from %d regions of %d images", number, config.web_rounds,
                    len(sample.labels), len(sampled))
        with threadpool_limits(1):
            models = fit(sample, config.seed, kind)
        write_models(path, models)

    path = _check_path(layout)
    if not os.path.exists(path):
        sampled = sample_names(names, config.web_sample_images)
        with threadpool_limits(1):
            write_bytes(path, fit_check(np.stack([_read_regions(layout, name)["foreground"] for name in sampled]),
                                        np.array([_class_of(name) for name in sampled]),
                                        np.array([fold_of(name) for name in sampled])))
    unjudged = [config.classes[index] for index in unjudged_classes(_check(layout))]
    if config.web_min_likeness and unjudged:
        logger.info("too few images to tell which of them look unlike their class: %s", ", ".join(unjudged))


def _check(layout):
    path = _check_path(layout)
    return _arrays(path, os.stat(path).st_mtime_ns)


def _likeness(layout, name, stored):
    return likeness(_check(layout), fold_of(name), stored["foreground"], _class_of(name))


def sample_names(names, most):
    """At most `most` names of each class, chosen by a hash of the name: sorted list."""
    chosen = collections.defaultdict(list)
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).hexdigest()):
        if len(chosen[_class_of(name)]) < most:
            chosen[_class_of(name)].append(name)
    return sorted(name for group in chosen.values() for name in group)


def _labels_after(layout, regions, name, stored, descriptors, kind, rounds):
    """(n,) labels of an image after the given number of rounds."""
    features = stored["features"].astype(np.float32)
    if len(features) != regions.count:
        raise UserError("%s has changed since it was analysed: pass --overwrite" % image_path(layout.web_images, name))
    labels = stored["labels"].astype(float)
    if not rounds:
        return labels
    path = _model_path(layout, rounds)
    model = _models(path, os.stat(path).st_mtime_ns)[fold_of(name)]
    learned = relative(predict(model, features, descriptors, _class_of(name)))
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
    odds = log_odds(_check(layout), fold_of(name), describe_foregrounds(regions, candidates, kind, descriptors),
                    _class_of(name))
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
    return describe(regions, kind, activations_path(_folder(layout, "activations"), name))


def _read_sample(layout, names, rounds):
    parts = []
    for name in names:
        stored = _read_regions(layout, name)
        labels = read_array(_file(layout, "round%d" % rounds, name, ".npy")) if rounds else stored["labels"]
        rows = stored["rows"]
        parts.append((stored["features"][rows].astype(np.float32), stored["descriptors"].astype(np.float32),
                      labels[rows].astype(np.float32), stored["weights"],
                      np.full(len(rows), _class_of(name)), np.full(len(rows), fold_of(name))))
    return Sample(*(np.concatenate(column) for column in zip(*parts)))


def _read_regions(layout, name):
    return _read_arrays(_file(layout, "regions", name, ".npz"))


@functools.lru_cache(maxsize=2)
def _arrays(path, changed):
    """Arrays of a file that many images need; `changed` as for `_models`."""
    return _read_arrays(path)


def _read_arrays(path):
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as stored:
            return dict(stored)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on damaged files
        raise UserError("%s is damaged: remove it and run the same command again" % path) from error


@functools.lru_cache(maxsize=8)
def _models(path, changed):
    """Models of a round; `changed` keeps a worker that lives on from using those of an earlier run."""
    return read_models(path)


def _run(work, names, what, crew):
    for _ in progress(ordered_map(work, names, crew.executor, crew.ahead), len(names), what):
        pass


def _conclude(layout, config, names):
    """Report, list and contact sheets."""
    results = [_read_result(layout, name) for name in names]
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("name", "class", "kept", "score", "foreground", "reason"))
    for result in results:
        writer.writerow((result.name, config.classes[_class_of(result.name)], int(result.kept), "%.4f" % result.score,
                         "%.4f" % result.foreground, result.reason))
    write_text(layout.web_report, rows.getvalue())
    write_sheets(layout, config, results)
    kept = [result.name for result in results if result.kept]
    for index in sorted({_class_of(name) for name in names}):
        own = [result for result in results if _class_of(result.name) == index]
        logger.info("%-12s %5d images, %5d kept, mean score %.2f", config.classes[index], len(own),
                    sum(result.kept for result in own), np.mean([result.score for result in own]))
    if not kept:
        remove(layout.web_list, missing_ok=True)  # an earlier run's
        reason, count = collections.Counter(result.reason.split(":")[0] for result in results).most_common(1)[0]
        raise UserError("no web image is kept, %d of %d for: %s; %s has all reasons: change the settings web_min_* and "
                        "pass --overwrite, or bring other images" % (count, len(results), reason, layout.web_report))
    write_lines(layout.web_list, kept)
    logger.info("%d of %d images are in %s; the others and why are in %s", len(kept), len(names), layout.web_list,
                layout.web_report)
    return results


def _write_result(layout, result):
    write_text(_file(layout, "results", result.name, ".json"), json.dumps(result._asdict()) + "\n")


def _read_result(layout, name):
    path = _file(layout, "results", name, ".json")
    try:
        return Result(**read_json(path))
    except TypeError:
        raise UserError("%s is damaged: remove it and run the same command again" % path) from None


def _class_of(name):
    return int(name.split("_")[0])


def _folder(layout, what):
    return os.path.join(layout.web_cache, what)


def _file(layout, what, name, ending):
    return os.path.join(_folder(layout, what), name + ending)


def _check_path(layout):
    return os.path.join(layout.web_cache, "class_check.npz")


def _model_path(layout, number):
    return os.path.join(layout.web_cache, "round%d.npz" % number)
