"""What the files of the co-segmentation were made of: which settings, and which images."""
import contextlib
import os
import shutil
from typing import List, Sequence

from core.config import Config, network_settings
from core.cosegmentation.items import ROUNDS, Item
from core.cosegmentation.results import result_path
from core.data import check_classes
from core.dataset.samples import train_images, web_images
from core.dataset.train_posteriors import posteriors_path
from core.errors import UserError
from core.io.files import file_digest, naming_errors, remove, remove_leftovers
from core.io.provenance import StageRecord
from core.paths import mask_path, stems

SETTINGS = ("cosegmented_images", "web_side", "web_min_score", "web_min_likeness", "web_min_foreground",
            "web_max_foreground", "seed", "classes")


def claim(config: Config, features: str, items: Sequence[Item], overwrite: bool) -> StageRecord:
    """Take possession of cache and masks; what was made of images or labels that have changed since is removed. Returns
    the record, which the stage finishes.

    Args:
        features: "imagenet" or "resnet".
        overwrite: empty the cache, unless the same was begun before and has not come to its end (`finish`).
    """
    layout = config.layout
    origin = {"settings": network_settings(config, SETTINGS), "features": features}
    if features == "resnet":
        origin["base_model_sha256"] = file_digest(layout.base_model)
    check_classes(config, [index for item in items for index in item.classes], record=True)
    record = web_images(config, []).record()
    fresh = record.claim(origin, present=record.origin is not None or bool(stems(layout.web_masks, ".png")),
                         overwrite=overwrite)
    for item in items:
        if os.path.exists(item.image) and not os.path.isfile(item.image) and not os.path.isdir(item.image):
            raise UserError(f"{item.image} is no regular file: remove it")  # reading a pipe would take for ever
    changed = record.stale(_inputs(config, items))
    remove_leftovers(layout.web_cache, layout.web_masks, layout.train_cache, layout.train_posteriors)
    if fresh:
        for folder in (layout.web_cache, layout.train_cache, layout.train_posteriors):
            with naming_errors(folder, "can't be removed"), contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):  # the folder itself may be a link
                    (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.remove)(entry.path)
    else:
        for item in items:
            if _entry(item) in changed:
                for path in _files(config, item):
                    remove(path, missing_ok=True)
    return record


def _inputs(config, items):
    """What each image's files depend on, by its name in the record; nothing where it can't be read."""
    inputs = {_entry(item): {} for item in items}
    readable = [item for item in items if os.access(item.image, os.R_OK) and os.path.isfile(item.image)]
    web = [item.name for item in readable if item.web]
    inputs.update(web_images(config, web).inputs())
    train = [item.name for item in readable if not item.web]
    if train:
        inputs.update((f"train/{name}", value) for name, value in train_images(config).inputs(train).items())
    return inputs


def _entry(item):
    """Name of the image in the record; no web image's has a slash."""
    return item.name if item.web else f"train/{item.name}"


def _files(config: Config, item: Item) -> List[str]:
    """Paths of all that may have been made of an image, for its classes or, as a training image, for others."""
    layout, classes = config.layout, item.classes if item.web else range(1, config.num_classes)
    made = [item._replace(classes=(index,)).foreground_file(number) for index in classes
            for number in range(ROUNDS + 1)]
    if item.web:
        made += [result_path(layout, item.name), mask_path(layout.web_masks, item.name)]
    else:
        made.append(posteriors_path(layout.train_posteriors, item.name))
    return made + [item.maps_file()]
