"""Take masks to annotation tools and other trainers, and corrected web masks back."""
import contextlib
import os
import shutil
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from core.annotation.formats import Item, read, write
from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.data import check_classes
from core.dataset.samples import listed_web_images
from core.errors import UserError
from core.io.files import list_folder, read_json, read_list
from core.io.images import read_mask, read_size, write_mask
from core.io.locks import locked
from core.io.logs import logger, progress
from core.paths import Layout, check_files, folder_lock, image_path, mask_path, stems, web_class

SOURCES = ("web", "pseudo", "val", "predictions")


class Pair(NamedTuple):
    """Name and paths of an image and its mask."""
    name: str
    image: str
    mask: str


def find_pairs(config: Config, source: str, everything: bool = False) -> List[Pair]:
    """Images with masks of a source.

    Args:
        source: one of SOURCES: masks of the web images that the init model trains on, pseudo masks of the training
            images, ground truth of the val images, or what predict.py found in pictures.
        everything: web images that the noise filter left out, too.
    """
    layout = config.layout
    if source == "predictions":
        return _predicted(layout, config.classes)
    if source == "web":
        names = sorted(stems(layout.web_masks, ".png")) if everything else listed_web_images(config)
        check_files(layout.web_images, ".jpg", names, "run create_web_masks.py again")
        check_files(layout.web_masks, ".png", names, "run create_web_masks.py")
        check_classes(config, {web_class(name, config.num_classes) for name in names})
        return [Pair(name, image_path(layout.web_images, name), layout.web_mask(name)) for name in names]
    check_classes(config)
    if source == "pseudo":
        images, masks, made_by = layout.train_images, layout.train_masks, "est_voc_train_masks.py"
        names = read_list(layout.train_list, "run create_dataset.py")
    else:
        images, masks, made_by = layout.val_images, layout.val_masks, "create_dataset.py"
        names = read_list(layout.val_list, f"run {made_by}")
    check_files(images, ".jpg", names, "run create_dataset.py, or see docs/formats.md")
    check_files(masks, ".png", names, f"run {made_by}")
    return [Pair(name, image_path(images, name), mask_path(masks, name)) for name in names]


def _predicted(layout: Layout, classes: Sequence[str]) -> List[Pair]:
    path = os.path.join(layout.predictions, "predictions.json")
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: run predict.py")
    content = read_json(path)
    try:
        made_with = ", ".join(content["settings"]["classes"])
        pairs = [Pair(name, row["file"], mask_path(os.path.join(layout.predictions, "masks"), name))
                 for name, row in content["files"].items() if "frames" not in row]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: run predict.py again") from None
    if made_with != ", ".join(classes):
        raise UserError(f"{path} was made with the classes {made_with}: pass --config with these")
    return pairs


