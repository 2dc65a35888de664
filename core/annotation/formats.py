"""Masks in the formats of annotation tools and trainers: COCO, YOLO, labelme, CVAT and palette PNGs.

`write` makes a folder that a tool opens as it is, images included; `read` takes what a tool saved. Classes are matched
by name, so their order may differ.
"""
import base64
import io
import os
import zipfile
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import yaml
from PIL import Image

from core.annotation.geometry import components, from_counts, from_polygon, to_counts, to_polygon
from core.classes import BACKGROUND, IGNORE_LABEL, voc_palette
from core.errors import UserError
from core.io.files import read_bytes, read_json, read_text, read_yaml, walk, write_bytes, write_json, write_lines
from core.io.images import encode_image, encode_mask, read_image, read_mask

FORMATS = ("coco", "yolo", "labelme", "cvat", "png")
_LABELME_VERSION = "5.4.1"
_COCO_FILE = os.path.join("annotations", "instances_default.json")
_ORIENTATION = 0x0112  # EXIF


class Item(NamedTuple):
    """One image with its mask.

    mask: (h, w) uint8 class indices, 255 = ignore.
    """
    name: str
    image: str
    mask: np.ndarray


class Region(NamedTuple):
    """One connected region of a class; `pixels` is (h, w) bool."""
    label: int
    pixels: np.ndarray


def write(kind: str, items: Iterable[Item], folder: str, classes: Sequence[str], *, ignore: Optional[str] = None,
          polygons: bool = False) -> None:
    """Write masks and images below an empty folder.

    Args:
        kind: one of FORMATS.
        classes: names, background first.
        ignore: name of a class for the pixels of 255; None exports them as background, or as 255 in palette PNGs.
        polygons: COCO regions as polygons rather than run lengths.
    """
    names = dict(enumerate(classes))
    if ignore is not None:
        names[IGNORE_LABEL] = ignore
    writer = _WRITERS[kind](folder, names, polygons)
    for item in items:
        writer.add(item)
    writer.finish()


def read(kind: str, path: str, classes: Sequence[str], ignore: Optional[str] = None
         ) -> Iterator[Tuple[str, np.ndarray]]:
    """Masks that a tool saved.

    Args:
        kind: one of FORMATS.
        path: file or folder that the tool wrote.
        classes: names, background first; every region's class must be one of them.
        ignore: name of the class that stands for 255.

    Yields:
        (name of the image without folder and ending, (h, w) uint8 mask).

    Raises:
        UserError: the path holds nothing of this format, or names an unknown class; the file is named.
    """
    labels = {name: index for index, name in enumerate(classes)}
    if ignore is not None:
        labels[ignore] = IGNORE_LABEL
    return _READERS[kind](path, labels)


def regions(mask: np.ndarray, names: Dict[int, str]) -> List[Region]:
    """Connected regions of every class in `names` but the background."""
    return [Region(label, part) for label in np.unique(mask).tolist() if label in names and label != BACKGROUND
            for part in components(mask == label)]


