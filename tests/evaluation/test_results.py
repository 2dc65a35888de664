import numpy as np
import pytest

from core.errors import UserError
from core.evaluation.metrics import summarise
from core.evaluation.per_image import pack_counts, unpack_counts
from core.evaluation.results import ResultFolder, report

SETTINGS = {"scales": [1.0], "crf": None, "masks": "masks", "names_sha256": "a", "data_sha256": "b"}


def result(settings=SETTINGS, saved=(), mean_iou=0.5):
    summary = summarise(np.eye(2, dtype=int), ("bk", "a"))
    return dict(summary, model="init", epoch=1, settings=settings, saved=list(saved), mean_iou=mean_iou)


def test_results_of_other_settings_are_kept(tmp_path):
    folder = ResultFolder(str(tmp_path))
    other = dict(SETTINGS, scales=[0.7, 1.0])
    folder.write(result(mean_iou=0.1))
    folder.write(result(other, mean_iou=0.2))
    folder.write(result(mean_iou=0.3))
    assert [stored["mean_iou"] for stored in folder.stored()] == [0.3, 0.2]
    assert folder.find(SETTINGS)["mean_iou"] == 0.3 and folder.find(other)["mean_iou"] == 0.2
    assert folder.find({"scales": [2.0]}) is None


def test_other_settings_of_a_snapshot_are_those_on_the_same_data(tmp_path):
    folder = ResultFolder(str(tmp_path))
    now = dict(SETTINGS, snapshot_sha256="c")
    crf = dict(now, crf={"crf_iterations": 10})
    for settings in (crf, dict(crf, data_sha256="of other images"), dict(now, snapshot_sha256="trained again"), now):
        folder.write(result(settings))
    assert [other["settings"] for other in folder.others(now)] == [crf]


def test_masks_count_for_the_evaluation_that_wrote_them_last(tmp_path):
    folder = ResultFolder(str(tmp_path))
    other = dict(SETTINGS, scales=[0.7, 1.0])
    folder.write(result(saved=["masks", "scoremaps"]))
    assert folder.find(SETTINGS, ["masks"])
    folder.write(result(other, saved=["masks"]))
    assert folder.find(other, ["masks"]) and not folder.find(SETTINGS, ["masks"])
    assert folder.find(SETTINGS, ["scoremaps"]) and folder.find(SETTINGS)


def test_the_same_data_elsewhere_is_the_same_evaluation(tmp_path):
    folder = ResultFolder(str(tmp_path))
    folder.write(result())
    assert folder.find(dict(SETTINGS, masks="moved")) and not folder.find(dict(SETTINGS, data_sha256="c"))


def test_files_that_are_written_over_belong_to_no_result(tmp_path):
    folder = ResultFolder(str(tmp_path))
    folder.release(["masks"])
    folder.write(result(dict(SETTINGS, scales=[2.0]), saved=["scoremaps"]))
    folder.write(result(saved=["masks"]))
    folder.release(["masks"])
    assert folder.find(SETTINGS) and not folder.find(SETTINGS, ["masks"]) and len(folder.stored()) == 2
    assert folder.find(dict(SETTINGS, scales=[2.0]), ["scoremaps"])


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"earlier": []}', '{"earlier": [3]}'])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result.json"):
        ResultFolder(str(tmp_path)).find(SETTINGS)


@pytest.mark.kill
def test_a_killed_evaluation_continues_from_its_record(tmp_path, rng):
    folder = ResultFolder(str(tmp_path))
    counts = {name: rng.integers(0, 3, (4, 4)) for name in ("a", "b", "ein Bär")}
    inputs = dict.fromkeys(counts, "digest")

    def record(settings=SETTINGS, saved=("masks",), inputs=inputs):
        found = folder.record(settings, saved)
        found.stale(inputs)
        return found
    with record() as first:
        assert first.values == {}
        for name, matrix in counts.items():
            first.done(name, pack_counts(matrix))
    path = tmp_path / "progress.jsonl"
    path.write_bytes(path.read_bytes()[:-5])  # killed while it wrote the last line
    with record() as second:
        assert list(second.values) == ["a", "b"]
        assert all((unpack_counts(second.values[name], 4) == counts[name]).all() for name in second.values)
        second.done("ein Bär", pack_counts(counts["ein Bär"]))
    assert list(record().values) == ["a", "b", "ein Bär"]
    assert list(record(inputs={**inputs, "b": "another digest"}).values) == ["a", "ein Bär"]
    assert record({"scales": [2.0]}).values == {} and record(saved=()).values == {}
    second.finish()
    assert not path.exists()


def test_a_summary_survives_json(tmp_path):
    summary = summarise(np.array([[3, 1], [0, 0]]), ("bk", "a"))
    ResultFolder(str(tmp_path)).write(dict(result(), **summary))
    assert ResultFolder(str(tmp_path)).find(SETTINGS)["iou"] == summary["iou"]


@pytest.mark.parametrize("confusion, expected", [([[5, 1], [0, 0]], True), ([[5, 1], [0, 2]], False)])
def test_classes_that_no_ground_truth_mask_shows_are_reported(caplog, confusion, expected):
    result = {**summarise(np.array(confusion), ("bk", "lesion")), "settings": {"masks": "val_masks"},
              "confusion": confusion}
    with caplog.at_level("INFO"):
        report(result)
    assert ("no ground truth mask in val_masks shows: lesion" in caplog.text) == expected
