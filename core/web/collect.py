"""Stage 0: collect web images of each class, clean them, and keep every evaluation image out of them.

The manifest, dataset/web_manifest.jsonl, has a line for each candidate that was decided on, in the order of the
decisions. It is what a later run goes on from.
"""
import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import urllib.parse
import warnings

import numpy as np
from PIL import Image, ImageOps

from core.classes import BACKGROUND
from core.errors import UserError
from core.io.files import read_bytes, read_list, write_bytes, write_lines
from core.io.images import encode_image, read_image
from core.io.locks import locked
from core.io.logs import logger, progress
from core.paths import Layout, folder_lock, image_path, stems
from core.runtime.parallel import ordered_map
from core.web.downloader import Failed, Rejected
from core.web.duplicates import HASH_BYTES, HashIndex, both_hashes

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")  # not EPS, whose decoder is a programming language
_QUALITY = 95  # of the stored JPEGs


def fetch_web_images(config, source, downloader, retry=()):
    """Fill dataset/web_images from a source's candidates, up to `web_images_per_class` of each class.

    Candidates in the manifest are not asked for again. Near duplicates of a kept image of any class, and of the
    evaluation images, are rejected; kept images are compared with these again in every run, so that images fetched
    before VOC, or val images of the user's own, were there are taken out once they are.

    Args:
        source: function from a class index to an iterator over web_sources.Candidate.
        downloader: download.Downloader.
        retry: statuses of candidates that are decided on again: "failed", for a reason that may have passed;
            "rejected", by settings that have changed since, or for a file that was mended.

    Returns:
        number of images of all classes that are there now.

    Raises:
        UserError: another run is at work, a file is damaged or can't be written, or the source can't be asked.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decode has its own limit
    layout = Layout(config)
    lock = locked(folder_lock(layout.web_images), "fetching into %s" % layout.web_images)
    with lock, contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(config.web_threads, "download"))
        stack.callback(downloader.close)  # comes before the wait for the pool's threads
        manifest = Manifest(layout, config)
        manifest.forget(retry)
        index = _index(manifest, layout, pool, config.web_hash_distance)
        stack.enter_context(contextlib.closing(manifest.save()))
        for class_index, name in enumerate(config.classes):
            wanted = config.web_images_per_class - manifest.counts[class_index]
            if class_index != BACKGROUND and wanted > 0:
                kept = _keep(config, class_index, source, downloader, pool, manifest, index)
                for _ in progress(_first(wanted, kept), wanted, "images of " + name):
                    pass
        _report(config, manifest)
        return sum(manifest.counts.values())


def _first(count, items):
    """The first `count` items; no further one is asked for, which would start more downloads."""
    with contextlib.closing(items):
        for _, item in zip(range(count), items):
            yield item


def _keep(config, class_index, source, downloader, pool, manifest, index):
    """Decide on a class's candidates in their order, whichever download ends first; yield each kept name."""
    process = functools.partial(_process, config=config, downloader=downloader)
    class_name = config.classes[class_index]
    fresh = (candidate for candidate in source(class_index) if manifest.is_new(class_name, candidate.url))
    with contextlib.closing(ordered_map(process, fresh, pool, 2 * config.web_threads)) as processed:
        for candidate, (result, jpeg, codes) in processed:
            near = index.near(codes, config.web_hash_distance) if jpeg else ()
            if near:
                result.update(status="rejected", reason="near duplicate of %s" % near[0])
            row = {"status": result.pop("status"), "class": class_name}
            row.update((name, value) for name, value in candidate._asdict().items() if name != "class_index" and value)
            if row["status"] == "kept":
                row["name"] = manifest.free_name(class_index)
                write_bytes(manifest.pending(row["name"]), jpeg)
            row.update(result)
            manifest.append(row)
            if row["status"] == "kept":
                index.add(row["name"], codes[0])
                yield row["name"]


def _process(candidate, config, downloader):
    """Get and prepare one image.

    Returns:
        dict of the status and what is known of the image; content of the JPEG and (2, 32) uint8 hashes, or None twice.
    """
    row = {}
    try:
        content = _read_local(candidate.url, config) if candidate.source == "folder" else downloader.get(candidate.url)
        row.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        image = decode(content, config, row)
    except Rejected as error:
        row.update(status="failed" if isinstance(error, Failed) else "rejected", reason=str(error))
        return row, None, None
    codes = both_hashes(image)
    jpeg = encode_image(image, ".jpg", _QUALITY)
    row.update(status="kept", size=[image.shape[1], image.shape[0]], file_sha256=hashlib.sha256(jpeg).hexdigest(),
               phash=codes[0].tobytes().hex())
    return row, jpeg, codes


def _read_local(url, config):
    path = os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(url).path))
    try:
        size = os.path.getsize(path)
        if size > config.web_bytes:
            raise Rejected("too large: %d bytes" % size)
        return read_bytes(path)
    except (OSError, UserError) as error:
        raise Failed(str(error)) from error


