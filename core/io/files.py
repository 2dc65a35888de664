"""Reading with clear errors, and writing that appears whole or not at all.

Whatever reads or writes a file raises a UserError that names it where it is missing, damaged or can't be written.
"""
import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import unicodedata
import uuid
from typing import Any, Dict, Hashable, Iterable, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import yaml

from core.errors import UserError

_NAME_KEPT = 40  # characters of a file's name in that of its temporary file: names have at most 255 bytes


@contextlib.contextmanager
def naming_errors(path: str, what: str) -> Iterator[None]:
    """Turn the system's errors in the block into a UserError that names `path`, says `what`, and the reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} {what}: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give a temporary name beside `path`; move it to `path` when the block ends well, else remove it."""
    folder, name = os.path.split(os.path.abspath(path))
    # Not the process id, which is the same in every container that writes to the folder.
    temporary = os.path.join(folder, f".{name[:_NAME_KEPT]}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with naming_errors(path, "can't be written"):
            os.makedirs(folder, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def remove_leftovers(*folders: str) -> None:
    """Remove what killed processes left half-written in folders, and below them, that only this process writes to."""
    for folder in folders:
        for below, _, names in os.walk(folder):
            for name in names:
                if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp(\.mp4)?", name):
                    remove(os.path.join(below, name), missing_ok=True)


def write_bytes(path: str, content: bytes) -> None:
    """Write `content` (bytes) to `path`."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_text(path: str, text: str) -> None:
    """Write `text` to `path` as UTF-8; what UTF-8 can't hold of a file name goes in as JSON escapes it."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_lines(path: str, lines: Iterable[str]) -> None:
    """Write a text file of one string a line."""
    write_text(path, "".join(line + "\n" for line in lines))


def write_json(path: str, value: Any) -> None:
    """Write `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_array(path: str, array: np.ndarray) -> None:
    """Write a numpy array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    # Not getbuffer: kept by an error, as of a full disk, it crashes the collector of Python < 3.13 (gh-111049).
    write_bytes(path, buffer.getvalue())


def write_arrays(path: str, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write an .npz."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def remove(path: str, missing_ok: bool = False) -> None:
    """Delete a file."""
    accepted = (FileNotFoundError,) if missing_ok else ()
    with naming_errors(path, "can't be removed"), contextlib.suppress(*accepted):
        os.remove(path)


def list_folder(path: str) -> List[str]:
    """Sorted names of what is in a folder; an empty list where there is no such folder."""
    with naming_errors(path, "can't be read"):
        return sorted(os.listdir(path)) if os.path.isdir(path) else []


def find_path(path: str) -> Optional[str]:
    """Path of what is there under a name that may be composed otherwise, or None.

    macOS and others write an accented letter as two characters (Unicode NFD) where a list may have it as one (NFC).
    """
    if os.path.exists(path):
        return path
    above, name = os.path.split(path)
    folder = find_path(above) if above and above != path else above
    if folder is None or not os.path.isdir(folder or "."):
        return None
    match = _composed_names(folder or ".", os.stat(folder or ".").st_mtime_ns).get(unicodedata.normalize("NFC", name))
    return match and os.path.join(folder, match)


def find_file(path: str) -> Optional[str]:
    """Path of the file under a name that may be composed otherwise, see `find_path`, or None."""
    match = find_path(path)
    return match if match and os.path.isfile(match) else None


@functools.lru_cache(maxsize=64)
def _composed_names(folder: str, changed: int) -> Dict[str, str]:
    """Names in a folder by their composed form; `changed` is the folder's time of change."""
    return {unicodedata.normalize("NFC", name): name for name in list_folder(folder)}


def walk(folder: str, leave_out: Iterable[str] = ()) -> Iterator[Tuple[str, List[str]]]:
    """Yield the path and the sorted names of the files of a folder and of each below it, in the order of their paths.

    Links are followed, but no folder is entered twice. Names that start with a dot, and the real paths
    `leave_out`, are passed over.
    """
    def refuse(error):
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error

    entered = set(leave_out)
    for below, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if os.path.realpath(below) in entered and below != folder:
            folders.clear()
            continue
        entered.add(os.path.realpath(below))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield below, sorted(name for name in names if not name.startswith("."))


def read_bytes(path: str) -> bytes:
    """Content of a file."""
    with naming_errors(path, "can't be read"), open(path, "rb") as file:
        return file.read()


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, as hexadecimal text."""
    digest = hashlib.sha256()
    with naming_errors(path, "can't be read"), open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: str) -> str:
    """Text of a UTF-8 file, with or without a byte order mark."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a UTF-8 text file (byte {error.start})") from error


def read_lines(path: str) -> List[str]:
    """Non-blank lines of a text file, without the white space around them; any line ending."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path} is empty: one entry per line is expected")
    return lines


def read_list(path: str, remedy: Optional[str] = None) -> List[str]:
    """Ids of a list file, one per line; `remedy` says what to do where it is missing.

    Raises:
        UserError: an id appears twice or is a path.
    """
    if remedy and not os.path.exists(path):
        raise UserError(f"{path} is missing: {remedy}")
    ids, seen = read_lines(path), set()
    for number, name in enumerate(ids, 1):
        if name in seen:
            raise UserError(f"{path} names {name} twice: remove one of the lines")
        if "/" in name or "\\" in name or "\0" in name:
            raise UserError(f"{path}, entry {number}: {name!r} is not an id; ids are file names without "
                            "folder and ending")
        seen.add(name)
    return ids


def parse_json(text: str) -> Any:
    """Value of a JSON text.

    Raises:
        ValueError: it is not JSON, an object has a key twice, or it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str) -> Any:
    """Value of a JSON file."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def _unique_keys(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated = collections.Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated!r} appears twice")
    return value


def read_array(path: str) -> np.ndarray:
    """Array of a .npy file."""
    try:
        return np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged, or not a .npy file") from error


def read_arrays(path: str) -> Dict[str, np.ndarray]:
    """Arrays of an .npz."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as stored:
            return dict(stored)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on damaged files
        raise UserError(f"{path} is damaged: remove it and run the same command again") from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loads plain types only, and refuses a mapping with a key twice, of which PyYAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines = {}
        for key_node, _ in node.value:
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = "<<" if merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused when the mapping is built
            line = key_node.start_mark.line + 1
            if key in lines:
                where = f"line {line}" if line == lines[key] else f"lines {lines[key]} and {line}"
                raise ValueError(f"the key {key!r} appears twice, in {where}")
            lines[key] = line
        return node


def read_yaml(path: str) -> Any:
    """Value of a YAML file, of plain types only: nothing in it is run.

    Raises:
        UserError: the file is missing or is not YAML, or a mapping in it has a key twice.
    """
    try:
        return yaml.load(read_text(path), _UniqueKeyLoader)
    except UserError:
        raise
    except Exception as error:  # tags on the wrong kind of text, as in !!bool x, raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not valid YAML: {reason}") from error
