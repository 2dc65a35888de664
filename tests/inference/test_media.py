import os
import struct

import cv2
import numpy as np
import pytest

from core.errors import UserError
from core.inference.media import Video, video_writer
from core.io.files import remove_leftovers

FRAME = np.zeros((64, 96, 3), np.uint8)
FRAME[:32, :48], FRAME[32:, 48:], FRAME[:32, 48:] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"mp4v")


@pytest.fixture
def video(tmp_path):
    """Path of a video of three frames, and its content."""
    path = str(tmp_path / "a.mp4")
    with video_writer(path, 10) as add:
        for _ in range(3):
            add(FRAME)
    with open(path, "rb") as file:
        return path, bytearray(file.read())


def matrix_place(content, kind):
    start = content.index(kind) + 4
    return start + (40 if kind == b"tkhd" else 36) + (12 if content[start] == 1 else 0)


def set_matrix(path, content, matrix, kind=b"tkhd"):
    a, b, c, d = (int(65536 * value) for value in matrix)
    place = matrix_place(content, kind)
    content[place:place + 20] = struct.pack(">5i", a, b, 0, c, d)
    with open(path, "wb") as file:
        file.write(content)


def shown(path):
    frames = list(Video(path).frames())
    assert len(frames) == 3 and all(frame.flags.c_contiguous for frame in frames)
    return frames[0].astype(int)


@pytest.mark.parametrize("matrix, expected", [
    ((1, 0, 0, 1), FRAME), ((0, 1, -1, 0), np.rot90(FRAME, -1)), ((-1, 0, 0, -1), np.rot90(FRAME, 2)),
    ((0, -1, 1, 0), np.rot90(FRAME)), ((-1, 0, 0, 1), FRAME[:, ::-1]), ((1, 0, 0, -1), FRAME[::-1]),
    ((0, 1, 1, 0), FRAME.swapaxes(0, 1)), ((0, -1, -1, 0), np.rot90(FRAME, 2).swapaxes(0, 1)), ((0, 0, 0, 0), FRAME)])
@pytest.mark.parametrize("kind", [b"tkhd", b"mvhd"])
def test_frames_are_turned_and_mirrored_as_the_matrix_says(video, matrix, expected, kind):
    path, content = video
    set_matrix(path, content, matrix, kind)
    assert shown(path).shape == expected.shape
    assert np.abs(shown(path) - expected).mean() < 12


@pytest.mark.parametrize("matrix", [(0.7, 0.7, -0.7, 0.7), (0.94, 0.34, -0.34, 0.94), (1, 0.3, 0, 1)])
def test_a_video_shown_askew_is_refused(video, matrix):
    set_matrix(*video, matrix)
    with pytest.raises(UserError, match="a.mp4 is to be shown turned by an angle"):
        Video(video[0])


@pytest.mark.parametrize("width, height, size", [(2, 1, (64, 192)), (1, 2, (128, 96)), (1, 1, (64, 96))])
def test_pixels_that_are_not_square_are_stretched(video, width, height, size):
    path, content = video
    box = struct.pack(">I4sII", 16, b"pasp", width, height)
    start = content.index(b"mp4v", content.index(b"stsd")) - 4
    end = start + struct.unpack_from(">I", content, start)[0]
    content[end:end] = box
    place = content.index(b"moov")
    for kind in BOXES:
        place = content.index(kind, place)
        struct.pack_into(">I", content, place - 4, struct.unpack_from(">I", content, place - 4)[0] + len(box))
    with open(path, "wb") as file:
        file.write(content)
    assert shown(path).shape == size + (3,)
    assert np.abs(shown(path) - cv2.resize(FRAME, size[::-1])).mean() < 12


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".a.mp4.0123abcd.tmp", ".a.mp4.0123abcd.tmp.mp4", ".mine.tmp"):
        (tmp_path / name).write_bytes(b"half")
    remove_leftovers(str(tmp_path))
    assert os.listdir(str(tmp_path)) == [".mine.tmp"]
