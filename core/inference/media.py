"""The user's own pictures and videos: finding them, naming their results, reading and writing. No mxnet here."""
import collections
import contextlib
import glob
import os
import struct
from typing import BinaryIO, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: a damaged file is reported in one line of ours
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from core.errors import UserError  # noqa: E402
from core.io.files import remove, replacing, walk  # noqa: E402
from core.io.images import PICTURES, read_image, turned  # noqa: E402
from core.io.resize import shrink  # noqa: E402

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_IDENTITY = (1.0, 0.0, 0.0, 1.0)
_ORIENTATIONS: Dict[Tuple[int, ...], int] = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4, (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8}  # display matrix: EXIF orientation
_MOST_STRETCHED = 4  # width of a pixel by its height; more is a damaged header
_USUAL_RATE = 25.0  # frames per second of a video that does not say
_MOST_TICKS = 65535  # per second, of MPEG-4: the numerator of a rate that is written as a decimal fraction


class Medium(NamedTuple):
    """A file and the name of its results: with folders, and with the extension only if it is needed."""
    name: str
    path: str


def find_media(paths: Iterable[str], leave_out: Iterable[str] = ()) -> List[Medium]:
    """Pictures and videos that a command line names.

    Args:
        paths: files, folders that are searched for pictures and videos, and patterns with * ? [] or **.
        leave_out: folders that are not searched, and in which patterns match nothing.

    Returns:
        list of Medium, each file once, in the order of the paths. Names are relative to the innermost folder with all
        files, and have no extension, unless the file is a video or another one has the same name without it.

    Raises:
        UserError: a path or pattern matches nothing.
    """
    leave_out = {os.path.realpath(folder) for folder in leave_out}
    files = collections.OrderedDict()
    for path in paths:
        matches = [path] if os.path.lexists(path) else [
            match for match in sorted(glob.glob(path, recursive=True)) if not _is_below(match, leave_out)]
        found = [file for match in matches for file in _files(match, leave_out)]
        if not found:
            reason = ("there is no picture or video in this folder" if os.path.isdir(path)
                      else "there is no such file, and it matches nothing as a pattern")
            raise UserError(f"{path}: {reason}")
        files.update((os.path.abspath(file), None) for file in found)

    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    names = {file: os.path.relpath(file, folder) for file in files}
    stems = collections.Counter(os.path.splitext(name)[0] for name in names.values())
    stems.update(names.values())  # a.jpg.jpg is no a.jpg
    return [Medium(name if is_video(name) or stems[os.path.splitext(name)[0]] > 1 else os.path.splitext(name)[0], file)
            for file, name in names.items()]


def is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEOS


def read_picture(path: str, max_side: int) -> Tuple[np.ndarray, Tuple[int, ...]]:
    """Decode a picture and scale it down until its longer side has at most `max_side` pixels.

    Returns:
        ((h, w, 3) uint8 RGB, (h, w) of the picture itself).

    Raises:
        UserError: as `images.read_image`.
    """
    image = read_image(path)
    return shrink(image, max_side), image.shape[:2]


