import json
import os
import shutil

import numpy as np
import pytest
import scipy.io

from core.config import Config
from core.dataset.create import create_dataset
from core.dataset.voc import voc_sources
from core.errors import UserError
from core.io.files import write_json, write_lines
from core.io.images import read_mask, write_mask


@pytest.fixture
def config(sample):
    return Config(root=str(sample))


def voc(sample, *names):
    return str(sample.joinpath("dataset", "VOCdevkit", "VOC2012", *names))


def sbd(sample, *names):
    return str(sample.joinpath("dataset", "benchmark_RELEASE", "dataset", *names))


def lines(sample, name):
    return (sample / "dataset" / name).read_text().split()


def test_lists_links_and_labels(sample, config):
    create_dataset(config, 1)
    names = ["2012_%06d" % number for number in range(11)]
    assert lines(sample, "train_list.txt") == names[:8]
    assert lines(sample, "val_list.txt") == names[8:]
    assert len(lines(sample, "web_train_list.txt")) == 10
    labels = json.loads((sample / "dataset" / "train_labels.json").read_text())
    assert list(labels) == names[:8]
    for name in names[4:8]:
        mask = read_mask(voc(sample, "SegmentationClass", name + ".png"), 21)
        assert labels[name] == sorted(set(np.unique(mask).tolist()) - {0, 255})
    assert labels[names[0]] == sorted(set(np.unique(scipy.io.loadmat(sbd(sample, "cls", names[0] + ".mat"))["GTcls"]
                                                    ["Segmentation"][0, 0]).tolist()) - {0, 255})
    link = sample / "dataset" / "train_images" / (names[0] + ".jpg")
    assert link.is_symlink() and os.path.samefile(str(link), sbd(sample, "img", names[0] + ".jpg"))
    assert os.path.samefile(str(sample / "dataset" / "val_masks" / (names[8] + ".png")),
                            voc(sample, "SegmentationClass", names[8] + ".png"))


def test_no_training_mask_reaches_the_folders_that_training_reads(sample, config):
    create_dataset(config, 1)
    train = set(lines(sample, "train_list.txt"))
    for folder in ("train_images", "val_images", "val_masks", "web_labels"):
        assert not [name for name in os.listdir(str(sample / "dataset" / folder))
                    if name.endswith(".png") and name[:-4] in train]
    assert not (sample / "cache").exists()


def test_sbd_images_that_voc_segments_are_not_taken_twice(sample, config):
    with open(sbd(sample, "train.txt"), "a") as file:
        file.write("2012_000004\n2012_000009\n")  # of VOC train and VOC val
    train, val = voc_sources(config.layout)
    assert [source.name for source in train] == ["2012_%06d" % number for number in range(8)]
    assert [source.name for source in val] == ["2012_%06d" % number for number in range(8, 11)]


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_run_changes_nothing_but_what_is_asked_for(sample, config, copy):
    def state():
        return {str(path): (path.lstat().st_mtime_ns, path.is_symlink())
                for folder in ("train_images", "val_images", "val_masks")
                for path in (sample / "dataset" / folder).iterdir()}
    create_dataset(config, 2, copy=copy)
    before = state()
    assert len(before) == 14 and all(link != copy for _, link in before.values())
    create_dataset(config, 1, copy=copy)
    assert state() == before
    create_dataset(config, 1, copy=not copy)
    assert all(link == copy for _, link in state().values()), "copies replace links, and links copies"
    path = sample / "dataset" / "train_images" / "2012_000000.jpg"
    assert path.read_bytes() == open(sbd(sample, "img", "2012_000000.jpg"), "rb").read()


def test_pictures_of_voc_in_a_linked_folder_are_not_written_over(sample, config):
    other = voc(sample, "JPEGImages", "2012_000000.jpg")  # of SBD, but VOC has a picture of it too
    shutil.copy(sbd(sample, "img", "2012_000000.jpg"), other)
    for folder in ("train_images", "val_images"):
        os.symlink(voc(sample, "JPEGImages"), str(sample / "dataset" / folder))
    with pytest.raises(UserError, match="JPEGImages/2012_000000.jpg lies where the stored form of .*img/2012_000000"):
        create_dataset(config, 1)
    os.remove(other)
    create_dataset(config, 1)
    assert os.path.islink(other)
    assert not any(os.path.islink(voc(sample, "JPEGImages", name + ".jpg")) for name in lines(sample, "val_list.txt"))


