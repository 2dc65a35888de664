"""What files were made of: may a stage continue with what is there, and what of it is out of date?"""
import concurrent.futures
import json
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from core.errors import UserError
from core.io.files import file_digest, naming_errors, remove
from core.io.journal import Journal

_THREADS = 4  # that read files to hash


class StageRecord:
    """What the files of a stage were made of, kept in a file beside them.

    The first line of the file is a JSON object: "origin", what all files depend on, such as settings and the digest of
    a snapshot; "items", for each item (an image, say) what its files depend on; "overwriting" until --overwrite
    has made everything again. A line [name, value] follows for each item that is reported as done with a value.

    A stage calls `claim`, then `stale`, removes the files of the items that `stale` names, works inside
    `with record:`, and calls `finish` at its end.

    Args:
        path: of the file.
        what: the stage's files, for messages, such as "the masks in cache/final_voc_masks".
        disposable: whether nothing but time is lost with the record: one that is unreadable, or of another origin, is
            replaced without asking, and `finish` removes it.

    Attributes:
        origin: as the file holds it; None where there is no record.
        items: dict from name to what the item's files depend on.
        values: dict from name to value, of the items that are done.
        overwriting: whether an interrupted run with --overwrite has left files that it would have made again.
    """

    def __init__(self, path: str, what: str, *, disposable: bool = False):
        self.path = path
        self.origin: Optional[Dict[str, Any]] = None
        self.items: Dict[str, Any] = {}
        self.values: Dict[str, Any] = {}
        self.overwriting = False
        self._what = what
        self._disposable = disposable
        self._all_stale = False
        self._journal = Journal(path)
        try:
            rows = self._journal.rows()
            if rows:
                header, *values = rows
                self.origin, self.items, self.values = dict(header["origin"]), dict(header["items"]), dict(values)
                self.overwriting = header["overwriting"]
        except (UserError, TypeError, KeyError, ValueError):
            if not disposable:
                raise UserError(f"{path} is damaged, or was not written by this program: remove it, or move it away"
                                ) from None
            self.origin, self.items = None, {}

    def claim(self, origin: Mapping[str, Any], *, present: bool = True, overwrite: bool = False) -> bool:
        """Make sure that the stage may continue with the files that are there; nothing is written yet.

        Args:
            origin: what all files depend on, as JSON keeps it.
            present: whether there are any files of the stage.
            overwrite: all files are to be made again, unless an earlier `claim` with `overwrite` and the same origin
                has not come to its `finish`.

        Returns:
            whether everything that is there is out of date.

        Raises:
            UserError: files are there that have another origin, or that no record mentions.
        """
        now: Dict[str, Any] = json.loads(json.dumps(origin))
        same = self.origin == now
        if not (same or overwrite or self._disposable) and present:
            reason = (f"were made with other settings: {difference(self.origin, now)}" if self.origin else
                      f"are not in the record {self.path}, so nothing says what they were made of")
            raise UserError(f"{self._what} {reason}; pass --overwrite to make them again, or move them away")
        self._all_stale = not same or overwrite and not self.overwriting
        self.overwriting = overwrite or self.overwriting and same
        self.origin = now
        return self._all_stale

    def stale(self, inputs: Mapping[str, Any]) -> Set[str]:
        """Names of the items whose files, where there are any, are out of date, by what each depends on now.

        Items that are recorded and not in `inputs` stay recorded: they may come back.
        """
        inputs = json.loads(json.dumps(inputs))
        if self._all_stale:
            stale = {*self.items, *inputs}
            self.items = {}
        else:
            stale = {name for name, value in inputs.items() if self.items.get(name, value) != value}
        self.values = {name: value for name, value in self.values.items() if name not in stale}
        self.items = {**self.items, **inputs}
        return stale

    def __enter__(self) -> "StageRecord":
        self._journal.open([{"origin": self.origin, "items": self.items, "overwriting": self.overwriting},
                            *self.values.items()])
        return self

    def __exit__(self, *_: Any) -> None:
        self._journal.close()

    def done(self, name: str, value: Any) -> None:
        """Record that an item is done, and what is known of it, as JSON keeps it."""
        self._journal.append([name, value])
        self.values[name] = value

    def finish(self) -> None:
        """Record that everything is made: --overwrite would start from scratch. A disposable record goes."""
        self._journal.close()
        if self._disposable:
            remove(self.path, missing_ok=True)
        elif self.overwriting:
            self.overwriting = False
            with self:
                pass


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first difference between two JSON objects, in words; "" where there is none."""
    for name in {**then, **now}:
        old, new = then.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return difference(old, new)
        if name.endswith("_sha256") and old and new:
            return f"the {name[:-len('_sha256')].replace('_', ' ')} has another content now"
        words = ("not set" if value is None else "set" if isinstance(value, dict) else value for value in (old, new))
        return "{} was {} and is {} now".format(name, *words)
    return ""


def content_digests(paths: Sequence[str]) -> List[str]:
    """SHA-256 of files, as hexadecimal text."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS, "hash") as pool:
        return list(pool.map(file_digest, paths))


def file_state(path: str) -> List[int]:
    """What changes whenever a file does: bytes, times of the last change of content and inode in ns, inode."""
    with naming_errors(path, "can't be read"):
        status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
