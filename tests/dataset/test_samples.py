import pytest

from core.config import Config
from core.dataset.samples import training_samples
from core.errors import UserError
from core.paths import Layout


def config(**changes):
    return Config(**dict({"classes": ("bk", "a", "b", "c"), "crop_size": 64, "batch_size": 4, "workers": 1}, **changes))


def test_missing_files_and_names_without_class_are_named(tmp_path):
    layout = Layout(config(root=str(tmp_path)))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "web_train_list.txt").write_text("1_000001\n")
    with pytest.raises(UserError, match="web_images.1_000001.jpg is missing"):
        training_samples("init", layout, config())
    for name in ("9_000001", "cat_1", "0_000001"):
        (tmp_path / "dataset" / "web_train_list.txt").write_text(name + "\n")
        with pytest.raises(UserError, match=name):
            training_samples("init", layout, config())
    (tmp_path / "dataset" / "train_images").mkdir()
    (tmp_path / "dataset" / "train_images" / "a.jpg").write_bytes(b"")
    (tmp_path / "dataset" / "train_list.txt").write_text("a\n")
    with pytest.raises(UserError, match="a.png is missing: run est_voc_train_masks.py"):
        training_samples("final", layout, config())
