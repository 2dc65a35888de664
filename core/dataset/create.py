"""Check the images, of PASCAL VOC and SBD or of the user's own, and lay them out for training and evaluation.

Of the training masks nothing but the image-level labels is kept: no pixel of them reaches training.
"""
import collections
import contextlib
import errno
import functools
import json
import os
import re
import shutil
from typing import List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.dataset.own_images import OwnImages, Source, own_sources
from core.dataset.sbd_masks import read_sbd_mask
from core.dataset.voc import voc_sources
from core.errors import UserError
from core.io.files import read_bytes, read_list, remove, replacing, write_bytes, write_lines, write_text
from core.io.images import encode_image, encode_mask, read_image, read_mask, report_damage
from core.io.logs import logger, progress
from core.io.provenance import record_classes, recorded_classes
from core.io.resize import shrink
from core.paths import check_pairs, image_path, mask_path, stems, web_class
from core.runtime.parallel import ordered_map, process_pool

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of os.symlink

_MUCH_IGNORED = 0.2  # share of 255 above which masks are suspicious; VOC's masks have 6 %


class Checked(NamedTuple):
    """What was found of an image.

    Attributes:
        labels, size: image-level labels, (h, w).
        ignored: pixels of its mask that are 255, or None without a mask.
        damage: what is wrong with the image file though it can be read, or None.
    """
    labels: List[int]
    size: Tuple[int, int]
    ignored: Optional[int] = None
    damage: Optional[str] = None


def create_dataset(config: Config, jobs: int, *, copy: bool = False, own: Optional[OwnImages] = None) -> None:
    """Check everything, then write dataset/{train_images,val_images,val_masks}, the lists and the labels.

    Args:
        jobs: processes that check.
        copy: copy images and masks instead of linking to them.
        own: the user's images, to use instead of VOC and SBD.

    Raises:
        UserError: a folder or file is missing, an image is unreadable, a mask has another size than its image or a
            label out of range, or one would be written over another. Nothing is written then.
    """
    layout = config.layout
    _check_class_names(layout, config)
    train, val = own_sources(own, config) if own else voc_sources(layout)
    web = web_names(config)
    pairs = [Source(name, image_path(layout.web_images, name), mask_path(layout.web_masks, name)) for name in web]
    sources = train + val + pairs
    with process_pool(jobs) if jobs > 1 else contextlib.nullcontext() as pool:
        check = functools.partial(_check, num_classes=config.num_classes)
        checked = [found for _, found in progress(ordered_map(check, sources, pool, 8 * jobs), len(sources),
                                                  "checking images and masks")]
        for source, found in zip(sources, checked):
            if found.damage:
                report_damage(source.image, found.damage)
        first = 0
        for what, part in (("training", train), ("val", val), ("web", pairs)):
            _check_labels(what, part, checked[first:first + len(part)], config)
            first += len(part)
        large, whole = [], []
        for folder, first, part in ((layout.train_images, 0, train), (layout.val_images, len(train), val)):
            for source, found in zip(part, checked[first:]):
                places = whole if not own or max(found.size) <= own.max_side else large
                places.append((source.image, image_path(folder, source.name)))
                if part is val:
                    places.append((source.mask, mask_path(layout.val_masks, source.name)))
        _keep_sources(whole, large)
        logger.info("all images and masks are checked: writing")
        _note_class_names(layout, config, bool(val))
        copies = sum(_put(source, target, copy) for source, target in whole)
        store = functools.partial(_store_shrunk, num_classes=config.num_classes, max_side=own and own.max_side)
        for _ in progress(ordered_map(store, large, pool, 2 * jobs), len(large), "scaling down"):
            pass
    _write_lists(layout, train, val, web, [found.labels for found in checked[:len(train)]])
    record_classes(layout.classes, config.classes)
    if own and large:
        logger.info("images of more than %d pixels are stored scaled down, with their masks (--max-side)",
                    own.max_side)
    if copies:
        logger.info("%d images and masks are copied, as with --copy: the file system has no symbolic links", copies)
    _report(layout, config, train, val, web, checked)


