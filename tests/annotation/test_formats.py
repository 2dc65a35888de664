"""Masks in other tools' formats: what goes out comes back, and the tools' own readers agree."""
import base64
import json
import os
import re

import cv2
import numpy as np
import pytest
import yaml
from picture_files import claiming, encoded
from PIL import Image

from core.annotation.formats import FORMATS, Item, read, write
from core.annotation.geometry import components, from_counts, from_polygon, to_counts, to_polygon
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


def drawn(regions, size):
    """(h, w) bool of regions together."""
    mask = np.zeros(size, bool)
    for region in regions:
        height, width = region.pixels.shape
        mask[region.top:region.top + height, region.left:region.left + width] |= region.pixels
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_and_polygons_hold_the_very_pixels(seed):
    rng = np.random.default_rng(seed)
    mask = blobs(rng, tuple(rng.integers(1, 60, 2))) > 0
    for region in components(mask):
        alone = drawn([region], mask.shape)
        assert (drawn([from_counts(to_counts(region, mask.shape), mask.shape)], mask.shape) == alone).all()
        assert (drawn([from_polygon(to_polygon(region), mask.shape)], mask.shape) == alone).all()
    assert (drawn(components(mask), mask.shape) == mask).all()


def test_a_polygon_of_noise_holds_thousands_of_holes(rng):
    mask = rng.random((200, 300)) > 0.3
    largest = max(components(mask), key=lambda region: region.pixels.sum())
    polygon = to_polygon(largest)
    assert len(polygon) > 50000 and (drawn([from_polygon(polygon, mask.shape)], mask.shape)
                                     == drawn([largest], mask.shape)).all()


def test_what_lies_outside_of_the_picture_is_cut_off():
    assert drawn([from_polygon([(-3, -3), (7.5, -3), (7.5, 4), (-3, 4)], (6, 5))], (6, 5)).sum() == 20
    assert from_polygon([(-3, 1), (-1, 1), (-1, 4)], (6, 5)).pixels.size == 0


@pytest.mark.parametrize("options", [{}, {"ignore": "unsure"}], ids=["255 as background", "255 as a class"])
@pytest.mark.parametrize("kind", FORMATS + ("coco polygons",))
def test_masks_come_back_as_they_went_out(items, tmp_path, kind, options):
    kind, _, polygons = kind.partition(" ")
    folder = written(kind, items, tmp_path / "out", polygons=bool(polygons), **options)
    back = dict(read(kind, str(folder), CLASSES, options.get("ignore")))
    said = items[:2] if kind == "coco" else items  # COCO has no way to say that an image shows nothing
    assert set(back) == {item.name for item in said}
    for item in said:
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


def labelme_file(path, *shapes, **changes):
    path.write_text(json.dumps({"shapes": shapes, "imagePath": "..\\x\\1_7.jpg", "imageHeight": 30, "imageWidth": 40,
                                **changes}))


def test_labelmes_other_shapes_are_drawn(tmp_path):
    shapes = [{"label": "mug", "points": [[2, 3], [8, 9]], "shape_type": "rectangle"},
              {"label": "key", "points": [[20.5, 10.5], [20.5, 14.6]], "shape_type": "circle"}]
    path = tmp_path / "a.json"
    labelme_file(path, *shapes)
    (name, mask), = read("labelme", str(path), CLASSES)
    assert name == "1_7" and (mask == 1).sum() == 36 and mask[3, 2] == 1 and mask[9, 8] == 0
    assert mask[10, 20] == 3 and mask[14, 20] == 3 and mask[15, 20] == 0
    path.write_text(path.read_text().replace("circle", "line"))
    with pytest.raises(UserError, match="a line of class 'key' has no area"):
        list(read("labelme", str(path), CLASSES))


@pytest.mark.parametrize("bits", ["1", "0 and 1", "0 and 255", "palette"])
def test_labelmes_bitmaps_are_drawn_whatever_stands_for_inside(tmp_path, bits):
    inside = np.ones((4, 5), np.uint8)
    inside[0] = 0
    bitmap = Image.fromarray(inside.astype(bool) if bits == "1" else inside * (255 if "255" in bits else 1))
    if bits == "palette":
        bitmap.putpalette([0, 0, 0, 128, 0, 0])
    for left, count in ((3, 15), (-2, 9), (38, 6)):
        labelme_file(tmp_path / "a.json", {"label": "mug", "points": [[left, 2], [left + 4, 5]], "shape_type": "mask",
                                           "mask": base64.b64encode(encoded(bitmap, "PNG")).decode()})
        (_, mask), = read("labelme", str(tmp_path / "a.json"), CLASSES)
        assert (mask == 1).sum() == count and mask[3, max(0, left)] == 1 and not mask[2].any()


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
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").write_text("0 20 20 40 20 40 30")),  # pixels
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").rename(folder / "labels/1_000001.txt")),
    ("yolo", lambda folder: (folder / "labels/train/1_000001.txt").rename(folder / "labels/train/1_000001_jpg.rf.txt")),
    ("labelme", lambda folder: (folder / "1_000001.json").write_text('{"shapes": [{}]}')),
    ("png", lambda folder: (folder / "classes.txt").write_text("x mug")),
    ("png", lambda folder: (folder / "classes.txt").write_text("1 mug\n2 spoon\n3 key\n3 mug\n")),
    ("png", lambda folder: (folder / "classes.txt").write_text("1 mug\n3 key\n"))])  # the masks have 2 too
