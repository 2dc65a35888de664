"""predict.py: pictures and videos of the user's own."""
import json
import os

import cv2
import numpy as np
import pytest
from conftest import CPUS, run_script
from PIL import Image

import core.inference.segmenter
from core.errors import UserError
from core.inference.media import Video, find_media, read_picture
from core.inference.options import InferenceOptions, SegmentationOptions
from core.inference.predict_media import allowed_classes, segment_media
from core.inference.segmenter import Segmenter
from core.io.drawing import overlay
from core.io.images import read_image, read_mask
from core.io.locks import locked
from core.network.snapshots import load_snapshot
from core.paths import mask_path


@pytest.fixture
def image(rng):
    return cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (60, 44), interpolation=cv2.INTER_CUBIC)


def save(path, image, **flags):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(str(path), **flags)
    return str(path)


def save_video(path, frames, code):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 5, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return str(path)


def run(config, paths, output, scales=(1.0,), crf=False, **keep):
    options = SegmentationOptions(InferenceOptions(scales, crf=crf), str(output), **keep)
    media = find_media([str(path) for path in paths], [str(output)])
    return segment_media(load_snapshot(config, "final", 2), devices=CPUS[:1], media=media, options=options)


def expected_mask(config, image):
    return Segmenter(load_snapshot(config, "final", 2), CPUS[:1]).scores(image).argmax(0)


def test_masks_overlays_and_shares_are_those_of_the_pictures(untrained, tmp_path, image):
    paths = [save(tmp_path / "in" / name, picture) for name, picture in (
        ("a/x.png", image), ("b/x.png", image[:, ::-1]), ("b/ein Bär ☃.png", image[:30, :50]),
        ("y.png", image[:1, :1]))]
    run(untrained, [tmp_path / "in"], tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())["files"]
    assert sorted(written) == ["a/x", "b/ein Bär ☃", "b/x", "y"]
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, str(tmp_path / "in")))[0]
        mask = read_mask(str(tmp_path / "out" / "masks" / (name + ".png")), 21)
        picture = read_image(path)
        assert (mask == expected_mask(untrained, picture)).all()
        laid = read_image(str(tmp_path / "out" / "overlays" / (name + ".jpg")))
        assert len(laid) > len(picture) and laid.shape[1:] == picture.shape[1:]  # a legend follows
        assert np.abs(laid[:len(picture)].astype(int) - overlay(picture, mask)).mean() < 12
        entry = written[name]
        assert (entry["height"], entry["width"], entry["file"]) == (*picture.shape[:2], path)
        assert entry["shares"] == {untrained.classes[label]: pytest.approx((mask == label).mean(), abs=1e-6)
                                   for label in np.unique(mask)}
    assert len(np.unique(read_mask(str(tmp_path / "out" / "masks" / "a" / "x.png"), 21))) > 1


def test_a_large_picture_is_scaled_down_for_the_network_only(untrained, tmp_path, image):
    save(tmp_path / "x.png", cv2.resize(image, (600, 440)))
    save(tmp_path / "thin.png", np.zeros((1, 900, 3), np.uint8))
    run(untrained, [tmp_path / "x.png", tmp_path / "thin.png"], tmp_path / "out", max_side=60, save_scores=True)
    mask = read_mask(str(tmp_path / "out" / "masks" / "x.png"), 21)
    assert mask.shape == (440, 600)
    small, _ = read_picture(str(tmp_path / "x.png"), 60)
    assert small.shape == (44, 60, 3) and (mask[5::10, 5::10] == expected_mask(untrained, small)).all()
    assert np.load(str(tmp_path / "out" / "scoremaps" / "x.npy")).shape == (21, 44, 60)
    assert read_image(str(tmp_path / "out" / "overlays" / "x.jpg")).shape[:2] > (440, 600)
    assert read_mask(str(tmp_path / "out" / "masks" / "thin.png"), 21).shape == (1, 900)


def test_only_known_labels_and_the_background_are_predicted(untrained, tmp_path, image):
    save(tmp_path / "x.png", image)
    present = set(run(untrained, [tmp_path / "x.png"], tmp_path / "out")["x"]["shares"]) - {"bk"}
    allowed = allowed_classes(untrained, "cat, " + min(present))
    assert [untrained.classes[index] for index in allowed if index] == sorted(("cat", min(present)),
                                                                             key=untrained.classes.index)
    results = run(untrained, [tmp_path / "x.png"], tmp_path / "out", allowed=allowed, save_scores=True)
    shares = results["x"]["shares"]
    assert min(present) in shares and set(shares) <= {"bk", "cat", min(present)}
    assert len(np.load(str(tmp_path / "out" / "scoremaps" / "x.npy"))) == 3
    with pytest.raises(UserError, match="no class 'catt'; did you mean cat"):
        allowed_classes(untrained, "catt")


