"""Collect web images of each class, clean them, and keep every evaluation image out of them."""
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import urllib.parse
from typing import Any, Container, Dict, List, Optional, Tuple

from core.classes import BACKGROUND
from core.config import Config
from core.data import check_classes
from core.errors import UserError
from core.io.files import read_bytes, read_list, write_bytes
from core.io.images import encode_image, read_image
from core.io.logs import logger, progress
from core.paths import Layout, class_of, image_path
from core.runtime.parallel import ordered_map
from core.web.cleaning import decode
from core.web.corrections import naming
from core.web.downloader import MOST_BYTES, THREADS, Downloader, Failed, Rejected
from core.web.duplicates import Fingerprint, HashIndex, fingerprints
from core.web.manifest import Manifest, reasons
from core.web.sources import Candidate, Source

_QUALITY = 95  # of the stored JPEGs


def fetch_web_images(config: Config, source: Source, downloader: Downloader, *, retry: Container[str] = ()) -> int:
    """Fill dataset/web_images from a source's candidates, up to `web_images_per_class` of each class.

    Candidates in the manifest are not asked for again. Near duplicates of a kept image of any class, and of the
    evaluation images, are rejected. Every run compares the kept images with the evaluation images again, so that web
    images fetched before VOC, or the user's own val images, were in place are still taken out.

    Args:
        source: function from a class index to its candidates.
        retry: statuses of candidates that are decided on again: "failed", for a reason that may have passed;
            "rejected", by settings that have changed since, or for a file that was fixed.

    Returns:
        number of images of all classes that are there now.

    Raises:
        UserError: another run is at work, a file is damaged or can't be written, or the source can't be asked.
    """
    layout = config.layout
    with naming(layout), contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(THREADS, "download"))
        stack.callback(downloader.close)  # runs before the wait for the pool's threads
        manifest = Manifest(layout, config)
        kept_classes = {class_of(row["name"]) for row in manifest.kept()}
        check_classes(config, kept_classes.union(range(config.num_classes)), record=True)
        manifest.forget(retry)
        index = _index(manifest, layout, pool, config.web_hash_distance)
        stack.enter_context(contextlib.closing(manifest.save()))
        for class_index, name in enumerate(config.classes):
            wanted = config.web_images_per_class - manifest.counts[class_index]
            if class_index != BACKGROUND and wanted > 0:
                kept = _keep(config, class_index, source, downloader, pool, manifest, index)
                for _ in progress(kept, wanted, f"images of {name}"):
                    pass
        manifest.save()
        _report(config, manifest)
        return sum(manifest.counts.values())


def _keep(config, class_index, source, downloader, pool, manifest, index):
    """Decide on a class's candidates in their order, whichever download ends first; yield each kept name."""
    process = functools.partial(_process, config=config, downloader=downloader)
    class_name = config.classes[class_index]
    fresh = (candidate for candidate in source(class_index) if manifest.is_new(class_name, candidate.url))
    with contextlib.closing(ordered_map(process, fresh, pool, 2 * THREADS)) as processed:
        for _, (row, jpeg, views) in processed:
            if jpeg and not manifest.reject_placeholder(row):
                near = next(index.matches(views, config.web_hash_distance), None)
                if near is None:
                    row["name"] = manifest.free_name(class_index)
                    write_bytes(manifest.pending(row["name"]), jpeg)
                else:
                    row.update(status="rejected", reason=f"near duplicate of {near}")
            manifest.append(row)
            if row["status"] == "kept":
                index.add(row["name"], *manifest.hash_and_path(row))
                yield row["name"]
                if manifest.counts[class_index] >= config.web_images_per_class:
                    return  # the next candidate would start another download


