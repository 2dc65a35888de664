"""Check the images, of PASCAL VOC and SBD or of the user's own, and lay them out for training and evaluation.

Of the training masks nothing but the image-level labels is kept: no pixel of them reaches training.
"""
import collections
import errno
import functools
import json
import os
import re
import shutil
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.data import compare_classes, record_classes, recorded_classes
from core.dataset.own_images import OwnImages, Source, own_sources
from core.dataset.sbd_masks import read_sbd_mask
from core.dataset.voc import voc_sources
from core.errors import UserError
from core.io.files import read_bytes, read_list, remove, replacing, write_bytes, write_lines, write_text
from core.io.images import encode_image, encode_mask, read_image, read_mask, report_damage
from core.io.logs import logger, progress
from core.io.resize import shrink
from core.paths import check_files, class_of, image_path, mask_path, stems, web_class
from core.runtime.parallel import ordered_map, process_pool

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of os.symlink

_MUCH_IGNORED = 0.2  # share of 255 above which masks are suspicious; VOC's masks have 6 %


class Checked(NamedTuple):
    """What a source shows.

    Attributes:
        labels, size: image-level labels, (h, w).
        ignored: pixels of its mask that are 255.
        damage: what is wrong with the image file though it can be read, or None.
    """
    source: Source
    labels: List[int]
    size: Tuple[int, int]
    ignored: int
    damage: Optional[str]


class File(NamedTuple):
    """Path of an image or mask, and the one where it is stored."""
    source: str
    target: str


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
    then = recorded_classes(layout.classes).get("classes", list(config.classes))
    indexed = map(re.compile("([0-9]{1,3})_").match, stems(layout.web_images, ".jpg"))
    compare_classes(layout.classes, then, config.classes, [int(match.group(1)) for match in indexed if match])
    sources = own_sources(own, config) if own else voc_sources(layout)
    with process_pool(jobs) as pool:
        train, val, web = _check_all([*sources, web_sources(config)], config, pool, jobs)
        whole, large = _files(config, train, val, own.max_side if own else None)
        _keep_sources(whole, large)
        logger.info("all images and masks are checked: writing")
        if then != list(config.classes):
            logger.warning("the data set was made with the classes %s, and is made with %s now%s", ", ".join(then),
                           ", ".join(config.classes), ": make sure that the val masks hold the new indices" * bool(val))
        record_classes(layout.classes, config.classes, unfinished=True)
        copies = sum(_put(file, copy) for file in whole)
        store = functools.partial(_store_shrunk, num_classes=config.num_classes, max_side=own and own.max_side)
        for _ in progress(ordered_map(store, large, pool, 2 * jobs), len(large), "scaling down"):
            pass
    _write_lists(config, train, val, web)
    record_classes(layout.classes, config.classes)
    if own and large:
        logger.info("images of more than %d pixels are stored scaled down, with their masks (--max-side)",
                    own.max_side)
    if copies:
        logger.info("%d images and masks are copied, as with --copy: the file system has no symbolic links", copies)
    _report(config, train, val, web)


def web_sources(config: Config) -> List[Source]:
    """The web images of the list where there is one, else all pairs of image and mask."""
    layout = config.layout
    if os.path.exists(layout.web_list):
        names = read_list(layout.web_list)
        remedy = f"remove it from {layout.web_list}, or restore the file"
        check_files(layout.web_images, ".jpg", names, remedy)
        check_files(layout.web_masks, ".png", names, remedy)
    else:
        images, masks = stems(layout.web_images, ".jpg"), stems(layout.web_masks, ".png")
        names = sorted(images & masks)
        if images ^ masks:
            logger.info("left out: %d web images without mask, %d masks without image", len(images - masks),
                        len(masks - images))
    for name in names:
        web_class(name, config.num_classes)
    return [Source(name, image_path(layout.web_images, name), mask_path(layout.web_masks, name)) for name in names]


def present_classes(mask: np.ndarray) -> List[int]:
    """Sorted class indices of a mask, without background and 255."""
    return [int(label) for label in np.unique(mask) if label not in (BACKGROUND, IGNORE_LABEL)]


def _check_all(groups, config, pool, jobs):
    """Lists of `Checked` of the training, val and web sources, whose files can be read and fit together."""
    sources = [source for group in groups for source in group]
    check = functools.partial(_check, num_classes=config.num_classes)
    work = ordered_map(check, sources, pool, 8 * jobs)
    checked = iter([result for _, result in progress(work, len(sources), "checking images and masks")])
    results = []
    for what, group in zip(("training", "val", "web"), groups):
        results.append([next(checked) for _ in group])
        for result in results[-1]:
            if result.damage:
                report_damage(result.source.image, result.damage)
        _check_labels(what, [result for result in results[-1] if result.source.mask is not None], config)
    return results


def _check(source, num_classes):
    """`Checked` of a source whose image and mask can be read."""
    damage = []  # reported by the main process, which has the log
    height, width, _ = read_image(source.image, lambda path, what: damage.append(what)).shape
    labels, ignored = source.labels, 0
    if source.mask is not None:
        read = read_sbd_mask if source.mask.endswith(".mat") else read_mask
        mask = read(source.mask, num_classes, (height, width))
        labels, ignored = present_classes(mask), int((mask == IGNORE_LABEL).sum())
    return Checked(source, labels, (height, width), ignored, damage[0] if damage else None)


