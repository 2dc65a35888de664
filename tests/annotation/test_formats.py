"""Masks in other tools' formats: what goes out comes back, and the tools' own readers agree."""
import json
import os
import re
import zipfile

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from core.annotation.formats import FORMATS, Item, read, write
from core.annotation.geometry import components, from_counts, from_polygon, to_counts, to_polygon
from core.classes import voc_palette
from core.errors import UserError
from core.io.images import write_image

CLASSES = ("background", "mug", "spoon", "key")
COCO_FILE = os.path.join("annotations", "instances_default.json")


def blobs(rng, size, classes=1):
    """Mask of smooth regions with holes, parts that touch at corners and single pixels."""
    noise = cv2.GaussianBlur(rng.random(size), (0, 0), rng.uniform(0.5, 3))
    mask = np.zeros(size, np.uint8)
    for label in range(1, classes + 1):
        mask[noise > np.quantile(noise, label / (classes + 1.5))] = label
    return mask


@pytest.fixture
def items(tmp_path, rng):
    """Three images: regions with holes, two classes and uncertain pixels, nothing at all."""
    ring = np.zeros((40, 60), np.uint8)
    cv2.circle(ring, (30, 20), 15, 2, -1)
    cv2.circle(ring, (30, 20), 6, 0, -1)
    mixed = blobs(rng, (31, 47), 3)
    mixed[:4] = 255
    made = []
    for name, mask in (("1_000001", ring), ("2_000007", mixed), ("3_000002", np.zeros((20, 20), np.uint8))):
        path = str(tmp_path / f"{name}.jpg")
        write_image(path, rng.integers(0, 256, mask.shape + (3,), dtype=np.uint8))
        made.append(Item(name, path, mask))
    return made


def written(kind, items, folder, **options):
    write(kind, items, str(folder), CLASSES, **options)
    return folder


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_and_polygons_hold_the_very_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = blobs(rng, tuple(rng.integers(1, 60, 2))) > 0
    assert (from_counts(to_counts(mask), mask.shape) == mask).all()
    back = np.zeros_like(mask)
    for part in components(mask):
        back |= from_polygon(to_polygon(part), mask.shape)
    assert (back == mask).all()


def test_a_polygon_keeps_nested_holes():
    mask = np.zeros((60, 60), bool)
    for radius, value in ((28, True), (20, False), (12, True)):
        rows, columns = np.mgrid[:60, :60] - 30
        mask[np.hypot(rows, columns) < radius] = value
    parts = components(mask)
    assert len(parts) == 2
    for part in parts:
        assert (from_polygon(to_polygon(part), mask.shape) == part).all()


