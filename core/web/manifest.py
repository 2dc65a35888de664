"""The manifest of web images, dataset/web_manifest.jsonl: what was decided on each candidate.

It has a JSON object a line, in the order of the decisions. A later run continues from it.
"""
import collections
import contextlib
import os
import re
from typing import Any, Container, Counter, DefaultDict, Dict, Iterable, List, Optional, Tuple
from urllib.parse import urlsplit

import numpy as np

from core.config import Config
from core.errors import UserError
from core.io.files import list_folder, naming_errors, remove, remove_leftovers
from core.io.journal import Journal
from core.io.logs import logger
from core.paths import Layout, class_of, image_path, stems
from core.web.corrections import MOVE, last_numbers, read_decisions
from core.web.duplicates import HASH_BYTES


class Manifest:
    """The rows of the manifest, read when it is made and appended to after `save`.

    A kept image's file gets its name just after its line was written: after a kill the file of the last line may
    still have the name of `pending`. The review may have moved an image to another class, under another name. Any other
    file that is missing was deleted by its user: it stays away.

    Attributes:
        folder: of the kept images.
        rows: list of dict. Each has "class", "url" and "status"; "name", "phash" and more if it is kept, else "reason".
        counts: Counter from class index to the number of its kept images that are there.
    """

    def __init__(self, layout: Layout, config: Config) -> None:
        self.folder, self._path = layout.web_images, layout.web_manifest
        self._journal = Journal(self._path)
        self.rows = self._journal.rows()
        for number, row in enumerate(self.rows, 1):
            self._check(number, row)
        remove_leftovers(self.folder)
        for name in list_folder(self.folder):
            if re.fullmatch(r"\.[0-9]+_[0-9]+\.jpg\.new", name):  # of a killed run
                if self.rows and self.rows[-1].get("name") == name[1:-len(".jpg.new")]:
                    self._finish(self.rows[-1]["name"])
                else:
                    remove(os.path.join(self.folder, name))
        files = stems(self.folder, ".jpg")
        moves = [made for made in read_decisions(layout, config.num_classes).values() if made.decision == MOVE]
        self._moved: Dict[str, str] = {}  # name in a row: name that the file has since the review
        for made in reversed(moves):  # an image may have moved again later
            if made.name not in files:
                self._moved[made.name] = self._moved.get(made.new_name, made.new_name)
        self.counts: Counter[int] = collections.Counter()
        for row in self.kept():
            name = self._moved.get(row["name"], row["name"])
            if name in files:
                self.counts[class_of(name)] += 1
        self.forget(())
        self._last = last_numbers(layout)
        others = files - {row["name"] for row in self.rows if "name" in row} - {made.new_name for made in moves}
        if others:
            logger.warning("%s has %d images that %s does not list, such as %s.jpg: they are not compared with new "
                           "images; use --folder to add your own images", self.folder, len(others),
                           os.path.basename(self._path), min(others))

    def _check(self, number: int, row: Any) -> None:
        try:
            if not all(isinstance(row[key], str) for key in ("class", "url", "status")):
                raise ValueError
            if row["status"] == "kept":
                if not re.fullmatch("[0-9]+_[0-9]+", row["name"]) or len(bytes.fromhex(row["phash"])) != HASH_BYTES:
                    raise ValueError
            elif not isinstance(row["reason"], str):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._path}, line {number} is damaged: remove the line") from error

    def forget(self, statuses: Container[str]) -> None:
        """Drop the rows of these statuses, so that their candidates are decided on again."""
        self.rows = [row for row in self.rows if row["status"] not in statuses]
        self._decided = {(row["class"], row["url"]) for row in self.rows}
        self._alike: DefaultDict[Tuple[str, Optional[str]], List[Dict[str, Any]]] = collections.defaultdict(list)
        for row in self.rows:
            self._alike[_origin(row)].append(row)

    def kept(self) -> List[Dict[str, Any]]:
        """Rows of the kept images."""
        return [row for row in self.rows if row["status"] == "kept"]

    def hash_and_path(self, row: Dict[str, Any]) -> Tuple[np.ndarray, str]:
        """Perceptual hash, (32,) uint8, and path of the kept image of a row."""
        path = image_path(self.folder, self._moved.get(row["name"], row["name"]))
        return np.frombuffer(bytes.fromhex(row["phash"]), np.uint8), path

    def reject(self, name: str, reason: str) -> None:
        """Reject a kept image: delete its file now, so that a kill leaves none, and change its status on `save`."""
        row = next(row for row in self.rows if row.get("name") == name)
        current = self._moved.get(name, name)
        with contextlib.suppress(FileNotFoundError):
            os.remove(image_path(self.folder, current))
            self.counts[class_of(current)] -= 1
        row.update(status="rejected", reason=reason)

    def save(self) -> "Manifest":
        """Write the rows if they changed, and get ready to append; returns self."""
        self._journal.close()
        self._journal.open(self.rows)
        return self

    def close(self) -> None:
        self._journal.close()

    def reject_placeholder(self, row: Dict[str, Any]) -> bool:
        """Whether a host has brought the very same bytes from three addresses, as in place of deleted photos; rejects
        them all."""
        earlier = self._alike[_origin(row)]
        if len(earlier) < 2:
            return False
        row.update(status="rejected", reason=f"placeholder: the same came from {earlier[0]['url']}")
        for other in earlier:
            if other["status"] == "kept":
                self.reject(other["name"], f"placeholder: the same came from {row['url']}")
        return True

    def is_new(self, class_name: str, url: str) -> bool:
        """Whether an address was not asked for before; from now on it was."""
        new = (class_name, url) not in self._decided
        self._decided.add((class_name, url))
        return new

    def free_name(self, class_index: int) -> str:
        return f"{class_index}_{self._last[class_index] + 1:06d}"

    def pending(self, name: str) -> str:
        """Path of a kept image whose line is not written yet."""
        return os.path.join(self.folder, f".{name}.jpg.new")

    def _finish(self, name: str) -> None:
        path = image_path(self.folder, name)
        with naming_errors(path, "can't be written"):
            os.replace(self.pending(name), path)

    def append(self, row: Dict[str, Any]) -> None:
        """Add a line and, if it belongs to a kept image, give its `pending` file its name."""
        self._journal.append(row)
        self.rows.append(row)
        self._alike[_origin(row)].append(row)
        if row["status"] == "kept":
            self._finish(row["name"])
            class_index, number = map(int, row["name"].split("_"))
            self._last[class_index] = number
            self.counts[class_index] += 1


def _origin(row):
    """What downloads of one picture from one host have in common; files have nothing."""
    return urlsplit(row["url"]).hostname or row["url"], row.get("sha256")


def reasons(rows: Iterable[Dict[str, Any]], class_name: str) -> Counter[str]:
    """How often each reason, without its particulars, kept a candidate of a class away."""
    return collections.Counter(re.split(" of |:", row["reason"])[0] for row in rows
                               if row["class"] == class_name and row["status"] != "kept")
