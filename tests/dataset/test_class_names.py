"""Class indices in files keep their meaning: classes reordered, renamed, added or taken out are noticed everywhere."""
import dataclasses
import shutil

import numpy as np
import pytest
from conftest import CPUS, TINY, save_untrained

from core.config import Config
from core.cosegmentation.cosegment import cosegment
from core.cosegmentation.evaluate_masks import evaluate_web_masks
from core.data import check_classes, recorded_classes
from core.dataset.create import create_dataset
from core.dataset.own_images import OwnImages
from core.dataset.samples import voc_samples, web_samples
from core.errors import UserError
from core.evaluation.evaluate import evaluate, evaluation_options
from core.inference.estimate_masks import estimate_train_masks
from core.io.files import read_json, write_json, write_lines
from core.io.images import write_image, write_mask
from core.paths import image_path, mask_path

CLASSES = ("background", "mug", "spoon", "key")
CHANGES = {"reordered": ("background", "key", "spoon", "mug"), "renamed": ("background", "mug", "fork", "key"),
           "added": CLASSES + ("bowl",), "taken out": CLASSES[:3]}


@pytest.fixture
def own(tmp_path):
    """A list of two training images by class name, and a val image with its mask."""
    rng = np.random.default_rng(0)
    for name in ("photos/a", "photos/b", "val/v"):
        write_image(str(tmp_path / (name + ".jpg")), rng.integers(0, 255, (20, 30, 3), np.uint8))
    write_mask(str(tmp_path / "masks" / "v.png"), np.full((20, 30), 1, np.uint8))
    (tmp_path / "photos.csv").write_text("image,labels\na.jpg,mug\nb.jpg,spoon\n")
    return OwnImages(**{name: str(tmp_path / path) for name, path in (
        ("train_images", "photos"), ("train_labels", "photos.csv"), ("val_images", "val"), ("val_masks", "masks"))})


@pytest.fixture
def config(tmp_path, own):
    """Config of a data set of those images, with masks to train on, and of three web images."""
    config = Config(root=str(tmp_path / "root"), classes=CLASSES)
    create_dataset(config, 1, own=own)
    layout = config.layout
    for name in ("a", "b"):
        write_mask(mask_path(layout.train_masks, name), np.zeros((20, 30), np.uint8))
    return config


def bring_web_images(layout):
    names = ["1_000000", "2_000000", "3_000000"]
    for name in names:
        write_image(image_path(layout.web_images, name), np.zeros((20, 30, 3), np.uint8))
        write_mask(mask_path(layout.web_masks, name), np.full((20, 30), int(name[0]), np.uint8))
    write_lines(layout.web_list, names)


@pytest.mark.parametrize("change, then, now", [
    ("reordered", "class 1 as mug", "class 1 as key"), ("renamed", "class 2 as spoon", "class 2 as fork"),
    ("added", "no class 4", "class 4 as bowl"), ("taken out", "class 3 as key", "no class 3")])
def test_labels_and_masks_of_other_classes_are_refused(config, change, then, now):
    assert voc_samples(config)
    changed = dataclasses.replace(config, classes=CHANGES[change])
    with pytest.raises(UserError, match=f"classes.json: the data set was made with {then}, and the setting classes has "
                                        f"{now}: bring back the classes, or run create_dataset.py again"):
        voc_samples(changed)


def test_no_model_is_evaluated_with_val_masks_of_other_classes_but_with_masks_elsewhere(config):
    changed = dataclasses.replace(config, classes=CHANGES["reordered"], **TINY)
    save_untrained(changed)
    with pytest.raises(UserError, match="classes.json: the data set was made with class 1 as mug"):
        evaluate(changed, "init", epoch=2, devices=CPUS[:1], options=evaluation_options(changed, "init", epoch=2))
    with pytest.raises(UserError, match="classes.json: the data set was made with class 1 as mug"):
        estimate_train_masks(changed, 2, devices=CPUS[:1])
    elsewhere = shutil.copytree(config.layout.val_masks, config.path("masks of their own"))
    options = evaluation_options(changed, "init", epoch=2, masks=elsewhere)
    assert evaluate(changed, "init", epoch=2, devices=CPUS[:1], options=options)["confusion"]


