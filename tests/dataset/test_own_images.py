"""Training and val images of the user's own: lists, folders, and what can be wrong with them."""
import errno
import json
import os
import unicodedata

import cv2
import numpy as np
import pytest

from core.config import Config
from core.dataset.create import create_dataset
from core.dataset.own_images import OwnImages
from core.errors import UserError
from core.io.files import read_bytes
from core.io.images import read_image, read_mask, write_image, write_mask

CLASSES = ("background", "mug", "wooden spoon", "key")


@pytest.fixture
def config(tmp_path):
    return Config(root=str(tmp_path / "work"), classes=CLASSES)


@pytest.fixture
def folder(tmp_path):
    """A folder with a list of three training images and with two val images and their masks."""
    rng = np.random.default_rng(0)
    for name in ("photos/a.jpg", "photos/sub/b.png", "photos/c.jpg", "val/v.jpg", "val/w.jpg"):
        write_image(str(tmp_path / name), rng.integers(0, 255, (20, 30, 3), np.uint8))
    for number, name in enumerate(("v", "w"), 2):
        write_mask(str(tmp_path / "masks" / (name + ".png")), np.full((20, 30), number, np.uint8))
    (tmp_path / "photos.csv").write_text("image,labels\na.jpg,mug;wooden spoon\nsub/b,key\nc.jpg,\n")
    return tmp_path


def own(folder, **changes):
    places = {"train_images": "photos", "train_labels": "photos.csv", "val_images": "val", "val_masks": "masks"}
    places = {name: str(folder / path) for name, path in places.items()}
    return OwnImages(**{**places, **changes})


def labels(config):
    with open(config.path("dataset", "train_labels.json")) as file:
        return json.load(file)


def lines(config, name):
    with open(config.path("dataset", name)) as file:
        return file.read().split("\n")[:-1]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("copy", [False, True])
def test_images_that_lie_where_they_belong_stay(folder, config, linked, copy):
    places = {"train_images": "photos", "val_images": "val", "val_masks": "masks"}
    os.makedirs(config.path("dataset"))
    for name, place in places.items():
        if linked:
            os.symlink(str(folder / place), config.path("dataset", name))
        else:
            os.rename(str(folder / place), config.path("dataset", name))
    os.rename(config.path("dataset", "train_images", "sub", "b.png"), config.path("dataset", "train_images", "b.png"))
    (folder / "photos.csv").write_text("image,labels\na.jpg,mug\nc.jpg,\n")
    inside = own(folder, **{name: config.path("dataset", name) for name in places})
    before = {path: read_bytes(config.path("dataset", path)) for path in ("train_images/a.jpg", "val_masks/v.png")}
    for _ in range(2):
        create_dataset(config, 1, copy=copy, own=inside)
        assert labels(config) == {"a": [1], "c": []}
        assert {path: read_bytes(config.path("dataset", path)) for path in before} == before
    with pytest.raises(UserError, match="a.jpg lies where the stored form of .*a.jpg belongs: move your own"):
        create_dataset(config, 1, copy=copy, own=inside._replace(max_side=25))
    assert {path: read_bytes(config.path("dataset", path)) for path in before} == before


def test_links_into_nothing_and_odd_names_are_named_and_pipes_left_out(folder, config, caplog):
    os.mkfifo(str(folder / "val" / "pipe.jpg"))
    create_dataset(config, 1, own=own(folder))
    assert "1 files are left out" in caplog.text and lines(config, "val_list.txt") == ["v", "w"]
    (folder / "val" / "gone.jpg").symlink_to("nowhere.jpg")
    write_mask(str(folder / "masks" / "gone.png"), np.zeros((20, 30), np.uint8))
    with pytest.raises(UserError, match="gone.jpg can't be read"):
        create_dataset(config, 1, own=own(folder))
    os.rename(str(folder / "val" / "gone.jpg"), os.fsencode(str(folder / "val")) + b"/caf\xe9.jpg")
    os.rename(str(folder / "masks" / "gone.png"), os.fsencode(str(folder / "masks")) + b"/caf\xe9.png")
    with pytest.raises(UserError, match="names are one line of UTF-8"):
        create_dataset(config, 1, own=own(folder))


