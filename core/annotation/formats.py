"""Masks in the formats of annotation tools and trainers: COCO, YOLO, labelme and palette PNGs.

`write` makes a folder that a tool opens as it is, images included; `read` takes what a tool saved. Classes are matched
by name, so their order may differ. Images are taken one after the other, so that any number of them fits into memory.
"""
import base64
import codecs
import contextlib
import json
import os
import zlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import ijson
import numpy as np
import yaml

from core.annotation.geometry import Region, check_points, components, from_counts, from_polygon, to_counts, to_polygon
from core.classes import BACKGROUND, IGNORE_LABEL
from core.errors import UserError
from core.io.files import read_bytes, read_json, read_text, read_yaml, walk, write_bytes, write_json, write_lines
from core.io.images import (
    MOST_PIXELS,
    PICTURES,
    decode_labels,
    encode_image,
    encode_mask,
    image_size,
    is_upright_jpeg,
    read_image,
    read_mask,
)
from core.io.logs import logger

FORMATS = ("coco", "yolo", "labelme", "png")
_LABELME_VERSION = "5.4.1"
_COCO_FILE = os.path.join("annotations", "instances_default.json")
_LONGEST_SIDE = 65535  # pixels, of a JPEG

Check = Callable[[str, Tuple[int, ...]], None]  # of the name and the (h, w) of an image; raises UserError


class Item(NamedTuple):
    """One image with its mask.

    mask: (h, w) uint8 class indices, 255 = ignore.
    """
    name: str
    image: str
    mask: np.ndarray


def write(file_format: str, items: Iterable[Item], folder: str, classes: Sequence[str], *, ignore: Optional[str] = None,
          polygons: bool = False) -> None:
    """Write masks and images below an empty folder.

    Args:
        file_format: one of FORMATS.
        classes: names, background first.
        ignore: name of a class for the pixels of 255; None exports them as background, or as 255 in palette PNGs.
        polygons: COCO regions as polygons rather than run lengths.

    Raises:
        UserError: `ignore` is one of the classes, or an image is damaged.
    """
    labels = _labels(classes, ignore)
    names = {label: name for name, label in labels.items() if label != BACKGROUND}
    if file_format == "coco":
        _write_coco(items, folder, names, polygons)
    elif file_format == "yolo":
        _write_yolo(items, folder, names)
    elif file_format == "labelme":
        _write_labelme(items, folder, names)
    else:
        _write_png(items, folder, {BACKGROUND: classes[BACKGROUND], **names})


def read(file_format: str, path: str, classes: Sequence[str], ignore: Optional[str] = None,
         check: Check = lambda *_: None) -> Iterator[Tuple[str, np.ndarray]]:
    """Masks that a tool saved, of the images that it says something of.

    Args:
        file_format: one of FORMATS.
        path: file or folder that the tool wrote.
        classes: names, background first; every region's class must be one of them.
        ignore: name of the class that stands for 255.
        check: gets name and size of each image, before anything is drawn.

    Yields:
        (name of the image without folder and ending, (h, w) uint8 mask).

    Raises:
        UserError: the path holds nothing of this format, names an unknown class, has an id twice, or holds a number
            that can't be; the file is named.
    """
    return _READERS[file_format](path, _labels(classes, ignore), check)


def _labels(classes, ignore):
    """Labels of the class names; 255 is that of `ignore`."""
    if ignore in classes:
        raise UserError(f"--ignore-label {ignore} is one of the classes: choose a name that is none")
    return {**{name: index for index, name in enumerate(classes)}, **({} if ignore is None else {ignore: IGNORE_LABEL})}


def _regions(mask, names):
    """Label and `Region` of each connected region of the labels in `names`."""
    return ((label, region) for label in np.unique(mask).tolist() if label in names
            for region in components(mask == label))


def _with_images(items, folder):
    """Copy the images of items, as they pass, as JPEGs."""
    for item in items:
        write_bytes(os.path.join(folder, item.name + ".jpg"), _upright_jpeg(item.image))
        yield item