def _check_labels(what: str, masks: List[Checked], config: Config) -> None:
    """Check that the masks' values can be class indices, and warn of what is suspicious.

    Raises:
        UserError: no mask shows a class, but some have pixels of 255: an editor's white was meant to be the object.
    """
    if not masks:
        return
    shown = collections.Counter(label for checked in masks for label in checked.labels)
    share = sum(checked.ignored for checked in masks) / sum(np.prod(checked.size) for checked in masks)
    white = [checked.source.mask for checked in masks if checked.ignored and not checked.labels]
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
    others = [checked.source.mask for checked in masks
              if what == "web" and set(checked.labels) - {class_of(checked.source.name)}]
    if others:
        logger.warning("%d web masks show another class than the one their name starts with, such as %s",
                       len(others), others[0])


def _files(config: Config, train: Iterable[Checked], val: Iterable[Checked], max_side: Optional[int]
           ) -> Tuple[List[File], List[File]]:
    """The files to store: as they are, and scaled down."""
    layout = config.layout
    whole: List[File] = []
    large: List[File] = []
    for results, images, masks in ((train, layout.train_images, ""), (val, layout.val_images, layout.val_masks)):
        for source, _, size, _, _ in results:
            files = large if max_side and max(size) > max_side else whole
            files.append(File(source.image, image_path(images, source.name)))
            if masks:
                files.append(File(source.mask or "", mask_path(masks, source.name)))
    return whole, large


def _keep_sources(whole: List[File], large: List[File]) -> None:
    """Raise UserError if a file would be written over a source, or a file beside one."""
    sources = {os.path.realpath(source) for source, _ in whole + large}
    folders = {os.path.dirname(source) for source in sources}
    for files, same_will_do in ((whole, True), (large, False)):
        for source, target in files:
            written = _real(target)
            beside = os.path.dirname(written) in folders and os.path.isfile(written) and not os.path.islink(written)
            if (beside or written in sources) and not (same_will_do and written == os.path.realpath(source)):
                raise UserError(f"{written} lies where the stored form of {source} belongs: move your own images and "
                                f"masks out of {os.path.dirname(target)}")


def _real(path: str) -> str:
    """Where a file written to `path` would really lie: links in its folder are followed, itself is not."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _put(file: File, copy: bool) -> bool:
    """Store a file as a link to its source, or as a copy; what is right already stays.

    Returns:
        whether a link was wanted, but the file is a copy because the file system has no links.
    """
    source, target = file
    if _real(target) == os.path.realpath(source):
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
    try:
        with replacing(path) as temporary:
            os.symlink(link, temporary)
    except UserError as error:
        if getattr(error.__cause__, "errno", None) not in _NO_LINKS:
            raise
        return False
    return True


def _store_shrunk(file, num_classes, max_side):
    """Store an image or mask scaled down, unless it is there already."""
    source, target = file
    if target.endswith(".jpg"):
        content = encode_image(shrink(read_image(source), max_side), ".jpg")
    else:
        content = encode_mask(shrink(read_mask(source, num_classes), max_side, cv2.INTER_NEAREST_EXACT))
    if os.path.islink(target) or not os.path.exists(target) or read_bytes(target) != content:
        write_bytes(target, content)


def _write_lists(config: Config, train: Sequence[Checked], val: Sequence[Checked], web: Sequence[Checked]) -> None:
    layout = config.layout
    if val:
        write_lines(layout.val_list, [checked.source.name for checked in val])
    elif os.path.exists(layout.val_list):
        remove(layout.val_list)
        logger.warning("%s, of an earlier run, is removed: there are no val images now", layout.val_list)
    rows = [f"{json.dumps(checked.source.name)}: {json.dumps(checked.labels)}" for checked in train]
    write_text(layout.train_labels, "{\n" + ",\n".join(rows) + "\n}\n")
    write_lines(layout.train_list, [checked.source.name for checked in train])
    if os.path.exists(layout.web_list):
        return
    if os.path.exists(layout.web_record):
        logger.warning("%s is not written: create_web_masks.py has not finished the masks in %s; run it again, or "
                       "remove %s if the masks are your own", layout.web_list, layout.web_masks, layout.web_record)
    elif web:
        write_lines(layout.web_list, [checked.source.name for checked in web])


def _report(config: Config, train: Sequence[Checked], val: Sequence[Checked], web: Sequence[Checked]) -> None:
    counts = collections.Counter(label for checked in train for label in checked.labels)
    logger.info("%d training images, %d val images, %d web images in %s", len(train), len(val), len(web),
                os.path.dirname(config.layout.train_list))
    logger.info("training images with each class: %s", ", ".join(
        f"{name} {counts[index]}" for index, name in enumerate(config.classes) if index != BACKGROUND))
    if not val:
        logger.info("there are no val images: choose epochs by number, or --epoch newest")