def test_a_list_gives_lists_links_and_labels(folder, config):
    create_dataset(config, 1, own=own(folder))
    assert labels(config) == {"a": [1, 2], "sub_b": [3], "c": []}
    assert lines(config, "train_list.txt") == ["a", "sub_b", "c"] and lines(config, "val_list.txt") == ["v", "w"]
    for name, source in (("train_images/sub_b.jpg", "photos/sub/b.png"), ("val_masks/w.png", "masks/w.png")):
        assert os.path.samefile(config.path("dataset", name), str(folder / source))
    assert (read_image(config.path("dataset", "train_images", "sub_b.jpg")) == read_image(
        str(folder / "photos" / "sub" / "b.png"))).all()


@pytest.mark.parametrize("name, text", [
    ("l.csv", '\ufeffimage;labels\r\na.jpg;"mug, wooden spoon"\r\n\r\nsub/b.png;3\r\nc.jpg\r\n'),
    ("l.csv", "Image,Labels\na,mug,wooden spoon\nsub/b,key\nc,\n"),
    ("l.csv", "sep=;\r\nfilename;label1;label2\r\na.jpg;1;2\r\nsub/b.png;key;\r\nc.jpg;;\r\n"),
    ("l.csv", "a.jpg,mug;wooden spoon\nsub/b,key\nc.jpg,\n"),
    ("l.csv", "image,labels,\ra,mug,wooden spoon\rsub/b,key,\rc,,\r"),
    ("l.csv", ",image,labels\n0,a,mug;wooden spoon\n1,sub/b,key\n2,c,\n"),
    ("l.csv", "image\tmug\tkey\twooden spoon\na\t1\t0\t1\nsub/b\t0\t1\t0\nc\t0\t0\t0\n"),
    ("l.csv", "image,background,mug,wooden spoon,key,\na,1,1,1,0,\nsub/b,1,0,0,1,\nc,1,0,0,0,\n"),
    ("l.json", '{"a": ["mug", 2], "sub/b.png": "key", "c.jpg": []}')])
def test_forms_of_the_list(folder, config, name, text):
    (folder / name).write_bytes(text.encode("utf-8"))
    create_dataset(config, 1, own=own(folder, train_labels=str(folder / name)))
    assert labels(config) == {"a": [1, 2], "sub_b": [3], "c": []}


def test_images_lie_beside_the_list_if_no_folder_is_given(folder, config):
    (folder / "photos" / "l.csv").write_text("image,labels\nc.jpg,key\n")
    create_dataset(config, 1, own=OwnImages(train_labels=str(folder / "photos" / "l.csv")))
    assert labels(config) == {"c": [3]}


def test_folders_of_classes_label_what_lies_in_them(folder, config):
    rng = np.random.default_rng(1)
    for name in ("mug/1.jpg", "key/1.jpg", "wooden spoon/2.jpg"):
        write_image(str(folder / "sorted" / name), rng.integers(0, 255, (20, 30, 3), np.uint8))
    content = (folder / "sorted" / "mug" / "1.jpg").read_bytes()
    (folder / "sorted" / "wooden spoon" / "again.jpg").write_bytes(content)
    create_dataset(config, 1, own=OwnImages(str(folder / "sorted")))
    assert labels(config) == {"key_1": [3], "mug_1": [1, 2], "wooden spoon_2": [2]}


