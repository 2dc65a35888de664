"""What users' files and machines do to a run: damage, full disks, odd pictures, killed processes."""
import dataclasses
import gc
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from conftest import CPUS, ROOT, draw_sample, largest_file, run_script
from PIL import Image

import core.engines.mxnet.network
import core.evaluation.results
import core.inference.segmenter
from core.config import Config, make_config
from core.dataset.create import create_dataset
from core.dataset.samples import read_labels, voc_samples
from core.engines.mxnet.backend import mx
from core.engines.mxnet.steps import training_symbol
from core.errors import UserError
from core.evaluation.evaluate import evaluate, evaluation_options
from core.evaluation.metrics import summarise
from core.evaluation.ranking import evaluate_all, find_epoch
from core.evaluation.results import ResultFolder
from core.inference.estimate_masks import estimate_train_masks
from core.io.files import read_json, read_list, write_json, write_lines
from core.io.images import read_image, read_mask, write_mask
from core.io.logs import logger, start_log
from core.io.tables import read_table
from core.network.fcn import parameter_shapes
from core.network.snapshots import load_snapshot, read_parameters, save_snapshot
from core.paths import image_path, mask_path
from core.training.batches import BatchLoader

pytestmark = pytest.mark.slow

CPU = CPUS[:1]


@pytest.fixture
def ready(tiny, sample):
    """Config of a folder in which create_dataset.py and one epoch of the init model have run."""
    create_dataset(tiny, 1)
    save_random_snapshot(tiny)
    return tiny


def save_random_snapshot(config, epoch=1):
    rng = np.random.default_rng(epoch)
    parts = [{name: (np.abs(rng.normal(size=shape)) if name.endswith("_var") else
                     rng.normal(0, 0.3, shape)).astype(np.float32) for name, shape in part.items()}
             for part in parameter_shapes("init", config)]
    return save_snapshot(config.layout, "init", epoch, config, training_symbol("init", config, 4).tojson(), *parts)


# Damaged files: the reader of each kind, on mutations of a valid file

def png_bytes(mask):
    return cv2.imencode(".png", mask)[1].tobytes()


def picture():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8), (0, 0), 2)


def jpeg_bytes():
    return cv2.imencode(".jpg", picture())[1].tobytes()


def stored_result():
    settings = {"masks": "m", "scales": [1.0], "crf": None, "names_sha256": "a", "data_sha256": "b"}
    result = dict(summarise(np.eye(3, dtype=int), ("bk", "a", "b")), settings=settings, saved=["masks"], model="init",
                  epoch=1)
    return json.dumps(dict(result, earlier=[result])).encode()


def read_result(path):
    folder = ResultFolder(os.path.dirname(path))
    folder.path = path
    if folder.find({"scales": [1.0]}, ["masks"]):
        core.evaluation.results.report(folder.stored()[0])


def read_ranking(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.paths.Layout.ranking", lambda layout, model: path)
        assert find_epoch(Config(), "init", "best") is not None


READERS = {
    "a.jpg": (jpeg_bytes(), read_image),
    "b.jpg": (png_bytes(picture()), read_image),
    "a.png": (png_bytes(np.eye(9, dtype=np.uint8)), lambda path: read_mask(path, 21, (9, 9))),
    "list.txt": ("2008_000001\r\nein B\u00e4r\n\n2008_000003".encode(), read_list),
    "labels.csv": (b'sep=;\r\n"image";labels\r\na.jpg;mug;key\r\n', read_table),
    "a.yaml": (b"width: 4\nscales: [0.7, 1.0]\nclasses: [bk, 'a']\nlearning_rate: 1e-3\nroot: here\n", make_config),
    "labels.json": (b'{"a": [1, 20], "b": []}', lambda path: read_labels(path, ["a", "b"], Config())),
    "ranking.json": (b'{"crf": false, "ranking": [{"epoch": 12, "mean_iou": 0.5}]}', read_ranking),
    "result.json": (stored_result(), read_result),
}

NASTY = st.sampled_from([b"", b"\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"1e999", b"NaN", b"null", b"-1",
                         b"[" * 9, b"9" * 400, b"!!bool x", b"!!int ''", b"!!timestamp x", b"&a [*a]",
                         b"\xe2\x80\xa8", b"../"])
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 6), NASTY | st.binary(max_size=4)),
                   min_size=1, max_size=4)


