"""The region classifiers' file: what it gives back, and what it refuses to run."""
import os
import pickle

import numpy as np
import pytest

from core.cosegmentation.classifier_files import read_models, write_models
from core.cosegmentation.region_classifier import Sample, fit, predict
from core.errors import UserError


@pytest.fixture
def sample(rng):
    rows = 600
    return Sample(rng.random((rows, 3), np.float32), rng.random((rows, 4), np.float32),
                  rng.random(rows).astype(np.float32), np.ones(rows, np.float32), rng.integers(1, 3, rows),
                  rng.integers(0, 3, rows))


@pytest.mark.parametrize("kind", ["hog", "resnet"])
def test_models_predict_the_same_after_a_file(sample, tmp_path, kind):
    models, path = fit(sample, 0, kind), str(tmp_path / "a.pkl")
    write_models(path, models)
    for model, read in zip(models, read_models(path)):
        expected = predict(model, sample.features, sample.descriptors, 1)
        assert (predict(read, sample.features, sample.descriptors, 1) == expected).all()
    content = (tmp_path / "a.pkl").read_bytes()
    for part in (0, 1, len(content) // 2, len(content) - 1):
        (tmp_path / "a.pkl").write_bytes(content[:part])
        with pytest.raises(UserError, match="a.pkl is damaged, or no file of models: remove it"):
            read_models(path)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_modules_of_the_classifier_are_no_way_in(tmp_path):
    for name in (b"sklearn._loss.tests.test_link\n_array_api_for_tests", b"sklearn._loss.loss\nnp", b"sklearn\nclone"):
        (tmp_path / "a.pkl").write_bytes(b"c%s\n(Vcache\ntR." % name)
        with pytest.raises(UserError, match="which is not run"):
            read_models(str(tmp_path / "a.pkl"))


@pytest.mark.parametrize("function", [os.mkdir, eval, np.load, getattr, __import__])
def test_nothing_else_that_the_file_names_is_run(tmp_path, function):
    text = "__import__('os').mkdir(%r)" % str(tmp_path / "ran")
    call = Call(function, str(tmp_path / "ran") if function is os.mkdir else text)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([call]))
    with pytest.raises(UserError, match="which is not run"):
        read_models(str(tmp_path / "a.pkl"))
    assert os.listdir(str(tmp_path)) == ["a.pkl"]