@pytest.mark.parametrize("options", [{}, {"ignore": "unsure"}], ids=["255 as background", "255 as a class"])
@pytest.mark.parametrize("kind", FORMATS + ("coco polygons",))
def test_masks_come_back_as_they_went_out(items, tmp_path, kind, options):
    kind, _, polygons = kind.partition(" ")
    folder = written(kind, items, tmp_path / "out", polygons=bool(polygons), **options)
    back = dict(read(kind, str(folder), CLASSES, options.get("ignore")))
    assert set(back) == {item.name for item in items}
    for item in items:
        kept = "ignore" in options or kind == "png"
        expected = item.mask if kept else np.where(item.mask == 255, 0, item.mask)
        np.testing.assert_array_equal(back[item.name], expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_are_matched_by_name(items, tmp_path, kind):
    folder = written(kind, items[:1], tmp_path / "out")
    (_, mask), = read(kind, str(folder), ("background", "spoon", "key", "mug"))
    assert set(np.unique(mask)) == {0, 1}, "spoon is class 1 here"


@pytest.mark.parametrize("kind", FORMATS)
def test_an_unknown_class_is_named(items, tmp_path, kind):
    folder = written(kind, items[:1], tmp_path / "out")
    with pytest.raises(UserError, match="no class 'mug'|no class 'spoon'"):
        list(read(kind, str(folder), ("background", "cup")))


def test_cocos_own_reader_gives_the_masks(items, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    for polygons in (False, True):
        folder = written("coco", items, tmp_path / f"out{polygons}", polygons=polygons)
        found = coco.COCO(str(folder / COCO_FILE))
        assert [row["name"] for row in found.loadCats(found.getCatIds())] == list(CLASSES[1:])
        for image, item in zip(found.dataset["images"], items):
            mask = np.zeros(item.mask.shape, np.uint8)
            for row in found.loadAnns(found.getAnnIds([image["id"]])):
                pixels = found.annToMask(row).astype(bool)
                mask[pixels] = row["category_id"]
                if not polygons:
                    assert row["area"] == pixels.sum()
                    left, top, width, height = row["bbox"]
                    assert pixels[top:top + height, left:left + width].sum() == pixels.sum()
            expected = np.where(item.mask == 255, 0, item.mask)
            different = mask != expected
            if polygons:  # the tool draws outlines half a pixel wider or narrower
                inner = cv2.erode((expected > 0).astype(np.uint8), np.ones((3, 3))) > 0
                outer = cv2.dilate((expected > 0).astype(np.uint8), np.ones((3, 3))) > 0
                assert not (different & inner & (mask == 0)).any() and not (different & ~outer).any()
            else:
                assert not different.any()


def test_cocos_compressed_run_lengths_are_read(items, tmp_path):
    codec = pytest.importorskip("pycocotools.mask")
    folder = written("coco", items, tmp_path / "out")
    content = json.loads((folder / COCO_FILE).read_text())
    for row in content["annotations"]:
        size = row["segmentation"]["size"]
        packed = codec.frPyObjects(row["segmentation"], *size)
        row["segmentation"]["counts"] = packed["counts"].decode("ascii")
    (folder / COCO_FILE).write_text(json.dumps(content))
    for (_, mask), item in zip(read("coco", str(folder), CLASSES), items):
        np.testing.assert_array_equal(mask, np.where(item.mask == 255, 0, item.mask))


def test_labelmes_other_shapes_are_drawn(tmp_path):
    shapes = [{"label": "mug", "points": [[2, 3], [8, 9]], "shape_type": "rectangle"},
              {"label": "key", "points": [[20.5, 10.5], [20.5, 14.6]], "shape_type": "circle"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"shapes": shapes, "imagePath": "..\\x\\1_7.jpg", "imageHeight": 30, "imageWidth": 40}))
    (name, mask), = read("labelme", str(path), CLASSES)
    assert name == "1_7" and (mask == 1).sum() == 36 and mask[3, 2] == 1 and mask[9, 8] == 0
    assert mask[10, 20] == 3 and mask[14, 20] == 3 and mask[15, 20] == 0
    path.write_text(path.read_text().replace("circle", "line"))
    with pytest.raises(UserError, match="a line of class 'key' has no area"):
        list(read("labelme", str(path), CLASSES))


def test_cvats_archive_is_laid_out_as_cvat_does(items, tmp_path):
    folder = written("cvat", items, tmp_path / "out")
    with zipfile.ZipFile(str(folder / "annotations.zip")) as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == [item.name for item in items]
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[1] == "background:0,0,0::" and lines[3] == "spoon:{},{},{}::".format(*voc_palette()[2])
        with archive.open("SegmentationClass/1_000001.png") as file, Image.open(file) as image:
            assert image.getpalette()[6:9] == list(voc_palette()[2])


def test_cvats_masks_may_have_colours_of_their_own(tmp_path):
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[1:3] = 250, 125, 7
    Image.fromarray(picture).save(str(tmp_path / "m.png"))
    with zipfile.ZipFile(str(tmp_path / "a.zip"), "w") as archive:
        archive.writestr("labelmap.txt", "background:0,0,0::\nkey:250,125,7::\n")
        archive.write(str(tmp_path / "m.png"), "SegmentationClass/3_9.png")
    (name, mask), = read("cvat", str(tmp_path / "a.zip"), CLASSES)
    assert name == "3_9" and (mask[1:3] == 3).all() and mask.sum() == 30


def test_yolo_is_laid_out_as_its_loader_wants(items, tmp_path):
    folder = written("yolo", items, tmp_path / "out")
    settings = yaml.safe_load((folder / "data.yaml").read_text())
    assert settings == {"train": "images/train", "val": "images/train", "names": {0: "mug", 1: "spoon", 2: "key"}}
    assert (folder / "labels/train/3_000002.txt").read_text() == ""
    number, *values = (folder / "labels/train/1_000001.txt").read_text().split()
    assert number == "1" and len(values) % 2 == 0 and all(0 <= float(value) <= 1 for value in values)


def test_images_are_stored_as_their_masks_lie(tmp_path, rng):
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(str(tmp_path / "turned.jpg"), exif=exif)
    item = Item("1_1", str(tmp_path / "turned.jpg"), np.zeros((30, 20), np.uint8))
    folder = written("labelme", [item], tmp_path / "out")
    with Image.open(str(folder / "1_1.jpg")) as image:
        assert image.size == (20, 30) and image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("kind, damage", [
    ("coco", lambda folder: (folder / COCO_FILE).write_text('{"images": []}')),
    ("coco", lambda folder: (folder / COCO_FILE).write_text("[")),
    ("coco", lambda folder: (folder / COCO_FILE).write_text(
        re.sub(r'"segmentation": {[^}]*}', '"segmentation": []', (folder / COCO_FILE).read_text()))),  # a box
    ("yolo", lambda folder: (folder / "data.yaml").write_text("names: 3")),
    ("yolo", lambda folder: (folder / "labels").rename(folder / "label")),
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").write_text("0 0.1 0.2 x 0.4 0.5 0.6")),
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").write_text("9 0.1 0.2 0.4 0.4 0.5 0.6")),
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").write_text("0 0.1 0.2 0.4 0.4")),
    ("labelme", lambda folder: (folder / "1_000001.json").write_text('{"shapes": [{}]}')),
    ("cvat", lambda folder: (folder / "annotations.zip").write_bytes(b"PK")),
    ("png", lambda folder: (folder / "classes.txt").write_text("x mug")),
    ("png", lambda folder: (folder / "classes.txt").write_text("1 mug\n3 key\n"))])  # the masks have 2 too
def test_damaged_files_are_named(items, tmp_path, kind, damage):
    folder = written(kind, items, tmp_path / "out")
    damage(folder)
    with pytest.raises(UserError, match=os.path.join(str(folder), "")):
        list(read(kind, str(folder), CLASSES))


def test_a_label_beyond_the_classes_is_no_class_either_beside_one_to_ignore(items, tmp_path):
    folder = written("png", [items[0]._replace(mask=np.where(items[0].mask, 4, 0).astype(np.uint8))], tmp_path / "out")
    with pytest.raises(UserError, match="1_000001.png has label 4, which stands for no class; 0, 1, 2, 3, 255 do"):
        list(read("png", str(folder), CLASSES, "unsure"))


def test_run_lengths_of_another_size_are_refused(items, tmp_path):
    folder = written("coco", items, tmp_path / "out")
    content = json.loads((folder / COCO_FILE).read_text())
    content["annotations"][0]["segmentation"]["counts"][0] += 1
    (folder / COCO_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="run lengths add up to 2401 pixels, not 2400"):
        list(read("coco", str(folder), CLASSES))
