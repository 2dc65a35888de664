"""Base models from other frameworks' files. golden/make.py says how the expected features were made."""
import argparse
import collections
import dataclasses
import importlib.util
import os
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
import yaml
from conftest import ROOT, run_script
from golden.make import UNITS, WIDTH, draw, picture

from core.config import Config, make_config
from core.engines.mxnet.backend import mx
from core.engines.mxnet.network import inference_symbol
from core.errors import UserError
from core.network import base_model
from core.network.base_model import convert_base_model
from core.network.snapshots import read_parameters
from core.training.initialization import from_base_model

GOLDEN = os.path.join(ROOT, "tests", "golden")
SMALL = {"width": WIDTH, "units": UNITS, "head_channels": 3, "global_channels": 3}
PICTURE = picture()


def layers():
    """(names in PyTorch, in Keras and in Caffe as (convolution, batch norm), shape of the kernel) of each layer."""
    yield ("conv1", "bn1"), ("conv1_conv", "conv1_bn"), ("conv1", "bn_conv1"), (WIDTH, 3, 7, 7)
    inputs = WIDTH
    for stage, units in enumerate(UNITS, 2):
        inner = WIDTH * 2 ** (stage - 2)
        for unit in range(units):
            torch, keras = f"layer{stage - 1}.{unit}.", f"conv{stage}_block{unit + 1}_"
            caffe = f"{stage}{'ab'[unit]}_branch"
            if unit == 0:
                yield ((torch + "downsample.0", torch + "downsample.1"), (keras + "0_conv", keras + "0_bn"),
                       ("res" + caffe + "1", "bn" + caffe + "1"), (4 * inner, inputs, 1, 1))
            for number, shape in enumerate(((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)), 1):
                branch = f"{caffe}2{'abc'[number - 1]}"
                yield ((f"{torch}conv{number}", f"{torch}bn{number}"),
                       (f"{keras}{number}_conv", f"{keras}{number}_bn"),
                       ("res" + branch, "bn" + branch), shape)
            inputs = 4 * inner