@pytest.mark.parametrize("change", ["reordered", "renamed"])
def test_web_images_of_other_classes_do_not_train_and_are_not_segmented(config, change):
    layout = config.layout
    bring_web_images(layout)
    assert len(web_samples(config)) == 3
    changed = dataclasses.replace(config, classes=CHANGES[change])
    for use in (lambda: web_samples(changed), lambda: cosegment(changed, lambda _: CPUS[:1]),
                lambda: evaluate_web_masks(changed, layout.web_masks)):
        with pytest.raises(UserError, match="classes.json: the data set was made with class"):
            use()
    assert len(web_samples(dataclasses.replace(config, classes=CHANGES["added"]))) == 3, "one more changes nothing"


def test_create_dataset_writes_the_labels_again_for_other_classes(config, own, caplog):
    changed = dataclasses.replace(config, classes=CHANGES["reordered"])
    with caplog.at_level("WARNING"):
        create_dataset(changed, 1, own=own)
    assert "made with the classes background, mug, spoon, key, and is made with background, key" in caplog.text
    assert "make sure that the val masks hold the new indices" in caplog.text
    layout = changed.layout
    assert read_json(layout.train_labels) == {"a": [3], "b": [2]}
    assert recorded_classes(layout.classes) == {"classes": list(changed.classes)}
    assert voc_samples(changed)


def test_create_dataset_does_not_change_the_classes_of_web_images(config, own):
    layout = config.layout
    bring_web_images(layout)
    before = read_json(layout.train_labels)
    with pytest.raises(UserError, match="made with class 1 as mug, .* has class 1 as key: bring back the classes"):
        create_dataset(dataclasses.replace(config, classes=CHANGES["reordered"]), 1, own=own)
    with pytest.raises(UserError, match="made with class 3 as key, and the setting classes has no class 3"):
        create_dataset(dataclasses.replace(config, classes=CHANGES["taken out"]), 1, own=own)
    assert read_json(layout.train_labels) == before and recorded_classes(layout.classes)["classes"] == list(CLASSES)
    create_dataset(dataclasses.replace(config, classes=CHANGES["added"]), 1, own=own)


def test_a_half_written_change_of_classes_is_no_data_set(config, own, monkeypatch):
    changed = dataclasses.replace(config, classes=CHANGES["reordered"])

    def killed(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("core.dataset.create._write_lists", killed)
        create_dataset(changed, 1, own=own)
    for each in (config, changed):
        with pytest.raises(UserError, match="classes.json: create_dataset.py was interrupted .*: run it again"):
            voc_samples(each)
    create_dataset(changed, 1, own=own)
    assert voc_samples(changed)


def test_the_first_stage_that_sees_web_images_records_their_classes(tmp_path):
    config = Config(root=str(tmp_path), classes=CLASSES)
    changed = {change: dataclasses.replace(config, classes=classes) for change, classes in CHANGES.items()}
    check_classes(config, {1})
    assert recorded_classes(config.layout.classes) == {}
    check_classes(config, {1}, record=True)
    check_classes(changed["added"], {1, 4}, record=True)
    assert recorded_classes(config.layout.classes) == {"classes": list(CLASSES)}
    with pytest.raises(UserError, match="class 1 as mug"):
        check_classes(changed["reordered"], {1}, record=True)
    check_classes(changed["reordered"], {2})


@pytest.mark.parametrize("content", [[], {}, {"classes": "mug"}])
def test_a_damaged_record_of_the_classes_is_named(config, content):
    layout = config.layout
    write_json(layout.classes, content)
    with pytest.raises(UserError, match="classes.json is damaged: remove it, and run create_dataset.py again"):
        voc_samples(config)
