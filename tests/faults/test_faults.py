"""What users' files and machines do to a run: damage, full disks, odd pictures, killed processes."""
import dataclasses
import gc
import io
import json
import os
import struct
import tempfile
import zlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import CPUS, draw_sample, largest_file, run_script, save_untrained
from PIL import Image

import core.evaluation.results
from core.config import Config, make_config
from core.dataset.create import create_dataset
from core.dataset.samples import read_labels, voc_samples
from core.errors import UserError
from core.evaluation.evaluate import evaluate, evaluation_options
from core.evaluation.metrics import summarise
from core.evaluation.ranking import find_epoch
from core.evaluation.results import ResultFolder
from core.inference.estimate_masks import estimate_train_masks
from core.io.files import read_list, write_json, write_lines
from core.io.images import read_image, read_mask, write_mask
from core.io.logs import logger, start_log
from core.io.tables import read_table
from core.network.params_files import write_params
from core.network.snapshots import read_parameters
from core.paths import image_path, mask_path
from core.training.batches import BatchLoader

pytestmark = pytest.mark.slow

CPU = CPUS[:1]


@pytest.fixture
def ready(prepared):
    """Config of a folder in which create_dataset.py has run, with snapshots of epoch 2."""
    save_untrained(prepared)
    return prepared


# Damaged files: the reader of each kind, on mutations of a valid file

def png_bytes(mask):
    return cv2.imencode(".png", mask)[1].tobytes()


def picture():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8), (0, 0), 2)


def jpeg_bytes():
    return cv2.imencode(".jpg", picture())[1].tobytes()


def params_bytes():
    with tempfile.TemporaryDirectory() as folder:
        write_params(folder + "/a", {"arg:conv1_weight": np.ones((4, 3, 2, 2), np.float32), "aux:bn_mean": np.ones(4),
                                     'settings:{"width": 4}': np.zeros(1)})
        with open(folder + "/a", "rb") as file:
            return file.read()


def stored_result():
    settings = {"masks": "m", "scales": [1.0], "crf": None, "names_sha256": "a", "data_sha256": "b"}
    result = dict(summarise(np.eye(3, dtype=int), ("bk", "a", "b")), settings=settings, saved=["masks"], model="init",
                  epoch=2)
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
    "a.params": (params_bytes(), read_parameters),
    "a.yaml": (b"width: 4\nscales: [0.7, 1.0]\nclasses: [bk, 'a']\nlearning_rate: 1e-3\nroot: here\n", make_config),
    "labels.json": (b'{"a": [1, 20], "b": []}', lambda path: read_labels(path, ["a", "b"], Config())),
    "ranking.json": (b'{"crf": false, "ranking": [{"epoch": 12, "snapshot_sha256": "5e"}]}', read_ranking),
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
    return {
        "grey": (pillow("L", "JPEG"), (30, 40)), "transparent": (pillow("RGBA", "PNG"), (30, 40)),
        "one pixel": (pillow("RGB", "JPEG", (1, 1)), (1, 1)), "one row": (pillow("RGB", "JPEG", (50, 1)), (1, 50)),
        "turned": (pillow("RGB", "JPEG", exif=turned), (40, 30)),
        "B\u00e4r \u2603 \u718a": (pillow("RGB", "JPEG"), (30, 40))}


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
    write_json(layout.train_labels, dict.fromkeys(names, [1]))
    write_lines(layout.train_list, names)
    batches = BatchLoader(voc_samples(ready), ready).batches(0)
    seen = {name for _ in range(2) for name in next(batches).names}
    batches.close()
    assert seen == set(names)
    options = evaluation_options(ready, "init", epoch=2, crf=True, save_masks=True, list=layout.train_list,
                                 images=layout.train_images, masks=layout.train_masks, output=ready.path("odd"))
    result = evaluate(ready, "init", epoch=2, devices=CPU, options=options)
    assert np.sum(result["confusion"]) == sum(np.prod(odd_pictures()[name][1]) for name in names)
    assert sorted(os.listdir(ready.path("odd", "masks"))) == sorted(name + ".png" for name in names)