def torch_state():
    state = {"fc.weight": np.zeros((5, 16 * WIDTH), np.float32), "fc.bias": np.zeros(5, np.float32)}
    for (conv, norm), _, _, shape in layers():
        state[conv + ".weight"] = draw(conv, shape, "kernel")
        for part, name in (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            state[f"{norm}.{name}"] = draw(norm, shape[:1], part)
        state[norm + ".num_batches_tracked"] = np.array(3)
    return state


def write_safetensors(path, state=None):
    safetensors.numpy.save_file(torch_state() if state is None else state, str(path))
    return str(path)


# (path of an array, with the layer's name and number in it; names of the parts) in the layouts that Keras has had
LAYOUTS = {
    "now": ("{0}/{0}/{1}", ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")),
    "colons": ("{0}/{0}/{1}:0", ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")),
    "model": ("model_weights/{0}/{0}_1/{1}:0", ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")),
    "keras 1": ("{0}/{0}_{1}:0", ("W", "b", "gamma", "beta", "running_mean", "running_std")),
    "keras 3": ("layers/layer_{2}/vars/{1}", ("0", "1", "0", "1", "2", "3")),
}


def write_keras(path, layout="now", caffe_names=False):
    pattern, names = LAYOUTS[layout]
    with h5py.File(str(path), "w") as file:
        for number, (_, keras, caffe, shape) in enumerate(layers()):
            kernel = draw(keras[0], shape, "kernel").transpose(2, 3, 1, 0)
            parts = [[kernel / (60 if number == 0 else 1), draw(keras[0], shape[:1], "bias")],
                     [draw(keras[1], shape[:1], part) for part in ("gamma", "beta", "mean", "var")]]
            for layer, drawn, its_names, place in zip(caffe if caffe_names else keras, parts, (names[:2], names[2:]),
                                                      (2 * number, 2 * number + 1)):
                for value, name in zip(drawn, its_names):
                    file[pattern.format(layer, name, place)] = value
                    file[f"optimizer_weights/adam/{layer}/{name}"] = value
                if layout == "keras 3":
                    file[f"layers/layer_{place}/vars"].attrs["name"] = layer
        file["predictions/predictions/kernel"] = np.zeros((16 * WIDTH, 5), np.float32)
    return str(path)


def convert(source, tmp_path, config=None, **options):
    output = str(tmp_path / "base.params")
    convert_base_model(config or Config(**SMALL), source, output, **options)
    return output


def features(path, config=None):
    """What stages 2 to 5, with the strides of the classification network, put out for the picture."""
    config, (args, aux) = from_base_model(dataclasses.replace(config or Config(**SMALL), base_model=path), "final")
    internals = inference_symbol("final", config).get_internals()
    names = internals.list_outputs()
    ends = [names[names.index(name) - 1] for name in (
        "res3a_branch1_weight", "res4a_branch1_weight", "res5a_branch1_g_weight", "g_pool_output")]
    stages = mx.sym.Group([internals[name] for name in ends])
    data = (PICTURE - np.array(config.mean_rgb)).transpose(2, 0, 1)[None]
    args = {name: mx.nd.array(value) for name, value in args.items() if name in stages.list_arguments()}
    aux = {name: mx.nd.array(value) for name, value in aux.items() if name in stages.list_auxiliary_states()}
    return [stage.asnumpy()[0] for stage in
            stages.bind(mx.cpu(), dict(args, data=mx.nd.array(data)), aux_states=aux).forward(is_train=False)]


def check_features(path, framework, **tolerance):
    with np.load(os.path.join(GOLDEN, "features.npz")) as golden:
        for number, found in enumerate(features(path), 2):
            expected = golden[f"{framework}_{number}"]
            assert expected.std() > 1
            np.testing.assert_allclose(found, expected, **(tolerance or {"atol": 1e-4, "rtol": 1e-5}))


def test_features_equal_those_of_pytorch(tmp_path):
    check_features(convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path), "torch")


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("caffe_names", [False, True])
def test_features_equal_those_of_keras(tmp_path, layout, caffe_names):
    check_features(convert(write_keras(tmp_path / "resnet.h5", layout, caffe_names), tmp_path), "keras")


def write_archive(path):
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.write(write_keras(path.parent / "resnet.h5", "keras 3"), "model.weights.h5")


def test_features_equal_those_of_keras_from_its_zip_archive(tmp_path):
    write_archive(tmp_path / "resnet.keras")
    check_features(convert(str(tmp_path / "resnet.keras"), tmp_path), "keras")


def test_a_converted_file_converts_to_itself(tmp_path):
    first = convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path)
    shutil.move(first, str(tmp_path / "first.params"))
    check_features(convert(str(tmp_path / "first.params"), tmp_path), "torch")
    assert read_parameters(str(tmp_path / "base.params")).settings["stride_on"] == "3x3"


def test_biases_of_convolutions_in_mxnet_files_go_into_the_batch_norm(tmp_path, rng):
    path = convert(write_keras(tmp_path / "resnet.h5"), tmp_path)
    values = mx.nd.load(path)
    bias = rng.normal(size=8).astype(np.float32)
    values["arg:res2a_branch2c_bias"] = mx.nd.array(bias)
    values["aux:bn2a_branch2c_moving_mean"] += mx.nd.array(bias)
    mx.nd.save(str(tmp_path / "biased.params"), values)
    check_features(convert(str(tmp_path / "biased.params"), tmp_path), "keras")


def test_files_in_which_no_settings_are_recorded_keep_those_of_the_configuration(tmp_path):
    path = convert(write_keras(tmp_path / "resnet.h5"), tmp_path)
    values = {name: value for name, value in mx.nd.load(path).items() if not name.startswith("settings:")}
    mx.nd.save(str(tmp_path / "plain.params"), values)
    for stride_on in ("1x1", "3x3"):
        convert(str(tmp_path / "plain.params"), tmp_path, Config(stride_on=stride_on, **SMALL))
        assert read_parameters(path).settings == {"width": 2, "units": [2, 1, 1, 1], "stride_on": stride_on,
                                                  "mean_rgb": [123, 117, 104]}


def test_epsilon_goes_into_the_variance_exactly(tmp_path):
    state = torch_state()
    source = write_safetensors(tmp_path / "resnet.safetensors", state)
    for flag, epsilon in ((None, 1e-5), (1e-3, 1e-3)):
        aux = read_parameters(convert(source, tmp_path, epsilon=flag)).aux
        np.testing.assert_allclose(aux["bn2a_branch2a_moving_var"] + 1.001e-5,
                                   state["layer1.0.bn1.running_var"] + epsilon, rtol=2e-7)


def test_weights_of_conv1_keep_their_size(tmp_path):
    """So that a learning rate means the step that it means in PyTorch, though the input is 58 times as large."""
    args = read_parameters(convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path)).args
    ratio = args["conv1_weight"] / torch_state()["conv1.weight"]
    assert 0.95 < ratio.min() and ratio.max() < 1.05


def test_a_mean_that_the_user_gives_is_kept_and_the_difference_goes_into_the_bias(tmp_path):
    source = write_safetensors(tmp_path / "resnet.safetensors")
    config = Config(mean_rgb=(100, 110, 120), **SMALL)
    path = convert(source, tmp_path, config)
    assert read_parameters(path).settings["mean_rgb"] == [100, 110, 120]

    def conv1(path, mean):
        args = read_parameters(path).args
        data = mx.nd.array((PICTURE - np.array(mean)).transpose(2, 0, 1)[None])
        return mx.nd.Convolution(data, mx.nd.array(args["conv1_weight"]), mx.nd.array(args["conv1_bias"]),
                                 kernel=(7, 7), num_filter=WIDTH)
    mine = conv1(path, (100, 110, 120)).asnumpy()
    theirs = conv1(convert(source, tmp_path), (123.675, 116.28, 103.53)).asnumpy()
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-3)
    assert np.abs(theirs).mean() > 10


