import os

import numpy as np
import pytest

from core.backend import mx
from core.errors import UserError
from core.layout import Layout
from core.network import parameter_shapes, training_symbol
from core.snapshots import load_snapshot, save_snapshot


@pytest.fixture
def layout(tiny):
    return Layout(tiny)


@pytest.fixture
def parameters(tiny, rng):
    return tuple({name: mx.nd.array(rng.normal(size=shape)) for name, shape in part.items()}
                 for part in parameter_shapes("init", tiny))


def save(layout, parameters, tiny, epoch=3):
    return save_snapshot(layout, "init", epoch, training_symbol("init", tiny, 4), *parameters)


def test_a_snapshot_comes_back_as_it_was(layout, parameters, tiny):
    path = save(layout, parameters, tiny)
    assert path.endswith(os.path.join("snapshots", "init_fcn_resnet50-3.params"))
    assert os.path.exists(os.path.join(os.path.dirname(path), "init_fcn_resnet50-symbol.json"))
    for saved, loaded in zip(parameters, load_snapshot(layout, "init", 3, tiny)):
        assert set(saved) == set(loaded)
        assert all((saved[name] == loaded[name]).asnumpy().all() for name in saved)


def test_epochs_are_not_padded_and_unfinished_files_do_not_count(layout, parameters, tiny):
    for epoch in (10, 2):
        save(layout, parameters, tiny, epoch)
    for name in (".init_fcn_resnet50-11.params.77.tmp", "init_fcn_resnet50-0012.params", "final_fcn_resnet50-4.params",
                 "init_fcn_resnet50-x.params"):
        open(os.path.join(layout.snapshots, name), "w").close()
    assert layout.epochs("init") == [2, 10]


def test_fixed_upsampling_weights_of_a_published_snapshot_are_left_out(layout, parameters, tiny):
    extra = dict(parameters[0], upsample_weight=mx.nd.ones((4, 1, 4, 4)))
    save(layout, (extra, parameters[1]), tiny)
    assert "upsample_weight" not in load_snapshot(layout, "init", 3, tiny)[0]


def test_a_missing_parameter_is_named(layout, parameters, tiny):
    for part, name in ((0, "res3a_branch2b_weight"), (1, "bn5a_branch1_moving_var")):
        cut = [dict(values) for values in parameters]
        del cut[part][name]
        save(layout, cut, tiny)
        with pytest.raises(UserError, match="lacks the parameter " + name):
            load_snapshot(layout, "init", 3, tiny)


def test_a_parameter_of_another_shape_is_named(layout, parameters, tiny):
    save(layout, (dict(parameters[0], score_weight=mx.nd.ones((5, 8, 1, 1))), parameters[1]), tiny)
    with pytest.raises(UserError, match=r"score_weight has shape \(5, 8, 1, 1\), the init model wants \(21, 8, 1, 1\)"):
        load_snapshot(layout, "init", 3, tiny)


def test_a_missing_snapshot_is_named_with_those_there(layout, parameters, tiny):
    with pytest.raises(UserError, match="init_fcn_resnet50-4.params is missing; train it"):
        load_snapshot(layout, "init", 4, tiny)
    save(layout, parameters, tiny, 7)
    with pytest.raises(UserError, match="epochs there: 7"):
        load_snapshot(layout, "init", 4, tiny)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_snapshot_is_named(layout, parameters, tiny, kept):
    path = save(layout, parameters, tiny)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[:kept])
    with pytest.raises(UserError, match="init_fcn_resnet50-3.params is damaged"):
        load_snapshot(layout, "init", 3, tiny)


def test_arrays_without_names_are_no_snapshot(layout, tiny):
    os.makedirs(layout.snapshots)
    mx.nd.save(layout.snapshot("init", 1), [mx.nd.ones((2, 2))])
    with pytest.raises(UserError, match="without names"):
        load_snapshot(layout, "init", 1, tiny)


def test_a_save_that_fails_leaves_the_last_snapshot(layout, parameters, tiny, monkeypatch):
    path = save(layout, parameters, tiny)
    before = open(path, "rb").read()

    def half(name, values):
        with open(name, "wb") as file:
            file.write(b"half")
        raise mx.MXNetError("no space left on device")
    monkeypatch.setattr(mx.nd, "save", half)
    with pytest.raises(UserError, match="init_fcn_resnet50-3.params can't be written: no space left"):
        save(layout, parameters, tiny)
    assert open(path, "rb").read() == before
    assert sorted(os.listdir(layout.snapshots)) == ["init_fcn_resnet50-3.params", "init_fcn_resnet50-symbol.json"]