def decode(content, config, row):
    """Decode an image of any origin, turned as its EXIF orientation says, transparency on white, shrunk to the limit.

    Args:
        content: bytes.
        row: dict that gets the width and height as they came, "source_size".

    Returns:
        (h, w, 3) uint8 RGB, the longest side at most `web_longest_side`.

    Raises:
        Rejected: unreadable, too large to decode, tiny, or of an extreme aspect ratio.
    """
    limit = (config.web_longest_side,) * 2
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            row["source_size"] = list(image.size)
            short, long = sorted(image.size)
            if short * long > config.web_pixels:
                raise Rejected("too many pixels: %d x %d" % image.size)
            if short < config.web_shortest_side:
                raise Rejected("tiny: %d x %d pixels" % image.size)
            if long > config.web_aspect_ratio * short:
                raise Rejected("extreme aspect ratio: %d x %d pixels" % image.size)
            image.draft("RGB", limit)  # lets a JPEG's decoder shrink it
            image = ImageOps.exif_transpose(image)
            if image.mode == "F":
                raise Rejected("its pixels are floating-point numbers")
            if image.mode.startswith("I"):  # Pillow would clip its 16 bits
                image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8))
            if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            image.thumbnail(limit, Image.LANCZOS)
            return np.asarray(image)
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected("too many pixels: %s" % error) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise Rejected("unreadable: %s, the content starts with %r" % (error or type(error).__name__, content[:16])
                       ) from error


class Manifest:
    """The lines of dataset/web_manifest.jsonl, one JSON object for each candidate that was decided on.

    A kept image's file gets its name just after its line was written: after a kill the file of the last line may
    still have the name of `pending`. Any other file that is missing was deleted by its user: it stays away.

    Attributes:
        rows: list of dict.
        counts: Counter from class index to the number of its kept images.

    Raises:
        UserError: a line is damaged, or the classes have another order now.
    """

    def __init__(self, layout, config):
        self.folder, self._path, self._file = layout.web_images, layout.web_manifest, None
        content = read_bytes(self._path) if os.path.exists(self._path) else b""
        *lines, rest = content.split(b"\n")  # the rest is empty but after a kill amid a line, or an editor
        self.rows = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        if rest:
            with contextlib.suppress(UserError):
                self.rows.append(self._parse(len(lines) + 1, rest))
        if self.rows and self.rows[-1]["status"] == "kept" and os.path.exists(self.pending(self.rows[-1]["name"])):
            self._finish(self.rows[-1]["name"])
        files = stems(self.folder, ".jpg")
        self._changed = bool(rest)
        for row in self.rows:
            if row["status"] == "kept" and row["name"] in files:
                self._check_class(row, config)
        self._decided = {(row["class"], row["url"]) for row in self.rows}
        self.counts = collections.Counter(config.classes.index(row["class"]) for row in self.rows
                                          if row["status"] == "kept" and row["name"] in files
                                          and row["class"] in config.classes)
        named = {row["name"] for row in self.rows if "name" in row}
        self._last = collections.Counter()  # class index: highest number in use
        for name in named | files:
            match = re.fullmatch("([0-9]+)_([0-9]+)", name)
            if match:
                class_index, number = map(int, match.groups())
                self._last[class_index] = max(self._last[class_index], number)
        if files - named:
            logger.warning("%s has %d images that %s does not know, such as %s.jpg: they are compared with nothing; "
                           "--folder takes in images of your own", self.folder, len(files - named),
                           os.path.basename(self._path), min(files - named))

    def _parse(self, number, line):
        try:
            row = json.loads(line.decode())
            if not all(isinstance(row[key], str) for key in ("class", "url", "status")):
                raise ValueError
            if row["status"] == "kept":
                if not re.fullmatch("[0-9]+_[0-9]+", row["name"]) or len(_codes(row)) != HASH_BYTES:
                    raise ValueError
            elif not isinstance(row["reason"], str):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError("%s, line %d is damaged: remove the line" % (self._path, number)) from error
        return row

    def _check_class(self, row, config):
        index = int(row["name"].split("_")[0])
        if config.classes[index:index + 1] != (row["class"],):
            raise UserError("%s.jpg is of class %s, but class %d is %s now: keep the order of the classes and put new "
                            "ones at the end, or fetch into another --root"
                            % (os.path.join(self.folder, row["name"]), row["class"], index,
                               config.classes[index] if index < config.num_classes else "none"))

    def forget(self, statuses):
        """Let candidates of these statuses be decided on again."""
        kept = [row for row in self.rows if row["status"] not in statuses]
        self._changed |= len(kept) < len(self.rows)
        self.rows = kept
        self._decided = {(row["class"], row["url"]) for row in self.rows}

    def reject(self, name, reason):
        """Take a kept image out: its file now, so that a kill leaves none, and its status on `save`."""
        row = next(row for row in self.rows if row.get("name") == name)
        with contextlib.suppress(FileNotFoundError):
            os.remove(image_path(self.folder, name))
            self.counts[int(name.split("_")[0])] -= 1
        row.update(status="rejected", reason=reason)
        self._changed = True

    def save(self):
        """Write the file anew where lines changed, and get ready to append; returns self."""
        if self._changed:
            write_lines(self._path, [json.dumps(row) for row in self.rows])
        try:
            self._file = open(self._path, "ab", buffering=0)
        except OSError as error:
            raise UserError("%s can't be written: %s" % (self._path, error.strerror)) from error
        return self

    def close(self):
        self._file.close()

    def is_new(self, class_name, url):
        """Whether an address was not asked for before; from now on it was."""
        new = (class_name, url) not in self._decided
        self._decided.add((class_name, url))
        return new

    def free_name(self, class_index):
        return "%d_%06d" % (class_index, self._last[class_index] + 1)

    def pending(self, name):
        """Path of a kept image whose line is not written yet."""
        return os.path.join(self.folder, ".%s.jpg.new" % name)

    def _finish(self, name):
        try:
            os.replace(self.pending(name), image_path(self.folder, name))
        except OSError as error:
            raise UserError("%s can't be written: %s" % (image_path(self.folder, name), error.strerror)) from error

    def append(self, row):
        """Add a line and, where it is of a kept image, give its `pending` file its name."""
        try:
            self._file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            raise UserError("%s can't be written: %s" % (self._path, error.strerror)) from error
        self.rows.append(row)
        if row["status"] == "kept":
            self._finish(row["name"])
            class_index, number = map(int, row["name"].split("_"))
            self._last[class_index] = number
            self.counts[class_index] += 1