def export_masks(config: Config, file_format: str, pairs: List[Pair], output: str, *, ignore: Optional[str] = None,
                 polygons: bool = False) -> None:
    """Write masks and images in a format of other tools, as `formats.write`; the folder appears when it is complete.

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
    ignored = pixels = 0

    def items() -> Iterator[Item]:
        nonlocal ignored, pixels
        for name, pair in images.items():
            mask = read_mask(pair.mask, config.num_classes)
            ignored += int(np.count_nonzero(mask == IGNORE_LABEL))
            pixels += mask.size
            yield Item(name, pair.image, mask)

    with _partial(output, f"an export into {output}") as partial:
        write(file_format, progress(items(), len(images), "export"), partial, config.classes, ignore=ignore,
              polygons=polygons)
        if os.path.isdir(output):
            os.rmdir(output)
        os.rename(partial, output)
    logger.info("%d images with masks are in %s", len(images), output)
    if ignored and ignore is None and file_format != "png":
        logger.warning("%.1f %% of the pixels are 255 (uncertain) and were exported as background: --ignore-label NAME "
                       "exports them as a class of that name", 100 * ignored / pixels)


@contextlib.contextmanager
def _partial(folder: str, work: str) -> Iterator[str]:
    """Give an empty folder beside `folder`, which one process fills; what is left in it at the end is removed."""
    above, name = os.path.split(folder)
    partial = os.path.join(above, f".{name}.partial")
    with locked(folder_lock(folder), work):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            os.makedirs(partial)
            yield partial
        except OSError as error:
            raise UserError(f"{folder} can't be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _unique_names(pairs: List[Pair]) -> Dict[str, Pair]:
    """The pairs by the names of their files in one folder: a predicted a/b becomes a_b."""
    by_name: Dict[str, Pair] = {}
    for pair in pairs:
        name = pair.name.replace("/", "_")
        if name in by_name:
            raise UserError(f"{by_name[name].image} and {pair.image} would both be exported as {name}: rename one of "
                            "them and run predict.py again")
        by_name[name] = pair
    return by_name


def import_masks(config: Config, file_format: str, path: str, *, ignore: Optional[str] = None) -> List[str]:
    """Store corrected masks of web images, see `formats.read`; training uses them in place of the automatic ones.

    All are checked before the first is stored. What the file doesn't speak of stays as it is, and an image is empty
    only where the file says so of it. Masks that equal the present ones, with their uncertain pixels or with
    background in place of these, as exported, do not count as corrected.

    Returns:
        names of the images whose mask is another now.

    Raises:
        UserError: a mask has no web image, another size, or shows another class than its image's, or an image has
            two masks.
    """
    layout = config.layout
    known = stems(layout.web_images, ".jpg")
    check_classes(config, {web_class(name, config.num_classes) for name in known})
    seen: Set[str] = set()

    def check(name: str, size: Tuple[int, ...]) -> None:
        image = image_path(layout.web_images, name)
        if name in seen:
            raise UserError(f"{path} holds two masks of {name}: remove one of them")
        if name not in known:
            raise UserError(f"{path}: {name} is not a web image: {image} is missing")
        expected = read_size(image)
        if size != expected:
            raise UserError(f"{path}: the mask of {name} is {size[1]} x {size[0]} pixels, its image "
                            f"{expected[1]} x {expected[0]}")
        seen.add(name)

    changed: List[str] = []
    empty: List[str] = []
    with _partial(layout.web_corrected, "an import of masks") as partial:
        for name, mask in read(file_format, path, config.classes, ignore, check):
            if _unchanged(layout.web_mask(name), mask, config.num_classes):
                continue
            _check_labels(f"{path}: the mask of {name}", mask, web_class(name, config.num_classes), config.classes)
            write_mask(mask_path(partial, name), mask)
            changed.append(name)
            empty += [] if mask.any() else [name]
        if not seen:
            raise UserError(f"{path} holds no masks")
        os.makedirs(layout.web_corrected, exist_ok=True)
        for name in changed:
            os.replace(mask_path(partial, name), mask_path(layout.web_corrected, name))
    logger.info("%d of %d masks differ from the present ones and are in %s now; training uses them",
                len(changed), len(seen), layout.web_corrected)
    if empty:
        logger.warning("%d of them show nothing, as %s says: %s", len(empty), path,
                       ", ".join(empty[:5]) + (", ..." if empty[5:] else ""))
    return sorted(changed)


def _check_labels(what: str, mask: np.ndarray, label: int, classes: Sequence[str]) -> None:
    """Raise UserError if a mask of a web image of class `label` shows another one, or only pixels to ignore."""
    shown = set(np.unique(mask).tolist()) - {BACKGROUND, label}
    others = sorted(shown - {IGNORE_LABEL})
    if others:
        raise UserError(f"{what} shows {classes[others[0]]}; web images show their own class, {classes[label]}, only. "
                        "Mark other objects as background")
    if shown and not (mask == label).any():
        raise UserError(f"{what} holds uncertain pixels, {IGNORE_LABEL}, and none of {classes[label]}, {label}")


def _unchanged(path, mask, num_classes):
    if not os.path.exists(path):
        return False
    present = read_mask(path, num_classes)
    return np.array_equal(mask, present) or np.array_equal(mask, np.where(present == IGNORE_LABEL, BACKGROUND, present))