def _check_class_names(layout, config):
    """Raise UserError if a web image's name starts with the index of a class that has another name now."""
    then = (recorded_classes(layout.classes) or {"classes": config.classes})["classes"]
    for name in sorted(stems(layout.web_images, ".jpg")):
        match = re.match("([0-9]{1,3})_", name)
        if match is None:
            continue
        index = int(match.group(1))
        old, new = (names[index] if index < len(names) else None for names in (then, config.classes))
        if old is not None and old != new:
            raise UserError(f"{image_path(layout.web_images, name)} was brought in as {old}, and class "
                            f"{index} is {new or 'none'} now: bring back the classes in their order, "
                            "move the web images away, or use another --root")


def _note_class_names(layout, config, val):
    """Record the classes that are about to be written, so that no half-written mixture is taken for a data set."""
    then = recorded_classes(layout.classes)
    if then and then["classes"] != list(config.classes):
        logger.warning("the data set was made with the classes %s, and is made with %s now%s",
                       ", ".join(then["classes"]), ", ".join(config.classes),
                       ": make sure that the val masks hold the new indices" if val else "")
    if not then or then["classes"] != list(config.classes):
        record_classes(layout.classes, config.classes, unfinished=True)


def _write_lists(layout, train, val, web, train_labels):
    if val:
        write_lines(layout.val_list, [source.name for source in val])
    elif os.path.exists(layout.val_list):
        remove(layout.val_list)
        logger.warning("%s, of an earlier run, is removed: there are no val images now", layout.val_list)
    rows = [f"{json.dumps(source.name)}: {json.dumps(values)}" for source, values in zip(train, train_labels)]
    write_text(layout.train_labels, "{\n" + ",\n".join(rows) + "\n}\n")
    write_lines(layout.train_list, [source.name for source in train])
    if not os.path.exists(layout.web_list):
        if os.path.exists(layout.web_record):
            logger.warning("%s is not written: create_web_masks.py has not finished the masks in %s; run it again, or "
                           "remove %s if the masks are your own", layout.web_list, layout.web_masks, layout.web_record)
        elif web:
            write_lines(layout.web_list, web)


def _report(layout, config, train, val, web, checked):
    counts = collections.Counter(label for found in checked[:len(train)] for label in found.labels)
    logger.info("%d training images, %d val images, %d web images in %s", len(train), len(val), len(web),
                os.path.dirname(layout.train_list))
    logger.info("training images with each class: %s", ", ".join(
        f"{name} {counts[index]}" for index, name in enumerate(config.classes) if index != BACKGROUND))
    if not val:
        logger.info("there are no val images: choose epochs by number, or --epoch newest")


def web_names(config: Config) -> List[str]:
    """Ids of the web images: those of the list where there is one, else of all pairs of image and mask.

    Raises:
        UserError: a name has no valid class index, or a listed image or mask is missing.
    """
    layout = config.layout
    if os.path.exists(layout.web_list):
        names = read_list(layout.web_list)
        remedy = f"remove it from {layout.web_list}, or restore the file"
        check_pairs(names, (image_path, layout.web_images, remedy), (mask_path, layout.web_masks, remedy))
    else:
        images, masks = stems(layout.web_images, ".jpg"), stems(layout.web_masks, ".png")
        names = sorted(images & masks)
        if images ^ masks:
            logger.info("left out: %d web images without mask, %d masks without image", len(images - masks),
                        len(masks - images))
    for name in names:
        web_class(name, config.num_classes)
    return names


def present_classes(mask: np.ndarray) -> List[int]:
    """Sorted class indices of a mask, without background and 255."""
    return [int(label) for label in np.unique(mask) if label not in (BACKGROUND, IGNORE_LABEL)]


def _check(source, num_classes):
    """`Checked` of a source whose image and mask can be read."""
    damage = []  # reported by the main process, which has the log
    height, width, _ = read_image(source.image, lambda path, what: damage.append(what)).shape
    labels, ignored = source.labels, None
    if source.mask is not None:
        read = read_sbd_mask if source.mask.endswith(".mat") else read_mask
        mask = read(source.mask, num_classes, (height, width))
        labels, ignored = present_classes(mask), int((mask == IGNORE_LABEL).sum())
    return Checked(labels, (height, width), ignored, damage[0] if damage else None)


