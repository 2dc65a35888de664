"""Take masks to annotation tools and other trainers, and corrected web masks back."""
import os
import shutil
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from core.annotation.formats import Item, read, write
from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.data import check_classes
from core.dataset.samples import listed_web_images
from core.errors import UserError
from core.io.files import list_folder, read_json, read_list
from core.io.images import read_image, read_mask, write_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.paths import Layout, check_pairs, image_path, mask_path, stems, web_class

SOURCES = ("web", "pseudo", "val", "predictions")


class Pair(NamedTuple):
    """Name and paths of an image and its mask."""
    name: str
    image: str
    mask: str


def find_pairs(config: Config, source: str, everything: bool = False) -> List[Pair]:
    """Images with masks of one kind.

    Args:
        source: one of SOURCES: masks of the web images that the init model trains on, pseudo masks of the training
            images, ground truth of the val images, or what predict.py found in pictures.
        everything: web images that the noise filter left out, too.

    Raises:
        UserError: list, images or masks are missing, or were made with other classes than the setting's.
    """
    layout = config.layout
    if source == "predictions":
        return _predicted(layout, config.classes)
    if source == "web":
        names = sorted(stems(layout.web_masks, ".png")) if everything else listed_web_images(config)
        check_pairs(names, (image_path, layout.web_images, "run create_web_masks.py again"),
                    (mask_path, layout.web_masks, "run create_web_masks.py"))
        check_classes(config, {web_class(name, config.num_classes) for name in names})
        return [Pair(name, image_path(layout.web_images, name), layout.web_mask(name)) for name in names]
    check_classes(config)
    if source == "pseudo":
        images, masks, made_by = layout.train_images, layout.train_masks, "est_voc_train_masks.py"
        names = read_list(layout.train_list, "run create_dataset.py")
    else:
        images, masks, made_by = layout.val_images, layout.val_masks, "create_dataset.py"
        names = read_list(layout.val_list, f"run {made_by}")
    check_pairs(names, (image_path, images, "run create_dataset.py, or see docs/formats.md"),
                (mask_path, masks, f"run {made_by}"))
    return [Pair(name, image_path(images, name), mask_path(masks, name)) for name in names]


def _predicted(layout: Layout, classes: Sequence[str]) -> List[Pair]:
    path = os.path.join(layout.predictions, "predictions.json")
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: run predict.py")
    content = read_json(path)
    made_with = content["settings"]["classes"]
    if made_with != list(classes):
        raise UserError(f"{path} was made with the classes {', '.join(made_with)}: pass --config with these")
    return [Pair(name, row["file"], mask_path(os.path.join(layout.predictions, "masks"), name))
            for name, row in content["files"].items() if "frames" not in row]


def export_masks(config: Config, kind: str, pairs: List[Pair], output: str, *, ignore: Optional[str] = None,
                 polygons: bool = False) -> None:
    """Write masks and images in a format of other tools; the folder appears when it is complete.

    Args:
        kind, ignore, polygons: as for `formats.write`.
        output: folder, which must not exist or be empty.

    Raises:
        UserError: the folder holds something, an image or mask is missing or damaged, two images would have the same
            name, or the disk is full.
    """
    output = os.path.abspath(output)
    if list_folder(output) or os.path.isfile(output):
        raise UserError(f"{output} is not an empty folder: choose another --output, or remove it first")
    if not pairs:
        raise UserError("there is no mask to export")
    images = _unique_names(pairs)
    above, name = os.path.split(output)
    partial = os.path.join(above, f".{name}.partial")
    ignored = pixels = 0

    def items() -> Iterator[Item]:
        nonlocal ignored, pixels
        for name, pair in images.items():
            mask = read_mask(pair.mask, config.num_classes)
            ignored += int(np.count_nonzero(mask == IGNORE_LABEL))
            pixels += mask.size
            yield Item(name, pair.image, mask)

    with locked(os.path.join(above, f".{name}.lock"), f"an export into {output}"):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            os.makedirs(partial)
            write(kind, progress(items(), len(images), "export"), partial, config.classes, ignore=ignore,
                  polygons=polygons)
            if os.path.isdir(output):
                os.rmdir(output)
            os.rename(partial, output)
        except OSError as error:
            raise UserError(f"{output} can't be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    logger.info("%d images with masks are in %s", len(images), output)
    if ignored and ignore is None and kind != "png":
        logger.warning("%.1f %% of the pixels are 255 (uncertain) and were exported as background: --ignore-label NAME "
                       "exports them as a class of that name", 100 * ignored / pixels)


def _unique_names(pairs: List[Pair]) -> Dict[str, Pair]:
    """The pairs by the names of their files in one folder: a predicted a/b becomes a_b."""
    found: Dict[str, Pair] = {}
    for pair in pairs:
        name = pair.name.replace("/", "_")
        if name in found:
            raise UserError(f"{found[name].image} and {pair.image} would both be exported as {name}: rename one of "
                            "them and run predict.py again")
        found[name] = pair
    return found


def import_masks(config: Config, kind: str, path: str, *, ignore: Optional[str] = None) -> List[str]:
    """Store corrected masks of web images; training uses them in place of the automatic ones.

    All are checked before the first is written. Masks that equal the present ones, with their uncertain pixels or with
    background in place of these, as exported, do not count as corrected.

    Args:
        kind, path, ignore: as for `formats.read`.

    Returns:
        names of the images whose mask is another now.

    Raises:
        UserError: a mask has no web image, another size, or shows another class than its image's, or an image has
            two masks.
    """
    layout = config.layout
    known = stems(layout.web_images, ".jpg")
    check_classes(config, {web_class(name, config.num_classes) for name in known})
    changed: Dict[str, np.ndarray] = {}
    found: Set[str] = set()
    for name, mask in read(kind, path, config.classes, ignore):
        if name in found:
            raise UserError(f"{path} holds two masks of {name}: remove one of them")
        found.add(name)
        if name not in known:
            raise UserError(f"{path}: {name} is not a web image: {image_path(layout.web_images, name)} is missing")
        size = read_image(image_path(layout.web_images, name)).shape[:2]
        if mask.shape != size:
            raise UserError(f"{path}: the mask of {name} is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                            f"{size[1]} x {size[0]}")
        own = web_class(name, config.num_classes)
        others = sorted(set(np.unique(mask).tolist()) - {0, own, IGNORE_LABEL})
        if others:
            raise UserError(f"{path}: the mask of {name} shows {config.classes[others[0]]}; web images show their own "
                            f"class, {config.classes[own]}, only. Mark other objects as background")
        if not _unchanged(layout.web_mask(name), mask, config.num_classes):
            changed[name] = mask
    if not found:
        raise UserError(f"{path} holds no masks")
    for name, mask in changed.items():
        write_mask(mask_path(layout.web_corrected, name), mask)
    logger.info("%d of %d masks differ from the present ones and are in %s now; training uses them",
                len(changed), len(found), layout.web_corrected)
    return sorted(changed)


def _unchanged(path, mask, num_classes):
    if not os.path.exists(path):
        return False
    present = read_mask(path, num_classes)
    return np.array_equal(mask, present) or np.array_equal(mask, np.where(present == IGNORE_LABEL, BACKGROUND, present))