def _codes(row):
    return np.frombuffer(bytes.fromhex(row["phash"]), np.uint8)


def _index(manifest, layout, pool, distance):
    """Index of the hashes of the evaluation images and of the kept ones that are no copies of them."""
    kept = HashIndex()
    for row in manifest.rows:
        if row["status"] == "kept":
            kept.add(row["name"], _codes(row))
    index = HashIndex()
    copies = {}
    names = _evaluation_images(layout)
    hashed = ordered_map(_hash_file, names.values(), pool, 16)
    for name, (_, codes) in zip(names, progress(hashed, len(names), "evaluation images")):
        index.add(name, codes[0])
        copies.update((near, "near duplicate of %s" % name) for near in kept.near(codes, distance))
    for name, reason in copies.items():
        manifest.reject(name, reason)
    if copies:
        logger.warning("%d kept images were copies of evaluation images and are taken out, such as %s (%s): run "
                       "create_web_masks.py again", len(copies), *next(iter(copies.items())))
    for row in manifest.rows:
        if row["status"] == "kept":
            index.add(row["name"], _codes(row))
    return index


def _hash_file(path):
    return both_hashes(read_image(path))


def _evaluation_images(layout):
    """Dict from "VOC <id>" or "val <id>" to the path of each evaluation image that is there; warns of the others.

    They are VOC's val and test images, and the val images of create_dataset.py.
    """
    lists = [("VOC", os.path.join(layout.voc, "ImageSets", "Segmentation", part + ".txt"), layout.voc_images)
             for part in ("val", "test")]
    lists.append(("val", layout.val_list, layout.val_images))
    if not os.path.exists(lists[0][1]) and not os.path.exists(layout.val_list):
        logger.warning("%s is missing, and so is %s: web images can't be compared with the evaluation images; once "
                       "one is there, run this again", lists[0][1], layout.val_list)
    paths, places = {}, set()
    for origin, path, folder in lists:
        for name in read_list(path) if os.path.exists(path) else ():
            place = os.path.realpath(image_path(folder, name))
            if place not in places:  # create_dataset.py links to VOC's images
                paths["%s %s" % (origin, name)] = image_path(folder, name)
                places.add(place)
    missing = [path for path in paths.values() if not os.path.exists(path)]
    if missing:
        logger.warning("%d of %d evaluation images are missing, such as %s: web images can't be compared with them; "
                       "once they are there, run this again", len(missing), len(paths), missing[0])
    return {name: path for name, path in paths.items() if path not in set(missing)}


def _report(config, manifest):
    for class_index, name in enumerate(config.classes):
        reasons = collections.Counter(re.split(" of |:", row["reason"])[0] for row in manifest.rows
                                      if row["class"] == name and row["status"] != "kept")
        if class_index != BACKGROUND:
            logger.info("%s: %d images%s", name, manifest.counts[class_index], "; not kept: " + ", ".join(
                "%s %d" % item for item in reasons.most_common()) if reasons else "")
    failed = sum(row["status"] == "failed" for row in manifest.rows)
    logger.info("%d images in %s%s", sum(manifest.counts.values()), manifest.folder,
                "; %d downloads failed for reasons that may pass: --retry-failed tries them again" % failed
                if failed else "")