def halve(path):
    os.truncate(path, os.path.getsize(path) // 2)


def label_21(path):
    mask = read_mask(path, 21)
    mask[3, 4] = 21
    write_mask(path, mask)


def rename_web_image(sample, name):
    for folder, ending in (("web_images", ".jpg"), ("web_labels", ".png")):
        path = sample / "dataset" / folder
        (path / ("1_000000" + ending)).rename(path / (name + ending))


WRONG = {
    "VOC2012 is missing": lambda sample: os.rename(voc(sample), voc(sample) + "x"),
    "2012_000009.jpg is missing": lambda sample: os.remove(voc(sample, "JPEGImages", "2012_000009.jpg")),
    "2012_000001.mat is missing": lambda sample: os.remove(sbd(sample, "cls", "2012_000001.mat")),
    "2012_000001.mat is damaged, or not an SBD mask": lambda sample: halve(sbd(sample, "cls", "2012_000001.mat")),
    "2012_000002.jpg can't be decoded": lambda sample: halve(sbd(sample, "img", "2012_000002.jpg")),
    "2012_000009.png has label 21 at x=4, y=3": lambda sample: label_21(
        voc(sample, "SegmentationClass", "2012_000009.png")),
    "2012_000005.png is 9 x 9 pixels": lambda sample: write_mask(
        voc(sample, "SegmentationClass", "2012_000005.png"), np.zeros((9, 9), np.uint8)),
    "2012_000005 is in both": lambda sample: write_lines(
        voc(sample, "ImageSets", "Segmentation", "val.txt"), ["2012_000008", "2012_000005"]),
    "1_000009.jpg is missing": lambda sample: write_lines(
        str(sample / "dataset" / "web_train_list.txt"), ["1_000000", "1_000009"]),
    "1_000000.png is 9 x 9 pixels": lambda sample: write_mask(
        str(sample / "dataset" / "web_labels" / "1_000000.png"), np.zeros((9, 9), np.uint8)),
    "21_000000": lambda sample: rename_web_image(sample, "21_000000")}


@pytest.mark.parametrize("jobs, message", [*((1, message) for message in WRONG),
                                           (2, "2012_000002.jpg can't be decoded")])
def test_what_is_wrong_is_named_and_nothing_is_written(sample, config, jobs, message):
    WRONG[message](sample)
    with pytest.raises(UserError) as error:
        create_dataset(config, jobs)
    assert message in str(error.value)
    for name in ("train_images", "val_images", "train_list.txt", "val_list.txt", "train_labels.json"):
        assert not (sample / "dataset" / name).exists()


def test_the_web_list_names_pairs_only(sample, config):
    os.remove(str(sample / "dataset" / "web_labels" / "1_000000.png"))
    create_dataset(config, 1)
    assert len(lines(sample, "web_train_list.txt")) == 9 and "1_000000" not in lines(sample, "web_train_list.txt")


def test_masks_of_an_unfinished_co_segmentation_are_not_listed(sample, config, caplog):
    """The noise filter comes last."""
    write_json(config.layout.web_record, {})
    create_dataset(config, 1)
    assert not os.path.exists(config.layout.web_list) and "create_web_masks.py has not finished" in caplog.text


@pytest.mark.parametrize("values, message", [
    ((0, 255), "no web mask shows any class, and .* are 255"), ((0, 2), "web masks show another class than the one")])
def test_web_masks_of_other_values_than_their_classes_are_reported(sample, config, caplog, values, message):
    for path in (sample / "dataset" / "web_labels").iterdir():
        mask = read_mask(str(path), 21)
        write_mask(str(path), np.where(mask == 0, *values))
    if 255 in values:
        with pytest.raises(UserError, match=message):
            create_dataset(config, 1)
    else:
        create_dataset(config, 1)
        assert message in caplog.text
