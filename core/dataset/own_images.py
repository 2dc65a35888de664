"""Training and val images of the user's own: pictures with image-level labels, and val pictures with masks.

No mask of a training image is looked for: their labels come from a list or from the folders they lie in.
"""
import collections
import os
import re
import unicodedata
from typing import List, NamedTuple, Optional, Tuple

from core.classes import BACKGROUND
from core.config import Config
from core.errors import UserError
from core.io.files import file_digest, find_file, list_folder, read_json
from core.io.images import PICTURES, list_pictures
from core.io.logs import logger
from core.io.tables import Row, read_table
from core.paths import check_id

_IMAGE_TITLES = ("image", "images", "filename", "file_name", "file", "image_id")
_ONE_HOT = "a column of 0 and 1 for each class needs a header, image and the names of the classes"


class OwnImages(NamedTuple):
    """Where they lie.

    Attributes:
        train_images: folder; without a list it holds a folder for each class. None: the list's folder.
        train_labels: list of images and labels, .csv or .json, or None.
        val_images, val_masks: folders of pictures and of their masks, <same name>.png; None without evaluation.
        max_side: images with a longer side are stored scaled down to it, pixels, with their masks.
    """
    train_images: Optional[str] = None
    train_labels: Optional[str] = None
    val_images: Optional[str] = None
    val_masks: Optional[str] = None
    max_side: int = 500


class Source(NamedTuple):
    """An image: id, its path, path of its .png or .mat mask or None, class indices without a mask."""
    name: str
    image: str
    mask: Optional[str]
    labels: Optional[List[int]] = None


def own_sources(own: OwnImages, config: Config) -> Tuple[List[Source], List[Source]]:
    """Training images, with labels and without masks, and val images with masks, as listed, or by the files' names.

    Raises:
        UserError: a list, an image or a mask is missing, a label is no class, two images have one id, or an image is
            in training and val.
    """
    if not own.train_images and not own.train_labels:
        raise UserError("--val-images and --val-masks need training images: --train-images or --train-labels")
    if bool(own.val_images) != bool(own.val_masks):
        raise UserError("--val-images and --val-masks go together: every val image has a mask")
    for folder in (own.train_images, own.val_images, own.val_masks):
        if folder and not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder")
    train = _from_list(own, config) if own.train_labels else _from_folders(own.train_images, config)
    val = _val_sources(own) if own.val_images else []
    _check_ids(train)
    _check_ids(val)
    images = {source.image for source in train}
    for copies in _copies([source.image for source in train + val]):
        in_train, in_val = [path for path in copies if path in images], [path for path in copies if path not in images]
        if in_train and in_val:
            raise UserError(f"{in_train[0]} and {in_val[0]} are the same picture: a training image can't be in val too")
        for path in in_train[1:]:
            logger.warning("%s and %s are the same picture", in_train[0], path)
    return train, val


def _from_list(own, config):
    """Sources of a list of images and labels."""
    folder = own.train_images or os.path.dirname(own.train_labels)
    read = _csv_rows if own.train_labels.lower().endswith(".csv") else _json_rows
    sources, seen = [], {}
    for where, image, labels in read(own.train_labels, config):
        path = _find(folder, image, where)
        if path in seen:
            raise UserError(f"{where}: {image} appears twice, first in {seen[path]}")
        seen[path] = where
        indices = [_index(label, where, config) for label in labels]
        repeated = [label for label, index in zip(labels, indices) if indices.count(index) > 1]
        if repeated and str(repeated[0]).isdigit():
            raise UserError(f"{where}: class {repeated[0]} appears twice: {_ONE_HOT}")
        sources.append(Source(_id(folder, path), path, None, sorted(set(indices))))
    if not sources:
        raise UserError(f"{own.train_labels} names no image")
    return sources


def _csv_rows(path, config):
    """Yield (where it stands, image, labels) for the rows of a table, with or without a header.

    A header names a column image, and behind it one or several of labels, or one of 0 and 1 for each class.
    """
    header, *rows = read_table(path) or [Row(1, [])]
    column, titles = _titles(header.cells)
    if column is None:
        rows.insert(0, header)
        _check_no_header(path, rows)
    classes = [config.class_index(title) for title in titles if unicodedata.normalize("NFC", title) in config.classes]
    one_hot = len(classes) == len(titles) > 0
    others = [title for title in titles if not re.fullmatch("((labels?|class(es)?)[ _]?[0-9]*)?", title.lower())]
    if others and not one_hot:
        raise UserError(f"{path}: the column {others[0]!r} of its header is neither labels nor a class: the header is "
                        "image,labels, or image and the names of the classes")
    for row in rows:
        where = f"{path}, line {row.line}" + (", which is not the header image,labels" if row is header else "")
        image, *cells = row.cells[column or 0:] or [""]
        labels = [label.strip() for cell in cells for label in re.split("[;,]", cell) if label.strip()]
        yield where, image, _one_hot_labels(where, cells, classes) if one_hot else labels


def _titles(cells):
    """Index of the column of images, None where the cells are no header, and the titles of those behind it."""
    lowered = [cell.lower() for cell in cells]
    column = next((lowered.index(title) for title in _IMAGE_TITLES if title in lowered), None)
    titles = [] if column is None else cells[column + 1:]
    while titles and not titles[-1]:
        titles.pop()
    return column, titles


