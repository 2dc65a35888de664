import os
import tempfile

import pytest

from core.errors import UserError
from core.io.files import list_folder, read_list, read_yaml, replacing, walk, write_json, write_lines
from core.io.locks import locked
from core.paths import check_files


def test_lists_may_have_any_line_ending_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf2008_1\r\n\r\n  2008_2 \n\n2008 3")
    assert read_list(str(tmp_path / "list.txt")) == ["2008_1", "2008_2", "2008 3"]


@pytest.mark.parametrize("content, message", [
    (b"", "is empty"), (b"\n \r\n", "is empty"), (b"a\nb\na\n", "a twice"), (b"../a\n", "not an id"),
    (b"\xff\xfe", "UTF-8")])
def test_wrong_lists_are_named(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_list(str(tmp_path / "list.txt"))
    assert "list.txt" in str(error.value)


def test_a_file_that_fails_midway_leaves_the_old_one_and_nothing_else(tmp_path):
    path = str(tmp_path / "a.json")
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError):
        with replacing(path) as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            1 / 0
    assert os.listdir(str(tmp_path)) == ["a.json"]
    assert "1" in (tmp_path / "a.json").read_text()


def test_folders_are_walked_in_order_and_links_lead_nowhere_twice(tmp_path):
    for name in ("b", "a/y", "a/x", ".hidden/z", "a/deep/w"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "deep")
    (tmp_path / "a" / ".dot").write_text("")
    top = str(tmp_path)
    assert list(walk(top)) == [(top, ["b"]), (top + "/a", ["x", "y"]), (top + "/a/again", ["w"])]
    assert list(walk(top, [os.path.realpath(top + "/a")])) == [(top, ["b"])]
    assert list_folder(top + "/none") == []


@pytest.mark.parametrize("use, what", [
    (list_folder, "read"), (lambda path: list(walk(os.path.dirname(path))), "read"),
    (lambda path: locked(path + "/snapshots/.lock", "training").__enter__(), "written")])
def test_a_folder_that_is_closed_is_named(use, what):
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        os.mkdir(above + "/closed", 0)
        if os.geteuid() == 0:
            os.seteuid(65534)  # permissions do not bind root
        try:
            with pytest.raises(UserError, match=f"closed.* can't be {what}: Permission denied"):
                use(above + "/closed")
        finally:
            os.seteuid(os.getuid())


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/a.txt can't be written"):
        write_lines(str(tmp_path / "file" / "a.txt"), ["x"])


@pytest.mark.parametrize("text, where", [
    ("a: 1\nb: 2\n'a': 3\n", "'a' appears twice, in lines 1 and 3"),
    ("x: {b: 1, c: 2, b: 3}", "'b' appears twice, in line 1"),
    ("x:\n- y:\n    k: 1\n    k: 1\n", "'k' appears twice, in lines 3 and 4"), ("1: a\n0x1: b", "1 appears twice"),
    ("a: &a {k: 1}\nx: {<<: *a, <<: *a}", "'<<' appears twice"), ("x: !!set {a, a}", "'a' appears twice")])
def test_a_key_that_appears_twice_in_yaml_is_refused(tmp_path, text, where):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_yaml(str(tmp_path / "c.yaml"))
    assert where in str(error.value) and "c.yaml" in str(error.value)


def test_a_key_that_replaces_a_merged_one_is_no_second_one(tmp_path):
    (tmp_path / "c.yaml").write_text("base: &b {a: 1, c: 2}\nx: &x {<<: *b, a: 5}\n"
                                     "y: {<<: *x, a: 7}\nz: {<<: [*b, *x]}\n")
    assert read_yaml(str(tmp_path / "c.yaml")) == {
        "base": {"a": 1, "c": 2}, "x": {"a": 5, "c": 2}, "y": {"a": 7, "c": 2}, "z": {"a": 1, "c": 2}}


def test_a_missing_file_whose_name_is_there_in_another_unicode_form_is_named(tmp_path):
    (tmp_path / "cafe\u0301.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        check_files(str(tmp_path), ".png", ["caf\u00e9"], "bring it")
    assert "'cafe\\u0301.png' is there" in str(error.value)
