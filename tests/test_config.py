import numpy as np
import pytest

from core.config import FIELDS, Config, item_type, make_config
from core.errors import UserError
from core.inference.crf import refine


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_flags_win_over_files_the_last_file_over_the_others_and_files_over_defaults(tmp_path):
    one, other = write(tmp_path, "batch_size: 4\ncrop_size: 64\nmax_epoch: 7\n"), str(tmp_path / "other.yaml")
    with open(other, "w") as file:
        file.write("batch_size: 6\n")
    config = make_config(one, other, max_epoch=9, seed=None)
    assert (config.batch_size, config.crop_size, config.max_epoch, config.seed) == (6, 64, 9, 0)
    assert config.given == {"batch_size", "crop_size", "max_epoch"}


def test_defaults_are_the_published_settings():
    config = Config()
    assert (config.batch_size, config.crop_size, config.max_epoch) == (16, 320, 40)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (16e-4, 0.9, 5e-4)
    assert (config.init_epoch_size, config.final_epoch_size) == (200, 700)
    assert config.scales == (0.7, 1.0, 1.3) and config.scale_range == (0.7, 1.3)
    assert config.mean_rgb == (123, 117, 104) and config.num_classes == 21
    assert config.changed() == {}


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    assert make_config(write(tmp_path, "learning_rate: 16e-4\n")).learning_rate == 16e-4


@pytest.mark.parametrize("text, names", [
    ("crop_sise: 64", ("crop_sise", "crop_size")),
    ("crop_size: [64]", ("crop_size", "whole number")),
    ("crop_size: 60", ("crop_size", "multiple of 8")),
    ("crop_size: 64.5", ("crop_size", "whole number")),
    ("batch_size: 0", ("batch_size", "at least 1")),
    ("batch_size: true", ("batch_size", "whole number")),
    ("learning_rate: .nan", ("learning_rate", "number")),
    ("scales: []", ("scales", "empty")),
    ('root: "a\\0b"', ("root", "not text")),
    ("scales: 1.0", ("scales", "list")),
    ("scale_range: [1.3, 0.7]", ("scale_range", "lowest")),
    ("units: [1, 2]", ("units", "4")),
    ("classes: [bk, cat, cat]", ("classes", "cat")),
    ("classes: [bk]", ("classes",)),
    ("classes: [bk, %s]" % ("\u00e4" * 101), ("classes", "200 bytes")),
    *((f"classes: [bk, {name}]", ("classes", "part of a file name"))
      for name in ("a/b", "'cat,dog'", "' cat'", ".cat", '"a\\nb"')),
    ("engine: caffe", ("engine", "mxnet")),
    ("- 1", ("no settings",)),
    ("a: [", ("not valid YAML",)),
    ("a: !!python/object/apply:os.system ['true']", ("not valid YAML",)),
])
def test_wrong_settings_are_named(tmp_path, text, names):
    with pytest.raises(UserError) as error:
        make_config(write(tmp_path, text + "\n"))
    for name in names:
        assert name in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml"):
        make_config(str(tmp_path / "nowhere.yaml"))


def test_every_number_has_bounds_and_none_beyond_them_is_taken():
    for name, field in FIELDS.items():
        kind, many = item_type(field)
        if kind is str:
            continue
        assert field.metadata["at_most"] is not None, name
        for value in (1e30, -1e30):
            with pytest.raises(UserError, match=f"setting {name} is .*must be"):
                Config(**{name: [kind(value)] * len(field.default) if many else kind(value)})


@pytest.mark.parametrize("name", ["crf_gaussian_sxy", "crf_bilateral_sxy", "crf_bilateral_srgb"])
@pytest.mark.parametrize("limit", ["at_least", "at_most"])
def test_the_crf_is_finite_at_the_bounds_of_its_kernels(name, limit, rng):
    image = rng.integers(0, 255, (20, 30, 3)).astype("uint8")
    refined = refine(rng.random((3, 20, 30)).astype("float32"), image,
                     Config(crf_iterations=2, **{name: FIELDS[name].metadata[limit]}))
    assert np.isfinite(refined).all()