def test_without_val_images_an_old_val_list_goes(folder, config):
    create_dataset(config, 1, own=own(folder))
    create_dataset(config, 1, own=own(folder, val_images=None, val_masks=None))
    assert not os.path.exists(config.path("dataset", "val_list.txt")) and len(labels(config)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_large_images_are_stored_scaled_down_with_their_masks(folder, config, jobs):
    image = np.zeros((80, 120, 3), np.uint8)
    image[:, 60:] = 200
    write_image(str(folder / "photos" / "a.jpg"), image)
    write_image(str(folder / "val" / "v.jpg"), image[::-1] // 2)
    write_mask(str(folder / "masks" / "v.png"), np.tile(np.where(np.arange(120) > 60, 3, 255), (80, 1)))
    create_dataset(config, jobs, own=own(folder, max_side=60))
    small = read_image(config.path("dataset", "train_images", "a.jpg"))
    assert small.shape == (40, 60, 3) and small[:, :25].max() < 20 and small[:, 35:].min() > 180
    mask = read_mask(config.path("dataset", "val_masks", "v.png"), 4, (40, 60))
    assert (mask[:, :30] == 255).all() and (mask[:, 31:] == 3).all() and set(np.unique(mask).tolist()) == {3, 255}
    assert os.path.islink(config.path("dataset", "train_images", "c.jpg"))
    assert read_image(str(folder / "photos" / "a.jpg")).shape == (80, 120, 3)
    before = os.stat(config.path("dataset", "val_masks", "v.png")).st_mtime_ns
    create_dataset(config, jobs, own=own(folder, max_side=60))
    assert os.stat(config.path("dataset", "val_masks", "v.png")).st_mtime_ns == before
    create_dataset(config, jobs, own=own(folder))
    assert read_image(config.path("dataset", "train_images", "a.jpg")).shape == (80, 120, 3)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS])
def test_where_the_file_system_has_no_links_images_are_copied(folder, config, monkeypatch, caplog, code):
    def symlink(*_, **__):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(os, "symlink", symlink)
    with caplog.at_level("INFO"):
        create_dataset(config, 1, own=own(folder))
    assert "7 images and masks are copied, as with --copy" in caplog.text
    path = config.path("dataset", "train_images", "a.jpg")
    assert not os.path.islink(path) and read_bytes(path) == (folder / "photos" / "a.jpg").read_bytes()
    before = os.stat(path).st_mtime_ns
    create_dataset(config, 1, own=own(folder))
    assert os.stat(path).st_mtime_ns == before


def test_a_disk_that_refuses_links_for_another_reason_is_named(folder, config, monkeypatch):
    def symlink(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "symlink", symlink)
    with pytest.raises(UserError, match="jpg can't be written: No space left"):
        create_dataset(config, 1, own=own(folder))


def test_a_copy_is_replaced_when_the_content_of_its_source_changes(folder, config):
    source = folder / "photos" / "a.jpg"
    create_dataset(config, 1, copy=True, own=own(folder))
    other = source.read_bytes().replace(b"\xff\xd9", b"\xff\xfe\x00\x03x\xff\xd9")  # with a comment
    source.write_bytes(other)
    create_dataset(config, 1, copy=True, own=own(folder))
    assert read_bytes(config.path("dataset", "train_images", "a.jpg")) == other


def put_masks(folder, **masks):
    for name, mask in masks.items():
        write_mask(str(folder / "masks" / (name + ".png")), np.array(mask, np.uint8).repeat(10, 0).repeat(10, 1))


def test_val_masks_whose_object_is_255_are_refused(folder, config):
    put_masks(folder, v=[[0, 255, 0], [0, 0, 0]], w=[[255, 255, 255], [0, 0, 0]])
    with pytest.raises(UserError, match="no val mask shows any class, and 33.3 % of all pixels.*v.png.*mug is 1"):
        create_dataset(config, 1, own=own(folder))
    assert not os.path.exists(config.path("dataset"))


@pytest.mark.parametrize("masks, expected, unexpected", [
    ({"v": [[0, 255, 255], [0, 0, 255]], "w": [[1, 1, 0], [0, 0, 0]]},
     ("no val mask shows: wooden spoon, key", "of the val masks, 25.0 % of all pixels are 255",
      "1 of 2 val masks show no class but have pixels of 255, which means ignored, such as"), ()),
    ({"v": [[1, 2, 3], [0, 0, 255]], "w": [[0, 0, 0], [0, 0, 0]]}, (), ("val mask",)),
    ({"v": [[0, 0, 0], [0, 0, 0]], "w": [[0, 0, 0], [0, 0, 0]]}, ("no val mask shows: mug, wooden spoon, key",),
     ("255",))])
