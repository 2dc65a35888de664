"""Stage 1: check PASCAL VOC, SBD and the web images, and lay them out for training and evaluation.

Of the training masks nothing but the image-level labels is kept: no pixel of them reaches training.
"""
import collections
import contextlib
import functools
import io
import json
import os
import shutil

import numpy as np
import scipy.io

from core.classes import BACKGROUND, IGNORE_LABEL
from core.errors import UserError
from core.files import check_mask, read_bytes, read_image, read_list, read_mask, replacing, write_lines, write_text
from core.layout import Layout, check_pairs, image_path, mask_path, stems, web_class
from core.logs import logger, progress
from core.parallel import ordered_map, process_pool

Source = collections.namedtuple("Source", "name image mask")  # id, path of the image, path of its .png or .mat mask


def create_dataset(config, jobs, copy=False):
    """Check everything, then write dataset/{train_images,val_images,val_masks}, the lists and the labels.

    Args:
        jobs: processes that check.
        copy: copy images and masks instead of linking to them.

    Raises:
        UserError: a folder or file is missing, an image is unreadable, a mask has another size than its image or a
            label out of range. Nothing is written then.
    """
    layout = Layout(config)
    train, val = voc_sources(layout)
    web = web_names(layout, config)
    pairs = [Source(name, image_path(layout.web_images, name), mask_path(layout.web_masks, name)) for name in web]
    labels = _labels_of(train + val + pairs, config, jobs)

    logger.info("everything is in order: writing")
    for folder, sources in ((layout.train_images, train), (layout.val_images, val)):
        for source in sources:
            _put(source.image, image_path(folder, source.name), copy)
    for source in val:
        _put(source.mask, mask_path(layout.val_masks, source.name), copy)
    train_names = [source.name for source in train]
    train_labels = labels[:len(train)]
    write_lines(layout.val_list, [source.name for source in val])
    rows = ["%s: %s" % (json.dumps(name), json.dumps(values)) for name, values in zip(train_names, train_labels)]
    write_text(layout.train_labels, "{\n" + ",\n".join(rows) + "\n}\n")
    write_lines(layout.train_list, train_names)
    if web and not os.path.exists(layout.web_list):
        write_lines(layout.web_list, web)

    counts = collections.Counter(label for values in train_labels for label in values)
    logger.info("%d training images, %d val images, %d web images in %s", len(train), len(val), len(web),
                os.path.dirname(layout.train_list))
    logger.info("training images with each class: %s", ", ".join(
        "%s %d" % (name, counts[index]) for index, name in enumerate(config.classes) if index != BACKGROUND))


def voc_sources(layout):
    """Training images (SBD's that are not in VOC's segmentation lists, then VOC's) and val images.

    Returns:
        two lists of Source.

    Raises:
        UserError: a list, an image or a mask is missing.
    """
    for folder, what in ((layout.voc, "PASCAL VOC 2012"), (layout.sbd, "the Semantic Boundaries Dataset")):
        if not os.path.isdir(folder):
            raise UserError("%s is missing: unpack %s there, see dataset/README.md" % (folder, what))
    lists = os.path.join(layout.voc, "ImageSets", "Segmentation")
    voc_train, voc_val = (read_list(os.path.join(lists, part + ".txt")) for part in ("train", "val"))
    both = set(voc_train) & set(voc_val)
    if both:
        raise UserError("%s is in both %s/train.txt and val.txt" % (min(both), lists))
    in_voc = set(voc_train) | set(voc_val)
    sbd_names = [name for part in ("train", "val") for name in read_list(os.path.join(layout.sbd, part + ".txt"))]
    sbd_names = [name for name in dict.fromkeys(sbd_names) if name not in in_voc]

    sbd = _sources(sbd_names, (image_path, os.path.join(layout.sbd, "img")),
                   (_mat_path, os.path.join(layout.sbd, "cls")))
    voc_places = ((image_path, layout.voc_images),
                  (mask_path, os.path.join(layout.voc, "SegmentationClass")))
    return sbd + _sources(voc_train, *voc_places), _sources(voc_val, *voc_places)


def web_names(layout, config):
    """Ids of the web images: those of the list where there is one, else of all pairs of image and mask.

    Raises:
        UserError: a name has no valid class index, or a listed image or mask is missing.
    """
    if os.path.exists(layout.web_list):
        names = read_list(layout.web_list)
        remedy = "take it off %s, or bring the file" % layout.web_list
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


def present_classes(mask):
    """Sorted class indices of a mask, without background and 255, as a list of int."""
    return [int(label) for label in np.unique(mask) if label not in (BACKGROUND, IGNORE_LABEL)]


def read_sbd_mask(path, num_classes, size):
    """Class indices of an SBD file: field Segmentation of the struct GTcls.

    Returns:
        (h, w) uint8.

    Raises:
        UserError: the file is missing or damaged, lacks the field, or has another size or a label out of range.
    """
    content = read_bytes(path)
    try:
        values = scipy.io.loadmat(io.BytesIO(content), variable_names=["GTcls"])
        mask = np.asarray(values["GTcls"]["Segmentation"][0, 0])
        if mask.ndim != 2 or mask.dtype.kind not in "iu":
            raise ValueError
    except Exception as error:  # scipy's parser raises nearly anything on a damaged file
        raise UserError("%s is damaged or no SBD mask: GTcls.Segmentation can't be read as a matrix of integers" % path
                        ) from error
    check_mask(path, mask, num_classes, size)
    return mask.astype(np.uint8)


def _labels_of(sources, config, jobs):
    """Image-level labels of every source, all of them read and checked."""
    check = functools.partial(_check, num_classes=config.num_classes)
    with process_pool(jobs) if jobs > 1 else contextlib.nullcontext() as pool:
        checked = ordered_map(check, sources, pool, 8 * jobs)
        return [labels for _, labels in progress(checked, len(sources), "checking images and masks")]


def _check(source, num_classes):
    size = read_image(source.image).shape[:2]
    read = read_sbd_mask if source.mask.endswith(".mat") else read_mask
    return present_classes(read(source.mask, num_classes, size))


def _sources(names, *places):
    check_pairs(names, *((path, folder, "the download is incomplete, see dataset/README.md") for path, folder in places))
    (image, images), (mask, masks) = places
    return [Source(name, image(images, name), mask(masks, name)) for name in names]


def _mat_path(folder, name):
    return os.path.join(folder, name + ".mat")


def _put(source, target, copy):
    """Make `target` a link to `source`, or a copy; what is right already stays."""
    if copy:
        if os.path.islink(target) or not _same_content(source, target):
            with replacing(target) as temporary:
                shutil.copy2(source, temporary)
        return
    link = os.path.relpath(os.path.realpath(source), os.path.realpath(os.path.dirname(target)))
    if not (os.path.islink(target) and os.readlink(target) == link):
        with replacing(target) as temporary:
            os.symlink(link, temporary)


def _same_content(source, target):
    if not os.path.exists(target):
        return False
    a, b = os.stat(source), os.stat(target)
    return (a.st_size, int(a.st_mtime)) == (b.st_size, int(b.st_mtime))
