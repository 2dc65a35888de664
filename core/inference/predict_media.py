"""Pictures and videos of the user's own: masks, overlays, scores, and what is in them."""
import collections
import concurrent.futures
import contextlib
import functools
import os
import shutil
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from core.classes import BACKGROUND
from core.config import Config
from core.engines.devices import Device
from core.errors import UserError
from core.inference.media import Medium, Video, is_video, read_picture, video_writer
from core.inference.options import SegmentationOptions
from core.inference.postprocess import Picture, masks_folder, overlay_path, scores_path, scoring_settings, segment
from core.inference.segmenter import Segmenter, score_pairs
from core.io.drawing import overlay
from core.io.files import file_digest, remove_leftovers, write_json
from core.io.locks import locked
from core.io.logs import logger, progress, versions
from core.io.provenance import StageRecord
from core.io.resize import shrink
from core.network.snapshots import Snapshot
from core.paths import check_no_true_mask, mask_path
from core.runtime.parallel import ordered_map, process_pool

_LONGEST_NAME = 255  # bytes of a file's name


def segment_media(snapshot: Snapshot, *, devices: List[Device], media: Sequence[Medium], options: SegmentationOptions,
                  jobs: int = 1) -> Dict[str, Any]:
    """Segment pictures and videos; write palette masks and overlays in their size, and predictions.json, whose
    entries are returned by name.

    A file that can't be decoded is reported, and the others follow. A killed run continues after the last finished one.

    Raises:
        UserError: a result would replace one of the files, a true mask or another result, another process fills the
            folder, a result can't be written; or, at the end, a file could not be segmented.
    """
    _check_apart(media, options.output)
    check_no_true_mask(masks_folder(options.output), [medium.name for medium in media],
                       snapshot.config.layout.val_masks)
    with locked(os.path.join(options.output, ".lock"), f"segmentation into {options.output}"):
        return _segment_media(snapshot, devices, media, options, jobs)


def _segment_media(snapshot, devices, media, options, jobs):
    config = snapshot.config
    settings = dict(scoring_settings(snapshot, options.inference), model=snapshot.model, epoch=snapshot.epoch,
                    max_side=options.max_side, scoremaps=options.save_scores,
                    labels=[config.classes[index] for index in options.allowed] if options.allowed else None)
    remove_leftovers(*(os.path.join(options.output, name) for name in ("masks", "overlays", "scoremaps")))
    record = StageRecord(os.path.join(options.output, "progress.jsonl"), f"the results in {options.output}",
                         disposable=True)
    record.claim(settings)
    record.stale({medium.name: {"path": medium.path, "sha256": _digest(medium.path)} for medium in media})
    rest = [medium for medium in media if medium.name not in record.values
            or not all(map(os.path.exists, _results(medium, record.values[medium.name], options)))]
    if len(rest) < len(media):
        logger.info("continuing after %d of %d files", len(media) - len(rest), len(media))

    logger.info("%s model, epoch %d: %s", snapshot.model, snapshot.epoch, snapshot.path)
    work = _Work(config, options, Segmenter(snapshot, devices, options.inference.dtype), jobs)
    many = len(rest) > 1 or any(is_video(medium.path) for medium in rest)
    with record, process_pool(jobs if options.inference.crf and many else 1) as pool:
        for medium, entry in progress(work.results(rest, pool), len(rest), "segmentation"):
            record.done(medium.name, entry)
            logger.info("%s: %d x %d pixels%s: %s", medium.path, entry["width"], entry["height"],
                        f", {entry['frames']} frames" if "frames" in entry else "", shares_text(entry["shares"]))

    entries = {medium.name: record.values[medium.name] for medium in media if medium.path not in work.failures}
    path = os.path.join(options.output, "predictions.json")
    write_json(path, {"settings": settings, "versions": versions(), "files": entries, "failures": work.failures})
    logger.info("%d of %d files are segmented: masks/, overlays/ and predictions.json in %s", len(entries), len(media),
                options.output)
    if work.failures:
        first = next(iter(work.failures.values()))
        others = "; the log names the others" if len(work.failures) > 1 else ""
        raise UserError(f"{len(work.failures)} of {len(media)} files could not be segmented: {first}{others}")
    record.finish()
    return entries


def shares_text(shares: Mapping[str, float]) -> str:
    """Classes and their shares of the pixels, the largest first: "background 80.0 %, cat 20.0 %"."""
    rows = sorted(shares.items(), key=lambda row: -row[1])
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in rows)


