import io

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


def test_what_does_not_fit_its_image_or_the_classes_is_reported(tmp_path):
    content = mat(Segmentation=np.full((12, 17), 20, np.uint8))
    with pytest.raises(UserError, match="a.mat is 17 x 12 pixels, its image 12 x 17"):
        read(tmp_path, content, (17, 12))
    with pytest.raises(UserError, match="a.mat has label 20 at x=0, y=0; labels are 0..4, and 255 for"):
        read(tmp_path, content, (12, 17), 5)


@pytest.mark.parametrize("content", [
    b"", b"\0" * 200, mat(), mat(Segmentation=np.eye(3)), mat(Segmentation=np.ones((2, 2, 2), np.uint8)),
    mat(Segmentation=np.eye(2, dtype=np.uint8) * 1j), mat(Segmentation="text"), mat(Segmentation={"a": 1}),
    mat(Segmentations=np.eye(2, dtype=np.uint8)), mat(Segmentation=np.array([[{"a": 1}, "b"]], object))
], ids=map(str, range(10)))
def test_what_is_no_sbd_mask_is_named(tmp_path, content):
    with pytest.raises(UserError, match="a.mat is damaged, or not an SBD mask"):
        read(tmp_path, content, (2, 2))
