import dataclasses
import hashlib
import os

import numpy as np
import pytest
import shrink_snapshot

from core.config import Config, make_config
from core.engines.mxnet.backend import mx
from core.engines.mxnet.steps import training_symbol
from core.errors import UserError
from core.io.files import read_bytes
from core.network import params_files
from core.network.fcn import parameter_shapes
from core.network.snapshots import identify_snapshot, load_snapshot, save_snapshot
from core.paths import SHIPPED_SNAPSHOT


@pytest.fixture
def layout(tiny):
    return tiny.layout


@pytest.fixture
def parameters(tiny, rng):
    return tuple({name: rng.normal(size=shape).astype(np.float32) for name, shape in part.items()}
                 for part in parameter_shapes("init", tiny))


def save(layout, parameters, tiny, epoch=3):
    return save_snapshot(layout, "init", epoch, tiny, training_symbol("init", tiny, 4).tojson(), *parameters)


def test_a_snapshot_comes_back_as_it_was(layout, parameters, tiny):
    path = save(layout, parameters, tiny)
    assert path.endswith(os.path.join("snapshots", "init_fcn_resnet50-3.params"))
    assert os.path.exists(os.path.join(os.path.dirname(path), "init_fcn_resnet50-symbol.json"))
    for saved, loaded in zip(parameters, load_snapshot(tiny, "init", 3).parameters):
        assert set(saved) == set(loaded)
        assert all((saved[name] == loaded[name]).all() for name in saved)


def test_weights_of_8_bits_are_read_as_float32(layout, parameters, tiny, tmp_path):
    path, small = save(layout, parameters, tiny), str(tmp_path / "small.params")
    params_files.write_params(small, shrink_snapshot.shrink(params_files.read_params(path)))
    assert os.path.getsize(small) < 0.5 * os.path.getsize(path)
    loaded = load_snapshot(tiny, "init", 0, small).parameters
    for whole, found in zip(parameters, loaded):
        for name, value in whole.items():
            assert found[name].dtype == np.float32
            step = 0 if value.ndim == 1 else np.abs(value).reshape(len(value), -1).max(1).max() / 127
            assert np.abs(found[name] - value).max() <= step / 2 + 1e-6


def test_epochs_are_not_padded_and_unfinished_files_do_not_count(layout, parameters, tiny):
    for epoch in (10, 2):
        save(layout, parameters, tiny, epoch)
    for name in (".init_fcn_resnet50-11.params.77.tmp", "init_fcn_resnet50-0012.params", "final_fcn_resnet50-4.params",
                 "init_fcn_resnet50-x.params"):
        open(os.path.join(layout.snapshots, name), "w").close()
    assert layout.epochs("init") == [2, 10]


def test_fixed_upsampling_weights_of_a_published_snapshot_are_left_out(layout, parameters, tiny):
    extra = dict(parameters[0], upsample_weight=np.ones((4, 1, 4, 4), np.float32))
    save(layout, (extra, parameters[1]), tiny)
    assert "upsample_weight" not in load_snapshot(tiny, "init", 3).parameters[0]


def test_a_missing_parameter_is_named(layout, parameters, tiny):
    for part, name in ((0, "res3a_branch2b_weight"), (1, "bn5a_branch1_moving_var")):
        cut = [dict(values) for values in parameters]
        del cut[part][name]
        save(layout, cut, tiny)
        with pytest.raises(UserError, match="lacks the parameter " + name):
            load_snapshot(tiny, "init", 3)


@pytest.mark.parametrize("name, value, message", [
    ("score_weight", np.ones((5, 8, 1, 1), np.float32), r"has shape \(5, 8, 1, 1\), the init model wants \(21, 8"),
    ("conv1_bias", np.ones(4, np.int32), "has type int32; float32 is expected"),
    ("conv1_bias", np.array([0, 1, np.nan, 0], np.float32), "holds numbers that are not finite"),
    ("conv1_bias", np.array([0, 1, np.inf, 0], np.float32), "holds numbers that are not finite")])
def test_a_parameter_of_another_shape_or_type_or_that_is_not_finite_is_named(layout, parameters, tiny, name, value,
                                                                             message):
    path = save(layout, parameters, tiny)
    params_files.write_params(path, {**params_files.read_params(path), "arg:" + name: value})
    with pytest.raises(UserError, match=f"-3.params.*{name} {message}"):
        load_snapshot(tiny, "init", 3)


def test_a_missing_snapshot_is_named_with_those_there(layout, parameters, tiny):
    with pytest.raises(UserError, match="init_fcn_resnet50-4.params is missing; train it"):
        load_snapshot(tiny, "init", 4)
    save(layout, parameters, tiny, 7)
    with pytest.raises(UserError, match="epochs there: 7"):
        load_snapshot(tiny, "init", 4)


