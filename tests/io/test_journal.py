"""Files that grow by lines: no line is lost or glued to half another, whatever cuts the writing short."""
import os

import pytest
from conftest import largest_file

from core.errors import UserError
from core.io.journal import Journal


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "folder" / "journal.jsonl")


def write(path, rows, instead=None):
    journal = Journal(path)
    journal.open(journal.rows() if instead is None else instead)
    for row in rows:
        journal.append(row)
    journal.close()


def test_rows_come_back_in_order_and_are_appended_to(path):
    assert Journal(path).rows() == []
    write(path, [{"ä": 1}, [2, "\udcff"]])
    write(path, [None])
    assert Journal(path).rows() == [{"ä": 1}, [2, "\udcff"], None]
    write(path, [4], [3])
    assert Journal(path).rows() == [3, 4]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_last_line_that_a_kill_cut_short_is_dropped_before_more_is_written(path, cut):
    write(path, [["a", 10], ["b", 20]])
    os.truncate(path, os.path.getsize(path) - cut)
    kept = [["a", 10]] if cut > 1 else [["a", 10], ["b", 20]]  # all but the line break is a whole line
    assert Journal(path).rows() == kept
    write(path, [["c", 30]])
    assert Journal(path).rows() == kept + [["c", 30]]


def test_a_line_that_a_full_disk_cuts_short_is_taken_back(path):
    journal = Journal(path).open([])
    journal.append("x" * 100)
    size = os.path.getsize(path)
    with largest_file(size + 50), pytest.raises(UserError, match="journal.jsonl can't be written: File too large"):
        journal.append("y" * 100)
    assert os.path.getsize(path) == size
    journal.append("z" * 100)  # there is room again
    journal.close()
    assert Journal(path).rows() == ["x" * 100, "z" * 100]


@pytest.mark.parametrize("damaged", [b"\0\0", b"{", b"\xff2", b"[" * 100000])
def test_a_damaged_line_is_named(path, damaged):
    write(path, [1, 2, 3])
    content = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(content.replace(b"2", damaged))
    with pytest.raises(UserError, match="journal.jsonl, line 2 is damaged: remove the line"):
        Journal(path).rows()