def test_folders_may_be_links(tiny, tmp_path):
    elsewhere = tmp_path / "a disk" / "W\u00fcrfel"
    elsewhere.mkdir(parents=True)
    draw_sample(elsewhere)
    for name in ("dataset", "outputs", "snapshots"):
        (elsewhere / name).mkdir(exist_ok=True)
        os.symlink(str(elsewhere / name), tiny.path(name))
    create_dataset(tiny, 1)
    save_untrained(tiny)
    evaluate(tiny, "init", epoch=2, devices=CPU, options=evaluation_options(tiny, "init", epoch=2))
    assert (elsewhere / "outputs" / "init_fcn_resnet50_epoch2" / "result.json").exists()
    assert os.path.exists(image_path(tiny.layout.train_images, read_list(tiny.layout.train_list)[0]))


# Full disks and folders that can't be written

@pytest.mark.parametrize("size, culprit", [(900, "progress.jsonl"), (2500, "report.html")])
def test_an_evaluation_on_a_full_disk_ends_and_resumes(ready, size, culprit):
    options = evaluation_options(ready, "init", epoch=2)
    smooth = evaluate(ready, "init", epoch=2, devices=CPU,
                      options=dataclasses.replace(options, output=ready.path("smooth")))
    with largest_file(size), pytest.raises(UserError, match=culprit + " can't be written: File too large"):
        evaluate(ready, "init", epoch=2, devices=CPU, options=options)
    assert not os.path.exists(os.path.join(options.output, "result.json"))
    assert evaluate(ready, "init", epoch=2, devices=CPU, options=options)["confusion"] == smooth["confusion"]


def test_mask_estimation_on_a_full_disk_ends_and_resumes(ready):
    folder = ready.layout.train_masks
    estimate_train_masks(ready, 2, devices=CPU)
    smooth = {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder)}
    sizes = sorted(map(len, smooth.values()))
    for name in smooth:
        os.remove(os.path.join(folder, name))
    with largest_file(sizes[-1] - 1), pytest.raises(UserError, match=r"/\w+.png can't be written: File too large"):
        estimate_train_masks(ready, 2, devices=CPU)
    gc.collect()  # where memory that the error kept would end the process
    assert all(open(os.path.join(folder, name), "rb").read() == smooth[name] for name in os.listdir(folder))
    estimate_train_masks(ready, 2, devices=CPU)
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
    ("outputs", lambda config: evaluate(config, "init", epoch=2, devices=CPU,
                                        options=evaluation_options(config, "init", epoch=2))),
    ("cache", lambda config: estimate_train_masks(config, 2, devices=CPU)),
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

@pytest.mark.kill
@pytest.mark.parametrize("moment", ["after:2012_000008.png", "after:val_list.txt"])
def test_create_dataset_killed_resumes_to_the_same_files(tmp_path, sample, moment):
    def content(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "dataset").rglob("*")
                if path.is_file() and path.suffix not in (".tmp", ".mat")}  # the latter hold their time
    (tmp_path / "other").mkdir()
    other = draw_sample(tmp_path / "other")
    run_script(sample, "create_dataset.py", "--jobs", "1", killed_at=moment)
    assert (sample / "dataset" / "val_masks").exists() and not (sample / "dataset" / "train_list.txt").exists()
    for folder in (sample, other):
        create_dataset(Config(root=str(folder)), 1)
    assert content(sample) == content(other)


def test_what_a_killed_process_left_half_written_is_removed(ready):
    layout = ready.layout
    options = evaluation_options(ready, "init", epoch=2, save_masks=True)
    left = [os.path.join(folder, name) for folder, name in (
        (layout.train_masks, ".a.png.0123abcd.tmp"), (os.path.join(options.output, "masks"), ".a.png.0123abcd.tmp"),
        (layout.train_masks, ".a.mp4.0123abcd.tmp.mp4"))]
    own = os.path.join(layout.train_masks, ".mine.tmp")
    for path in left + [own]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    estimate_train_masks(ready, 2, devices=CPU)
    evaluate(ready, "init", epoch=2, devices=CPU, options=options)
    assert [os.path.exists(path) for path in left + [own]] == [False, False, False, True]