def change(content, changes):
    """Replace, at shares of the length, as many bytes as given by others; a 0 for ones of the same length."""
    for share, count, new in changes:
        place = int(share * (len(content) + 1))
        content = content[:place] + new + content[place + (count or len(new)):]
    return content


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_named(tmp_path_factory, name):
    content, read = READERS[name]
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    read(str(path))  # sound

    @hypothesis.settings(max_examples=120, deadline=None, derandomize=True, database=None,
                         suppress_health_check=[hypothesis.HealthCheck.too_slow])  # on a busy machine
    @hypothesis.given(CHANGES, st.floats(0, 1))
    def check(changes, kept):
        damaged = change(content, changes)
        for damaged in (damaged, content[:int(kept * len(content))]):
            path.write_bytes(damaged)
            try:
                read(str(path))
            except UserError as error:
                assert name in str(error) or "setting" in str(error)
    check()


def test_damaged_params_files_neither_crash_nor_fill_the_memory(tmp_path):
    path = str(tmp_path / "a.params")
    mx.nd.save(path, {"arg:conv1_weight": mx.nd.array(np.ones((4, 3, 2, 2))), "aux:bn_mean": mx.nd.ones(4),
                      'settings:{"width": 4}': mx.nd.zeros(1)})
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "helpers", "params_reader.py"), path, "400"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    refused, slowest, mebibytes = map(float, done.stdout.split())
    assert refused > 200 and slowest < 1 and mebibytes < 300


def old_params(version):
    """A .params file of MXNet before 0.11 ("axes32") or before 1.0 ("axes64")."""
    array = np.arange(6, dtype=np.float32)
    shape = struct.pack("<III", 2, 2, 3) if version == "axes32" else struct.pack("<IIqq", 0xF993FAC8, 2, 2, 3)
    return (struct.pack("<QQQ", 0x112, 0, 1) + shape + struct.pack("<iii", 2, 0, 0) + array.tobytes()
            + struct.pack("<QQ", 1, 5) + b"arg:a")