def _process(candidate: Candidate, config: Config, downloader: Downloader
             ) -> Tuple[Dict[str, Any], Optional[bytes], List[Fingerprint]]:
    """Get and prepare one image.

    Returns:
        row of the manifest, but for its name; content of the JPEG, or None; fingerprints, or none.
    """
    row: Dict[str, Any] = {"status": "kept", "class": config.classes[candidate.class_index]}
    row.update((name, value) for name, value in candidate._asdict().items() if name != "class_index" and value)
    try:
        content = _read_local(candidate.url) if candidate.source == "folder" else downloader.get(candidate.url)
        row.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        image = decode(content, config, row)
    except Rejected as error:
        row.update(status="failed" if isinstance(error, Failed) else "rejected", reason=str(error))
        return row, None, []
    views = fingerprints(image)
    jpeg = encode_image(image, ".jpg", _QUALITY)
    row.update(size=[image.shape[1], image.shape[0]], file_sha256=hashlib.sha256(jpeg).hexdigest(),
               phash=views[0].code.tobytes().hex())
    return row, jpeg, views


def _read_local(url: str) -> bytes:
    path = os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(url).path))
    try:
        size = os.path.getsize(path)
        if size > MOST_BYTES:
            raise Rejected(f"too large: {size} bytes")
        return read_bytes(path)
    except (OSError, UserError) as error:
        raise Failed(str(error)) from error


def _index(manifest: Manifest, layout: Layout, pool: concurrent.futures.Executor, distance: int) -> HashIndex:
    """Index of the evaluation images and of the kept ones that are no copies of them; the copies are rejected."""
    kept = HashIndex()
    for row in manifest.kept():
        kept.add(row["name"], *manifest.hash_and_path(row))
    index = HashIndex()
    copies = {}
    names = _evaluation_images(layout)
    fingerprinted = ordered_map(lambda path: fingerprints(read_image(path)), names, pool, 16)
    for path, views in progress(fingerprinted, len(names), "evaluation images"):
        index.add(names[path], views[0].code, path)
        copies.update((near, f"near duplicate of {names[path]}") for near in kept.matches(views, distance))
    for name, reason in copies.items():
        manifest.reject(name, reason)
    if copies:
        logger.warning("%d kept images were copies of evaluation images and have been removed, such as %s (%s): run "
                       "create_web_masks.py again", len(copies), *next(iter(copies.items())))
    for row in manifest.kept():
        index.add(row["name"], *manifest.hash_and_path(row))
    return index


def _evaluation_images(layout: Layout) -> Dict[str, str]:
    """Dict from the path of each evaluation image that is there to "VOC <id>" or "val <id>"; warns of missing ones.

    They are VOC's val and test images, and the val images of create_dataset.py.
    """
    lists = [("VOC", layout.voc_list(split), layout.voc_images) for split in ("val", "test")]
    lists.append(("val", layout.val_list, layout.val_images))
    if not os.path.exists(lists[0][1]) and not os.path.exists(layout.val_list):
        logger.warning("neither %s nor %s exists: web images are not compared with the evaluation images; run this "
                       "again once one of them does", lists[0][1], layout.val_list)
    names: Dict[str, str] = {}
    for origin, path, folder in lists:
        for name in read_list(path) if os.path.exists(path) else ():  # create_dataset.py links to VOC's images
            names.setdefault(os.path.realpath(image_path(folder, name)), f"{origin} {name}")
    present = {path: name for path, name in names.items() if os.path.exists(path)}
    if len(present) < len(names):
        logger.warning("%d of %d evaluation images are missing, such as %s: web images are not compared with them; run "
                       "this again once they are there", len(names) - len(present), len(names),
                       next(path for path in names if path not in present))
    return present


def _report(config: Config, manifest: Manifest) -> None:
    for class_index, name in enumerate(config.classes):
        counts = reasons(manifest.rows, name).most_common()
        if class_index != BACKGROUND:
            logger.info("%s: %d images%s", name, manifest.counts[class_index], "; not kept: " + ", ".join(
                f"{reason} {count}" for reason, count in counts) if counts else "")
    failed = sum(row["status"] == "failed" for row in manifest.rows)
    hint = f"; {failed} downloads failed for reasons that may pass: --retry-failed tries them again" if failed else ""
    logger.info("%d images in %s%s", sum(manifest.counts.values()), manifest.folder, hint)
