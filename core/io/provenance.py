"""What files were made of: may a stage continue with what is there, and what of it is out of date?"""
import concurrent.futures
import contextlib
import functools
import json
import os
import time
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set

from core.errors import UserError
from core.io.files import file_digest, read_bytes, read_json, remove, write_json, write_text
from core.io.journal import Journal
from core.io.logs import logger

_FORMAT = 1
_UNCHANGED = 2.0  # seconds after its last change from which on any further change shows in a file's times
_THREADS = 4  # that read files to hash


class StageRecord:
    """What the files of a stage were made of, kept in a file beside them.

    The first line of the file is a JSON object: "origin", what all files depend on, such as settings and the digest of
    a snapshot; "items", for each item (an image, say) what its own files depend on; "overwriting" until --overwrite
    has made everything again. A line [name, value] follows for each item that is reported as done with a value.

    A stage calls `claim`, then `stale`, removes the files of the items that `stale` names, works inside
    `with record:`, and calls `finish` at its end.

    Args:
        path: of the file.
        what: the stage's files, for messages, such as "the masks in cache/final_voc_masks".
        earlier_key: a key that the JSON object of earlier versions of this program has in this file.
        disposable: whether nothing but time is lost with the record, so that one which is unreadable, or of another
            origin, is replaced without asking.

    Attributes:
        origin: as the file holds it; None where there is no record.
        items: dict from name to what the item's files depend on.
        values: dict from name to value, of the items that are done.
        overwriting: whether an interrupted run with --overwrite has left files that it would have made again.
        earlier: whether an earlier version of this program wrote the file; it says nothing then.
    """

    def __init__(self, path: str, what: str, *, earlier_key: str = "", disposable: bool = False):
        self.path = path
        self.origin: Optional[Dict[str, Any]] = None
        self.items: Dict[str, Any] = {}
        self.values: Dict[str, Any] = {}
        self._what = what
        self._disposable = disposable
        self.overwriting = False
        self._all_stale = False
        self.earlier = False
        self._journal = Journal(path)
        stored = self._journal.rows(skip_damaged=True)
        header = stored[0] if stored and isinstance(stored[0], dict) else _object(path)
        if header.get("format") == _FORMAT and isinstance(header.get("origin"), dict) and isinstance(
                header.get("items"), dict):
            self.origin, self.items = header["origin"], header["items"]
            self.overwriting = bool(header.get("overwriting"))
            for row in stored[1:]:
                if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and row[0] in self.items:
                    self.values[row[0]] = row[1]
        elif os.path.exists(path) and not disposable:
            self.earlier = earlier_key in header
            if not self.earlier:
                raise UserError(f"{path} is damaged, or was not written by this program: remove it, or move it away")

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
        if overwrite:
            self._all_stale = not (same and self.overwriting)
        elif not same:
            if present and not self._disposable:
                raise UserError(self._refusal(now))
            self._all_stale = True
        self.origin = now
        self.overwriting = overwrite or self.overwriting and same
        return self._all_stale

    def _refusal(self, origin: Dict[str, Any]) -> str:
        remedy = "pass --overwrite to make them again, or move them away"
        if self.earlier:
            return f"{self._what} were made by another version of this program: {remedy}"
        if self.origin is None:
            return f"{self._what} are not in the record {self.path}, so nothing says what they were made of: {remedy}"
        return f"{self._what} were made with other settings: {difference(self.origin, origin)}; {remedy}"

    def stale(self, inputs: Mapping[str, Any]) -> Set[str]:
        """Names of the items whose files, where there are any, are out of date.

        Items that are recorded and not in `inputs` stay recorded: they may come back.

        Args:
            inputs: dict from name to what the item's files depend on now, as JSON keeps it.
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
        self._write()
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):
            self._journal.close()

    def done(self, name: str, value: Any) -> None:
        """Record that an item is done.

        Args:
            value: what is known of it, as JSON keeps it.

        Raises:
            UserError: the disk is full.
        """
        self._journal.append([name, value])
        self.values[name] = value

    def finish(self) -> None:
        """Record that everything is made: --overwrite would start from scratch."""
        if self.overwriting:
            self.overwriting = False
            self._journal.close()
            self._write()

    def remove(self) -> None:
        """Delete the record: the work is finished, and nothing needs it any more."""
        self._journal.close()
        remove(self.path, missing_ok=True)

    def _write(self) -> None:
        header = {"format": _FORMAT, "origin": self.origin, "items": self.items}
        if self.overwriting:
            header["overwriting"] = True
        rows = [header] + [[name, value] for name, value in self.values.items()]
        self._journal.open(rows)


def _object(path):
    """JSON object that a file of several lines holds, as earlier versions wrote it; empty where it holds none."""
    try:
        value = read_json(path) if os.path.exists(path) else None
    except UserError:
        value = None
    return value if isinstance(value, dict) else {}


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
        return f"{name} was {_in_words(old)} and is {_in_words(new)} now"
    return ""


def _in_words(value: Any) -> str:
    if value is None:
        return "not set"
    return "set" if isinstance(value, dict) else str(value)


def content_digests(paths: Iterable[str], cache: str) -> List[str]:
    """SHA-256 of files, as hexadecimal text.

    A file is read again only if its size, inode or one of its times differs from those in the cache. Programs may set
    the time of the last change of the content as they like, so that of the last change of the inode, which they can't
    set, decides; and a file that was changed a moment ago is not entered, as it may change again within the same tick
    of the file system's clock (as in Git's "racy" entries).

    Args:
        cache: path of a JSON file, written by this function; it may be deleted.

    Raises:
        UserError: a file can't be read.
    """
    paths = [os.path.abspath(path) for path in paths]
    known = _read_digests(cache)
    states = {path: file_state(path) for path in dict.fromkeys(paths)}
    unknown = [path for path, state in states.items() if known.get(path, [None])[:-1] != state]
    found = {path: entry[-1] for path, entry in known.items()}
    now = time.time()
    with concurrent.futures.ThreadPoolExecutor(_THREADS, "hash") as pool:
        found.update(zip(unknown, pool.map(file_digest, unknown)))
    lasting = [path for path in unknown if max(states[path][1:3]) < (now - _UNCHANGED) * 1e9]
    if lasting:
        known.update((path, states[path] + [found[path]]) for path in lasting)
        with contextlib.suppress(UserError):  # a full disk, say: without the cache it only takes longer
            write_text(cache, json.dumps(known))
    return [found[path] for path in paths]


def file_state(path: str) -> List[int]:
    """What changes whenever a file does: bytes, times of the last change of content and inode in ns, inode.

    Raises:
        UserError: there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}") from error
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _read_digests(cache: str) -> Dict[str, List[Any]]:
    try:
        known = json.loads(read_bytes(cache).decode()) if os.path.exists(cache) else {}
        return {path: entry for path, entry in known.items() if len(entry) == 5 and isinstance(entry[-1], str)}
    except (UserError, ValueError, AttributeError, TypeError, RecursionError):
        return {}  # a cache: what is lost is computed again


