"""What files were made of: when a stage may continue, and what is out of date."""
import os

import pytest

from core.errors import UserError
from core.io.files import file_digest, write_bytes
from core.io.provenance import StageRecord, content_digests, difference

ORIGIN = {"snapshot_sha256": "a", "scales": (0.7, 1.0), "crf": None}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "masks.json")


def run(path, inputs, done=(), origin=ORIGIN, finish=True, disposable=False, **claim):
    """One run of a stage: (names that were out of date, values of those done before)."""
    claim.setdefault("present", os.path.exists(path))
    found = StageRecord(path, "the masks", disposable=disposable)
    found.claim(origin, **claim)
    stale = found.stale(inputs)
    before = dict(found.values)
    with found:
        for name in done:
            found.done(name, name.upper())
        if finish:
            found.finish()
    return stale, before


def test_a_stage_continues_with_what_has_not_changed(path):
    run(path, {"a": 1, "b": [1, "x"], "c": 1}, done="ab")
    assert run(path, {"a": 1, "b": (1, "x"), "d": 1}) == (set(), {"a": "A", "b": "B"})
    assert run(path, {"a": 2, "b": [1, "y"]}) == ({"a", "b"}, {}), "and what is c's stays recorded"
    assert run(path, {"c": 2, "d": 1}) == ({"c"}, {})


def test_another_origin_is_refused_with_the_difference(path):
    run(path, {"a": 1})
    for change, words in (({"snapshot_sha256": "b"}, "the snapshot has another content now"),
                          ({"scales": [1.0]}, r"scales was \[0.7, 1.0\] and is \[1.0\] now"),
                          ({"crf": {"x": 1}}, "crf was not set and is set now")):
        with pytest.raises(UserError, match="the masks were made with other settings: %s; pass --overwrite" % words):
            StageRecord(path, "the masks").claim({**ORIGIN, **change})
    assert run(path, {"a": 1}) == (set(), {}), "a refusal changes nothing"
    assert run(path, {"b": 1}, origin={"crf": 1}, present=False) == ({"a", "b"}, {}), "without files nothing is refused"


def test_files_without_a_record_are_refused(path):
    with pytest.raises(UserError, match="the masks are not in the record .*masks.json, so nothing says .*--overwrite"):
        StageRecord(path, "the masks").claim(ORIGIN)
    assert not os.path.exists(path)
    assert run(path, {"a": 1}, present=True, overwrite=True) == ({"a"}, {})


@pytest.mark.parametrize("content", [b"[]\n", b"3", b'{"a.jpg": ["mug"]}', b"{\n}", b"\xff\n"])
def test_a_file_of_someone_else_is_named_and_stays(path, content):
    write_bytes(path, content)
    with pytest.raises(UserError, match="masks.json is damaged, or was not written by this program: remove it"):
        StageRecord(path, "the masks")
    assert open(path, "rb").read() == content
    assert run(path, {"a": 1}, disposable=True) == ({"a"}, {})


def test_overwriting_that_was_interrupted_continues_and_the_next_one_starts_over(path):
    run(path, {"a": 1, "gone": 1}, done="a")
    assert run(path, {"a": 1, "b": 1}, done="b", overwrite=True, finish=False) == ({"a", "b", "gone"}, {})
    assert run(path, {"a": 1, "b": 1}, overwrite=True, finish=False) == (set(), {"b": "B"})
    assert run(path, {"a": 1, "b": 1}, finish=False) == (set(), {"b": "B"}), "that it overwrites is not forgotten"
    assert run(path, {"a": 1, "b": 1}, overwrite=True, finish=False) == (set(), {"b": "B"})
    assert run(path, {"a": 2, "b": 1}) == ({"a"}, {"b": "B"}), "the command without --overwrite continues it, too"
    assert run(path, {"a": 2, "b": 1}, overwrite=True) == ({"a", "b"}, {})
    other = {**ORIGIN, "crf": 1}
    run(path, {"a": 2}, overwrite=True, finish=False)
    assert run(path, {"a": 2}, origin=other, overwrite=True, finish=False) == ({"a"}, {}), "another one starts over"


def test_a_disposable_record_of_another_origin_is_replaced_and_goes_when_it_is_finished(path):
    run(path, {"a": 1}, done="a", finish=False, disposable=True)
    assert run(path, {"a": 1}, finish=False, disposable=True)[1] == {"a": "A"}
    assert run(path, {"a": 1}, origin={"crf": 2}, finish=False, disposable=True) == ({"a"}, {})
    run(path, {"a": 1}, origin={"crf": 2}, disposable=True)
    assert not os.path.exists(path)


def test_a_record_with_nothing_new_is_not_written(path):
    run(path, {"a": 1})
    before = os.stat(path).st_mtime_ns
    run(path, {"a": 1})
    assert os.stat(path).st_mtime_ns == before


def test_differences_are_found_at_any_depth():
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "c was 2 and is 3 now"
    assert difference({"a": 1}, {"a": 1}) == "" and difference({}, {"a": 1}) == "a was not set and is 1 now"


def test_digests_are_those_of_the_content_and_a_missing_file_is_named(tmp_path):
    paths = [str(tmp_path / name) for name in "aba"]
    for path in paths:
        write_bytes(path, path.encode())
    assert content_digests(paths) == [file_digest(path) for path in paths]
    with pytest.raises(UserError, match="c can't be read: No such file"):
        content_digests([str(tmp_path / "c")])