def test_another_stride_placement_than_that_of_the_source_is_refused(tmp_path):
    config = make_config(stride_on="1x1", **SMALL)
    with pytest.raises(UserError, match="setting stride_on is 1x1, but .*resnet.safetensors was made with 3x3"):
        convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path, config)


def write_torch(path, value):
    """As torch.save writes nested dicts of arrays."""
    torch = pytest.importorskip("torch")

    def tensors(value):
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    torch.save(tensors(value), str(path))
    return str(path)


def change(name, value):
    def spoil(state):
        state[name] = value
    return spoil


@pytest.mark.parametrize("spoil, message", [
    (lambda state: state.pop("layer2.0.conv2.weight"), "lacks the parameter res3a_branch2b_weight"),
    (lambda state: state.pop("layer4.0.bn3.running_var"), "lacks the parameter bn5a_branch2c_moving_var"),
    (change("layer1.1.conv3.weight", np.zeros((4, 2, 1, 1), np.float32)),
     r"res2b_branch2c_weight has shape \(4, 2, 1, 1\), the network wants \(8, 2, 1, 1\)"),
    (change("layer3.1.conv1.weight", np.zeros((8, 32, 1, 1), np.float32)),
     "has res4b_branch2a_weight, which the network lacks"),
    (change("bn1.running_mean", np.array([1, np.nan], np.float32)), "bn_conv1_moving_mean holds other values than fin"),
    (change("layer1.0.bn1.weight", np.ones(2, np.int64)), "bn2a_branch2a_gamma holds other values than finite"),
    (change("layer1.0.bn1.running_var", np.array([1, -1], np.float32)), "or negative variances"),
    (lambda state: state.clear() or state.update(x=np.zeros(3, np.float32)), "holds no ResNet-50"),
])
def test_what_does_not_fit_is_named(tmp_path, spoil, message):
    state = torch_state()
    spoil(state)
    with pytest.raises(UserError, match=message):
        convert(write_safetensors(tmp_path / "resnet.safetensors", state), tmp_path)
    assert os.listdir(str(tmp_path)) == ["resnet.safetensors"]


