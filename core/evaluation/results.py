"""The output folder of an evaluation: result.json, and the journal that lets a killed evaluation go on."""
import contextlib
import json
import os
import zlib

import numpy as np

from core.errors import UserError
from core.io.files import read_bytes, read_json, remove, write_json, write_lines
from core.io.logs import logger

_CHECKSUM = 9  # characters of the checksum in front of a line


class ResultFolder:
    """Results of one snapshot.

    result.json is the last finished evaluation; those of other settings (scales, CRF, list) are kept in it under
    "earlier". Where images and masks lay makes no difference, only what they were.
    """

    def __init__(self, folder):
        self._folder = folder
        self.path = os.path.join(folder, "result.json")
        self.lock = os.path.join(folder, ".lock")

    def stored(self):
        """Results in the folder, the last one first.

        Raises:
            UserError: result.json is not what `write` writes.
        """
        if not os.path.exists(self.path):
            return []
        last = read_json(self.path)
        try:
            results = [last] + last["earlier"]
            for result in results:
                _check_result(result)
        except (TypeError, KeyError, ValueError, AttributeError):
            raise UserError("%s is no result of an evaluation: move it away" % self.path) from None
        return results

    def find(self, settings, saved=()):
        """The stored result with these settings that kept all kinds of files named in `saved`, or None."""
        for result in self.stored():
            if identity(result["settings"]) == identity(settings) and set(saved) <= set(result["saved"]):
                return result
        return None

    def disown(self, kinds):
        """Files of these kinds are about to be written over: they no longer count as those of the stored results."""
        results = self._without(kinds)
        if results:
            write_json(self.path, dict(results[0], earlier=results[1:]))

    def write(self, result):
        """Store a result as the last one. Files that it wrote over no longer count as those of earlier ones."""
        earlier = [old for old in self._without(result["saved"])
                   if identity(old["settings"]) != identity(result["settings"])]
        write_json(self.path, dict(result, earlier=earlier))

    def _without(self, kinds):
        """Copies of the stored results that own no files of these kinds."""
        results = [dict(old, saved=[kind for kind in old["saved"] if kind not in kinds]) for old in self.stored()]
        for old in results:
            old.pop("earlier", None)
        return results

    def journal(self, settings, saved, num_classes):
        """Journal of an evaluation with these settings; see ConfusionJournal."""
        work = {name: value for name, value in identity(settings).items() if not name.endswith("_sha256")
                or name == "snapshot_sha256"}  # whether an image is another one, its line tells
        return ConfusionJournal(os.path.join(self._folder, "progress.jsonl"), [work, list(saved)], num_classes)


def identity(settings):
    """Settings of an evaluation without the paths of its images and masks, whose content data_sha256 stands for."""
    return {name: value for name, value in settings.items() if name not in ("images", "masks")}


class Journal:
    """What is known of every image done so far.

    One JSON value a line, behind its CRC-32: what is done first, then [name, value] for each image. Lines that do not
    belong to the same work are dropped, as are damaged ones and a last one cut short.

    Attributes:
        done: dict from name to value.
    """

    def __init__(self, path, header):
        """
        Args:
            header: what is done, with all settings, as a JSON value.
        """
        self._path = path
        self._file = None
        self._lines = [_with_checksum(header)]
        self.done = {}
        lines = read_bytes(path).split(b"\n") if os.path.exists(path) else []
        if lines and lines[0] == self._lines[0].encode():
            for line in lines[1:]:
                text = line[_CHECKSUM:].decode("utf-8", "replace")
                if line == (_checksum(text) + text).encode():
                    name, value = json.loads(text)
                    self.done[name] = self._decode(value)
                    self._lines.append(line.decode())

    def __enter__(self):
        write_lines(self._path, self._lines)
        self._file = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # what is still to be written then has failed before
            self._file.close()

    def add(self, name, value):
        """Note down an image.

        Raises:
            UserError: the disk is full.
        """
        try:
            self._file.write(_with_checksum([name, self._encode(value)]) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError("%s can't be written: %s" % (self._path, error.strerror or error)) from error

    def remove(self):
        """Delete the file: the work is finished."""
        remove(self._path, missing_ok=True)

    def _encode(self, value):
        return value

    def _decode(self, value):
        return value


class ConfusionJournal(Journal):
    """Journal of (classes, classes) int64 confusion matrices, written as [[cell, pixels], ...]."""

    def __init__(self, path, header, num_classes):
        self._num_classes = num_classes
        super().__init__(path, header)

    def _encode(self, value):
        counts = value.ravel()
        return [[int(cell), int(counts[cell])] for cell in np.flatnonzero(counts)]

    def _decode(self, value):
        counts = np.zeros(self._num_classes ** 2, np.int64)
        for cell, pixels in value:
            counts[cell] = pixels
        return counts.reshape(self._num_classes, -1)


def _with_checksum(value):
    text = json.dumps(value)
    return _checksum(text) + text


def _checksum(text):
    return "%08x " % zlib.crc32(text.encode())


def _check_result(result):
    """Raise TypeError, KeyError, ValueError or AttributeError unless `result` is what an evaluation stores."""
    for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        _check_share(result[key])
    for value in result["iou"].values():
        _check_share(value)
    settings = result["settings"]
    sound = (isinstance(result["model"], str), type(result["epoch"]) is int, bool(result["iou"]),
             isinstance(settings["scales"], list) and all(scale > 0 for scale in settings["scales"]),
             isinstance(settings["crf"], (dict, type(None))), isinstance(settings["names_sha256"], str),
             isinstance(settings["masks"], (str, type(None))),
             isinstance(settings.get("data_sha256", ""), str), isinstance(settings.get("dtype", ""), str),
             isinstance(result["saved"], list) and all(isinstance(kind, str) for kind in result["saved"]))
    if not all(sound):
        raise ValueError


def _check_share(value):
    if value is not None and not 0 <= value <= 1:
        raise ValueError


def report(result):
    """Log a result: a line for each class, the means, then the lines of the published log."""
    if result["settings"]["masks"] is None:
        logger.info("there are no masks to compare with: predictions only")
        return
    shown = [sum(row) for row in result["confusion"]]
    missing = [name for name, pixels in zip(result["iou"], shown) if not pixels]
    if missing:
        logger.warning("no ground truth mask in %s shows: %s; pixels of 255 are not counted",
                       result["settings"]["masks"], ", ".join(missing))
    width = max(map(len, result["iou"]))
    for name, value in result["iou"].items():
        logger.info("%s  %s", name.ljust(width), _percent(value))
    logger.info("mean IoU %s, pixel accuracy %s, mean accuracy %s, frequency-weighted IoU %s", *(
        _percent(result[key]) for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")))
    logger.info("[perclass] %s", " ".join("[%s: %s]" % (name, _share(value)) for name, value in result["iou"].items()))
    logger.info("[overall] [iou: %s]", _share(result["mean_iou"]))


def _percent(value):
    return "-" if value is None else "%.2f %%" % (100 * value)


def _share(value):
    return "-" if value is None else "%.4f" % value