class Video:
    """Frames of a video file as a player shows them: turned, mirrored and stretched as the file says.

    Attributes:
        rate: frames per second.
        announced: number of frames according to the file's header; 0 if it gives none.
    """

    def __init__(self, path: str) -> None:
        """
        Raises:
            UserError: the file is missing, damaged, no video, or shown askew.
        """
        self._path = path
        self._capture = cv2.VideoCapture(os.path.abspath(path))
        if not self._capture.isOpened():
            reason = "the file is damaged, or no video" if os.path.isfile(path) else "there is no such file"
            raise UserError(f"{path} can't be decoded: {reason}")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it knows no mirrors
        self._orientation = _orientation(path, self._capture.get(cv2.CAP_PROP_ORIENTATION_META))
        width, height = (self._capture.get(part) for part in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
        self._stretch = width / height if width > 0 and height > 0 else 1.0  # width of a pixel by its height
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (h, w, 3) uint8 RGB frames of square pixels, upright.

        Raises:
            UserError: there is no frame at all.
        """
        empty = True
        while True:
            good, frame = self._capture.read()
            if not good:
                break
            empty = False
            yield turned(self._square(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)), self._orientation)
        self._capture.release()
        if empty:
            raise UserError(f"{self._path} can't be decoded: it has no readable frame")

    def _square(self, frame: np.ndarray) -> np.ndarray:
        """Stretch a frame of pixels that are not square, as of DVDs and camcorders, so that they are."""
        if not 1 / _MOST_STRETCHED <= self._stretch <= _MOST_STRETCHED or self._stretch == 1:
            return frame
        height, width = frame.shape[:2]
        size = round(width * max(1, self._stretch)), round(height * max(1, 1 / self._stretch))
        return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


def _orientation(path: str, angle: float) -> int:
    """EXIF orientation of a video's frames, from the matrix in MP4 and MOV files, else from the angle FFmpeg gives.

    Raises:
        UserError: the video is shown at another angle, or slanted.
    """
    matrix: Optional[Sequence[float]] = _display_matrix(path)
    if matrix is None:
        matrix = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}.get(round(angle) % 360)
    if matrix is not None and not any(matrix):  # as some programs write it
        return 1
    orientation, straight = None, False
    if matrix is not None:
        largest = max(map(abs, matrix))
        orientation = _ORIENTATIONS.get(tuple(round(value / largest) for value in matrix))
        straight = all(not 0.02 < abs(value) / largest <= 0.5 for value in matrix)
    if not orientation or not straight:
        raise UserError(f"{path} is to be shown turned by an angle that is no multiple of 90 degrees, or slanted: save "
                        f"it upright first")
    return orientation


def _display_matrix(path: str) -> Optional[Tuple[float, float, float, float]]:
    """Upper left part (a, b, c, d) of the matrix of the first video track of an MP4 or MOV file, or None.

    A pixel at (x, y) is shown at (a x + c y, b x + d y); ISO/IEC 14496-12, 8.2.2 and 8.3.2.
    """
    try:
        with open(path, "rb") as file:
            for kind, start, end in _boxes(file, 0, os.path.getsize(path)):
                if kind != b"moov":
                    continue
                movie, parts = _IDENTITY, list(_boxes(file, start, end))
                for kind, start, _ in parts:
                    if kind == b"mvhd":
                        movie = _matrix(file, start, 36, 48)
                for kind, start, end in parts:
                    boxes = {kind: place for kind, *place in _boxes(file, start, end)} if kind == b"trak" else {}
                    if b"tkhd" in boxes and _is_picture_track(file, boxes.get(b"mdia")):
                        track = _matrix(file, boxes[b"tkhd"][0], 40, 52)
                        return tuple((np.reshape(track, (2, 2)) @ np.reshape(movie, (2, 2))).ravel().tolist())
    except (OSError, struct.error):
        pass  # not of that family, or damaged: FFmpeg says which
    return None


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Tuple[bytes, int, int]]:
    """Yield kind, start and end of the content of each box between two places of a file."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", file.read(8))[0], 16
        if size == 0:
            size = end - start
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size


def _matrix(file: BinaryIO, start: int, place: int, place_of_version_1: int) -> Tuple[float, float, float, float]:
    file.seek(start)
    file.seek(start + (place_of_version_1 if file.read(1) == b"\x01" else place))
    a, b, _, c, d = struct.unpack(">5i", file.read(20))
    return a / 65536, b / 65536, c / 65536, d / 65536


def _is_picture_track(file: BinaryIO, media: Optional[List[int]]) -> bool:
    """Whether the handler in a track's media box is that of videos."""
    for kind, start, _ in _boxes(file, *media) if media else ():
        if kind == b"hdlr":
            file.seek(start + 8)
            return file.read(4) == b"vide"
    return False


@contextlib.contextmanager
def video_writer(path: str, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends a frame, (h, w, 3) uint8 RGB and of one shape all, to an MP4 file (MPEG-4 part 2),
    which appears when the block ends well.

    Args:
        rate: frames per second; rounded to what the format can express.

    Raises:
        UserError: OpenCV can't encode such frames, the folder can't be written to, or the disk is full.
    """
    decimals = next(decimals for decimals in (3, 2, 1, 0) if rate * 10 ** decimals <= _MOST_TICKS)
    writer, count = cv2.VideoWriter(), 0
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        part = temporary + ".mp4"  # OpenCV chooses the container by the extension
        stack.callback(remove, part, missing_ok=True)
        stack.callback(writer.release)

        def add(frame):
            nonlocal count
            size = frame.shape[1::-1]
            if not count and not writer.open(part, cv2.VideoWriter.fourcc(*"mp4v"), round(rate, decimals), size):
                raise UserError(f"{path} can't be written: OpenCV can't encode frames of {size[0]} x {size[1]} pixels "
                                "as MPEG-4 here")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1

        yield add
        writer.release()
        if cv2.VideoCapture(part).get(cv2.CAP_PROP_FRAME_COUNT) != count:  # OpenCV overlooks a full disk
            raise UserError(f"{path} can't be written: OpenCV wrote fewer than {count} frames; is the disk full?")
        os.replace(part, temporary)


def _is_below(path, folders):
    """Whether a path is one of the folders, given by their real paths, or lies in or below one."""
    return any(f"{os.path.realpath(path)}{os.sep}".startswith(folder + os.sep) for folder in folders)


def _files(path, leave_out):
    """The file itself, or the pictures and videos in and below a folder, in the order of their names."""
    if not os.path.isdir(path):
        return [path]
    found = []
    for folder, names in walk(path, leave_out):
        files = [os.path.join(folder, name) for name in names if os.path.splitext(name)[1].lower() in PICTURES + VIDEOS]
        found += [file for file in files if os.path.isfile(file) or not os.path.exists(file)]  # no pipes and devices
    return found