def below(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: below("module._orig_mod.", state), lambda state: below("encoder.", state),
    lambda state: {"backbone": {"body": state}, "epoch": 3},
    lambda state: {"model_state_dict": below("module.", state), "optimizer": {"state": {0: {"m": np.zeros(3, "f4")}}},
                   "args": argparse.Namespace(lr=0.1), "milestones": collections.Counter([30, 60])},
    lambda state: below("a.", {**state, "decoder.conv1.weight": np.zeros(3, "f4")})])
def test_the_network_is_found_below_any_names_in_files_of_torch(tmp_path, wrap):
    check_features(convert(write_torch(tmp_path / "resnet.pth", wrap(torch_state())), tmp_path), "torch")


def test_files_of_torch_hold_any_precision(tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in torch_state().items()}
    for dtype in (torch.float64, torch.bfloat16):
        torch.save({name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()},
                   str(tmp_path / "resnet.pth"))
        check_features(convert(str(tmp_path / "resnet.pth"), tmp_path), "torch",
                       **({} if dtype == torch.float64 else {"atol": 0.3, "rtol": 0.05}))


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_what_a_file_of_torch_names_is_not_run(tmp_path):
    path = write_torch(tmp_path / "a.pth", {**torch_state(), "more": Touch(tmp_path / "mark")})
    with pytest.raises(UserError, match=r"a.pth names .*system, which is not run: .*torch.save"):
        convert(path, tmp_path)
    assert not (tmp_path / "mark").exists()