@pytest.mark.parametrize("version", ["axes32", "axes64"])
def test_params_files_of_old_releases_are_read(tmp_path, version):
    (tmp_path / "a.params").write_bytes(old_params(version))
    assert read_parameters(str(tmp_path / "a.params")).args["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_parameters_of_another_type_are_named(tiny):
    path = save_random_snapshot(tiny)
    values = mx.nd.load(path)
    mx.nd.save(path, dict(values, **{"arg:conv1_bias": values["arg:conv1_bias"].astype("int32")}))
    with pytest.raises(UserError, match="conv1_bias has type int32; float32 is expected"):
        load_snapshot(tiny, "init", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_named(tiny, value):
    path = save_random_snapshot(tiny)
    values = mx.nd.load(path)
    values["arg:conv1_weight"][0] = value
    mx.nd.save(path, values)
    with pytest.raises(UserError, match="-1.params: conv1_weight holds numbers that are not finite"):
        load_snapshot(tiny, "init", 1)


def test_nothing_in_a_yaml_file_is_run(tmp_path):
    (tmp_path / "a.yaml").write_text("classes: !!python/object/apply:os.mkdir [%s]\n" % (tmp_path / "ran"))
    with pytest.raises(UserError, match="a.yaml is not valid YAML"):
        make_config(str(tmp_path / "a.yaml"))
    assert sorted(os.listdir(str(tmp_path))) == ["a.yaml"]


@pytest.mark.parametrize("kind", ["GIF", "EPS", "TIFF", "JPEG"])
def test_a_mask_of_another_format_is_not_opened(tmp_path, kind):
    """Pillow would run Ghostscript on an EPS file; JPEG changes indices."""
    Image.new("L", (5, 5)).save(str(tmp_path / "a.png"), kind)
    with pytest.raises(UserError, match="a.png can't be decoded"):
        read_mask(str(tmp_path / "a.png"), 21)



# Odd pictures

def grey_png(levels, bits):
    """PNG of (h, w) levels in `bits` bits of grey, which OpenCV and Pillow do not write."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    height, width = levels.shape
    shifts = np.arange(bits)[::-1]
    rows = [b"\0" + np.packbits((row[:, None] >> shifts) & 1).tobytes() for row in levels]
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("bits, levels", [(2, [[0, 1, 2]]), (4, [[0, 1, 15]]), (8, [[0, 20, 255]])])
def test_grey_masks_of_few_bits_keep_their_indices(tmp_path, bits, levels):
    (tmp_path / "a.png").write_bytes(grey_png(np.array(levels), bits))
    assert read_mask(str(tmp_path / "a.png"), 21).tolist() == levels


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_of_any_depth_keep_their_indices(tmp_path, bits):
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette(list(range(6)))
    image.save(str(tmp_path / "a.png"), bits=bits)
    assert read_mask(str(tmp_path / "a.png"), 21).tolist() == [[0, 1, 1]]


def odd_pictures():
    """dict from a name to (content of the picture, its size as it is seen)."""
    def pillow(mode, kind, size=(40, 30), **flags):
        buffer = io.BytesIO()
        Image.fromarray(cv2.resize(picture(), size)).convert(mode).save(buffer, kind, **flags)
        return buffer.getvalue()
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    animated = {}
    for kind in ("GIF", "WEBP", "PNG"):
        animated[kind] = io.BytesIO()
        frames[0].save(animated[kind], kind, save_all=True, append_images=frames[1:], duration=100)
    return {
        "grey": (pillow("L", "JPEG"), (30, 40)), "cmyk": (pillow("CMYK", "JPEG"), (30, 40)),
        "16 bit": (png_bytes(np.full((30, 40, 3), 40000, np.uint16)), (30, 40)),
        "16 bit grey": (png_bytes(np.full((30, 40), 40000, np.uint16)), (30, 40)),
        "transparent": (pillow("RGBA", "PNG"), (30, 40)), "palette": (pillow("P", "PNG"), (30, 40)),
        "one pixel": (pillow("RGB", "JPEG", (1, 1)), (1, 1)), "one row": (pillow("RGB", "JPEG", (50, 1)), (1, 50)),
        "turned": (pillow("RGB", "JPEG", exif=turned), (40, 30)),
        "animated webp": (animated["WEBP"].getvalue(), (30, 40)),
        "animated png": (animated["PNG"].getvalue(), (30, 40)),
        "B\u00e4r \u2603 \u718a": (pillow("RGB", "JPEG"), (30, 40)),
        "new\u00a0gif": (animated["GIF"].getvalue(), (30, 40))}


def test_odd_pictures_train_and_are_evaluated_as_they_are_seen(ready):
    layout = ready.layout
    names = []
    for name, (content, size) in odd_pictures().items():
        path = image_path(layout.train_images, name)
        with open(path, "wb") as file:
            file.write(content)
        image = read_image(path)
        assert image.shape == size + (3,) and image.dtype == np.uint8, name
        write_mask(mask_path(layout.train_masks, name), np.ones(size, np.uint8))
        names.append(name)
    assert read_image(image_path(layout.train_images, "16 bit")).mean() == pytest.approx(40000 / 257, abs=1)
    red = read_image(image_path(layout.train_images, "animated webp")).reshape(-1, 3).mean(0)
    assert red[0] > 200 and red[2] < 60  # the first frame
    write_json(layout.train_labels, dict.fromkeys(names, [1]))
    with open(layout.train_list, "wb") as file:
        file.write("\r\n\r\n".join(["\ufeff" + names[0]] + names[1:]).encode())

    batches = BatchLoader(voc_samples(ready), ready).batches(0)
    seen = {name for _ in range(4) for name in next(batches).names}
    batches.close()
    assert seen == set(names)
    options = evaluation_options(ready, "init", epoch=1, crf=True, save_masks=True, list=layout.train_list,
                                 images=layout.train_images, masks=layout.train_masks, output=ready.path("odd"))
    result = evaluate(ready, "init", epoch=1, devices=CPU, options=options)
    assert np.sum(result["confusion"]) == sum(np.prod(odd_pictures()[name][1]) for name in names)
    assert sorted(os.listdir(ready.path("odd", "masks"))) == sorted(name + ".png" for name in names)


def test_a_mask_drawn_on_the_unturned_picture_is_reported_with_exif(ready):
    layout = ready.layout
    with open(image_path(layout.train_images, "turned"), "wb") as file:
        file.write(odd_pictures()["turned"][0])
    write_mask(mask_path(layout.train_masks, "turned"), np.zeros((30, 40), np.uint8))
    write_lines(layout.train_list, ["turned"])
    write_json(layout.train_labels, {"turned": []})
    with pytest.raises(UserError, match="turned.png is 40 x 30 pixels, its image 30 x 40, turned as its EXIF"):
        next(BatchLoader(voc_samples(ready), ready).batches(0))


def test_an_image_that_exceeds_the_memory_is_named_before_it_is_scored(ready, monkeypatch):
    layout = ready.layout
    name = read_list(layout.val_list)[0]
    monkeypatch.setattr(core.inference.segmenter, "free_memory", lambda: 10 ** 6)
    monkeypatch.setattr(core.engines.mxnet.network.Network, "forward", None)
    with pytest.raises(UserError, match=name + r".jpg is \d+ x \d+ pixels: at scale 1 that takes about .* are free"):
        evaluate(ready, "init", epoch=1, devices=CPU, options=evaluation_options(ready, "init", epoch=1))


def test_folders_may_be_links(tiny, tmp_path):
    elsewhere = tmp_path / "a disk" / "W\u00fcrfel"
    elsewhere.mkdir(parents=True)
    draw_sample(elsewhere)
    for name in ("dataset", "outputs", "snapshots"):
        (elsewhere / name).mkdir(exist_ok=True)
        os.symlink(str(elsewhere / name), tiny.path(name))
    create_dataset(tiny, 1)
    save_random_snapshot(tiny)
    evaluate(tiny, "init", epoch=1, devices=CPU, options=evaluation_options(tiny, "init", epoch=1))
    assert (elsewhere / "outputs" / "init_fcn_resnet50_epoch1" / "result.json").exists()
    assert os.path.exists(image_path(tiny.layout.train_images, read_list(tiny.layout.train_list)[0]))


# Full disks and folders that can't be written

def files_below(folder):
    return sorted(os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder)
                  for name in names if not name.endswith(".log"))


def test_create_dataset_on_a_full_disk_leaves_no_half_file(tiny, sample):
    with largest_file(90), pytest.raises(UserError, match="can't be written: File too large"):
        create_dataset(tiny, 1)
    half = tiny.layout.train_list
    assert not os.path.exists(half) and not [name for name in files_below(tiny.root) if name.endswith(".tmp")]
    create_dataset(tiny, 1)
    assert len(read_list(half)) == 8 and len(read_json(tiny.layout.train_labels)) == 8


@pytest.mark.parametrize("size, culprit", [(900, "progress.jsonl"), (2500, "report.html")])
def test_an_evaluation_on_a_full_disk_ends_and_resumes(ready, size, culprit):
    options = evaluation_options(ready, "init", epoch=1)
    smooth = evaluate(ready, "init", epoch=1, devices=CPU,
                      options=dataclasses.replace(options, output=ready.path("smooth")))
    with largest_file(size), pytest.raises(UserError, match=culprit + " can't be written: File too large"):
        evaluate(ready, "init", epoch=1, devices=CPU, options=options)
    assert not os.path.exists(os.path.join(options.output, "result.json"))
    assert evaluate(ready, "init", epoch=1, devices=CPU, options=options)["confusion"] == smooth["confusion"]


def test_mask_estimation_on_a_full_disk_ends_and_resumes(ready):
    folder = ready.layout.train_masks
    estimate_train_masks(ready, 1, devices=CPU)
    smooth = {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}
    sizes = sorted(map(len, smooth.values()))
    for name in smooth:
        os.remove(os.path.join(folder, name))
    with largest_file(sizes[-1] - 1), pytest.raises(UserError, match=r"/\w+.png can't be written: File too large"):
        estimate_train_masks(ready, 1, devices=CPU)
    gc.collect()  # where memory that the error kept would end the process
    assert all(open(os.path.join(folder, name), "rb").read() == smooth[name] for name in os.listdir(folder))
    estimate_train_masks(ready, 1, devices=CPU)
    assert {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)} == smooth


def test_a_log_on_a_full_disk_ends_no_run(tiny, tmp_path, capsys):
    start_log(str(tmp_path / "log" / "a.log"), tiny)
    with largest_file(os.path.getsize(str(tmp_path / "log" / "a.log"))):
        for number in range(3):
            logger.info("line %d", number)
    out, err = capsys.readouterr()
    assert all(f"line {number}\n" in out for number in range(3)) and not err
    assert out.count("a.log can't be written: going on without it") == 1


@pytest.mark.parametrize("folder, run", [
    ("outputs", lambda config: evaluate(config, "init", epoch=1, devices=CPU,
                                        options=evaluation_options(config, "init", epoch=1))),
    ("cache", lambda config: estimate_train_masks(config, 1, devices=CPU)),
    ("dataset/train_images", lambda config: create_dataset(config, 1)),
    ("log", lambda config: start_log(config.layout.log("a"), config))])
def test_a_folder_that_can_not_be_made_is_named(ready, folder, run):
    path = ready.path(folder)
    if os.path.isdir(path):
        os.rename(path, path + " before")
    with open(path, "w"):
        pass  # a file in its place, for permissions do not bind root
    with pytest.raises(UserError, match=folder + ".* can't be written: (Not a directory|File exists)"):
        run(ready)


# Killed processes

def start(folder, *command):
    run_script(folder, command[0], "--help")  # leaves tiny.yaml
    return subprocess.Popen([sys.executable, os.path.join(ROOT, command[0]), "--config", str(folder / "tiny.yaml"),
                             *command[1:]], cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            universal_newlines=True)


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.002)


@pytest.mark.kill
@pytest.mark.parametrize("first", ["val_masks", "val_list.txt"])
def test_create_dataset_killed_resumes_to_the_same_files(tmp_path, sample, first):
    process = start(sample, "create_dataset.py", "--jobs", "1")
    wait_until((sample / "dataset" / first).exists, process)
    process.kill()
    process.communicate()
    for name in ("train_list.txt", "val_list.txt"):
        if (sample / "dataset" / name).exists():
            assert len((sample / "dataset" / name).read_text().split()) == {"train": 8, "val": 3}[name.split("_")[0]]
    config = Config(root=str(sample))
    create_dataset(config, 1)
    killed = {name for name in files_below(str(sample / "dataset")) if not name.endswith(".tmp")}
    (tmp_path / "other").mkdir()
    other = Config(root=str(draw_sample(tmp_path / "other")))
    create_dataset(other, 1)
    assert killed == set(files_below(other.path("dataset")))
    for name in ("train_list.txt", "val_list.txt", "train_labels.json", "web_train_list.txt"):
        with open(config.path("dataset", name), "rb") as one, open(other.path("dataset", name), "rb") as two:
            assert one.read() == two.read()


def test_the_ranking_holds_what_is_there_and_knows_its_snapshots(ready, monkeypatch):
    save_random_snapshot(ready, 2)
    layout, looked = ready.layout, []

    def meanwhile(_):
        looked.append(sorted(row["epoch"] for row in read_json(layout.ranking("init"))["ranking"]))
        if len(looked) == 1:
            os.remove(layout.snapshot("init", 1))
            save_random_snapshot(ready, 3)
    monkeypatch.setattr("core.evaluation.ranking.time.sleep", meanwhile)
    ranking = evaluate_all(ready, "init", devices=CPU, wait_hours=1)
    assert looked == [[1, 2], [2, 3]] and sorted(epoch for epoch, _ in ranking) == [2, 3]
    best = find_epoch(ready, "init", "best")
    assert best == ranking[0][0]
    shutil.copy(layout.snapshot("init", 5 - best), layout.snapshot("init", best))  # trained again
    with pytest.raises(UserError, match="init_fcn_resnet50-%d.params has changed since .*ranking.json was made" % best):
        find_epoch(ready, "init", "best")


def test_a_restarted_ranking_replaces_the_earlier_one_when_it_is_whole(ready, monkeypatch):
    save_random_snapshot(ready, 2)
    evaluate_all(ready, "init", devices=CPU)
    whole = read_json(ready.layout.ranking("init"))

    def interrupted(config, model, epoch, **flags):
        if epoch == 2:
            raise KeyboardInterrupt
        return evaluate(config, model, epoch=epoch, **flags)
    monkeypatch.setattr("core.evaluation.ranking.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_all(ready, "init", devices=CPU)
    assert read_json(ready.layout.ranking("init")) == whole and len(whole["ranking"]) == 2


def test_a_snapshot_that_was_still_being_copied_or_is_replaced_is_evaluated_again(ready, monkeypatch):
    layout, ranked = ready.layout, []
    whole = open(layout.snapshot("init", 1), "rb").read()
    save_random_snapshot(ready, 2)
    second = open(layout.snapshot("init", 2), "rb").read()
    with open(layout.snapshot("init", 1), "wb") as file:
        file.write(whole[:len(whole) // 2])

    def digests():
        return {row["epoch"]: row["snapshot_sha256"] for row in read_json(layout.ranking("init"))["ranking"]}

    def meanwhile(_):
        ranked.append(digests())
        if len(ranked) == 1:  # the copy is complete; the other file is replaced by one of the same size and time
            with open(layout.snapshot("init", 1), "ab") as file:
                file.write(whole[len(whole) // 2:])
        elif len(ranked) == 2:
            status = os.stat(layout.snapshot("init", 2))
            with open(layout.snapshot("init", 2), "wb") as file:
                file.write(whole)
            os.utime(layout.snapshot("init", 2), ns=(status.st_atime_ns, status.st_mtime_ns))
        elif len(ranked) == 3:
            with open(layout.snapshot("init", 2), "wb") as file:
                file.write(b"damaged")
    monkeypatch.setattr("core.evaluation.ranking.time.sleep", meanwhile)
    evaluate_all(ready, "init", devices=CPU, wait_hours=1)
    first, other = (hashlib.sha256(content).hexdigest() for content in (whole, second))
    assert len(whole) == len(second)
    assert ranked == [{2: other}, {1: first, 2: other}, {1: first, 2: first}, {1: first}]

    with open(layout.snapshot("init", 2), "wb") as file:
        file.write(second)
    evaluate_all(ready, "init", devices=CPU)  # --once, again
    assert digests() == {1: first, 2: other}


def test_val_masks_of_other_classes_are_not_evaluated(ready):
    layout = ready.layout
    write_json(layout.classes, {"classes": list(ready.classes[:1] + ready.classes[:0:-1])})
    with pytest.raises(UserError, match="classes.json: the data set was made with class 1 as tvmonitor"):
        evaluate(ready, "init", epoch=1, devices=CPU, options=evaluation_options(ready, "init", epoch=1))
    with pytest.raises(UserError, match="classes.json: the data set was made with class 1 as tvmonitor"):
        estimate_train_masks(ready, 1, devices=CPU)
    elsewhere = ready.path("masks of their own")
    shutil.copytree(layout.val_masks, elsewhere)
    evaluate(ready, "init", epoch=1, devices=CPU, options=evaluation_options(ready, "init", epoch=1, masks=elsewhere))


def test_what_a_killed_process_left_half_written_is_removed(ready):
    layout = ready.layout
    options = evaluation_options(ready, "init", epoch=1, save_masks=True)
    left = [os.path.join(folder, ".a.png.0123abcd.tmp")
            for folder in (layout.train_masks, os.path.join(options.output, "masks"))]
    own = os.path.join(layout.train_masks, ".mine.tmp")
    for path in left + [own]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    estimate_train_masks(ready, 1, devices=CPU)
    evaluate(ready, "init", epoch=1, devices=CPU, options=options)
    assert [os.path.exists(path) for path in left + [own]] == [False, False, True]







@pytest.mark.kill
def test_eval_loop_killed_resumes_to_the_same_ranking(ready, tmp_path):
    save_random_snapshot(ready, 2)
    process = start(tmp_path, "eval_loop.py", "--model", "init", "--gpu", "cpu", "--once")
    journal = tmp_path / "outputs" / "init_fcn_resnet50_epoch1" / "progress.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1, process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "outputs" / "init_ranking.json").exists()
    ranking = evaluate_all(ready, "init", devices=CPU)
    assert sorted(epoch for epoch, _ in ranking) == [1, 2] and not journal.exists()
    for epoch, mean_iou in ranking:
        options = evaluation_options(ready, "init", epoch=epoch, output=ready.path("smooth%d" % epoch))
        assert evaluate(ready, "init", epoch=epoch, devices=CPU, options=options)["mean_iou"] == mean_iou


def children(pid):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name) as status, open("/proc/%s/cmdline" % name) as command:
                if int(status.read().rsplit(")", 1)[1].split()[1]) == pid and "spawn_main" in command.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


@pytest.mark.kill
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds the worker in /proc, which this system lacks")
def test_a_killed_crf_worker_ends_the_evaluation_within_seconds(ready, tmp_path):
    names = ["%d" % number for number in range(300)]  # enough to be under way for long
    layout = ready.layout
    name = read_list(layout.val_list)[0]
    for copy in names:
        os.link(os.path.realpath(image_path(layout.val_images, name)), image_path(layout.val_images, copy))
        os.link(os.path.realpath(mask_path(layout.val_masks, name)), mask_path(layout.val_masks, copy))
    write_lines(layout.val_list, names)
    process = start(tmp_path, "eval_seg_model.py", "--model", "init", "--gpu", "cpu", "--epoch", "1", "--crf",
                    "--jobs", "2")
    journal = tmp_path / "outputs" / "init_fcn_resnet50_epoch1" / "progress.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1, process)
    workers = children(process.pid)
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and time.monotonic() - killed < 30
    assert error.count("\n") == 1 and "a worker process died near" in error
    assert not [pid for pid in workers if os.path.exists("/proc/%d" % pid)]


def run_python(*command):
    return subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, cwd=ROOT)



def test_a_mask_of_90_megapixels_is_read_without_a_word(tmp_path):
    Image.new("P", (10000, 9000)).save(str(tmp_path / "a.png"))
    done = run_python("-c", "import sys; from core.io.images import read_mask; print(read_mask(sys.argv[1], 21).shape)",
                      str(tmp_path / "a.png"))
    assert (done.stdout, done.stderr) == ("(9000, 10000)\n", "")





def test_yaml_of_wrong_values_names_the_setting_shortly(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        "a%d: &a%d [%s]" % (n, n, ", ".join(["*a%d" % (n - 1)] * 9)) for n in range(1, 9)]
    text = yaml.safe_load("\n".join(lines))["a8"]  # 3 * 10^8 letters, if it were written out
    with pytest.raises(UserError, match="setting root") as error:
        Config(root=text)
    assert len(str(error.value)) < 10 ** 6