def _upright_jpeg(path: str) -> bytes:
    """The picture as a JPEG that every tool shows as its mask lies; its own bytes where they already are one."""
    content = read_bytes(path)
    return content if is_upright_jpeg(content) else encode_image(read_image(path), ".jpg")


def _write_coco(items, folder, names, polygons):
    """COCO's object detection format (https://cocodataset.org/#format-data), an annotation for each region."""
    path = os.path.join(folder, _COCO_FILE)
    os.makedirs(os.path.dirname(path))
    images: List[str] = []
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        for number, item in enumerate(_with_images(items, os.path.join(folder, "images")), 1):
            height, width = item.mask.shape
            images.append(json.dumps({"id": number, "file_name": item.name + ".jpg", "width": width, "height": height}))
            for label, region in _regions(item.mask, names):
                rows, columns = region.pixels.shape
                row = {"id": count + 1, "image_id": number, "category_id": label, "iscrowd": 0,
                       "area": int(region.pixels.sum()), "bbox": [region.left, region.top, columns, rows],
                       "segmentation": ([to_polygon(region).ravel().tolist()] if polygons else
                                        {"size": [height, width], "counts": to_counts(region, (height, width))})}
                file.write(("," if count else "") + "\n" + json.dumps(row))
                count += 1
        categories = [{"id": label, "name": name, "supercategory": ""} for label, name in names.items()]
        file.write('],\n"images": [\n' + ",\n".join(images) + f'],\n"categories": {json.dumps(categories)}}}\n')


def _write_yolo(items, folder, names):
    """Ultralytics' segmentation data set: data.yaml, images/train/<name>.jpg and labels/train/<name>.txt."""
    numbers = {label: number for number, label in enumerate(names)}
    for item in _with_images(items, os.path.join(folder, "images", "train")):
        size = np.array(item.mask.shape[::-1])
        write_lines(os.path.join(folder, "labels", "train", item.name + ".txt"), [
            " ".join([str(numbers[label]), *(f"{value:.6f}" for value in (to_polygon(region) / size).ravel())])
            for label, region in _regions(item.mask, names)])
    write_bytes(os.path.join(folder, "data.yaml"), yaml.safe_dump({
        "train": "images/train", "val": "images/train", "names": dict(enumerate(names.values()))},
        sort_keys=False, allow_unicode=True).encode("utf-8"))


