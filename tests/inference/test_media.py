import os
import struct

import cv2
import numpy as np
import pytest
from conftest import largest_file

from core.errors import UserError
from core.inference.media import Video, video_writer

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


def shown(path, content):
    with open(path, "wb") as file:
        file.write(content)
    frames = list(Video(path).frames())
    assert len(frames) == 3 and all(frame.flags.c_contiguous for frame in frames)
    return frames[0].astype(int)


@pytest.mark.parametrize("rate", [0.5, 23.976, 239.834, 999.99])
def test_videos_keep_their_rate_as_far_as_the_format_can_express_it(tmp_path, rate):
    path = str(tmp_path / "v.mp4")
    with video_writer(path, rate) as add:
        for _ in range(3):
            add(FRAME)
    video = Video(path)
    assert video.rate == pytest.approx(rate, abs=0.05) and video.announced == 3 == len(list(video.frames()))


def test_a_video_that_can_not_be_written_is_reported_and_leaves_nothing(tmp_path, rng):
    path = str(tmp_path / "v.mp4")
    with pytest.raises(UserError, match="v.mp4 can't be written: OpenCV can't encode frames of 9000 x 20 pixels"):
        with video_writer(path, 25) as add:
            add(np.zeros((20, 9000, 3), np.uint8))
    with largest_file(60000), pytest.raises(UserError, match="v.mp4 can't be written: .* fewer than 20 frames"):
        with video_writer(path, 25) as add:
            for frame in rng.integers(0, 255, (20, 120, 160, 3), dtype=np.uint8):
                add(frame)
    assert os.listdir(str(tmp_path)) == []


QUARTERS = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}  # of a turn clockwise: a, b, c, d of the matrix


def set_matrix(content, turn):
    """Let the matrix of the video's track, ISO/IEC 14496-12, 8.3.2, turn it by quarters."""
    start = content.index(b"tkhd") + 4
    start += 52 if content[start] == 1 else 40
    a, b, c, d = (65536 * value for value in QUARTERS[turn])
    content[start:start + 20] = struct.pack(">5i", a, b, 0, c, d)


@pytest.mark.parametrize("turn", QUARTERS)
def test_frames_are_turned_as_the_file_says(video, turn):
    path, content = video
    set_matrix(content, turn)
    expected = np.rot90(FRAME, -turn)
    assert shown(path, content).shape == expected.shape
    assert np.abs(shown(path, content) - expected).mean() < 12


@pytest.mark.parametrize("width, height, turn, size", [(2, 1, 0, (64, 192)), (1, 2, 0, (128, 96)), (1, 1, 0, (64, 96)),
                                                       (2, 1, 1, (192, 64))])
def test_pixels_that_are_not_square_are_stretched(video, width, height, turn, size):
    path, content = video
    box = struct.pack(">I4sII", 16, b"pasp", width, height)
    start = content.index(b"mp4v", content.index(b"stsd")) - 4
    end = start + struct.unpack_from(">I", content, start)[0]
    content[end:end] = box
    place = content.index(b"moov")
    for kind in BOXES:
        place = content.index(kind, place)
        struct.pack_into(">I", content, place - 4, struct.unpack_from(">I", content, place - 4)[0] + len(box))
    if turn:
        set_matrix(content, turn)
    assert shown(path, content).shape == size + (3,)
    assert np.abs(shown(path, content) - cv2.resize(np.rot90(FRAME, -turn), size[::-1])).mean() < 12


def element(number, content):
    """An element of Matroska, RFC 8794: number, length in 8 bytes, content."""
    return bytes.fromhex(number) + (1 << 56 | len(content)).to_bytes(8, "big") + content


def save_recording(path, frames, times):
    """A video as browsers record it: frames with their times in ms, and neither their rate nor their number."""
    blocks = b"".join(element("A3", b"\x81" + struct.pack(">hB", time, 0x80) + cv2.imencode(".jpg", frame)[1].tobytes())
                      for frame, time in zip(frames, times))
    height, width = frames[0].shape[:2]
    video = element("B0", width.to_bytes(2, "big")) + element("BA", height.to_bytes(2, "big"))
    track = (element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + element("86", b"V_MJPEG")
             + element("E0", video))
    path.write_bytes(element("1A45DFA3", element("4282", b"matroska")) + element("18538067", (
        element("1549A966", element("2AD7B1", (1000000).to_bytes(3, "big"))) + element("1654AE6B", element("AE", track))
        + element("1F43B675", element("E7", b"\0") + blocks))))
    return str(path)


def test_a_video_without_frame_rate_is_timed_by_its_frames(tmp_path):
    times = [0, 83, 154, 200, 310, 401, 490, 590, 690, 800]
    video = Video(save_recording(tmp_path / "a.webm", [FRAME] * len(times), times))
    assert video.rate == pytest.approx(9 / 0.8) and video.announced == 10


@pytest.mark.parametrize("larger, expected", [(True, True), (False, False)])
def test_a_video_that_changes_its_size_is_named(tmp_path, rng, caplog, larger, expected):
    frames = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(8)]
    frames[4:] = [np.repeat(frame, 1 + larger, 0) for frame in frames[4:]]
    video = Video(save_recording(tmp_path / "a.webm", frames, range(0, 320, 40)))
    assert len(list(video.frames())) == 8
    assert ("a.webm: the last 5 frames are all the same" in caplog.text) == expected
