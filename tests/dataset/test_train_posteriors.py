"""Posteriors of training images in files."""
import numpy as np
import pytest

from core.dataset.train_posteriors import Posteriors, read_posteriors, write_posteriors
from core.errors import UserError


def test_posteriors_come_back_at_the_size_of_the_image(tmp_path):
    smooth = np.linspace(0.1, 0.9, 24).reshape(1, 4, 6) * np.array([1, 0.5]).reshape(2, 1, 1)
    write_posteriors(str(tmp_path), "2007_000032", Posteriors((3, 7), smooth))
    found = read_posteriors(str(tmp_path), "2007_000032", (4, 6))
    assert found.labels == (3, 7) and np.allclose(found.foreground, smooth, atol=1e-3)
    large = read_posteriors(str(tmp_path), "2007_000032", (40, 60)).foreground
    assert large.shape == (2, 40, 60) and np.allclose(large[:, ::39, ::59], smooth[:, ::3, ::5], atol=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"PK"])
def test_missing_and_damaged_files_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz is (missing|damaged).* create_web_masks.py|a.npz is damaged: remove it"):
        read_posteriors(str(tmp_path), "a", (4, 6))