def test_suspicious_val_masks_are_reported(folder, config, caplog, masks, expected, unexpected):
    put_masks(folder, **masks)
    create_dataset(config, 2, own=own(folder))
    for text in expected:
        assert text in caplog.text
    for text in unexpected:
        assert text not in caplog.text


def renamed(path, form):
    """Rename a file to the NFC or NFD form of caf\u00e9."""
    os.rename(str(path), str(path.parent / (unicodedata.normalize(form, "caf\u00e9") + path.suffix)))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_match_however_their_accents_are_composed(folder, config, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    name = unicodedata.normalize(other, "caf\u00e9")
    renamed(folder / "photos" / "sub" / "b.png", form)
    os.rename(str(folder / "photos" / "sub"), str(folder / "photos" / unicodedata.normalize(form, "\u00dcbung")))
    renamed(folder / "val" / "v.jpg", form)
    renamed(folder / "masks" / "v.png", other)
    below = unicodedata.normalize(other, "\u00dcbung")
    (folder / "photos.csv").write_text(f"image,labels\na.jpg,mug\n{below}/{name},key\n")
    create_dataset(config, 1, own=own(folder))
    assert labels(config) == {"a": [1], "\u00dcbung_caf\u00e9": [3]}, "ids are composed"
    assert lines(config, "val_list.txt") == ["caf\u00e9", "w"]
    assert read_mask(config.path("dataset", "val_masks", "caf\u00e9.png"), 4)[0, 0] == 2


def test_masks_of_training_images_are_not_taken(folder, config):
    (folder / "photos" / "masks").mkdir()
    write_mask(str(folder / "photos" / "masks" / "a.png"), np.full((20, 30), 1, np.uint8))
    create_dataset(config, 1, own=own(folder))
    assert sorted(os.listdir(config.path("dataset", "train_images"))) == ["a.jpg", "c.jpg", "sub_b.jpg"]
    assert sorted(os.listdir(config.path("dataset", "val_masks"))) == ["v.png", "w.png"]
    assert not os.path.exists(config.path("cache"))


def edit(folder, text, name="photos.csv"):
    (folder / name).write_text(text)
    return {"train_labels": str(folder / name)}


def remove(folder, name):
    (folder / name).unlink()


def duplicate(folder, source, target):
    (folder / target).write_bytes((folder / source).read_bytes())


def other_size(folder):
    write_mask(str(folder / "masks" / "w.png"), np.zeros((30, 20), np.uint8))


def label_out_of_range(folder):
    write_mask(str(folder / "masks" / "w.png"), np.full((20, 30), 4, np.uint8))


def truncate(folder):
    path = folder / "photos" / "c.jpg"
    path.write_bytes(path.read_bytes()[:100])


WRONG = {
    "unknown class": (lambda folder: edit(folder, "image,labels\na.jpg,wooden spon\n"),
                      "photos.csv, line 2: there is no class 'wooden spon'; did you mean wooden spoon?"),
    "background": (lambda folder: edit(folder, "image,labels\na.jpg,background\n"), "line 2: 'background' is the"),
    "index": (lambda folder: edit(folder, '{"a": [4]}', "l.json"), "label 4 is out of range: the classes are 1..3"),
    "index 0": (lambda folder: edit(folder, '{"a": [0]}', "l.json"), "is the background"),
    "negative": (lambda folder: edit(folder, '{"a": [-1]}', "l.json"), "label -1 is out of range"),
    "truth value": (lambda folder: edit(folder, '{"a": [true]}', "l.json"), "the labels of a are a list"),
    "array": (lambda folder: edit(folder, '["a"]', "l.json"), "an object like"),
    "no table": (lambda folder: edit(folder, "a.jpg\n"), "'a.jpg', is neither the header image,labels nor"),
    "other header": (lambda folder: edit(folder, "picture,classes\na.jpg,mug\n"),
                     "line 1, which is not the header image,labels: the image %p/picture is missing"),
    "further column": (lambda folder: edit(folder, "image,labels,split\na.jpg,mug,val\n"), "the column 'split' of its"),
    "columns of 0 and 1 without header": (lambda folder: edit(folder, "a.jpg,1,1,1\nc.jpg,1,,1\n"),
                                          "holds 0 and 1 only: a column of 0 and 1 for each class needs a header"),
    "another number in a column of 0 and 1": (lambda folder: edit(folder, "image,mug,key\na.jpg,1,0\nc.jpg,0,2\n"),
                                              "line 3: 0 or 1 is expected for each class, not 0,2"),
    "index twice": (lambda folder: edit(folder, '{"a": [1, 1, 1]}', "l.json"), "class 1 appears twice: a column of 0"),
    "open quote": (lambda folder: edit(folder, 'image,labels\na.jpg,"mug\n'), "photos.csv, line 2"),
    "header alone": (lambda folder: edit(folder, "image,labels\n"), "names no image"),
    "missing image": (lambda folder: edit(folder, "image,labels\nd.jpg,mug\n"), "d.jpg is missing"),
    "no name": (lambda folder: edit(folder, "image,labels\n,mug\n"), "is missing"),
    "twice": (lambda folder: edit(folder, "image,labels\na.jpg,mug\nc,mug\na,key\n"),
              "line 4: a appears twice, first in %s"),
    "key twice": (lambda folder: edit(folder, '{"a": ["mug"], "a": ["key"]}', "l.json"), "the key 'a' appears twice"),
    "same id": (lambda folder: duplicate(folder, "photos/c.jpg", "photos/sub_b.jpg") or edit(
        folder, "image,labels\nsub/b,mug\nsub_b,mug\n"), "have the same id, sub_b"),
    "same id but for accents": (lambda folder: renamed(folder / "photos" / "a.jpg", "NFC") or renamed(
        folder / "photos" / "c.jpg", "NFD") or edit(folder, "image,labels\ncaf\u00e9,mug\ncafe\u0301,key\n"),
                                "have the same id, caf\u00e9"),
    "long id": (lambda folder: os.renames(str(folder / "photos" / "sub" / "b.png"), str(
        folder / "photos" / ("d" * 200) / ("e" * 100 + ".png"))) or edit(
            folder, "image,labels\na,mug\n%s/%s,key\n" % ("d" * 200, "e" * 100)), "is too long for the names"),
    "two endings": (lambda folder: duplicate(folder, "photos/c.jpg", "photos/a.png") or edit(
        folder, "image,labels\na,mug\n"), "which one is meant?"),
    "truncated": (truncate, "c.jpg can't be decoded"),
    "no mask": (lambda folder: remove(folder, "masks/w.png"), "w.png is missing"),
    "mask of other size": (other_size, "w.png is 20 x 30 pixels"),
    "label of mask": (label_out_of_range, "w.png has label 4"),
    "train in val": (lambda folder: duplicate(folder, "photos/a.jpg", "val/w.jpg"), "are the same picture"),
    "no folder": (lambda folder: {"val_images": str(folder / "vall")}, "vall is not a folder"),
    "masks alone": (lambda folder: {"val_images": None}, "go together"),
    "val alone": (lambda folder: {"train_images": None, "train_labels": None}, "need training images"),
    "folder of no class": (lambda folder: {"train_labels": None}, "there is no class 'sub'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_and_nothing_is_written(folder, config, what):
    damage, message = WRONG[what]
    changes = damage(folder) or {}
    message = message.replace("%s", str(folder / "photos.csv")).replace("%p", str(folder / "photos"))
    with pytest.raises(UserError) as error:
        create_dataset(config, 1, own=own(folder, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not os.path.exists(config.path("dataset"))


def test_a_rotated_photograph_counts_as_viewers_show_it(folder, config):
    content = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (folder / "val" / "w.jpg").write_bytes(content[:2] + exif + content[2:])
    with pytest.raises(UserError, match="20 x 30.*EXIF|30 x 20.*EXIF"):
        create_dataset(config, 1, own=own(folder))
    write_mask(str(folder / "masks" / "w.png"), np.zeros((30, 20), np.uint8))
    create_dataset(config, 1, own=own(folder, max_side=24))
    assert read_image(config.path("dataset", "val_images", "w.jpg")).shape == (24, 16, 3)
