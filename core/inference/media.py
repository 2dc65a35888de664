"""The user's own pictures and videos: finding them, naming their results, reading and writing. No mxnet here."""
import collections
import contextlib
import glob
import os

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: a damaged file is reported in one line of ours
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from core.errors import UserError  # noqa: E402
from core.io.files import remove, replacing, walk  # noqa: E402
from core.io.images import PICTURES, read_image  # noqa: E402
from core.io.resize import shrink  # noqa: E402

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = 25.0  # frames per second of a video that does not say
_MOST_TICKS = 65535  # per second, of MPEG-4: the numerator of a rate that is written as a decimal fraction

Medium = collections.namedtuple("Medium", "name path")
Medium.__doc__ = """A file and the name of its results: with folders, and with the extension only if it is needed."""


def find_media(paths, leave_out=()):
    """Pictures and videos that a command line names.

    Args:
        paths: files, folders that are searched for pictures and videos, and patterns with * ? [] or **.
        leave_out: folders that are not searched.

    Returns:
        list of Medium, each file once, in the order of the paths. Names are relative to the innermost folder with all
        files, and have no extension, unless the file is a video or another one has the same name without it.

    Raises:
        UserError: a path or pattern matches nothing.
    """
    leave_out = {os.path.realpath(folder) for folder in leave_out}
    files = collections.OrderedDict()
    for path in paths:
        matches = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        found = [file for match in matches for file in _files(match, leave_out)]
        if not found:
            raise UserError("%s: %s" % (path, "there is no picture or video in this folder" if os.path.isdir(path)
                                        else "there is no such file, and it matches nothing as a pattern"))
        files.update((os.path.abspath(file), None) for file in found)

    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    names = {file: os.path.relpath(file, folder) for file in files}
    stems = collections.Counter(os.path.splitext(name)[0] for name in names.values())
    stems.update(names.values())  # a.jpg.jpg is no a.jpg
    return [Medium(name if is_video(name) or stems[os.path.splitext(name)[0]] > 1 else os.path.splitext(name)[0], file)
            for file, name in names.items()]


def shown(path):
    """The path as text that can be printed and logged, even where the name is not UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def is_video(path):
    return os.path.splitext(path)[1].lower() in VIDEOS


def read_picture(path, max_side):
    """Decode a picture and scale it down until its longer side has at most `max_side` pixels.

    Returns:
        ((h, w, 3) uint8 RGB, (h, w) of the picture itself).

    Raises:
        UserError: as `images.read_image`.
    """
    image = read_image(path)
    return shrink(image, max_side), image.shape[:2]


class Video:
    """Frames of a video file.

    Attributes:
        rate: frames per second.
        announced: number of frames in the file's header; 0 if it has none.
    """

    def __init__(self, path):
        """
        Raises:
            UserError: the file is missing, damaged, or not a video.
        """
        self._path = path
        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            reason = "the file is damaged, or not a video" if os.path.isfile(path) else "there is no such file"
            raise UserError("%s can't be decoded: %s" % (path, reason))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self):
        """Yield (h, w, 3) uint8 RGB, rotated as the file says.

        Raises:
            UserError: there is no frame at all.
        """
        empty = True
        while True:
            good, frame = self._capture.read()
            if not good:
                break
            empty = False
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if empty:
            raise UserError("%s can't be decoded: it has no readable frame" % self._path)


@contextlib.contextmanager
def video_writer(path, rate):
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
            if not count and not writer.open(part, cv2.VideoWriter_fourcc(*"mp4v"), round(rate, decimals), size):
                raise UserError("%s can't be written: OpenCV can't encode frames of %d x %d pixels as MPEG-4 here"
                                % (path, *size))
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1

        yield add
        writer.release()
        if cv2.VideoCapture(part).get(cv2.CAP_PROP_FRAME_COUNT) != count:  # OpenCV overlooks a full disk
            raise UserError("%s can't be written: OpenCV wrote fewer than %d frames; is the disk full?"
                            % (path, count))
        os.replace(part, temporary)


def _files(path, leave_out):
    """The file itself, or the pictures and videos in and below a folder, in the order of their names."""
    if not os.path.isdir(path):
        return [path]
    found = []
    for folder, names in walk(path, leave_out):
        files = [os.path.join(folder, name) for name in names if os.path.splitext(name)[1].lower() in PICTURES + VIDEOS]
        found += [file for file in files if os.path.isfile(file) or not os.path.exists(file)]  # no pipes and devices
    return found