def test_without_torch_the_user_is_told_what_to_do(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(UserError, match="a.pth is read by torch, .*: pip install .* or convert .*safetensors"):
        convert(str(tmp_path / "a.pth"), tmp_path)


def test_one_of_several_networks_has_to_be_chosen(tmp_path):
    state = torch_state()
    both = {**below("encoder_k.", state), **below("ema.encoder_q.", state)}
    path = write_safetensors(tmp_path / "a.safetensors", both)
    for prefix in (None, "encoder_q"):
        with pytest.raises(UserError, match="one with --prefix '(encoder_k|ema.encoder_q)' or '(ema|encoder_k)"):
            convert(path, tmp_path, prefix=prefix)
    check_features(convert(path, tmp_path, prefix="ema.encoder_q"), "torch")


def caffe_state(folded):
    """Weights of the Keras network, which takes BGR in 0..255 and strides on the first 1x1, with PyTorch's names."""
    state = {}
    for (conv, norm), keras, _, shape in layers():
        state[conv + ".weight"] = draw(keras[0], shape, "kernel") / (60 if conv == "conv1" else 1)
        gamma, beta, mean, var = (draw(keras[1], shape[:1], part) for part in ("gamma", "beta", "mean", "var"))
        mean = mean - draw(keras[0], shape[:1], "bias")
        if folded:
            gamma = gamma / np.sqrt(var + 1.001e-5)
            beta, mean, var = beta - gamma * mean, 0 * mean, np.full(shape[:1], 1 - 1e-5)
        for name, value in (("weight", gamma), ("bias", beta), ("running_mean", mean), ("running_var", var)):
            state[f"{norm}.{name}"] = value.astype(np.float32)
    return state


@pytest.mark.parametrize("folded, message", [(True, "folded, as in networks converted from Caffe"),
                                             (False, "pixels in 0..255 that are not divided")])
def test_networks_of_caffe_with_names_of_pytorch_have_to_be_named(tmp_path, monkeypatch, folded, message):
    monkeypatch.setitem(base_model.PREPROCESSING, "caffe", base_model.KERAS)  # whose features are the expected ones
    source = write_safetensors(tmp_path / "a.safetensors", caffe_state(folded))
    with pytest.raises(UserError, match=message + ".*--preprocessing torch or caffe or tf or unit"):
        convert(source, tmp_path)
    path = convert(source, tmp_path, preprocessing="caffe", **({} if folded else {"epsilon": 1.001e-5}))
    assert read_parameters(path).settings["stride_on"] == "1x1"
    check_features(path, "keras", atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name, scale, mean", [("unit", 255, 0), ("tf", 127.5, 127.5)])
def test_other_preprocessing_can_be_given(tmp_path, name, scale, mean):
    """A network that takes x = (pixel - mean) / scale, made of one that takes (pixel - its mean) / its deviation."""
    state = torch_state()
    of_torch = base_model.PREPROCESSING["torch"]
    state["conv1.weight"] = state["conv1.weight"] * (scale / np.array(of_torch.std_rgb))[:, None, None]
    shift = (np.array(of_torch.mean_rgb) - mean) / scale
    state["bn1.running_mean"] = state["bn1.running_mean"] + np.einsum("ocij,c->o", state["conv1.weight"], shift)
    state = {key: np.asarray(value, "f4") if value.dtype == "f8" else value for key, value in state.items()}
    source = write_safetensors(tmp_path / "a.safetensors", state)
    config = Config(mean_rgb=of_torch.mean_rgb, **SMALL)  # so that the borders are padded with the same colour
    path = convert(source, tmp_path, config, preprocessing=name)
    with np.load(os.path.join(GOLDEN, "features.npz")) as golden:
        np.testing.assert_allclose(features(path, config)[0], golden["torch_2"], atol=1e-3)


WRITERS = {"a.keras": write_archive, "a.safetensors": write_safetensors, "a.h5": write_keras,
           "a.pth": lambda path: write_torch(path, torch_state()),
           "a.params": lambda path: convert(write_keras(path.parent / "resnet.h5"), path.parent) and os.rename(
               str(path.parent / "base.params"), str(path))}


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("kept", [0, 30, 0.7])
def test_truncated_files_are_named(tmp_path, name, kept):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{name} (is damaged|can't be read)"):
        convert(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "base.params").exists()


def script(tmp_path, *flags, status=0):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"width": WIDTH, "units": list(UNITS)}))
    return run_script(tmp_path, "convert_base_model.py", *flags, status=status)


def test_the_script_replaces_a_file_only_when_asked_to_and_says_what_was_left_over(tmp_path):
    write_safetensors(tmp_path / "resnet.safetensors")
    (tmp_path / "mine.params").write_bytes(b"precious")
    assert "pass --overwrite" in script(tmp_path, "resnet.safetensors", "--output", "mine.params", status=2)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "resnet.safetensors").read_bytes()[:2000])
    script(tmp_path, "cut.safetensors", "--output", "mine.params", "--overwrite", status=2)
    assert (tmp_path / "mine.params").read_bytes() == b"precious"
    text = script(tmp_path, "resnet.safetensors", "--output", "mine.params", "--overwrite")
    assert "left over: fc.bias (5,); fc.weight (5, 32)" in text
    check_features(str(tmp_path / "mine.params"), "torch")


@pytest.mark.parametrize("flags, message", [
    (("nowhere.h5",), "nowhere.h5 can't be read: No such file"),
    (("x.txt",), "x.txt is not a weight file: the name has to end in"), (("--epsilon", "nan", "x"), "--epsilon"),
    ((), "SOURCE")])
def test_mistakes_end_in_one_line_and_status_2(tmp_path, flags, message):
    assert message in script(tmp_path, *flags, status=2)