def _check_no_header(path, rows):
    """Raise UserError unless the first of the rows can be an image and its classes, as the others."""
    if not any(row.cells[1:] for row in rows):
        raise UserError(f"{path}: its first line, {' '.join(rows[0].cells)[:60]!r}, is neither the header image,labels "
                        "nor an image and its classes, such as photo.jpg,cat;dog")
    if len(rows[0].cells) > 2 and {cell for row in rows for cell in row.cells[1:]} <= {"", "0", "1"}:
        raise UserError(f"{path} holds 0 and 1 only: {_ONE_HOT}")


def _one_hot_labels(where, cells, classes):
    """Class indices whose column, in the order of `classes`, holds a 1."""
    if not set(cells[:len(classes)]) <= {"0", "1"} or any(cells[len(classes):]) or len(cells) < len(classes):
        raise UserError(f"{where}: 0 or 1 is expected for each class, not {','.join(cells)}")
    return [index for index, cell in zip(classes, cells) if cell == "1" and index != BACKGROUND]


def _json_rows(path, config):
    """Yield (where it stands, image, labels) for an object from images to lists of class names or indices."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f'{path}: an object like {{"photo.jpg": ["cat", "dog"]}} is expected')
    for image, labels in values.items():
        labels = [labels] if isinstance(labels, str) else labels
        if not isinstance(labels, list) or not all(type(label) in (str, int) for label in labels):
            raise UserError(f"{path}: the labels of {image} are a list of class names or indices, not {labels!r}")
        yield f"{path}, {image}", image, labels


def _from_folders(folder, config):
    """Sources of folder/<class name>/*; a picture that lies in several folders has all their labels."""
    names = [name for name in list_folder(folder) if not name.startswith(".")]
    others = [name for name in names if not os.path.isdir(os.path.join(folder, name))]
    label_of = {}
    for name in names:
        if name not in others:
            below = os.path.join(folder, name)
            label = _index(name, below, config)
            paths = sorted(list_pictures(below))
            if not paths:
                raise UserError(f"{below} holds no picture")
            label_of.update(dict.fromkeys(paths, label))
    if not label_of:
        raise UserError(f"{folder} holds no folder for a class: <class name>/*.jpg is expected there, or a list of "
                        "images and labels, --train-labels")
    if others:
        logger.warning("%s: %d files that lie in no class's folder are left out, such as %s", folder, len(others),
                       others[0])
    labels = {path: {label} for path, label in label_of.items()}
    for first, *copies in _copies(label_of):
        labels[first] = {label_of[path] for path in (first, *copies)}
        for path in copies:
            del labels[path]
    return [Source(_id(folder, path), path, None, sorted(indices)) for path, indices in labels.items()]


def _val_sources(own):
    """Sources of the val images, each with its mask."""
    paths = sorted(list_pictures(own.val_images))
    if not paths:
        raise UserError(f"{own.val_images} holds no picture")
    expected = [os.path.join(own.val_masks, _stem(own.val_images, path) + ".png") for path in paths]
    masks = [find_file(mask) for mask in expected]
    missing = [path for path, mask in zip(expected, masks) if mask is None]
    if missing:
        more = f", and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(f"{missing[0]} is missing{more}: every val image needs a mask, a PNG of the same name")
    return [Source(_id(own.val_images, path), path, mask) for path, mask in zip(paths, masks)]


def _index(label, where, config):
    """Class index of a name, or of an index, as number or digits."""
    if isinstance(label, str) and label not in config.classes and re.fullmatch("[0-9]{1,9}", label):
        label = int(label)
    try:
        index = config.class_index(label) if isinstance(label, str) else label
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if index == BACKGROUND:
        raise UserError(f"{where}: {config.classes[BACKGROUND]!r} is the background, which is in every image; setting "
                        "classes lists it first, and then the classes")
    if not 1 <= index < config.num_classes:
        raise UserError(f"{where}: label {index} is out of range: the classes are 1..{config.num_classes - 1}")
    return index


def _find(folder: str, image: str, where: str) -> str:
    """Path of an image that a list names, with or without its ending."""
    path = os.path.normpath(os.path.join(folder, image))
    exact, *others = (find_file(path + ending) for ending in ("", *PICTURES))
    matches = [exact] if exact else list(filter(None, others))
    if not matches:
        raise UserError(f"{where}: the image {path} is missing")
    if len(matches) > 1:
        raise UserError(f"{where}: {matches[0]} and {matches[1]}: which one is meant?")
    return matches[0]


def _stem(folder, path):
    """Path below the folder, without ending."""
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _id(folder, path):
    """Id of an image: its path below the folder, without ending, with _ between the names, accents composed (NFC)."""
    names = unicodedata.normalize("NFC", _stem(folder, path)).split(os.sep)
    name = names[-1] if os.pardir in names else "_".join(names)
    check_id(name, path)
    return name


def _check_ids(sources):
    seen = {}
    for source in sources:
        if source.name in seen:
            raise UserError(f"{seen[source.name]} and {source.image} have the same id, {source.name}: rename one")
        seen[source.name] = source.image


def _copies(paths):
    """Lists of paths whose files hold the same bytes, in the order of the paths."""
    groups = collections.defaultdict(list)
    for path in paths:
        groups[file_digest(path)].append(path)
    return [group for group in groups.values() if group[1:]]
