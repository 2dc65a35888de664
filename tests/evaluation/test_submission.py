"""Predictions without masks, and the archive for the VOC evaluation server."""
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from conftest import run_script
from PIL import Image

from core.classes import VOC_CLASSES
from core.config import Config
from core.errors import UserError
from core.evaluation.submission import check_submission, pack_submission
from core.io.files import write_lines
from core.io.images import read_image, read_mask, write_mask

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls/"


@pytest.fixture
def predicted(tmp_path, rng):
    """Folder with images and predictions of three ids."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("2008_000006", "2008_000001", "2008_000011"):
        Image.new("RGB", (12, 9)).save(str(tmp_path / "images" / (name + ".jpg")))
        write_mask(str(tmp_path / "masks" / (name + ".png")), rng.integers(0, 21, (9, 12)).astype(np.uint8))
    return tmp_path


def pack(folder, name="a.tar.gz"):
    names = [name[:-4] for name in os.listdir(str(folder / "images"))]
    pack_submission(str(folder / name), names, str(folder / "masks"), str(folder / "images"))
    return folder / name


def test_the_archive_holds_the_masks_where_the_server_looks_for_them(predicted):
    with tarfile.open(str(pack(predicted)), "r:gz") as archive:
        assert archive.getnames() == [FOLDER + name + ".png" for name in ("2008_000001", "2008_000006", "2008_000011")]
        for entry in archive:
            name = os.path.basename(entry.name)
            assert archive.extractfile(entry).read() == (predicted / "masks" / name).read_bytes()
            assert entry.isfile() and entry.mode & 0o444 == 0o444


def test_the_same_masks_give_the_same_bytes(predicted, monkeypatch):
    first = pack(predicted).read_bytes()
    for path in (predicted / "masks").iterdir():
        os.utime(str(path), (1, 1))
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert pack(predicted, "b.tgz").read_bytes() == first


@pytest.mark.parametrize("spoil, message", [
    (lambda path: write_mask(path, np.zeros((9, 11), np.uint8)), "is 11 x 9 pixels, its image 12 x 9"),
    (os.remove, "can't be read")])
def test_a_wrong_mask_is_named_and_no_archive_appears(predicted, spoil, message):
    spoil(str(predicted / "masks" / "2008_000006.png"))
    with pytest.raises(UserError, match="2008_000006.png " + message):
        pack(predicted)
    assert sorted(os.listdir(str(predicted))) == ["images", "masks"]


@pytest.mark.parametrize("path, classes, message", [
    ("a.zip", VOC_CLASSES, "takes a .tar.gz file"), ("a.tar.gz", ("bk", "mug"), "the 21 classes of VOC")])
def test_an_archive_that_can_not_be_is_reported_at_once(path, classes, message):
    with pytest.raises(UserError, match=message):
        check_submission(path, Config(classes=classes))


@pytest.mark.slow
def test_voc_test_is_predicted_and_packed(untrained, tmp_path, sample):
    run_script(tmp_path, "create_dataset.py")
    voc = tmp_path / "dataset" / "VOCdevkit" / "VOC2012"
    command = ("eval_seg_model.py", "--model", "final", "--epoch", "2", "--voc-test", "--submission", "test.tar.gz")
    assert "test.txt is missing: unpack VOC2012test.tar" in run_script(tmp_path, *command, status=2)
    names = [path.stem for path in sorted((voc / "JPEGImages").iterdir())[:2]]
    write_lines(str(voc / "ImageSets" / "Segmentation" / "test.txt"), names)
    shutil.rmtree(str(voc / "SegmentationClass"))
    text = run_script(tmp_path, *command)
    assert "no masks to compare with: predictions only" in text and "2 predictions for the VOC server" in text
    output = tmp_path / "outputs" / "final_fcn_resnet50_epoch2_test"
    result = json.loads((output / "result.json").read_text())
    assert result["mean_iou"] is None and result["settings"]["masks"] is None
    with tarfile.open(str(tmp_path / "test.tar.gz")) as archive:
        assert archive.getnames() == [FOLDER + name + ".png" for name in names]
    for name in names:
        size = read_image(str(voc / "JPEGImages" / (name + ".jpg"))).shape[:2]
        mask = read_mask(str(output / "masks" / (name + ".png")), 21, size)
        assert len(np.unique(mask)) > 1
    # Once more: nothing is predicted again, and the archive is the same.
    before = (tmp_path / "test.tar.gz").read_bytes()
    assert "holds this evaluation already" in run_script(tmp_path, *command)
    assert (tmp_path / "test.tar.gz").read_bytes() == before


@pytest.mark.slow
def test_a_missing_mask_is_an_error_unless_there_are_none(untrained, tmp_path, sample):
    run_script(tmp_path, "create_dataset.py")
    shutil.rmtree(str(tmp_path / "dataset" / "val_masks"))
    command = ("eval_seg_model.py", "--model", "init", "--epoch", "2", "--gpu", "cpu")
    text = run_script(tmp_path, *command, status=2)
    assert "is missing, and 2 more" in text and "--masks none only predicts" in text
    assert "predictions only" in run_script(tmp_path, *command, "--masks", "none")
    assert len(os.listdir(str(tmp_path / "outputs" / "init_fcn_resnet50_epoch2" / "masks"))) == 3