def test_arrays_without_names_are_no_snapshot(layout, tiny):
    os.makedirs(layout.snapshots)
    mx.nd.save(layout.snapshot("init", 1), [mx.nd.ones((2, 2))])
    with pytest.raises(UserError, match="without names"):
        load_snapshot(tiny, "init", 1)


def published(tiny, **changes):
    """Config of a user who gives no settings, in the folder of `tiny`."""
    return make_config(root=tiny.root, **changes)


def test_the_settings_of_the_network_travel_with_the_snapshot(layout, parameters, tiny):
    trained = dataclasses.replace(tiny, stride_on="3x3", mean_rgb=(124.5, 116, 104), head_dilation=6)
    save(layout, parameters, trained)
    config = load_snapshot(published(tiny), "init", 3).config
    for name in ("width", "units", "stride_on", "mean_rgb", "head_dilation", "classes"):
        assert getattr(config, name) == getattr(trained, name), name
    assert config.crop_size == Config().crop_size  # of the training, not of the network


@pytest.mark.parametrize("name, mine, message", [
    ("stride_on", "1x1", "setting stride_on is 1x1, but .*-3.params was made with 3x3: use that, or leave"),
    ("mean_rgb", (123.0, 117.0, 104.0),
     r"mean_rgb is \[123.0, 117.0, 104.0\], but .* was made with \[124.5, 116.0, 104.0\]"),
    ("head_dilation", 12, "head_dilation is 12, but"), ("classes", ("bk", "cat"), r"classes is \[bk, cat\], but")])
def test_another_setting_given_by_the_user_is_refused(layout, parameters, tiny, name, mine, message):
    trained = dataclasses.replace(tiny, stride_on="3x3", mean_rgb=(124.5, 116, 104), head_dilation=6)
    save(layout, parameters, trained)
    with pytest.raises(UserError, match=message):
        load_snapshot(published(tiny, **{name: mine}), "init", 3)
    load_snapshot(published(tiny, **{name: getattr(trained, name)}), "init", 3)


def test_a_published_snapshot_is_used_with_the_settings_that_are_given(layout, parameters, tiny):
    path = save(layout, parameters, tiny)
    values = {name: value for name, value in mx.nd.load(path).items() if not name.startswith("settings:")}
    mx.nd.save(path, values)
    for stride_on in ("1x1", "3x3"):
        snapshot = load_snapshot(dataclasses.replace(tiny, stride_on=stride_on), "init", 3)
        assert snapshot.config == dataclasses.replace(tiny, stride_on=stride_on)
        assert "conv1_weight" in snapshot.parameters[0]


def test_mxnet_reads_snapshots_without_minding_the_settings(layout, parameters, tiny):
    path = save(layout, parameters, tiny)
    os.rename(path, os.path.join(layout.snapshots, "mine-0003.params"))
    args, aux = mx.model.load_params(os.path.join(layout.snapshots, "mine"), 3)
    assert (set(args), set(aux)) == tuple(map(set, parameter_shapes("init", tiny)))


@pytest.mark.parametrize("record, message", [
    ("{", "is damaged: its record"), ("[]", "is damaged: its record"), ('{"widht": 4}', "no setting 'widht'"),
    ('{"given": []}', "no setting 'given'"), ('{"width": "a"}', "params: setting width: 'a' is not a whole number"),
    ('{"mean_rgb": [1]}', "params: setting mean_rgb has 1 values")])
def test_a_damaged_record_is_named(layout, parameters, tiny, record, message):
    path = save(layout, parameters, tiny)
    values = {name: value for name, value in mx.nd.load(path).items() if not name.startswith("settings:")}
    mx.nd.save(path, dict(values, **{"settings:" + record: mx.nd.zeros(1)}))
    with pytest.raises(UserError, match=message):
        load_snapshot(published(tiny), "init", 3)


def test_the_network_that_comes_with_the_code_is_the_one_that_its_page_describes():
    content = read_bytes(SHIPPED_SNAPSHOT)
    with open(os.path.join(os.path.dirname(SHIPPED_SNAPSHOT), "README.md"), encoding="utf-8") as file:
        assert hashlib.sha256(content).hexdigest() in file.read()
    snapshot = load_snapshot(Config(), *identify_snapshot(SHIPPED_SNAPSHOT), SHIPPED_SNAPSHOT)
    assert (snapshot.model, snapshot.config.num_classes, len(content) < 13e6) == ("final", 21, True)