class _Writer:
    """Base of the writers.

    Attributes:
        names: dict from label to class name; 255 is among them if it is to be exported.
    """
    images = "images"

    def __init__(self, folder: str, names: Dict[int, str], polygons: bool):
        self.folder = folder
        self.names = names
        self.polygons = polygons

    def place(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def add(self, item: Item) -> None:
        write_bytes(self.place(self.images, item.name + ".jpg"), _upright_jpeg(item.image))
        self.annotate(item)

    def annotate(self, item: Item) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Write what belongs to all images together."""


class _Coco(_Writer):
    """COCO's object detection format (https://cocodataset.org/#format-data), an annotation for each region."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._images: List[dict] = []
        self._annotations: List[dict] = []

    def annotate(self, item: Item) -> None:
        height, width = item.mask.shape
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": item.name + ".jpg", "width": width, "height": height})
        for label, pixels in regions(item.mask, self.names):
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            left, top = int(columns[0]), int(rows[0])
            self._annotations.append({
                "id": len(self._annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0,
                "area": int(pixels.sum()),
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "segmentation": ([to_polygon(pixels).ravel().tolist()] if self.polygons
                                 else {"size": [height, width], "counts": to_counts(pixels)})})

    def finish(self) -> None:
        write_json(self.place(_COCO_FILE), {
            "images": self._images, "annotations": self._annotations,
            "categories": [{"id": label, "name": name, "supercategory": ""} for label, name in self.names.items()
                           if label != BACKGROUND]})


class _Yolo(_Writer):
    """Ultralytics' segmentation data set: data.yaml, images/train/<name>.jpg and labels/train/<name>.txt."""
    images = os.path.join("images", "train")

    def annotate(self, item: Item) -> None:
        size = np.array(item.mask.shape[::-1])
        numbers = {label: number for number, label in enumerate(self._labels())}
        write_lines(self.place("labels", "train", item.name + ".txt"), [
            " ".join([str(numbers[label])] + [f"{value:.6f}" for value in (to_polygon(pixels) / size).ravel()])
            for label, pixels in regions(item.mask, self.names)])

    def _labels(self):
        return [label for label in self.names if label != BACKGROUND]

    def finish(self) -> None:
        write_bytes(self.place("data.yaml"), yaml.safe_dump({
            "train": "images/train", "val": "images/train",
            "names": {number: self.names[label] for number, label in enumerate(self._labels())},
        }, sort_keys=False, allow_unicode=True).encode("utf-8"))


class _Labelme(_Writer):
    """<name>.json beside <name>.jpg, a polygon for each region."""
    images = ""

    def annotate(self, item: Item) -> None:
        height, width = item.mask.shape
        write_json(self.place(item.name + ".json"), {
            "version": _LABELME_VERSION, "flags": {},
            "shapes": [{"label": self.names[label], "points": to_polygon(pixels).tolist(), "group_id": None,
                        "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
                       for label, pixels in regions(item.mask, self.names)],
            "imagePath": item.name + ".jpg", "imageData": None, "imageHeight": height, "imageWidth": width})


class _Png(_Writer):
    """masks/<name>.png with VOC's palette, class indices and 255; classes.txt names the indices."""

    def annotate(self, item: Item) -> None:
        write_bytes(self.place("masks", item.name + ".png"), encode_mask(item.mask))

    def finish(self) -> None:
        write_lines(self.place("classes.txt"), [f"{label} {name}" for label, name in self.names.items()])


class _Cvat(_Writer):
    """annotations.zip, CVAT's "Segmentation mask 1.1", for a task with the pictures of images/."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        os.makedirs(self.folder, exist_ok=True)
        self._archive = zipfile.ZipFile(self.place("annotations.zip"), "w", zipfile.ZIP_DEFLATED)
        self._list: List[str] = []

    def annotate(self, item: Item) -> None:
        mask = np.where(np.isin(item.mask, list(self.names)), item.mask, BACKGROUND).astype(np.uint8)
        objects = np.zeros_like(mask)
        for number, region in enumerate(regions(mask, self.names), 1):
            objects[region.pixels] = min(number, 254)
        for part, content in (("SegmentationClass", mask), ("SegmentationObject", objects)):
            self._archive.writestr(f"{part}/{item.name}.png", encode_mask(content))
        self._list.append(item.name)

    def finish(self) -> None:
        palette = voc_palette()
        self._archive.writestr("labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(
            "{}:{},{},{}::\n".format("background" if label == BACKGROUND else name, *palette[label])
            for label, name in self.names.items()))
        self._archive.writestr("ImageSets/Segmentation/default.txt", "".join(name + "\n" for name in self._list))
        self._archive.close()


_WRITERS: Dict[str, Callable] = {"coco": _Coco, "yolo": _Yolo, "labelme": _Labelme, "cvat": _Cvat, "png": _Png}


class _Canvas:
    """A mask that regions are drawn on, the later ones over the earlier.

    Args:
        labels: dict from class name to label.
        place: what is read, for messages.
    """

    def __init__(self, size: Tuple[int, ...], labels: Dict[str, int], place: str):
        self.mask = np.zeros(size, np.uint8)
        self._labels = labels
        self._place = place

    def add(self, name: str, region: np.ndarray) -> None:
        if region.shape != self.mask.shape:
            raise UserError(f"{self._place}: a region of {name!r} is for another image size than "
                            f"{self.mask.shape[1]} x {self.mask.shape[0]}")
        self.mask[region] = label_of(name, self._labels, self._place)


def label_of(name: str, labels: Dict[str, int], place: str) -> int:
    """Label of a class name.

    Raises:
        UserError: there is no such class.
    """
    if name not in labels:
        raise UserError(f"{place}: there is no class {name!r}; the classes are {', '.join(labels)}. Rename it in the "
                        "tool, or pass --ignore-label if it marks pixels to ignore")
    return labels[name]


def _read_coco(path, labels):
    if os.path.isdir(path):
        path = os.path.join(path, _COCO_FILE)
    with _malformed(path, "COCO JSON with images, annotations and categories"):
        content = read_json(path)
        categories = {row["id"]: row["name"] for row in content["categories"]}
        regions_of: Dict[int, List[dict]] = {row["id"]: [] for row in content["images"]}
        for row in content["annotations"]:
            regions_of[row["image_id"]].append(row)
        for image in content["images"]:
            size = image["height"], image["width"]
            canvas = _Canvas(size, labels, f"{path}, {image['file_name']}")
            for row in regions_of[image["id"]]:
                canvas.add(categories[row["category_id"]], _coco_region(row["segmentation"], size))
            yield _stem(image["file_name"]), canvas.mask


def _coco_region(segmentation, size):
    if isinstance(segmentation, dict):
        return from_counts(segmentation["counts"], tuple(segmentation["size"]))
    if not segmentation:
        raise ValueError("an annotation is a box without segmentation; draw a polygon or a mask")
    region = np.zeros(size, bool)
    for ring in segmentation:
        region |= from_polygon(np.reshape(ring, (-1, 2)), size)
    return region


def _read_yolo(path, labels):
    settings = os.path.join(path, "data.yaml")
    with _malformed(settings, "a data.yaml with the names of the classes"):
        names = read_yaml(settings)["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else names
    if not os.path.isdir(os.path.join(path, "labels")):  # a single file may be missing: the image shows nothing
        raise UserError(f"{os.path.join(path, 'labels')} is missing: the polygons are expected there")
    for place, image in _pictures(os.path.join(path, "images")):
        relative = os.path.relpath(place, os.path.join(path, "images"))
        file = os.path.join(path, "labels", os.path.splitext(relative)[0] + ".txt")
        canvas = _Canvas(image, labels, file)
        with _malformed(file, "lines of a class number and the points of a polygon"):
            for line in read_text(file).splitlines() if os.path.exists(file) else ():
                number, *values = line.split()
                if len(values) % 2 or len(values) < 6:
                    raise ValueError("a line is not a polygon of at least three points")
                points = np.reshape(np.array(values, float), (-1, 2)) * image[::-1]
                canvas.add(names[int(number)], from_polygon(points, image))
        yield _stem(relative), canvas.mask


def _read_labelme(path, labels):
    files = [path] if path.endswith(".json") else [
        os.path.join(place, name) for place, names in walk(path) for name in names if name.endswith(".json")]
    for file in files:
        with _malformed(file, "labelme's JSON with shapes, imageHeight and imageWidth"):
            content = read_json(file)
            canvas = _Canvas((content["imageHeight"], content["imageWidth"]), labels, file)
            for shape in content["shapes"]:
                canvas.add(shape["label"], _labelme_region(shape, canvas.mask.shape, file))
        yield _stem(content["imagePath"].replace("\\", "/")), canvas.mask


def _labelme_region(shape, size, file):
    points = np.array(shape["points"], float)
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return from_polygon(points, size)
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return from_polygon([(left, top), (right, top), (right, bottom), (left, bottom)], size)
    if kind == "circle":
        rows, columns = np.mgrid[:size[0], :size[1]] + 0.5
        radius = np.hypot(*(points[1] - points[0]))
        return np.hypot(columns - points[0, 0], rows - points[0, 1]) <= radius
    if kind == "mask":
        region = np.zeros(size, bool)
        left, top = np.floor(points.min(0)).astype(int)
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as image:
            part = np.array(image.convert("1"))
        target = region[top:top + part.shape[0], left:left + part.shape[1]]
        target[:] = part[:target.shape[0], :target.shape[1]]
        return region
    raise UserError(f"{file}: a {kind} of class {shape['label']!r} has no area; draw a polygon, a rectangle, a circle "
                    "or a mask")


def _read_cvat(path, labels):
    if os.path.isdir(path):
        path = os.path.join(path, "annotations.zip")
    with _malformed(path, 'an archive of CVAT\'s "Segmentation mask 1.1"'):
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            colours = {}
            for line in archive.read("labelmap.txt").decode("utf-8").splitlines():
                if line.strip() and not line.startswith("#"):
                    name, colour = line.split(":")[:2]
                    colours[tuple(int(value) for value in colour.split(","))] = name
            for member in sorted(archive.namelist()):
                if member.startswith("SegmentationClass/") and member.endswith(".png"):
                    yield _stem(member), _from_colours(archive.read(member), colours, labels, f"{path}, {member}")


def _from_colours(content, colours, labels, place):
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        pixels = np.array(image.convert("RGB")).astype(np.uint32)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    canvas = _Canvas(codes.shape, labels, place)
    for code in np.unique(codes).tolist():
        colour = code >> 16, code >> 8 & 255, code & 255
        if colour not in colours:
            raise UserError(f"{place}: the colour {colour} is not in labelmap.txt")
        if colours[colour] != "background":
            canvas.add(colours[colour], codes == code)
    return canvas.mask


def _read_png(path, labels):
    folder = os.path.join(path, "masks") if os.path.isdir(os.path.join(path, "masks")) else path
    listed = os.path.join(path, "classes.txt")
    table = {label: label for label in labels.values()}
    if os.path.exists(listed):
        with _malformed(listed, "lines of an index and the name of its class"):
            rows = [line.partition(" ") for line in read_text(listed).splitlines()]
            table = {int(index): label_of(name, labels, listed) for index, _, name in rows if int(index) != BACKGROUND}
    table.update({BACKGROUND: BACKGROUND, IGNORE_LABEL: IGNORE_LABEL})
    for place, names in walk(folder):
        for name in names:
            if name.endswith(".png"):
                file = os.path.join(place, name)
                yield _stem(name), _relabelled(file, read_mask(file, len(labels)), table)


def _relabelled(path, mask, table):
    """The mask with each label replaced by that of the same class here."""
    relabelled = np.zeros_like(mask)
    for label in np.unique(mask).tolist():
        if label not in table:
            raise UserError(f"{path} has label {label}, which stands for no class; "
                            f"{', '.join(map(str, sorted(table)))} do")
        relabelled[mask == label] = table[label]
    return relabelled


_READERS = {"coco": _read_coco, "yolo": _read_yolo, "labelme": _read_labelme, "cvat": _read_cvat, "png": _read_png}


class _malformed:
    """Turns what goes wrong with a file that is not as expected into a UserError that names it."""

    def __init__(self, path: str, expected: str):
        self._path = path
        self._expected = expected

    def __enter__(self) -> "_malformed":
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        known = KeyError, IndexError, TypeError, ValueError, AttributeError, OSError, zipfile.BadZipFile
        if isinstance(error, known) and not isinstance(error, UserError):
            raise UserError(f"{self._path}: {self._expected} is expected ({type(error).__name__}: {error})") from error


def _pictures(folder):
    """(path, (h, w)) of the pictures in and below a folder."""
    for place, names in walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with _malformed(path, "a picture"), Image.open(path) as image:
                size = image.size[::-1]
            yield path, size


def _upright_jpeg(path: str) -> bytes:
    """The picture as a JPEG that every tool shows as its mask lies; its own bytes where they already are one."""
    content = read_bytes(path)
    with _malformed(path, "a picture"), Image.open(io.BytesIO(content)) as image:
        if image.format == "JPEG" and image.mode in ("L", "RGB") and image.getexif().get(_ORIENTATION, 1) == 1:
            return content
    return encode_image(read_image(path), ".jpg")


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