def test_damaged_files_are_named(items, tmp_path, kind, damage):
    folder = written(kind, items, tmp_path / "out")
    damage(folder)
    with pytest.raises(UserError, match=os.path.join(str(folder), "")):
        list(read(kind, str(folder), CLASSES))


def coco_file(path, **changes):
    """A COCO file of one polygon in one image, with some of its values changed."""
    image = {"id": 1, "file_name": "1_7.jpg", "height": 30, "width": 40}
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    categories = [{"id": 1, "name": "mug"}]
    path.write_text(json.dumps({"images": [{**image, **changes.get("image", {})}, *changes.get("images", [])],
                                "annotations": [{**row, **changes.get("row", {})}], "categories": categories}))
    return str(path)


@pytest.mark.parametrize("changes, message", [
    ({"images": [{"id": 1, "file_name": "1_8.jpg", "height": 30, "width": 40}]}, "two of images have the id 1"),
    ({"row": {"image_id": 2}}, "image_id 2 and category_id 1, and one of these is not in the file"),
    ({"row": {"category_id": 2}}, "image_id 1 and category_id 2, and one of these is not"),
    ({"row": {"segmentation": [[]]}}, "1_7.jpg: .*a polygon has at least three points"),
    ({"row": {"segmentation": [[1, 1, 9, 1, 9]]}}, "1_7.jpg: "), ({"row": {"segmentation": [None]}}, "1_7.jpg: "),
    ({"row": {"segmentation": [[1, 1, float("nan"), 1, 9, 9]]}}, "a.json: COCO JSON with .*invalid char"),
    ({"row": {"segmentation": [[1, 1, 1e9, 1, 9, 9]]}}, "1_7.jpg: .*far outside of the picture"),
    ({"row": {"segmentation": {"size": [30, 40], "counts": [0, 2 ** 62]}}}, "run lengths add up to"),
    ({"row": {"segmentation": {"size": [40, 30], "counts": [0, 1200]}}}, "another image size than 40 x 30"),
    ({"row": {"segmentation": {"size": [30, 40], "counts": "o" * 10 ** 6 + "0"}}}, "too many digits"),
    ({"image": {"height": 30000, "width": 30000}}, "1_7.jpg can't be 30000 x 30000 pixels"),
    ({"image": {"height": 2 ** 40}}, "can't be 40 x 1099511627776 pixels"),
    ({"image": {"width": True}}, "can't be True x 30 pixels"),
    ({"image": {"file_name": None}}, "a.json"), ({"image": {"height": "30"}}, "can't be 40 x '30' pixels")])
def test_what_can_not_be_is_refused_before_it_is_drawn(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        list(read("coco", coco_file(tmp_path / "a.json", **changes), CLASSES))


@pytest.mark.parametrize("shape", [
    {"points": []}, {"points": [[3, 3]]}, {"points": [["a", "b"]] * 3}, {"points": [[9, 9]], "shape_type": "circle"},
    {"points": [[1, 1], [float("inf"), 3], [3, 3]]}, {"points": [[1, 1], [1e12, 3], [3, 3]]}, {"label": ["mug"]},
    {"shape_type": "mask"}, {"shape_type": "mask", "mask": "AAAA"},
    {"shape_type": "mask", "mask": base64.b64encode(claiming("PNG", 16000, 16000)).decode()}])
def test_a_shape_that_can_not_be_is_refused_by_file(tmp_path, shape):
    labelme_file(tmp_path / "a.json", {"label": "mug", "points": [[1, 1], [5, 5]], **shape})
    with pytest.raises(UserError, match="a.json: "):
        list(read("labelme", str(tmp_path / "a.json"), CLASSES))


@pytest.mark.parametrize("folder", ["images/", "images\\", "..\\..\\upload\\4\\", "C:\\data\\images\\", "images\\1/"])
def test_file_names_may_be_paths_of_any_system(tmp_path, folder):
    path = coco_file(tmp_path / "a.json", image={"file_name": folder + "1_7.jpg"})
    assert [name for name, _ in read("coco", path, CLASSES)] == ["1_7"]


def test_a_class_is_no_name_for_uncertain_pixels(items, tmp_path):
    for name in CLASSES:
        with pytest.raises(UserError, match=f"--ignore-label {name} is one of the classes"):
            written("coco", items, tmp_path / "out", ignore=name)
        with pytest.raises(UserError, match=f"--ignore-label {name} is one of the classes"):
            list(read("coco", coco_file(tmp_path / "a.json"), CLASSES, name))


def test_a_label_file_may_be_missing_or_empty(items, tmp_path):
    """Missing, it says nothing of its picture; empty, it says that the picture shows nothing."""
    folder = written("yolo", items, tmp_path / "out")
    (folder / "labels/train/1_000001.txt").unlink()
    (folder / "labels/train/2_000007.txt").write_text("")
    (folder / "labels/train/classes.txt").write_text("mug\n")
    back = dict(read("yolo", str(folder), CLASSES))
    assert sorted(back) == ["2_000007", "3_000002"] and not back["2_000007"].any()


def test_a_label_beyond_the_classes_is_no_class_either_beside_one_to_ignore(items, tmp_path):
    folder = written("png", [items[0]._replace(mask=np.where(items[0].mask, 4, 0).astype(np.uint8))], tmp_path / "out")
    with pytest.raises(UserError, match="1_000001.png has label 4 at x=.*; labels are 0..3, and 255"):
        list(read("png", str(folder), CLASSES, "unsure"))
