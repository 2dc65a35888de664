"""What the files of the co-segmentation were made of: which settings, and which images."""
import os
import shutil
from typing import Sequence

from core.config import Config, network_settings
from core.data import check_classes
from core.dataset.samples import web_images
from core.errors import UserError
from core.io.files import file_digest, remove, remove_leftovers
from core.io.provenance import StageRecord
from core.paths import Layout, class_of, image_path, mask_path, stems

SETTINGS = ("web_side", "web_rounds", "web_sample_images", "web_threshold", "web_uncertain",
            "web_min_score", "web_min_likeness", "web_min_foreground", "web_max_foreground", "seed", "classes")
_FORMAT = 5  # of the files; those of another one can't be used


def claim(layout: Layout, config: Config, features: str, names: Sequence[str], overwrite: bool) -> StageRecord:
    """Take possession of cache and masks; what was made of images that have changed since is removed.

    Args:
        features: "imagenet" or "resnet".
        names: ids of the images.
        overwrite: empty the cache, unless the same was begun before and has not come to its end (`finish`).

    Returns:
        the record, which the stage finishes.

    Raises:
        UserError: what is there was made otherwise, or can't be removed, or an image is no file.
    """
    origin = {"settings": network_settings(config, SETTINGS), "features": features, "format": _FORMAT}
    if features == "resnet":
        origin["base_model_sha256"] = file_digest(layout.base_model)
    images = web_images(config, names)
    check_classes(config, map(class_of, names), record=True)
    record = images.record()
    fresh = record.claim(origin, present=record.origin is not None or bool(stems(layout.web_masks, ".png")),
                         overwrite=overwrite)
    paths = [image_path(layout.web_images, name) for name in names]
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise UserError(f"{path} is no regular file: remove it")  # reading a pipe would take for ever
    readable = [name for name, path in zip(names, paths) if os.access(path, os.R_OK) and os.path.isfile(path)]
    changed = record.stale({**dict.fromkeys(names, {}), **images.inputs(readable)})
    remove_leftovers(layout.web_cache, layout.web_masks)
    if fresh:
        _empty(layout.web_cache)
    else:
        folders = [entry.path for entry in os.scandir(layout.web_cache) if entry.is_dir()]
        for name in changed:
            made = [os.path.join(folder, name + ending) for folder in folders for ending in (".npz", ".npy", ".json")]
            for file in made + [mask_path(layout.web_masks, name)]:
                remove(file, missing_ok=True)
    return record


def _empty(folder):
    try:
        for entry in os.scandir(folder) if os.path.isdir(folder) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.remove(entry.path)
    except OSError as error:
        raise UserError(f"{error.filename or folder} can't be removed: {error.strerror}") from error
