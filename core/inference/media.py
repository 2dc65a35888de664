"""The user's own pictures and videos: finding them, naming their results, reading and writing. No mxnet here."""
import collections
import contextlib
import glob
import os
from typing import Callable, Iterable, Iterator, List, NamedTuple, Tuple

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: a damaged file is reported in one line of ours
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from core.errors import UserError  # noqa: E402
from core.io.files import remove, replacing  # noqa: E402
from core.io.images import PICTURES, list_pictures, read_image  # noqa: E402
from core.io.logs import logger  # noqa: E402
from core.io.resize import shrink  # noqa: E402

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = 25.0  # frames per second of a video that does not say
_STANDSTILL = 3  # frames at the end that repeat the one before
_LIKELY_RATE = 120  # frames per second; headers with more rather mean the ticks of a clock
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
        matched = [file for match in matches for file in (
            list_pictures(match, PICTURES + VIDEOS, leave_out) if os.path.isdir(match) else [match])]
        if not matched:
            reason = ("there is no picture or video in this folder" if os.path.isdir(path)
                      else "there is no such file, and it matches nothing as a pattern")
            raise UserError(f"{path}: {reason}")
        files.update((os.path.abspath(file), None) for file in matched)

    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    names = {file: os.path.relpath(file, folder) for file in files}
    stems = collections.Counter(os.path.splitext(name)[0] for name in names.values())
    stems.update(names.values())  # a.jpg.jpg is no a.jpg
    return [Medium(name if is_video(name) or stems[os.path.splitext(name)[0]] > 1 else os.path.splitext(name)[0], file)
            for file, name in names.items()]


def is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEOS


def read_picture(path: str, max_side: int) -> Tuple[np.ndarray, Tuple[int, ...]]:
    """A picture, (h, w, 3) uint8 RGB, whose longer side is scaled down to `max_side` pixels, and its (h, w) before."""
    image = read_image(path)
    return shrink(image, max_side), image.shape[:2]


class Video:
    """Frames of a video file as a player shows them: turned and stretched as the file says.

    Attributes:
        rate: frames per second.
        announced: number of frames that the file should have; 0 if it does not say.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(os.path.abspath(path))
        if not self._capture.isOpened():
            reason = "the file is damaged, or no video" if os.path.isfile(path) else "there is no such file"
            raise UserError(f"{path} can't be decoded: {reason}")
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        width, height = (self._capture.get(side) for side in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
        self._stretch = width / height if width > 0 and height > 0 else 1.0  # width of a pixel by its height
        self.rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        if not 0 < self.rate <= _LIKELY_RATE:
            self.rate, self.announced = _measured(path)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (h, w, 3) uint8 RGB frames of square pixels, upright."""
        good, frame = self._capture.read()
        if not good:
            raise UserError(f"{self._path} can't be decoded: it has no readable frame")
        repeated = 0
        while good:
            yield self._square(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            last = frame
            good, frame = self._capture.read()
            repeated = repeated if not good else repeated + 1 if np.array_equal(frame, last) else 0
        self._capture.release()
        if repeated >= _STANDSTILL:  # OpenCV decodes no frame larger than the first one, and says nothing
            logger.warning("%s: the last %d frames are all the same; unless the video stands still there, it changes "
                           "its size, which can't be read: convert it to one size first", self._path, repeated + 1)

    def _square(self, frame: np.ndarray) -> np.ndarray:
        """Stretch a frame of pixels that are not square, as of DVDs and camcorders, so that they are."""
        if self._stretch == 1:
            return frame
        quarter_turned = self._capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90
        stretch = 1 / self._stretch if quarter_turned else self._stretch
        height, width = frame.shape[:2]
        return cv2.resize(frame, (round(width * max(1, stretch)), round(height * max(1, 1 / stretch))),
                          interpolation=cv2.INTER_LINEAR)


def _measured(path: str) -> Tuple[float, int]:
    """Frames per second and number of frames of a video whose header gives none, by the times of its frames.

    Browsers record such videos: frames come when they come, and the header has the ticks of the clock as the rate.
    """
    capture, times = cv2.VideoCapture(os.path.abspath(path)), []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    seconds = times[-1] - times[0] if times else 0
    rate = (len(times) - 1) / seconds if seconds > 0 else _USUAL_RATE
    return (rate if rate <= _MOST_TICKS else _USUAL_RATE), len(times)


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
        unfinished = temporary + ".mp4"  # OpenCV chooses the container by the extension
        stack.callback(remove, unfinished, missing_ok=True)
        stack.callback(writer.release)

        def add(frame):
            nonlocal count
            size = frame.shape[1::-1]
            if not count and not writer.open(unfinished, cv2.VideoWriter.fourcc(*"mp4v"), round(rate, decimals), size):
                raise UserError(f"{path} can't be written: OpenCV can't encode frames of {size[0]} x {size[1]} pixels "
                                "as MPEG-4 here")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1

        yield add
        writer.release()
        if cv2.VideoCapture(unfinished).get(cv2.CAP_PROP_FRAME_COUNT) != count:  # OpenCV overlooks a full disk
            raise UserError(f"{path} can't be written: OpenCV wrote fewer than {count} frames; is the disk full?")
        os.replace(unfinished, temporary)


def _is_below(path, folders):
    """Whether a path is one of the folders, given by their real paths, or lies in or below one."""
    return any(f"{os.path.realpath(path)}{os.sep}".startswith(folder + os.sep) for folder in folders)
