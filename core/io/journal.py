"""Files of one JSON value a line that grow while work is done: each line is there whole, or not at all."""
import json
import os
from typing import Any, Iterable, List, Optional

from core.errors import UserError
from core.io.files import read_bytes, write_bytes


def append_whole(file: int, content: bytes) -> None:
    """Append to the file of a descriptor. Where that fails, as on a full disk, the file is as it was before."""
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(content):  # a disk that is nearly full takes a part, and refuses only the next
            written += os.write(file, content[written:])
    except OSError:
        os.ftruncate(file, size)
        raise


class Journal:
    """A file of JSON Lines.

    A line that a full disk cuts short is taken back. One that a kill cuts short is no row, and goes when `open` writes
    the rows again, so no other line is ever written behind half a one.
    """

    def __init__(self, path: str):
        self._path = path
        self._file: Optional[int] = None

    def rows(self, *, skip_damaged: bool = False) -> List[Any]:
        """Values of the file, in order; none where there is no file. An unfinished last line is left out.

        Raises:
            UserError: a line is not JSON and `skip_damaged` is not set; it is named. Or the file can't be read.
        """
        if not os.path.exists(self._path):
            return []
        *lines, end = read_bytes(self._path).split(b"\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line.decode()))
            except (ValueError, RecursionError):
                if not skip_damaged:
                    raise UserError(f"{self._path}, line {number} is damaged: remove the line") from None
        try:
            rows += [json.loads(end.decode())] if end.strip() else []  # whole but for the line break: an editor's
        except (ValueError, RecursionError):
            pass
        return rows

    def open(self, rows: Iterable[Any]) -> "Journal":
        """Make the file hold `rows`, and get ready to append.

        Raises:
            UserError: the file can't be written.
        """
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if not os.path.exists(self._path) or read_bytes(self._path) != content:
            write_bytes(self._path, content)
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise self._failed(error) from error
        return self

    def append(self, row: Any) -> None:
        """Add a line.

        Raises:
            UserError: it can't be written, as on a full disk; the file is then as it was before.
        """
        assert self._file is not None
        try:
            append_whole(self._file, json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"{self._path} can't be written: {error.strerror or error}")