def _check_labels(what: str, sources: List[Source], checked: List[Checked], config: Config) -> None:
    """Check that the masks' values can be class indices, and warn of what is suspicious.

    Args:
        what: "training", "val" or "web", for messages.

    Raises:
        UserError: no mask shows a class, but some have pixels of 255: an editor's white was meant to be the object.
    """
    masks = [(source, found) for source, found in zip(sources, checked) if source.mask is not None]
    if not masks:
        return
    shown = collections.Counter(label for _, found in masks for label in found.labels)
    share = sum(found.ignored or 0 for _, found in masks) / sum(found.size[0] * found.size[1] for _, found in masks)
    white = [source.mask for source, found in masks if found.ignored and not found.labels]
    percentage = f"{100 * share:.1f} % of all pixels are 255, which means ignored"
    if white and not shown:
        raise UserError(f"no {what} mask shows any class, and {percentage}, such as in {white[0]}: write the class "
                        f"index ({config.classes[1]} is 1) where the object is, not 255")
    missing = [name for index, name in enumerate(config.classes) if index != BACKGROUND and not shown[index]]
    if missing:
        logger.warning("no %s mask shows: %s", what, ", ".join(missing))
    if share > _MUCH_IGNORED:
        logger.warning("of the %s masks, %s", what, percentage)
    if white:
        logger.warning("%d of %d %s masks show no class but have pixels of 255, which means ignored, such as %s",
                       len(white), len(masks), what, white[0])
    if what == "web":
        others = [source.mask for source, found in masks
                  if set(found.labels) - {web_class(source.name, config.num_classes)}]
        if others:
            logger.warning("%d web masks show another class than the one their name starts with, such as %s",
                           len(others), others[0])


def _store_shrunk(place, num_classes, max_side):
    """Write the image or mask of a (source, target) pair scaled down, unless it is there already."""
    source, target = place
    if target.endswith(".jpg"):
        content = encode_image(shrink(read_image(source), max_side), ".jpg")
    else:
        content = encode_mask(shrink(read_mask(source, num_classes), max_side, cv2.INTER_NEAREST_EXACT))
    if os.path.islink(target) or not os.path.exists(target) or read_bytes(target) != content:
        write_bytes(target, content)


def _keep_sources(whole, large):
    """Raise UserError if one of the (source, target) pairs would be written over a source, or a file beside one."""
    sources = {os.path.realpath(source) for source, _ in whole + large}
    folders = {os.path.dirname(source) for source in sources}
    for pairs, same_will_do in ((whole, True), (large, False)):
        for source, target in pairs:
            place = _place(target)
            beside = os.path.dirname(place) in folders and os.path.isfile(place) and not os.path.islink(place)
            if (beside or place in sources) and not (same_will_do and place == os.path.realpath(source)):
                raise UserError(f"{place} lies where the stored form of {source} belongs: move your own images and "
                                f"masks out of {os.path.dirname(target)}")


def _place(path):
    """Where a file written to `path` would really lie: links in its folder are followed, itself is not."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _put(source: str, target: str, copy: bool) -> bool:
    """Make `target` a link to `source`, or a copy; what is right already stays.

    Returns:
        whether a link was wanted, but `target` is a copy because the file system has no links.
    """
    if _place(target) == os.path.realpath(source):
        return False
    if not copy:
        link = os.path.relpath(os.path.realpath(source), os.path.realpath(os.path.dirname(target)))
        if os.path.islink(target) and os.readlink(target) == link or _replaced_by_link(target, link):
            return False
    if os.path.islink(target) or not os.path.exists(target) or read_bytes(target) != read_bytes(source):
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    return not copy


def _replaced_by_link(path: str, link: str) -> bool:
    """Put a link in place of `path`; False where the file system has no links, as exFAT and some network drives."""
    with contextlib.suppress(_NoLinks), replacing(path) as temporary:
        try:
            os.symlink(link, temporary)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise _NoLinks from error
            raise
        return True  # replacing moves it into place
    return False


class _NoLinks(Exception):
    """The file system has no symbolic links."""