def test_two_files_that_differ_in_the_ending_only_keep_it(tmp_path, image):
    for name in ("x.png", "x.jpg", "y.png"):
        save(tmp_path / name, image)
    assert [medium.name for medium in find_media([str(tmp_path)])] == ["x.jpg", "x.png", "y"]
    for name in ("x.jpg.jpg", "z.mp4", "z.mp4.png"):
        save(tmp_path / name.replace(".mp4", ".png"), image)
        os.rename(str(tmp_path / name.replace(".mp4", ".png")), str(tmp_path / name))
    assert [medium.name for medium in find_media([str(tmp_path)])] == ["x.jpg", "x.jpg.jpg", "x.png", "y", "z.mp4",
                                                                       "z.mp4.png"]


def test_files_folders_and_patterns_give_each_file_once(tmp_path, image, monkeypatch):
    for name in ("a/x.png", "a/y [1].png", "b/c/x.jpg", "out/z.png", ".hidden/z.png"):
        save(tmp_path / name, image)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    os.mkfifo(str(tmp_path / "a" / "pipe.jpg"))
    monkeypatch.chdir(tmp_path)

    def names(*paths):
        return [medium.name for medium in find_media(paths, ["out"])]
    assert names(".") == ["a/x", "a/y [1]", "b/c/x"]
    assert names("**/x.*", "a/x.png", str(tmp_path / "a")) == ["a/x", "b/c/x", "a/y [1]"]
    assert names("a/y [1].png") == ["y [1]"]
    assert names("**/*.png") == ["x", "y [1]"], "not the results of an earlier run"
    for path in ("nowhere.jpg", "*.bmp", "b/c/d", "o*"):
        with pytest.raises(UserError, match="no such file"):
            names(path)
    os.mkdir("empty")
    with pytest.raises(UserError, match="no picture or video in this folder"):
        names("a", "empty")


def test_files_that_are_left_out_of_a_folder_are_counted(tmp_path, image, caplog):
    for name in ("a.JPE", "b.jfif", "c.png"):
        save(tmp_path / name, image, format="JPEG")
    for name in ("d.HEIC", "e.heic", "f.dng", "README"):
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level("INFO"):
        assert [medium.name for medium in find_media([str(tmp_path)])] == ["a", "b", "c"]
    line, = caplog.messages
    assert "4 files are left out" in line
    assert set(line.split(": ")[-1].split(", ")) == {"2 .heic", "1 .dng", "1 without ending"}


@pytest.mark.slow
def test_a_bad_picture_is_reported_and_the_others_continue(untrained, tmp_path, image):
    for name in ("a", "c"):
        save(tmp_path / "in" / (name + ".png"), image)
    (tmp_path / "in" / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "b.mp4").write_bytes(b"no video")
    text = run_script(tmp_path, "predict.py", "in", "--gpu", "cpu", "--ms", status=2)
    assert "2 of 4 files could not be segmented" in text and "b.jpg can't be decoded" in text
    output = tmp_path / "outputs" / "predictions"
    assert sorted(os.listdir(str(output / "masks"))) == ["a.png", "c.png"]
    written = json.loads((output / "predictions.json").read_text())
    assert sorted(written["files"]) == ["a", "c"] and len(written["failures"]) == 2
    assert written["settings"]["epoch"] == 2
    assert written["settings"]["scales"] == [0.7, 1.0, 1.3] and written["settings"]["inference_side"] == 500


def test_the_input_is_never_written_over(untrained, tmp_path, image):
    path = save(tmp_path / "out" / "masks" / "x.png", image)
    content = open(path, "rb").read()
    with pytest.raises(UserError, match="x.png would take the place of a file to segment"):
        run(untrained, [path], tmp_path / "out")
    os.symlink(str(tmp_path / "out"), str(tmp_path / "link"))
    with pytest.raises(UserError, match="would take the place"):
        run(untrained, [path], tmp_path / "link")
    assert open(path, "rb").read() == content


def test_two_videos_with_one_result_are_named(untrained, tmp_path):
    for name in ("v.avi", "v.avi.mp4"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="v.avi and .*v.avi.mp4 have the same result, .*overlays/v.avi.mp4: rename one"):
        run(untrained, [tmp_path / "v.avi", tmp_path / "v.avi.mp4"], tmp_path / "out")


@pytest.mark.kill
def test_a_killed_run_resumes_after_the_last_finished_file(untrained, tmp_path, image):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / "in" / (name + ".png"), image)
    save_video(tmp_path / "in" / "v.mp4", [image] * 2, "mp4v")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="1 of 5"):
        run(untrained, [tmp_path / "in"], out)
    results = [out / "masks" / "a.png", out / "overlays" / "a.jpg", out / "overlays" / "v.mp4", out / "masks" / "d.png"]
    then = [path.stat().st_mtime_ns for path in results]
    os.remove(str(out / "overlays" / "d.jpg"))
    save(tmp_path / "in" / "c.png", image)
    save(tmp_path / "in" / "b.png", image[:20])  # another picture now
    found = run(untrained, [tmp_path / "in"], out)
    assert sorted(found) == ["a", "b", "c", "d", "v.mp4"] and found["b"]["height"] == 20
    assert [path.stat().st_mtime_ns == time for path, time in zip(results, then)] == [True] * 3 + [False]
    assert sorted(os.listdir(str(out / "overlays"))) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "v.mp4"]
    assert not (out / "progress.jsonl").exists()


