"""What stages take for granted of images and their masks. Classes that changed: tests/dataset/test_class_names.py."""
import dataclasses
import os

import numpy as np
import pytest

from core.config import Config
from core.data import MaskedImages
from core.errors import UserError
from core.io.files import write_bytes
from core.io.images import write_image, write_mask
from core.paths import image_path, mask_path


@pytest.fixture
def images(tmp_path):
    """Two images with masks, made by a script that has finished."""
    config = Config(root=str(tmp_path), classes=("bk", "cat", "dog", "cow"))
    images = masked(config, {"a": [1], "b": [1, 2]})
    for name in images.names:
        write_image(image_path(images.images, name), np.zeros((8, 9, 3), np.uint8))
        write_mask(mask_path(images.masks, name), np.ones((8, 9), np.uint8))
    make(images)
    images.check_masks()
    return config, images


def masked(config, labels):
    return MaskedImages(config, labels, images=config.path("images"), masks=config.path("masks"), script="make.py")


def make(images, overwrite=False, finish=True):
    record = images.record()
    record.claim({"model": 1}, present=record.origin is not None, overwrite=overwrite)
    stale = record.stale(images.inputs())
    with record:
        if finish:
            record.finish()
    return stale


def test_a_mask_of_an_image_that_has_changed_is_out_of_date(images):
    _, found = images
    path = image_path(found.images, "a")
    with open(path, "rb") as file:
        content = file.read()
    write_bytes(path, content + b"\0")
    with pytest.raises(UserError, match="masks/a.png is out of date: the image has another content now; run"):
        found.check_masks()
    assert make(found) == {"a"}
    found.check_masks()


@pytest.mark.parametrize("labels, classes, words", [
    ([2], ("bk", "cat", "dog", "cow"), "class 1 was cat and is not set now"),
    ([1, 2, 3], ("bk", "cat", "dog", "cow"), "class 3 was not set and is cow now"),
    ([1, 2], ("bk", "dog", "cat", "cow"), "class 1 was cat and is dog now")])
def test_a_mask_for_other_labels_or_classes_is_out_of_date(images, labels, classes, words):
    config, _ = images
    changed = masked(dataclasses.replace(config, classes=classes), {"b": labels})
    with pytest.raises(UserError, match=f"masks/b.png is out of date: {words}; run make.py again"):
        changed.check_masks()
    masked(config, {"c": [1], "b": [1, 2]}).check_masks(corrected=["c"])


def test_masks_of_two_runs_are_refused_until_the_second_has_finished(images):
    _, found = images
    make(found, overwrite=True, finish=False)
    with pytest.raises(UserError, match="masks holds masks of two runs, as make.py --overwrite was interrupted"):
        found.check_masks()
    make(found)
    found.check_masks()


def test_missing_files_are_named_and_masks_without_a_record_are_the_users_own(images, caplog):
    config, found = images
    os.remove(mask_path(found.masks, "b"))
    with pytest.raises(UserError, match="b.png is missing: run make.py"):
        found.check_masks()
    found.check_masks(corrected={"b"})
    os.remove(image_path(found.images, "a"))
    with pytest.raises(UserError, match="a.jpg is missing: draw it"):
        found.check_images("draw it")
    os.remove(found.record().path)
    with caplog.at_level("INFO"):
        masked(config, {"a": [3]}).check_masks()
    assert "masks.json is missing: the masks in" in caplog.text
