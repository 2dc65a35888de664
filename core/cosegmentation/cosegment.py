"""Masks for the web images of each class, learned from no mask.

Images are compared by the maps of a trained network (`feature_maps`), cell by cell (`by_cells`). An image takes the
same time whatever their number, and at most 100 of a class are learned from: n images take O(n). The main
process holds a few images at a time, the others one. Every file appears whole; whatever is there is not made again.
"""
import collections
import csv
import dataclasses
import functools
import io
import os
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from core.config import Config
from core.cosegmentation.by_cells import cosegment_cells, read_noise_filter
from core.cosegmentation.cache import claim
from core.cosegmentation.contact_sheet import write_sheets
from core.cosegmentation.feature_maps import Describer, base_network, imagenet_network
from core.cosegmentation.items import Item, noise_filter_path
from core.cosegmentation.noise_filter import unjudged_classes
from core.cosegmentation.results import UNLIKE, Result, read_result
from core.dataset.samples import read_labels
from core.engines.devices import Device
from core.errors import UserError
from core.io.files import list_folder, read_list, remove, write_lines, write_text
from core.io.locks import locked
from core.io.logs import logger, progress
from core.network.imagenet_weights import PACKAGE, weights_path
from core.paths import class_of, folder_lock, image_path, stems, web_class
from core.runtime.parallel import ordered_map
from core.runtime.task_pool import task_pool
from core.web.corrections import KEEP, REJECT, apply_moves, corrected_names, read_decisions

_NOTHING_COMMON = 0.4  # share of a class's images that look unlike it, above which the class is named


def cosegment(config: Config, devices: Callable[[str], Sequence[Device]], jobs: int = 1, *,
              scheduler: Optional[str] = None, features: str = "auto", overwrite: bool = False) -> List[Result]:
    """Write web_labels/<name>.png for every web image, web_train_list.txt, web_report.csv and contact sheets.

    Where the setting `cosegmented_images` says so, also cache/train_posteriors/<id>.npz for every training image that
    has labels.
    Resumes where an earlier run with the same settings was killed. Images added or changed later are judged by the
    models that are there.

    Args:
        devices: function from the network's backbone to its devices.
        jobs: processes of this machine.
        scheduler: address of a Dask scheduler, instead of jobs.
        features: "imagenet", "resnet" or "auto", see `feature_set`.
        overwrite: make everything again.

    Raises:
        UserError: there are no images, a name has no class, masks of another origin are there, another run is at work,
            or none is kept.
    """
    if scheduler:  # whose workers run in other folders
        config = dataclasses.replace(config, root=os.path.abspath(config.root))
    layout = config.layout
    decisions = read_decisions(layout, config.num_classes)
    if decisions:
        with locked(folder_lock(layout.web_cache), f"co-segmentation into {layout.web_masks}"):
            for move in apply_moves(layout, decisions):
                logger.info("%s is %s now, as decided in the review", move.name, move.new_name)
    items = _web_items(config)
    names = [item.name for item in items]
    if config.cosegmented_images == "web+train":
        items += _train_items(config)
    features, why = feature_set(config, features)
    if features == "imagenet":
        describer = Describer(imagenet_network(), config, devices("efficientnet_lite2"))
    else:
        describer = Describer(base_network(config), config, devices("resnet50"))
    with locked(folder_lock(layout.web_cache), f"co-segmentation into {layout.web_masks}"), \
            task_pool(jobs, scheduler, layout.web_images) as pool, \
            claim(config, features, items, overwrite) as record:
        logger.info("%d images of %d classes, features: %s (%s)", len(names), len({class_of(name) for name in names}),
                    features, why)
        if len(items) > len(names):
            logger.info("and %d training images, once for each of their labels", len(items) - len(names))
        cosegment_cells(config, items, describer, functools.partial(_run, pool=pool))
        record.finish()
        return _conclude(layout, config, [_reviewed(layout, read_result(layout, name), decisions) for name in names])


def feature_set(config: Config, features: str = "auto") -> Tuple[str, str]:
    """The network that images are compared by, "imagenet" or "resnet", and why; "auto" takes the first of them whose
    weights are there.
    """
    base_model = config.layout.base_model
    missing = {"imagenet": "" if weights_path() else f"the package {PACKAGE} is not installed",
               "resnet": "" if os.path.exists(base_model) else f"{base_model} is missing"}
    if features != "auto":
        if missing[features]:
            raise UserError(f"--features {features}: {missing[features]}, which holds its weights")
        return features, f"--features {features}"
    if not missing["imagenet"]:
        return "imagenet", "its weights are installed"
    if not missing["resnet"]:
        return "resnet", missing["imagenet"]
    raise UserError(f"images are compared by a trained network, and there is none: {missing['imagenet']} (pip install "
                    f"{PACKAGE}), and {missing['resnet']}")


