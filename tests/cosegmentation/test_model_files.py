"""The region classifiers' file: what it gives back, and what it refuses."""
import io
import os
import pickle
import random
import zipfile

import numpy as np
import pytest

from core.cosegmentation.classifier_files import plain_trees, read_models, write_models
from core.cosegmentation.region_classifier import Sample, fit, predict
from core.errors import UserError


@pytest.fixture(scope="module")
def sample():
    rng, rows = np.random.default_rng(0), 600
    return Sample(rng.random((rows, 3), np.float32), rng.random((rows, 4), np.float32),
                  rng.random(rows).astype(np.float32), np.ones(rows, np.float32), rng.integers(1, 3, rows),
                  rng.integers(0, 3, rows))


@pytest.fixture(scope="module")
def models(sample):
    return {kind: fit(sample, 0, kind) for kind in ("hog", "resnet")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hog", "resnet"])
def test_models_predict_the_same_bits_after_a_file(sample, models, tmp_path, kind):
    path = str(tmp_path / "a.npz")
    write_models(path, models[kind])
    found = read_models(path)
    assert len(found) == len(models[kind])
    for model, read in zip(models[kind], found):
        for index in (1, 2, 7):  # 7: a class that none of the images shows
            expected = predict(model, sample.features, sample.descriptors, index)
            again = predict(read, sample.features, sample.descriptors, index)
            assert again.dtype == expected.dtype and (again == expected).all()
        assert predict(read, sample.features[:1], sample.descriptors[:1], 1) == predict(
            model, sample.features[:1], sample.descriptors[:1], 1)


def test_truncated_and_missing_files_are_named(models, tmp_path):
    path = str(tmp_path / "a.npz")
    write_models(path, models["hog"])
    content = (tmp_path / "a.npz").read_bytes()
    for part in (0, 1, len(content) // 2, len(content) - 1):
        (tmp_path / "a.npz").write_bytes(content[:part])
        with pytest.raises(UserError, match="a.npz is damaged, or no file of models: remove it"):
            read_models(path)
    with pytest.raises(UserError, match="b.npz can't be read"):
        read_models(str(tmp_path / "b.npz"))


def arrays(models, tmp_path):
    write_models(str(tmp_path / "a.npz"), models["hog"])
    with np.load(str(tmp_path / "a.npz")) as stored:
        return dict(stored)


def replace(name, place, value):
    def spoil(stored):
        stored[name] = stored[name].copy()
        stored[name][place] = value
    return spoil


@pytest.mark.parametrize("spoil", [
    replace("0_left", 0, 10 ** 8), replace("0_right", 0, -1), replace("0_left", 1, 0), replace("0_right", 3, 2),
    replace("1_features", 0, -1), replace("1_roots", 0, 10 ** 8), replace("1_roots", 0, -1),
    replace("2_values", 0, np.nan), lambda stored: stored.pop("0_offsets"), lambda stored: stored.pop("1_values"),
    lambda stored: stored.update({"0_values": stored["0_values"][:-1]}), lambda stored: stored.clear(),
    lambda stored: stored.update({"0_left": stored["0_left"].astype(float)}),
    lambda stored: stored.update({"0_other": np.ones(2)}),
    lambda stored: stored.update({"0_weights": stored["0_weights"][:, :-1]})])
def test_wrong_arrays_are_refused(models, tmp_path, spoil):
    stored = arrays(models, tmp_path)
    spoil(stored)
    np.savez(str(tmp_path / "a.npz"), **stored)
    with pytest.raises(UserError, match="a.npz is damaged, or no file of models"):
        read_models(str(tmp_path / "a.npz"))


def test_a_feature_that_is_not_there_reads_no_other_memory(sample, models, tmp_path):
    stored = arrays(models, tmp_path)
    stored["0_features"] = np.full_like(stored["0_features"], 10 ** 6)
    np.savez(str(tmp_path / "a.npz"), **stored)
    with pytest.raises(IndexError):
        predict(read_models(str(tmp_path / "a.npz"))[0], sample.features, sample.descriptors, 1)


def test_random_damage_is_refused_or_gives_numbers(sample, models, tmp_path):
    write_models(str(tmp_path / "a.npz"), models["hog"])
    content = (tmp_path / "a.npz").read_bytes()
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            found = read_models(str(tmp_path / "a.npz"))
        except UserError as error:
            assert "a.npz" in str(error)
        else:
            assert np.isfinite(predict(found[0], sample.features[:9], sample.descriptors[:9], 1)).all()


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_nothing_in_the_file_is_run_or_unpacked(tmp_path):
    call = Call(os.mkdir, str(tmp_path / "ran"))
    (tmp_path / "a.npz").write_bytes(pickle.dumps([call]))
    with pytest.raises(UserError, match="a.npz is damaged"):
        read_models(str(tmp_path / "a.npz"))
    np.savez(str(tmp_path / "a.npz"), **{"0_mean": np.array([call], object)})
    with pytest.raises(UserError, match="a.npz is damaged"):
        read_models(str(tmp_path / "a.npz"))
    assert os.listdir(str(tmp_path)) == ["a.npz"]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"0_mean": np.zeros(1 << 20)})
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="it is compressed"):
        read_models(str(tmp_path / "a.npz"))
    with zipfile.ZipFile(str(tmp_path / "a.npz"), "w") as archive:
        archive.writestr("0_mean.npy", "text")
    with pytest.raises(UserError, match="a.npz is damaged"):
        read_models(str(tmp_path / "a.npz"))


def test_trees_predict_what_scikit_learn_predicts(sample, models):
    rows = np.random.default_rng(1).random((5000, 5), np.float32) * 3 - 1
    for model in models["hog"]:
        assert (plain_trees(model.classifier).predict(rows) == model.classifier.predict(rows)).all()