class _Work:
    """Takes every file from decoding to its results.

    Attributes:
        failures: dict from path to message, of the files that can't be decoded or have too long a name.
    """

    def __init__(self, config: Config, options: SegmentationOptions, segmenter: Segmenter, jobs: int):
        self.failures = {}
        self._config = config
        self._options = options
        self._segmenter = segmenter
        self._ahead = 2 * jobs

    def results(self, media: Sequence[Medium], pool: Optional[concurrent.futures.Executor]
                ) -> Iterator[Tuple[Medium, Dict[str, Any]]]:
        """Yield (medium, dict for predictions.json) for every file that can be decoded: pictures, then videos."""
        pictures = {medium.name: medium for medium in media if not is_video(medium.path)}
        for name, (shares, _), size in self._segment(self._pictures(pictures.values()), pool):
            yield pictures[name], self._entry(pictures[name], size, shares)
        for medium in media:
            if is_video(medium.path):
                with self._reporting(medium):
                    yield medium, self._video(medium, pool)

    def _segment(self, pairs, pool):
        """Yield (name, what `postprocess.segment` gives, (h, w)) for each (Picture, image)."""
        run = functools.partial(segment, config=self._config, options=self._options)
        scored = score_pairs(self._segmenter, pairs, self._options.inference)
        for done, result in ordered_map(run, scored, pool, self._ahead):
            yield done.name.name, result, done.name.size

    def _pictures(self, media):
        for medium in media:
            with self._reporting(medium):
                _check_lengths(medium, self._options.output)
                image, size = read_picture(medium.path, self._options.max_side)
                if image.shape[:2] != size:
                    logger.info("%s: %d x %d pixels, scaled down to %d x %d; see --max-side",
                                medium.path, *size[::-1], *image.shape[1::-1])
                self._segmenter.check_memory(medium.path, image.shape[:2], self._options.inference.scales)
                yield Picture(medium.name, medium.path, size), image

    def _video(self, medium, pool):
        """Write the masks of all frames, and the video with their overlays; returns its dict for predictions.json."""
        _check_lengths(medium, self._options.output)
        video = Video(medium.path)
        under_way = collections.deque()

        def frames():
            for number, frame in enumerate(video.frames(), 1):
                under_way.append(frame)
                image = shrink(frame, self._options.max_side)
                self._segmenter.check_memory(medium.path, image.shape[:2], self._options.inference.scales)
                yield Picture(_frame_name(medium, number), None, frame.shape[:2]), image

        for path in _picture_results(_frame_name(medium, 0), self._options):  # an earlier, longer video of this name
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)
        total = collections.Counter()
        count = 0
        with video_writer(video_path(self._options.output, medium.name), video.rate) as add:
            segmented = self._segment(frames(), pool)
            for _, (shares, mask), size in progress(segmented, video.announced or None, medium.name):
                add(overlay(under_way.popleft(), mask))
                total.update(shares)
                count += 1
        if video.announced and count < video.announced:
            logger.warning("%s announces %d frames, %d could be decoded", medium.path, video.announced, count)
        return dict(self._entry(medium, size, {index: share / count for index, share in total.items()}),
                    frames=count, frames_per_second=video.rate)

    def _entry(self, medium, size, shares):
        classes = self._config.classes
        return {"file": medium.path, "width": size[1], "height": size[0],
                "shares": {classes[index]: round(share, 6) for index, share in sorted(shares.items())}}

    @contextlib.contextmanager
    def _reporting(self, medium):
        """Record that a file can't be segmented instead of ending."""
        try:
            yield
        except UserError as error:
            if not str(error).startswith(medium.path):  # not about the file, but about a result of it
                raise
            self.failures[medium.path] = str(error)
            logger.error("left out: %s", error)


def allowed_classes(config: Config, text: str) -> List[int]:
    """Indices of the classes that a flag names, as "cat,dog"; the background may always occur."""
    return sorted({config.class_index(name.strip()) for name in text.split(",")} | {BACKGROUND})


def video_path(output: str, name: str) -> str:
    """Where the overlays of a video's frames go."""
    return os.path.join(output, "overlays", name if name.lower().endswith(".mp4") else name + ".mp4")


def _results(medium, entry, options):
    """Paths that a finished file's results have; of a video's masks and score maps, the last ones."""
    name = _frame_name(medium, entry["frames"]) if is_video(medium.path) else medium.name
    return _possible_results(medium, options.output) + _picture_results(name, options)


def _frame_name(medium, number):
    return f"{medium.name}/{number:06d}"


def _picture_results(name, options):
    """Paths of the mask and the scores of a picture, or of a frame of a video."""
    return [mask_path(masks_folder(options.output), name)] + [scores_path(options.output, name)] * options.save_scores


def _possible_results(medium, output):
    if is_video(medium.path):
        return [video_path(output, medium.name)]
    return [mask_path(masks_folder(output), medium.name), overlay_path(output, medium.name)]


def _check_lengths(medium, output):
    """Raise UserError if no file can have the name of one of a medium's results."""
    if any(len(os.fsencode(os.path.basename(path))) > _LONGEST_NAME for path in _possible_results(medium, output)):
        raise UserError(f"{medium.path}: its name is too long for those of its results: rename it")


def _check_apart(media, output):
    """Raise UserError if a result would take the place of one of the files, or of another's result."""
    inputs = {os.path.realpath(medium.path) for medium in media} | {medium.path for medium in media}
    owners = {}
    for medium in media:
        for path in _possible_results(medium, output):
            if os.path.abspath(path) in inputs or os.path.realpath(path) in inputs:
                raise UserError(f"the result {path} would take the place of a file to segment: choose another --output")
            if path in owners:
                raise UserError(f"{owners[path]} and {medium.path} have the same result, {path}: rename one")
            owners[path] = medium.path


def _digest(path):
    """SHA-256 of a file; None of one that can't be read, which is reported when its turn comes."""
    try:
        return file_digest(path) if os.path.isfile(path) else None
    except UserError:
        return None