def test_pictures_that_need_more_memory_than_is_free_are_left_out(untrained, tmp_path, image, monkeypatch):
    save(tmp_path / "in" / "small.png", image)
    save(tmp_path / "in" / "large.png", np.repeat(image, 9, 0))
    save_video(tmp_path / "in" / "v.mp4", [np.repeat(image, 9, 0)] * 2, "mp4v")
    monkeypatch.setattr(core.inference.segmenter, "free_memory", lambda: 3000000)
    with pytest.raises(UserError, match="2 of 3 files could not be segmented: .*pixels: at scale 1 that takes about"):
        run(untrained, [tmp_path / "in"], tmp_path / "out")
    assert os.listdir(str(tmp_path / "out" / "masks")) == ["small.png"]


def test_two_runs_into_one_folder_are_not_mixed(untrained, tmp_path, image):
    save(tmp_path / "in.png", image)
    with locked(str(tmp_path / "out" / ".lock"), "segmentation"):
        with pytest.raises(UserError, match="segmentation into .*out is under way"):
            run(untrained, [tmp_path / "in.png"], tmp_path / "out")


def test_true_masks_are_not_written_over(untrained, tmp_path, image):
    """As where links to the masks of a data set are among the val masks."""
    path, mask = save(tmp_path / "x.png", image), tmp_path / "data" / "masks" / "x.png"
    save(mask, image)
    os.makedirs(untrained.layout.val_masks)
    os.symlink(str(mask), mask_path(untrained.layout.val_masks, "any"))
    with pytest.raises(UserError, match="masks/x.png is a true mask"):
        run(untrained, [path], tmp_path / "data")


@pytest.mark.parametrize("name, code", [("v.mp4", "mp4v"), ("v.avi", "MJPG")])
def test_a_video_becomes_masks_of_its_frames_and_a_video_of_overlays(untrained, tmp_path, image, name, code):
    frames = [np.roll(image, 4 * shift, 1) for shift in range(5)]
    path = save_video(tmp_path / "in" / name, frames, code)
    written = run(untrained, [path], tmp_path / "out")[name]
    assert written["frames"] == 5 and written["frames_per_second"] == pytest.approx(5) and written["width"] == 60
    masks = [read_mask(str(tmp_path / "out" / "masks" / name / f"{number:06d}.png"), 21) for number in range(1, 6)]
    for frame, mask in zip(Video(path).frames(), masks):
        assert (mask == expected_mask(untrained, frame)).all()
    assert sum(written["shares"].values()) == pytest.approx(1, abs=1e-4)
    written = os.listdir(str(tmp_path / "out" / "overlays"))
    assert written == [name if name == "v.mp4" else name + ".mp4"]
    laid = Video(str(tmp_path / "out" / "overlays" / written[0]))
    assert laid.rate == pytest.approx(5)
    laid = list(laid.frames())
    assert len(laid) == 5 and laid[0].shape == image.shape
    for frame, mask, shown in zip(Video(path).frames(), masks, laid):
        assert np.abs(shown.astype(int) - overlay(frame, mask)).mean() < 25


def test_no_frames_are_left_of_a_longer_video_of_the_same_name(untrained, tmp_path, image):
    for count in (3, 1):
        path = save_video(tmp_path / "in" / "v.mp4", [image] * count, "mp4v")
        run(untrained, [path], tmp_path / "out")
        assert len(os.listdir(str(tmp_path / "out" / "masks" / "v.mp4"))) == count


@pytest.mark.slow
@pytest.mark.parametrize("flags, message", [
    (("nowhere.jpg",), "nowhere.jpg: there is no such file"),
    (("x.png", "--labels", "cta"), "did you mean cat?"),
    (("x.png", "--labels", ""), "--labels is empty"),
    (("x.png", "--epoch", "best"), "final_ranking.json is missing"),
    (("x.png", "--max-side", "0"), "--max-side"),
])
def test_mistakes_end_in_one_line(untrained, tmp_path, image, flags, message):
    save(tmp_path / "x.png", image)
    assert message in run_script(tmp_path, "predict.py", *flags, status=2)


@pytest.mark.slow
def test_the_crf_and_several_processes_give_the_same_masks(untrained, tmp_path, image):
    for name in ("a", "b"):
        save(tmp_path / "in" / (name + ".png"), image)
    for jobs in ("1", "2"):
        run_script(tmp_path, "predict.py", "in", "--gpu", "cpu", "--crf", "--jobs", jobs, "--savescoremap",
                   "--output", jobs)
    for name in ("a", "b"):
        masks = [read_mask(str(tmp_path / jobs / "masks" / (name + ".png")), 21) for jobs in ("1", "2")]
        scores = np.load(str(tmp_path / "1" / "scoremaps" / (name + ".npy")))
        assert (masks[0] == masks[1]).all() and (scores.argmax(0) == masks[0]).all()
        np.testing.assert_allclose(scores.sum(0), 1, atol=1e-3)
