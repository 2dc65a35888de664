"""CSV files as spreadsheets write them."""
import pytest

from core.errors import UserError
from core.io.tables import Row, read_table

ROWS = [["name", "note"], ["caf\u00e9", "a; b"], ["x", ""]]
TEXT = 'name,note\ncaf\u00e9,"a; b"\nx,\n'


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "table.csv")


def write(path, content, encoding="utf-8"):
    with open(path, "wb") as file:
        file.write(content.encode(encoding))


@pytest.mark.parametrize("content, encoding", [
    (TEXT, "utf-8"), (TEXT, "utf-8-sig"), (TEXT, "utf-16"), (TEXT, "cp1252"), (TEXT.rstrip("\n"), "utf-8"),
    (TEXT.replace("\n", "\r\n"), "utf-8"), (TEXT.replace("\n", "\r"), "utf-8"), (TEXT.replace(",", "\t"), "utf-16"),
    (TEXT.replace(",", ";"), "utf-8"), ("sep=;\r\n" + TEXT.replace(",", ";"), "utf-8"), ("sep=,\n" + TEXT, "utf-8"),
    ('"name", "note"\n\n"caf\u00e9", "a; b"\n,\n x ,\n', "utf-8")])
def test_forms_of_a_table(path, content, encoding, caplog):
    write(path, content, encoding)
    assert [row.cells for row in read_table(path)] == ROWS
    assert ("it is read as Windows-1252" in caplog.text) == (encoding == "cp1252")


def test_the_first_separator_outside_quotes_counts(path):
    write(path, '"a,b.jpg";mug,key\n')
    assert read_table(path) == [Row(1, ["a,b.jpg", "mug,key"])]


@pytest.mark.parametrize("content, encoding, message", [
    ('a,b\nc,"d\n', "utf-8", "line 2 is no line of a table"), ("a,b\n", "utf-16-le", "save it as CSV in UTF-8"),
    ("a,\x81\n", "latin-1", "save it as CSV in UTF-8")])
def test_what_is_no_table_is_refused(path, content, encoding, message):
    write(path, content, encoding)
    with pytest.raises(UserError, match=message):
        read_table(path)