def _web_items(config):
    folder = config.layout.web_images
    names = sorted(stems(folder, ".jpg"))
    if not names:
        raise UserError(f"{folder} holds no .jpg: fetch_web_images.py brings them, or put your own there as "
                        "<class>_<id>.jpg")
    others = [name for name in list_folder(folder) if not name.endswith(".jpg") and not name.startswith(".")]
    if others:
        logger.warning("%d files of %s are passed over, such as %s: web images are <class>_<id>.jpg",
                       len(others), folder, min(others))
    return [Item(name, image_path(folder, name), (web_class(name, config.num_classes),), config.layout.web_cache)
            for name in names]


def _train_items(config):
    layout = config.layout
    names = read_list(layout.train_list, "run create_dataset.py first")
    labels = read_labels(layout.train_labels, names, config)
    return [Item(name, image_path(layout.train_images, name), tuple(sorted(labels[name])), layout.train_cache, False)
            for name in names if labels[name]]


def _run(work, items, count, title, pool):
    for item, _ in progress(ordered_map(work, items, pool.executor, pool.ahead), count, title):
        yield item


def _reviewed(layout, result, decisions):
    """The result as people left it: their decisions, and corrected masks, go before the noise filter."""
    mask = layout.web_mask(result.name)
    decision = decisions[result.name].decision if result.name in decisions else None
    if decision == REJECT:
        return result._replace(kept=False, reason="left out in the review")
    if os.path.exists(mask) and (decision == KEEP or os.path.dirname(mask) == layout.web_corrected):
        return result._replace(kept=True, reason="")
    return result


def _conclude(layout, config, results):
    """Report, list and contact sheets."""
    corrected = set(corrected_names(layout))
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("name", "class", "kept", "score", "foreground", "reason", "mask", "also"))
    for result in results:
        writer.writerow((result.name, config.classes[class_of(result.name)], int(result.kept), f"{result.score:.4f}",
                         f"{result.foreground:.4f}", result.reason,
                         "corrected" if result.name in corrected else "automatic",
                         ";".join(config.classes[index] for index in result.also)))
    write_text(layout.web_report, rows.getvalue())
    write_sheets(layout, config, results)
    log_doubts(layout, config, results)
    kept = [result.name for result in results if result.kept]
    for index in sorted({class_of(result.name) for result in results}):
        group = [result for result in results if class_of(result.name) == index]
        logger.info("%-12s %5d images, %5d kept, mean score %.2f", config.classes[index], len(group),
                    sum(result.kept for result in group), np.mean([result.score for result in group]))
    if not kept:
        remove(layout.web_list, missing_ok=True)  # an earlier run's
        reason, count = collections.Counter(result.reason.split(":")[0] for result in results).most_common(1)[0]
        raise UserError(f"no web image is kept, {count} of {len(results)} for: {reason}; {layout.web_report} has all "
                        "reasons: change the settings web_min_* and pass --overwrite, or bring other images")
    write_lines(layout.web_list, kept)
    logger.info("%d of %d images are in %s; the others and why are in %s", len(kept), len(results), layout.web_list,
                layout.web_report)
    return results


def log_doubts(layout, config, results):
    """Log the classes that are too small for the noise filter, and those whose images have little in common."""
    if not config.web_min_likeness or not os.path.exists(noise_filter_path(layout)):
        return
    unjudged = [config.classes[index] for index in unjudged_classes(read_noise_filter(layout))]
    if unjudged:
        logger.info("too few images to tell which of them look unlike their class: %s", ", ".join(unjudged))
    classes = collections.defaultdict(list)
    for result in results:
        classes[class_of(result.name)].append(result.reason == UNLIKE)
    for index, unlike in sorted(classes.items()):
        if np.mean(unlike) > _NOTHING_COMMON:
            logger.warning("%s: %d of %d images look unlike the other images of the class; if its contact sheet shows "
                           "no common object, search with other words", config.classes[index], sum(unlike),
                           len(unlike))