def _write_labelme(items, folder, names):
    """<name>.json beside <name>.jpg, a polygon for each region."""
    for item in _with_images(items, folder):
        height, width = item.mask.shape
        write_json(os.path.join(folder, item.name + ".json"), {
            "version": _LABELME_VERSION, "flags": {},
            "shapes": [{"label": names[label], "points": to_polygon(region).tolist(), "group_id": None,
                        "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
                       for label, region in _regions(item.mask, names)],
            "imagePath": item.name + ".jpg", "imageData": None, "imageHeight": height, "imageWidth": width})


def _write_png(items, folder, names):
    """masks/<name>.png with VOC's palette, class indices and 255; classes.txt names the indices."""
    for item in _with_images(items, os.path.join(folder, "images")):
        write_bytes(os.path.join(folder, "masks", item.name + ".png"), encode_mask(item.mask))
    write_lines(os.path.join(folder, "classes.txt"), [f"{label} {name}" for label, name in names.items()])


@contextlib.contextmanager
def _reading(file: str, expected: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file that is not as expected into a UserError that names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{'there is no ' if isinstance(error, KeyError) else ''}{error}".split())
        raise UserError(f"{file}: {expected} is expected ({reason or type(error).__name__})") from error


class _Canvas:
    """A mask that regions are drawn on, the later ones over the earlier."""

    def __init__(self, file: str, path: str, size: Tuple[Any, ...], labels: Dict[str, int], check: Check):
        if any(type(side) is not int or not 1 <= side <= _LONGEST_SIDE for side in size) or np.prod(size) > MOST_PIXELS:
            raise UserError(f"{file}: {path} can't be {size[1]!r} x {size[0]!r} pixels")
        self.name = os.path.splitext(path.replace("\\", "/").rpartition("/")[2])[0]
        check(self.name, size)
        self.mask = np.zeros(size, np.uint8)
        self._labels = labels
        self._file = file

    def draw(self, name: str, region: Region) -> None:
        height, width = region.pixels.shape
        label = _label_of(name, self._labels, self._file)
        self.mask[region.top:region.top + height, region.left:region.left + width][region.pixels] = label


def _label_of(name, labels, file):
    if name not in labels:
        raise UserError(f"{file}: there is no class {name!r}; the classes are {', '.join(labels)}. Rename it in the "
                        "tool, or pass --ignore-label if it marks pixels to ignore")
    return labels[name]


def _read_coco(path, labels, check):
    if os.path.isdir(path):
        path = os.path.join(path, _COCO_FILE)
    with _reading(path, "COCO JSON with images, annotations and categories"):
        categories = _by_id(path, "categories", lambda row: row["name"])
        images = _by_id(path, "images", lambda row: (row["file_name"], (row["height"], row["width"])))
        if not images or not categories:
            raise ValueError("it has no images, or no categories")
        drawn: Dict[Any, List[Tuple[str, bytes]]] = {}  # compressed, as the images' annotations may come in any order
        for row in _rows(path, "annotations"):
            if row["image_id"] not in images or row["category_id"] not in categories:
                raise ValueError(f"annotation {row.get('id')} has image_id {row['image_id']!r} and category_id "
                                 f"{row['category_id']!r}, and one of these is not in the file")
            shape = zlib.compress(json.dumps(row["segmentation"]).encode("ascii"))
            drawn.setdefault(row["image_id"], []).append((categories[row["category_id"]], shape))
    for number, shapes in drawn.items():
        file_name, size = images[number]
        with _reading(f"{path}, image {file_name}", "polygons or run lengths of its size"):
            canvas = _Canvas(path, file_name, size, labels, check)
            for name, shape in shapes:
                for region in _coco_regions(json.loads(zlib.decompress(shape)), size):
                    canvas.draw(name, region)
        yield canvas.name, canvas.mask
    _say_untouched(path, len(images) - len(drawn), "without a region")


def _rows(path, name):
    """The rows of a list in a JSON file, one after the other."""
    with open(path, "rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        yield from ijson.items(file, name + ".item", use_float=True)


def _by_id(path, name, value_of):
    values: Dict[Any, Any] = {}
    for row in _rows(path, name):
        if row["id"] in values:
            raise ValueError(f"two of {name} have the id {row['id']!r}")
        values[row["id"]] = value_of(row)
    return values


def _coco_regions(segmentation, size):
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"an annotation is for another image size than {size[1]} x {size[0]}")
        return [from_counts(segmentation["counts"], size)]
    if not segmentation:
        raise ValueError("an annotation is a box without segmentation; draw a polygon or a mask")
    return [from_polygon(ring, size) for ring in segmentation]


def _read_yolo(path, labels, check):
    settings, folder = os.path.join(path, "data.yaml"), os.path.join(path, "labels")
    with _reading(settings, "a data.yaml with the names of the classes"):
        names = read_yaml(settings)["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else dict(names)
    pictures = _files(os.path.join(path, "images"), PICTURES)
    files = {name: file for name, file in _files(folder, (".txt",)).items()
             if os.path.basename(file) != "classes.txt"}  # some tools list the classes there
    strange = [file for name, file in files.items() if name not in pictures]
    if strange or not files:
        raise UserError(f"{strange[0] if strange else folder} " + (
            f"and {len(strange) - 1} more fit no picture of images/" if strange else "has no label files")
            + ": labels/train/NAME.txt is expected for images/train/NAME.jpg")
    for name, file in files.items():
        with _reading(file, "lines of a class number and the points of a polygon, relative to the picture's size"):
            size = image_size(read_bytes(pictures[name]))[::-1]
            canvas = _Canvas(file, pictures[name], size, labels, check)
            for line in read_text(file).splitlines():
                number, *values = line.split() or ("",)
                if number:
                    points = np.array(values, float).reshape(-1, 2) * size[::-1]
                    canvas.draw(names[int(number)], from_polygon(points, size))
        yield canvas.name, canvas.mask
    _say_untouched(path, len(pictures) - len(files), "without a label file")


def _read_labelme(path, labels, check):
    files = [path] if os.path.isfile(path) else _files(path, (".json",)).values()
    for file in files:
        with _reading(file, "labelme's JSON with imagePath, imageHeight, imageWidth and shapes"):
            content = read_json(file)
            size = content["imageHeight"], content["imageWidth"]
            canvas = _Canvas(file, content["imagePath"], size, labels, check)
            for shape in content["shapes"]:
                canvas.draw(shape["label"], _labelme_region(shape, size))
        yield canvas.name, canvas.mask


def _labelme_region(shape, size):
    shape_type = shape.get("shape_type") or "polygon"
    if shape_type not in ("polygon", "rectangle", "circle", "mask"):
        raise ValueError(f"a {shape_type} of class {shape['label']!r} has no area; draw a polygon, a rectangle, a "
                         "circle or a mask")
    points = check_points(shape["points"], size)
    if shape_type == "polygon":
        return from_polygon(points, size)
    if len(points) != 2:
        raise ValueError(f"a {shape_type} has two points")
    (left, top), (right, bottom) = points
    if shape_type == "rectangle":
        return from_polygon([(left, top), (right, top), (right, bottom), (left, bottom)], size)
    if shape_type == "circle":
        half = np.hypot(right - left, bottom - top) ** 2 - (np.arange(size[0]) + 0.5 - top) ** 2
        half = np.where(half < 0, -1, np.sqrt(np.maximum(half, 0)))  # of the circle's width in each row
        return Region(0, 0, np.abs(np.arange(size[1]) + 0.5 - left) <= half[:, None])
    content = base64.b64decode(shape["mask"])
    width, height = image_size(content)
    left, top = np.floor(points.min(0)).astype(int).tolist()
    if width > size[1] or height > size[0]:
        raise ValueError(f"a bitmap of {width} x {height} pixels is larger than the picture")
    pixels = decode_labels(content) != 0
    pixels = pixels[max(0, -top):max(0, size[0] - top), max(0, -left):max(0, size[1] - left)]
    return Region(max(0, top), max(0, left), pixels)


def _read_png(path, labels, check):
    folder = os.path.join(path, "masks") if os.path.isdir(os.path.join(path, "masks")) else path
    listed = os.path.join(path, "classes.txt")
    table = {label: label for label in labels.values()}
    if os.path.exists(listed):
        with _reading(listed, "lines of an index and the name of its class"):
            rows = [line.partition(" ") for line in read_text(listed).splitlines()]
            table = {int(index): _label_of(name, labels, listed) for index, _, name in rows if int(index) != BACKGROUND}
            if len({int(index) for index, _, _ in rows}) < len(rows):
                raise ValueError("an index is there twice")
    table.update({BACKGROUND: BACKGROUND, IGNORE_LABEL: IGNORE_LABEL})
    known = max(set(table) - {IGNORE_LABEL}) + 1
    for path_below, file in _files(folder, (".png",)).items():
        mask, name = read_mask(file, known), os.path.basename(path_below)
        check(name, mask.shape)
        relabelled = np.zeros_like(mask)
        for label in np.unique(mask).tolist():
            if label not in table:
                raise UserError(f"{file} has label {label}, which {listed} does not name")
            relabelled[mask == label] = table[label]
        yield name, relabelled


_READERS = {"coco": _read_coco, "yolo": _read_yolo, "labelme": _read_labelme, "png": _read_png}


def _files(folder, endings):
    """Files in and below a folder whose names end in one of the endings: dict from path below it, without ending, to
    path."""
    paths = [os.path.join(above, name) for above, names in walk(folder) for name in names]
    return {os.path.splitext(os.path.relpath(path, folder))[0]: path for path in paths
            if os.path.splitext(path)[1].lower() in endings}


def _say_untouched(path, count, what):
    if count:
        logger.info("%s: %d images %s keep their masks, as they are", path, count, what)
