import io
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from core.dataset.sbd_masks import read_sbd_mask
from core.errors import UserError


def mat(compressed=False, **fields):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"other": np.eye(3), "GTcls": fields}, do_compression=compressed)
    return buffer.getvalue()


def read(folder, content, size, num_classes=21):
    (folder / "a.mat").write_bytes(content)
    return read_sbd_mask(str(folder / "a.mat"), num_classes, size)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", ">u2"])
@pytest.mark.parametrize("shape", [(12, 17), (1, 1), (2, 2), (1, 300)])
def test_masks_are_read_as_they_were_written(tmp_path, rng, compressed, kind, shape):
    mask = rng.integers(0, 21, shape).astype(kind)
    boundaries = np.empty((2, 1), object)
    boundaries[:, 0] = scipy.sparse.eye(5, format="csc"), "text"
    content = mat(compressed, Boundaries=boundaries, Segmentation=mask, CategoriesPresent=[1, 2])
    found = read(tmp_path, content, shape)
    assert found.dtype == np.uint8 and (found == mask).all()


def test_files_of_either_byte_order_are_read(tmp_path):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(kind, shape, name, *parts):
        return element(14, element(6, struct.pack(">II", kind, 0)) + element(5, struct.pack(">2i", *shape))
                       + element(1, name) + b"".join(parts))

    numbers = element(4, struct.pack(">6H", 1, 2, 3, 4, 5, 255))
    fields = struct.pack(">HHI", 4, 5, 16) + element(1, b"Segmentation".ljust(16, b"\0"))
    content = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + matrix(2, (1, 1), b"GTcls", fields,
                                                           matrix(12, (2, 3), b"", numbers))
    assert read(tmp_path, content, (2, 3)).tolist() == [[1, 3, 5], [2, 4, 255]]


def test_what_does_not_fit_its_image_or_the_classes_is_reported(tmp_path):
    content = mat(Segmentation=np.full((12, 17), 20, np.uint8))
    with pytest.raises(UserError, match="a.mat is 17 x 12 pixels, its image 12 x 17"):
        read(tmp_path, content, (17, 12))
    with pytest.raises(UserError, match="a.mat has label 20 at x=0, y=0"):
        read(tmp_path, content, (12, 17), 5)


@pytest.mark.parametrize("content", [
    b"", b"\0" * 200, mat(), mat(Segmentation=np.eye(3)), mat(Segmentation=np.ones((2, 2, 2), np.uint8)),
    mat(Segmentation=np.eye(2, dtype=np.uint8) * 1j), mat(Segmentation="text"), mat(Segmentation={"a": 1}),
    mat(Segmentations=np.eye(2, dtype=np.uint8)), mat(Segmentation=np.array([[{"a": 1}, "b"]], object))
], ids=map(str, range(10)))
def test_what_is_no_sbd_mask_is_named(tmp_path, content):
    with pytest.raises(UserError, match="a.mat is damaged, or not an SBD mask"):
        read(tmp_path, content, (2, 2))


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_named_and_crashes_nothing(tmp_path, compressed):
    sound = mat(compressed, Segmentation=np.eye(6, dtype=np.uint8), CategoriesPresent=[1])
    draw = random.Random(0)
    for _ in range(3000):
        content = bytearray(sound)
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(100, len(content))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        try:
            read(tmp_path, content[:draw.choice((len(content), draw.randrange(len(content))))], (6, 6))
        except UserError as error:
            assert "a.mat" in str(error)


def test_small_files_are_not_unpacked_to_gigabytes(tmp_path):
    packed = zlib.compress(bytes(1 << 26))
    content = b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match="a.mat is damaged, or not an SBD mask"):
        read_sbd_mask(str(tmp_path / "a.mat"), 21, (5, 5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23
