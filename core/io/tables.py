"""Tables in CSV files, as programs, people and spreadsheets leave them."""
import codecs
import csv
import io
import re
from typing import List, NamedTuple

from core.errors import UserError
from core.io.files import read_bytes
from core.io.logs import logger


class Row(NamedTuple):
    """The cells of a row, without white space around them, and the line of the file that it ends in, from 1."""
    line: int
    cells: List[str]


def read_table(path: str) -> List[Row]:
    """Rows of a CSV file in which there is anything.

    UTF-8, UTF-16 with its byte order mark, or else Windows-1252, with a warning; any line ends; cells between commas,
    semicolons or tabs, whichever a first line `sep=;` names or the text has first outside quotes.

    Raises:
        UserError: the file is missing or no text, or a quote isn't closed.
    """
    text = _text(path).replace("\r\n", "\n").replace("\r", "\n")
    hint = re.match(r'"?sep=([,;\t])"?[ \t]*\n', text, re.IGNORECASE)  # of Excel
    separator = hint or re.search("([,;\t])", re.sub('"[^"]*"', "", text))
    reader = csv.reader(io.StringIO(text), delimiter=separator.group(1) if separator else ",",
                        skipinitialspace=True, strict=True)
    try:
        rows = [Row(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is no line of a table: {error}") from error
    return [row for row in rows[1 if hint else 0:] if any(row.cells)]


def _text(path):
    content = read_bytes(path)
    try:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
        logger.warning("%s is not in UTF-8: it is read as Windows-1252", path)
    if "\0" in text or "\ufffd" in text:
        raise UserError(f"{path} is no text that can be read: save it as CSV in UTF-8")
    return text
