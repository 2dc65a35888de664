"""Files of one JSON value a line that grow while work is done: each line is there whole, or not at all."""
import json
import os
from typing import Any, Iterable, List, Optional

from core.errors import UserError
from core.io.files import naming_errors, read_bytes, write_bytes


class Journal:
    """A file of JSON Lines.

    A line that a full disk cuts short is taken back. One that a kill cuts short is no row, and goes when `open` writes
    the rows again, so no other line is ever written behind half a one.
    """

    def __init__(self, path: str):
        self._path = path
        self._file: Optional[int] = None

    def rows(self) -> List[Any]:
        """Values of the file, in order; none where there is no file. An unfinished last line is left out."""
        lines = read_bytes(self._path).split(b"\n") if os.path.exists(self._path) else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line.decode()))
            except (ValueError, RecursionError):
                if number < len(lines):
                    raise UserError(f"{self._path}, line {number} is damaged: remove the line") from None
        return rows

    def open(self, rows: Iterable[Any]) -> "Journal":
        """Make the file hold `rows`, and get ready to append."""
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if not os.path.exists(self._path) or read_bytes(self._path) != content:
            write_bytes(self._path, content)
        with naming_errors(self._path, "can't be written"):
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        return self

    def append(self, row: Any) -> None:
        """Add a line."""
        assert self._file is not None
        content, size = json.dumps(row).encode() + b"\n", os.fstat(self._file).st_size
        with naming_errors(self._path, "can't be written"):
            try:
                while content:  # a disk that is nearly full takes a part, and refuses only the next
                    content = content[os.write(self._file, content):]
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