def check_classes(path: str, classes: Sequence[str], indices: Optional[Iterable[int]] = None, *,
                  record: bool = False) -> None:
    """Check that the class indices in a data set still stand for the classes that they were written for.

    Args:
        path: dataset/classes.json, which names them; where it is missing, as with data sets of earlier versions, the
            indices are taken to stand for `classes`, with a warning.
        classes: names in the order of their indices.
        indices: compare these classes only, as web images have their index in their name; None compares the whole list.
        record: write the file where it is missing, instead of the warning.

    Raises:
        UserError: an index stands for another class, or create_dataset.py was interrupted while it changed them.
    """
    then = recorded_classes(path)
    if then is None:
        if record:
            record_classes(path, classes)
        else:
            _warn_of_missing_names(path)
        return
    if then.get("unfinished"):
        raise UserError(f"{path}: create_dataset.py was interrupted while it wrote the data set: run it again")
    wanted = range(max(len(classes), len(then["classes"]))) if indices is None else sorted(indices)
    for index in wanted:
        old, new = (names[index] if index < len(names) else None for names in (then["classes"], classes))
        if old != new and not (indices is not None and old is None):
            raise UserError(f"{path}: the data set was made with {_class_in_words(index, old)}, and the setting "
                            f"classes has {_class_in_words(index, new)}: bring back the classes, or run "
                            "create_dataset.py again; web images with other classes need another --root")


def recorded_classes(path: str) -> Optional[Dict[str, Any]]:
    """Content of dataset/classes.json, or None: "classes", their names; "unfinished" while create_dataset.py writes.

    Raises:
        UserError: the file is damaged.
    """
    if not os.path.exists(path):
        return None
    then = read_json(path)
    if not isinstance(then, dict) or not isinstance(then.get("classes"), list):
        raise UserError(f"{path} is damaged: remove it, and run create_dataset.py again")
    return then


def record_classes(path: str, classes: Sequence[str], *, unfinished: bool = False) -> None:
    """Write dataset/classes.json; see `recorded_classes`."""
    write_json(path, {"classes": list(classes), **({"unfinished": True} if unfinished else {})})


@functools.lru_cache(maxsize=None)
def _warn_of_missing_names(path: str) -> None:
    logger.warning("%s is missing: labels and masks of the data set are taken to be of the classes that are set now; "
                   "create_dataset.py records them", path)


def _class_in_words(index: int, name: Optional[str]) -> str:
    return f"no class {index}" if name is None else f"class {index} as {name}"
