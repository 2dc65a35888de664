"""Corrected masks, and export_masks.py."""
import json
import os

import numpy as np
import pytest
from conftest import largest_file, run_script

from core.annotation.export import export_masks, find_pairs, import_masks
from core.annotation.formats import FORMATS
from core.config import Config
from core.data import record_classes
from core.errors import UserError
from core.io.files import write_json, write_lines
from core.io.images import read_mask, write_image, write_mask
from core.io.logs import logger
from core.paths import image_path, mask_path
from core.web.corrections import add_decision, corrected_names

CLASSES = ("background", "mug", "spoon")


@pytest.fixture
def config(tmp_path, monkeypatch, rng):
    """Four web images in the working folder, three of them on the list."""
    monkeypatch.chdir(tmp_path)
    config = Config(classes=CLASSES)
    layout = config.layout
    names = ["1_000001", "1_000002", "2_000001", "2_000002"]
    for name in names:
        mask = np.zeros((24, 32), np.uint8)
        mask[5:15, 8:20] = int(name[0])
        mask[15:18] = 255
        write_image(image_path(layout.web_images, name), rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        write_mask(mask_path(layout.web_masks, name), mask)
    write_lines(layout.web_list, names[:3])
    return config


def test_corrected_masks_are_checked_before_any_is_stored(config, tmp_path):
    layout = config.layout
    export_masks(config, "png", find_pairs(config, "web"), str(tmp_path / "out"))
    folder = str(tmp_path / "out" / "masks")
    better = read_mask(mask_path(folder, "1_000002"), 3)
    better[0, 0] = 1
    write_mask(mask_path(folder, "1_000002"), better)
    other = better.copy()
    for name, mask, message in (("2_000001", other, "shows mug; web images show their own class, spoon"),
                                ("2_000001", better[1:], "32 x 23 pixels, its image 32 x 24"),
                                ("2_000009", better, "2_000009 is not a web image")):
        write_mask(mask_path(folder, name), mask)
        with pytest.raises(UserError, match=message):
            import_masks(config, "png", str(tmp_path / "out"))
        assert corrected_names(layout) == []
        os.remove(mask_path(folder, name))
    assert import_masks(config, "png", str(tmp_path / "out")) == ["1_000002"], "equal masks are not corrections"
    np.testing.assert_array_equal(read_mask(mask_path(layout.web_corrected, "1_000002"), 3), better)


def test_web_masks_are_exported_as_the_review_left_them(config):
    """Before create_web_masks.py has run again."""
    for name, decision in (("1_000001", "reject"), ("2_000002", "keep")):
        add_decision(config.layout, name, decision)
    assert [pair.name for pair in find_pairs(config, "web")] == ["1_000002", "2_000001", "2_000002"]
    assert len(find_pairs(config, "web", everything=True)) == 4


def test_two_masks_of_an_image_are_refused(config, tmp_path):
    """As where labelme's folder holds a copy of a file from before the correction."""
    folder = tmp_path / "out"
    export_masks(config, "labelme", find_pairs(config, "web"), str(folder))
    (folder / "1_000001_old.json").write_bytes((folder / "1_000001.json").read_bytes())
    with pytest.raises(UserError, match="out holds two masks of 1_000001: remove one"):
        import_masks(config, "labelme", str(folder))
    assert corrected_names(config.layout) == []


def test_masks_of_a_data_set_with_other_classes_are_refused(config, tmp_path):
    """As where --config is forgotten: the indices would get the names of other classes."""
    pairs = find_pairs(config, "web")
    export_masks(config, "png", pairs, str(tmp_path / "out"))
    layout = config.layout
    record_classes(layout.classes, CLASSES)
    voc = Config(root=config.root)
    path = os.path.join(layout.predictions, "predictions.json")
    for damaged in ({"settings": {}}, {"settings": {"classes": [1]}}, {"settings": {"classes": []}, "files": []}):
        write_json(path, damaged)
        with pytest.raises(UserError, match="predictions.json is damaged: run predict.py again"):
            find_pairs(config, "predictions")
    write_json(path, {"settings": {"classes": list(CLASSES)}, "files": {"a": {"file": pairs[0].image}}})
    for source in ("web", "pseudo", "val"):
        with pytest.raises(UserError, match="class 1 as mug, and the setting classes has class 1 as aeroplane|"
                                            "class 0 as background, and"):
            find_pairs(voc, source)
    with pytest.raises(UserError, match="made with the classes background, mug, spoon: pass --config"):
        find_pairs(voc, "predictions")
    assert [pair.name for pair in find_pairs(config, "predictions")] == ["a"]
    with pytest.raises(UserError, match="class 1 as mug"):
        import_masks(voc, "png", str(tmp_path / "out"))


def test_images_that_would_get_one_name_are_refused(config, tmp_path):
    pairs = [pair._replace(name=name) for pair, name in zip(find_pairs(config, "web"), ("a/b", "a_b", "c"))]
    with pytest.raises(UserError, match="1_000001.jpg and .*1_000002.jpg would both be exported as a_b"):
        export_masks(config, "png", pairs, str(tmp_path / "out"))
    export_masks(config, "png", pairs[1:], str(tmp_path / "out"))
    assert sorted(os.listdir(str(tmp_path / "out" / "masks"))) == ["a_b.png", "c.png"]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_fills_the_disk_is_reported_and_leaves_nothing_behind(config, tmp_path, kind):
    label = "unsure" * 2000
    with largest_file(8000), pytest.raises(UserError, match="can't be written: File too large"):
        export_masks(config, kind, find_pairs(config, "web"), str(tmp_path / "out"), ignore=label)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out.partial"))


def test_what_a_file_does_not_speak_of_stays_as_it_is(config, tmp_path, caplog):
    """As where one of the images of a task was annotated; an image is empty only where the file says so of it."""
    caplog.set_level("INFO", logger.name)
    logger.propagate = True
    for kind in ("coco", "yolo", "labelme"):
        export_masks(config, kind, find_pairs(config, "web"), str(tmp_path / kind))
    path = tmp_path / "coco" / "annotations" / "instances_default.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps(content))
    (tmp_path / "yolo" / "labels" / "train" / "1_000001.txt").unlink()
    for kind in ("coco", "yolo"):
        assert import_masks(config, kind, str(tmp_path / kind)) == []
        assert "1 images without a " in caplog.text and "keep their masks" in caplog.text
        caplog.clear()
    path = tmp_path / "labelme" / "1_000001.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), shapes=[])))
    assert import_masks(config, "labelme", str(tmp_path / "labelme")) == ["1_000001"]
    assert not read_mask(mask_path(config.layout.web_corrected, "1_000001"), 3).any()
    assert "1 of them show nothing" in caplog.text and "labelme says: 1_000001" in caplog.text
    content["annotations"] = []
    (tmp_path / "empty.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="empty.json holds no masks"):
        import_masks(config, "coco", str(tmp_path / "empty.json"))


def test_a_mask_of_black_and_white_is_refused(config, tmp_path):
    """As editors save it: 255 means uncertain, and the object would be gone."""
    export_masks(config, "png", find_pairs(config, "web"), str(tmp_path / "out"))
    path = mask_path(str(tmp_path / "out" / "masks"), "1_000002")
    write_mask(path, np.where(read_mask(path, 3), 255, 0))
    with pytest.raises(UserError, match="1_000002 holds uncertain pixels, 255, and none of mug, 1"):
        import_masks(config, "png", str(tmp_path / "out"))


def test_an_export_appears_whole_or_not_at_all(config, tmp_path):
    pairs = find_pairs(config, "web")
    os.remove(pairs[-1].mask)
    with pytest.raises(UserError, match="2_000001.png"):
        export_masks(config, "coco", pairs, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out.partial"))
    with pytest.raises(UserError, match="not an empty folder"):
        export_masks(config, "coco", pairs, str(tmp_path / "dataset"))


def test_the_script_exports_and_imports(tmp_path, config):
    (tmp_path / "own.yaml").write_text("classes: [background, mug, spoon]\n")
    flags = "--format", "coco", "--root", str(tmp_path), "--config", str(tmp_path / "own.yaml")
    report = run_script(tmp_path, "export_masks.py", *flags)
    assert "3 images with masks" in report and "12.5 % of the pixels are 255" in report
    path = tmp_path / "outputs" / "web_coco" / "annotations" / "instances_default.json"
    content = json.loads(path.read_text())
    assert len(content["images"]) == 3 and len(content["annotations"]) == 3
    content["annotations"][0].update(segmentation=[[9, 6, 20, 6, 20, 14, 9, 14]])
    path.write_text(json.dumps(content))
    report = run_script(tmp_path, "export_masks.py", *flags, "--import", str(path))
    assert "1 of 3 masks differ" in report, "background in place of uncertain pixels is no correction"
    assert corrected_names(config.layout) == ["1_000001"]
    assert read_mask(mask_path(config.layout.web_corrected, "1_000001"), 3).sum() == 88
    run_script(tmp_path, "export_masks.py", *flags, "--masks", "val", "--import", str(path), status=2)
