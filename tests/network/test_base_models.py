"""Base models from other frameworks' files. golden/make.py says how the expected features were made."""
import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy
import yaml
from conftest import ROOT, run_script
from golden.make import UNITS, WIDTH, draw, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Config, make_config
from core.engines.mxnet.backend import mx
from core.engines.mxnet.network import inference_symbol
from core.errors import UserError
from core.network import base_model
from core.network.base_model import convert_base_model
from core.network.snapshots import read_parameters
from core.network.torch_files import read_torch
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


def test_features_equal_those_of_keras_from_its_zip_archive(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "resnet.keras"), "w") as archive:
        archive.write(write_keras(tmp_path / "resnet.h5", "keras 3"), "model.weights.h5")
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


def test_channels_of_the_input_can_be_given(tmp_path):
    state = torch_state()
    state["conv1.weight"] = np.ascontiguousarray(state["conv1.weight"][:, ::-1])
    source = write_safetensors(tmp_path / "resnet.safetensors", state)
    check_features(convert(source, tmp_path, channels="bgr"), "torch")


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


def test_the_published_mean_given_as_a_flag_is_kept(tmp_path):
    config = make_config(mean_rgb=(123.0, 117.0, 104.0), **SMALL)
    path = convert(write_keras(tmp_path / "resnet.h5"), tmp_path, config)
    assert read_parameters(path).settings["mean_rgb"] == [123, 117, 104]


def test_another_stride_placement_than_that_of_the_source_is_refused(tmp_path):
    config = make_config(stride_on="1x1", **SMALL)
    with pytest.raises(UserError, match="setting stride_on is 1x1, but .*resnet.safetensors was made with 3x3"):
        convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path, config)


def change(name, value):
    def spoil(state):
        state[name] = value
    return spoil


@pytest.mark.parametrize("spoil, message", [
    (lambda state: state.pop("layer2.0.conv2.weight"), "lacks weight of layer layer2.0.conv2"),
    (lambda state: state.pop("layer4.0.bn3.running_var"), "lacks var of layer layer4.0.bn3"),
    (change("layer1.1.conv3.weight", np.zeros((4, 2, 1, 1), np.float32)),
     r"weight of layer layer1.1.conv3 has shape \(4, 2, 1, 1\), the network wants \(8, 2, 1, 1\)"),
    (change("bn1.bias", np.zeros((1, 2), np.float32)),
     r"beta of layer bn1 has shape \(1, 2\), the network wants \(2,\)"),
    (change("layer3.1.conv1.weight", np.zeros((8, 32, 1, 1), np.float32)),
     "has layer layer3.1.conv1, which the network"),
    (change("bn1.running_mean", np.array([1, np.nan], np.float32)), "mean of layer bn1 are not all finite numbers"),
    (change("layer1.0.bn1.weight", np.ones(2, np.int64)), "gamma of layer layer1.0.bn1 are not all finite numbers"),
    (change("layer1.0.bn1.running_var", np.array([1, -1], np.float32)), "var of layer layer1.0.bn1 is negative"),
    (lambda state: state.clear() or state.update(x=np.zeros(3, np.float32)),
     "holds no ResNet-50: layers named as layer1.0"),
])
def test_what_does_not_fit_is_named(tmp_path, spoil, message):
    state = torch_state()
    spoil(state)
    with pytest.raises(UserError, match=message):
        convert(write_safetensors(tmp_path / "resnet.safetensors", state), tmp_path)
    assert os.listdir(str(tmp_path)) == ["resnet.safetensors"]


def golden_copy(name, tmp_path):
    return shutil.copy(os.path.join(GOLDEN, name), str(tmp_path))


@pytest.mark.parametrize("name", ["tensors_zip.pth", "tensors_legacy.pth"])
def test_tensors_of_torch_files(name):
    found = {key.replace("state_dict.", ""): value for key, value in read_torch(os.path.join(GOLDEN, name)).items()}
    counts = np.arange(24, dtype=np.float32)
    expected = {"module.whole": counts.reshape(2, 3, 4), "module.part": counts.reshape(4, 6)[1:3, 2:5],
                "module.turned": counts.reshape(2, 3, 4).transpose(2, 0, 1), "half": counts[:5].astype(np.float16),
                "brain": counts[:5], "double": counts[:3].astype(np.float64), "count": np.array(7),
                "empty": np.zeros((0, 3), np.float32), "parameter": counts[:2]}
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value, err_msg=key)


class Torch:
    """Opcodes of a state dict, written by hand: what torch.save writes, or what an attacker would."""

    def __init__(self, key="0", dtype="FloatStorage", offset=0, size=(2, 3), stride=(3, 1), count=6):
        tensor = self.tensor(key, dtype, offset, size, stride, count)
        self.program = b"\x80\x02}q\x00X\x01\x00\x00\x00w" + tensor + b"s."

    @staticmethod
    def tensor(key, dtype, offset, size, stride, count):
        def plain(value):
            return pickle.dumps(value, 2)[2:-1]
        storage = b"(" + plain("storage") + b"ctorch\n" + dtype.encode() + b"\n" + b"".join(
            map(plain, (key, "cpu", count))) + b"tQ"
        return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(offset) + plain(tuple(size))
                + plain(tuple(stride)) + b"\x89NtR")


def write_zip(path, program, storage=np.arange(6, dtype=np.float32)):
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", storage.tobytes())
    return str(path)


def plain(value):
    return pickle.dumps(value, 2)[2:-1]


def write_pth(path, value, legacy=False, compression=zipfile.ZIP_STORED):
    """Nested dicts of arrays as torch.save writes them."""
    storages = []
    types = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage",
             "u2": "BFloat16Storage"}

    def program(value):
        if isinstance(value, np.ndarray):
            storages.append(np.array(value, order="C"))
            strides = [step // value.itemsize for step in storages[-1].strides]
            return Torch.tensor(str(len(storages) - 1), types[value.dtype.str[1:]], 0, value.shape, strides, value.size)
        if isinstance(value, dict):
            return b"}" + b"".join(plain(key) + program(part) + b"s" for key, part in value.items())
        return plain(value)

    content = b"\x80\x02" + program(value) + b"."
    if legacy:
        with open(str(path), "wb") as file:
            for start in (0x1950a86a20f9469cfc6c, 1001, {}):
                pickle.dump(start, file, 2)
            file.write(content)
            pickle.dump([str(number) for number in range(len(storages))], file, 2)
            for storage in storages:
                file.write(struct.pack("<q", storage.size) + storage.tobytes())
        return str(path)
    with zipfile.ZipFile(str(path), "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for number, storage in enumerate(storages):
            archive.writestr(f"archive/data/{number}", storage.tobytes())
    return str(path)


def below(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: below("_orig_mod.", state), lambda state: below("module._orig_mod.", state),
    lambda state: below("encoder.", state), lambda state: {"backbone": {"body": state}, "epoch": 3},
    lambda state: {"model_state_dict": below("module.", state), "optimizer": {"state": {0: {"m": np.zeros(3, "f4")}}}},
    lambda state: {"state_dict": dict(below("module.encoder_q.", state), **{"module.queue": np.zeros((2, 3), "f4")})},
    lambda state: below("a.", {**below("", state), "decoder.conv1.weight": np.zeros(3, "f4")}),
    lambda state: {"teacher": {"backbone": [state]}}, lambda state: {"net": state, "model": state},
    lambda state: dict(below("module.model.", state), **below("module.attacker.model.", state))])
def test_the_network_is_found_below_any_names(tmp_path, wrap):
    path = write_pth(tmp_path / "resnet.pth", wrap(torch_state()))
    check_features(convert(path, tmp_path), "torch")


def test_children_of_a_network_in_a_sequence_are_found(tmp_path):
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7", "fc": "9"}
    state = {".".join([numbers[name.split(".")[0]]] + name.split(".")[1:]): value
             for name, value in torch_state().items()}
    check_features(convert(write_pth(tmp_path / "a.pth", below("backbone.", state)), tmp_path), "torch")


def transformers_name(name):
    name = re.sub(r"layer([1-4])\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers.", name)
    name = re.sub("^(conv|bn)1", r"embedder.embedder.\1", name)
    name = re.sub(r"\.(conv|bn)([1-3])\.", lambda match: f".layer.{int(match[2]) - 1}.{match[1]}.", name)
    name = name.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.bn")
    return re.sub(r"\bconv\b", "convolution", re.sub(r"\bbn\b", "normalization", name))


def test_networks_of_transformers_are_found(tmp_path):
    state = {"resnet." + transformers_name(name): value for name, value in torch_state().items()}
    assert "resnet.encoder.stages.0.layers.0.layer.2.normalization.running_var" in state
    check_features(convert(write_safetensors(tmp_path / "model.safetensors", state), tmp_path), "torch")


def test_one_of_several_networks_has_to_be_chosen(tmp_path):
    state = torch_state()
    other = {name: value + 1 for name, value in state.items()}
    path = write_pth(tmp_path / "a.pth", {"model": below("encoder_k.", other), "ema": below("encoder_q.", state)})
    with pytest.raises(UserError, match="2 networks, .* 'ema.encoder_q.', 'model.encoder_k.': choose one with --pre"):
        convert(path, tmp_path)
    check_features(convert(path, tmp_path, prefix="ema.encoder_q"), "torch")
    with pytest.raises(UserError, match="no ResNet-50 below 'encoder_q.'; there is one below: 'ema.encoder_q.', 'mo"):
        convert(path, tmp_path, prefix="encoder_q")


def test_all_containers_and_number_formats_give_the_same(tmp_path):
    def rounded(value):  # to 8 bits, which all formats hold
        return (value.view("u4") & 0xffff0000).view("f4") if value.dtype == "f4" else value
    state = {name: rounded(value) for name, value in torch_state().items()}
    state["layer1.0.bn1.running_var"][:] = 0.5  # folding to float16 would else round
    expected = read_parameters(convert(write_safetensors(tmp_path / "resnet.safetensors", state), tmp_path))

    def brain(value):
        return (value.view("u4") >> 16).astype("u2") if value.dtype == "f4" else value
    wide = {name: value.astype("f8") if value.dtype == "f4" else value for name, value in state.items()}
    half = {name: value.astype("f2") if value.dtype == "f4" else value for name, value in state.items()}
    writers = [lambda path: write_pth(path, state), lambda path: write_pth(path, state, legacy=True),
               lambda path: write_pth(path, state, compression=zipfile.ZIP_DEFLATED),
               lambda path: write_pth(path, {name: brain(value) for name, value in state.items()}),
               lambda path: write_pth(path, wide), lambda path: write_safetensors(path, wide),
               lambda path: write_pickle(path, state), lambda path: write_brain_safetensors(path, state, brain)]
    for number, write in enumerate(writers + [lambda path: write_pth(path, half)]):
        path = tmp_path / f"{number}.pth"
        write(path)
        found = read_parameters(convert(str(path), tmp_path))
        for part, other in zip(found[:2], expected[:2]):
            for name in other:
                np.testing.assert_allclose(part[name], other[name], err_msg=name,
                                           **({"rtol": 1e-3, "atol": 1e-3} if number == len(writers) else {"rtol": 0}))


def write_brain_safetensors(path, state, brain):
    content, header = b"", {}
    for name, value in state.items():
        data = brain(value).tobytes()
        header[name] = {"dtype": "BF16" if value.dtype == "f4" else "I64", "shape": list(value.shape),
                        "data_offsets": [len(content), len(content) + len(data)]}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def write_pickle(path, value, protocol=2):
    with open(str(path), "wb") as file:
        pickle.dump({"blobs": value, "epoch": np.float64(3), "best": {1, 2}}, file, protocol)
    return str(path)


def test_integers_are_refused(tmp_path):
    state = {name: value.astype("i8") if "layer4.0.conv2" in name else value for name, value in torch_state().items()}
    with pytest.raises(UserError, match="weight of layer layer4.0.conv2 are not all finite numbers"):
        convert(write_pth(tmp_path / "a.pth", state), tmp_path)


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


def detectron2_name(name):
    if not name.startswith("layer"):
        name = "stem." + name
    name = re.sub("layer([1-4])", lambda match: f"res{int(match[1]) + 1}", name)
    return re.sub(r"bn([1-3])", r"conv\1.norm", name.replace("downsample.0", "shortcut").replace("downsample.1",
                                                                                              "shortcut.norm"))


def caffe2_state():
    """As Detectron's .pkl: no statistics, and names of its own."""
    state = {}
    for (conv, norm), _, caffe, _ in layers():
        name = re.sub("res([2-5])([ab])", lambda match: f"res{match[1]}_{ord(match[2]) - 97}", caffe[0])
        state[name + "_w"] = caffe_state(True)[conv + ".weight"]
        for part, its_name in (("weight", "s"), ("bias", "b")):
            state[("res_conv1" if name == "conv1" else name) + "_bn_" + its_name] = caffe_state(True)[norm + "." + part]
    return state


@pytest.fixture
def keras_mean(monkeypatch):
    """The expected features come from Keras, whose mean is another one."""
    monkeypatch.setitem(base_model.PREPROCESSING, "caffe", base_model._KERAS_INPUT)
    monkeypatch.setitem(base_model.FAMILIES, "torch", [
        family._replace(input=base_model._KERAS_INPUT) if family.title == "Detectron" else family
        for family in base_model.FAMILIES["torch"]])


@pytest.mark.parametrize("rename", [
    lambda name: name, lambda name: "backbone." + name, lambda name: "backbone.bottom_up." + detectron2_name(name),
    lambda name: "backbone.body." + re.sub("^(conv1|bn1)", r"stem.\1", name)])
def test_folded_networks_of_caffe_with_names_of_pytorch_are_converted_as_such(tmp_path, rename, keras_mean, caplog):
    state = {rename(name): value for name, value in caffe_state(True).items()}
    path = convert(write_pth(tmp_path / "a.pth", state), tmp_path)
    assert "all batch norms have mean 0 and variance 1: they are folded" in caplog.text
    assert read_parameters(path).settings["stride_on"] == "1x1"
    check_features(path, "keras", atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_detectron_are_converted(tmp_path, keras_mean, protocol):
    path = write_pickle(tmp_path / "R-50.pkl", caffe2_state(), protocol)
    check_features(convert(path, tmp_path), "keras", atol=2e-3, rtol=1e-4)


def test_torchvision_s_weights_with_names_of_detectron2_are_converted_as_torchvision_s(tmp_path):
    state = {detectron2_name(name): value for name, value in torch_state().items() if not name.startswith("fc")}
    check_features(convert(write_pth(tmp_path / "a.pth", state), tmp_path), "torch")


def test_a_network_of_caffe_that_is_not_folded_has_to_be_named(tmp_path, keras_mean):
    source = write_pth(tmp_path / "a.pth", caffe_state(False))
    with pytest.raises(UserError, match="pixels in 0..255 that are not divided, as in networks converted from Caffe: "
                                        "--preprocessing torch or caffe or tf or unit, and --channels"):
        convert(source, tmp_path)
    check_features(convert(source, tmp_path, preprocessing="caffe", epsilon=1.001e-5), "keras")


@pytest.mark.parametrize("name, scale, mean", [("unit", 255, 0), ("tf", 127.5, 127.5)])
def test_other_preprocessing_can_be_given(tmp_path, name, scale, mean):
    """A network that takes x = (pixel - mean) / scale, made of one that takes (pixel - its mean) / its deviation."""
    state = torch_state()
    of_torch = base_model.PREPROCESSING["torch"]
    state["conv1.weight"] = state["conv1.weight"] * (scale / np.array(of_torch.std_rgb))[:, None, None]
    shift = (np.array(of_torch.mean_rgb) - mean) / scale
    state["bn1.running_mean"] = state["bn1.running_mean"] + np.einsum("ocij,c->o", state["conv1.weight"], shift)
    state = {key: np.asarray(value, "f4") if value.dtype == "f8" else value for key, value in state.items()}
    source = write_pth(tmp_path / "a.pth", state)
    config = Config(mean_rgb=of_torch.mean_rgb, **SMALL)  # so that the borders are padded with the same colour
    path = convert(source, tmp_path, config, preprocessing=name)
    with np.load(os.path.join(GOLDEN, "features.npz")) as golden:
        np.testing.assert_allclose(features(path, config)[0], golden["torch_2"], atol=1e-3)


def first_layers(rng, mean, scale=1.0):
    """conv1 and one more layer of a network that was trained on noise of this mean colour and standard deviation."""
    weight = rng.normal(size=(64, 3, 7, 7)) / 60
    first = base_model._Layer(weight, np.zeros(64), rng.random(64), rng.random(64), weight.sum((2, 3)) @ mean,
                              scale ** 2 * np.square(weight).sum((1, 2, 3)) * rng.uniform(0.2, 4, 64))
    return {"conv1": first, "res2a_branch2a": first}


def test_inputs_without_mean_and_untrained_networks_are_recognised(rng, caplog):
    find = base_model._preprocessing
    assert find("a.pth", first_layers(rng, [0.02, -0.02, 0.05])) == "torch"
    with pytest.raises(UserError, match="a.pth has PyTorch's names, but .* no mean is subtracted from, as in 0..1"):
        find("a.pth", first_layers(rng, [0.48, 0.46, 0.41], 0.25))
    with pytest.raises(UserError, match="pixels in 0..255"):
        find("a.pth", first_layers(rng, [123, 117, 104], 58))
    new = base_model._Layer(rng.random((4, 3, 7, 7)), np.zeros(4), np.ones(4), np.zeros(4), np.zeros(4), np.ones(4))
    assert find("a.pth", {"conv1": new}) == "torch" and "was not trained" in caplog.text


def test_a_hand_written_file_is_read(tmp_path):
    path = write_zip(tmp_path / "a.pth", Torch().program)
    np.testing.assert_array_equal(read_torch(path)["w"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("fields", [
    {"stride": (4, 1)}, {"offset": 1}, {"offset": -1}, {"size": (-2, 3)}, {"stride": (-3, 1)},
    {"size": (2 ** 40, 2 ** 40)}, {"size": (2 ** 40, 3), "stride": (0, 1)}, {"size": (2,)},
    {"count": 2 ** 50, "size": (7,), "stride": (1,)}, {"key": "1"}, {"dtype": "DoubleStorage"}, {"size": ("2", 3)},
    {"count": "6"}])
def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path, fields):
    path = write_zip(tmp_path / "a.pth", Torch(**fields).program)
    with pytest.raises(UserError, match="a.pth is damaged"):
        read_torch(path)


def tensor(storage, offset, size, stride):
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(offset) + plain((size,)) + plain((stride,))
            + b"tR")


def test_a_tensor_is_no_storage(tmp_path):
    """A view of stride 0, taken as a storage of as many numbers, would show the memory behind it."""
    storage = Torch().program.split(b"((", 1)[1].split(b"Q")[0]
    last = tensor(b"(" + storage + b"Q", 5, 6, 0)
    path = write_zip(tmp_path / "a.pth", b"\x80\x02}X\x01\x00\x00\x00w" + tensor(last, 0, 6, 1) + b"s.")
    with pytest.raises(UserError, match="a.pth is damaged.* a tensor is not a view of a storage"):
        read_torch(path)


def nested(depth):
    return b"\x80\x02)" + b"".join(b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86" for number in range(depth))


BOMBS = {
    "numbered values": b"\x80\x02Nr\xff\xff\xff\x7f.", "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 34) + b".",
    "nested key": b"\x80\x02}" + nested(60)[2:] + b"Ns.", "nested set": b"\x80\x04\x8f(" + nested(60)[2:] + b"\x90.",
    "long names": b"\x80\x02}q\x00" + b"X" + struct.pack("<I", 10 ** 6) + b"k" * 10 ** 6 + b"q\x01" + b"".join(
        b"}q\x02s" b"h\x02h\x01" for _ in range(1000)) + b"Ns.",
    "one list many times": (b"\x80\x02](" + b"".join(
        b"J" + struct.pack("<i", number) + b"N\x86" for number in range(9999)) + b"eq\x00](" +
                            b"ccollections\nOrderedDict\nh\x00\x85R" * 9999 + b"e."),
    "one text many times": (b"\x80\x02X" + struct.pack("<I", 10 ** 6) + b"k" * 10 ** 6 + b"q\x00X\x06\x00\x00\x00latin1"
                            b"q\x01(" + b"c_codecs\nencode\nh\x00h\x01\x86R" * 9999 + b"l."),
}


def write_bomb(path, name):
    """A small file that would fill gigabytes, or take for ever."""
    if name in BOMBS:
        return write_zip(path, BOMBS[name])
    if name == "chunk":
        write_keras(path)
        with h5py.File(str(path), "a") as file:
            del file["conv1_bn/conv1_bn/gamma"]
            file.create_dataset("conv1_bn/conv1_bn/gamma", (WIDTH,), np.float32, maxshape=(None,), chunks=(1 << 29,),
                                compression="gzip", fillvalue=1)
        return str(path)
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if name != "model.weights.h5":
            if name != "a/data.pkl":
                archive.writestr("a/data.pkl", Torch(key="0").program)
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(300):
                entry.write(bytes(1 << 20))
    return str(path)


def read_apart(examples, *paths):
    """(MiB more memory, names of the files refused) of tests/helpers/weights_reader.py."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "helpers", "weights_reader.py"), str(examples),
                           *map(str, paths)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                          timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr)
    mebibytes, *refused = done.stdout.split()
    return int(mebibytes), refused


def test_small_files_fill_no_gigabytes(tmp_path):
    refused = sorted(BOMBS) + ["a/data.pkl", "a/byteorder", "model.weights.h5"]
    read = ["a/data/0", "chunk"]  # but for one array
    paths = [tmp_path / re.sub("[ /]", "_", name) for name in refused + read]
    for path, name in zip(paths, refused + read):
        write_bomb(path, name)
    assert max(path.stat().st_size for path in paths) < 4e6
    mebibytes, found = read_apart(1, *paths)
    assert found == [path.name for path in paths[:-2]] and mebibytes < 200
    with pytest.raises(UserError, match="lacks gamma of layer conv1_bn"):
        convert(str(paths[-1]), tmp_path)


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", [
    lambda evil: evil, lambda evil: {"state_dict": {"conv1.weight": evil}}, lambda evil: [evil] * 3])
@pytest.mark.parametrize("function", [os.system, eval, exec, os.popen, io.open, getattr, __import__])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, wrap, function, legacy):
    mark = tmp_path / "mark"
    text = f"touch {mark}" if function in (os.system, os.popen) else f"open({str(mark)!r}, 'w')"
    program = pickle.dumps(wrap(Evil(function, text)), 2)
    path = str(tmp_path / "a.pth")
    if legacy:
        with open(path, "wb") as file:
            for value in (0x1950a86a20f9469cfc6c, 1001, {}):
                pickle.dump(value, file, 2)
            file.write(program)
    else:
        write_zip(path, program)
    with pytest.raises(UserError, match=r"a.pth names .*, which a weight file does not need"):
        read_torch(path)
    assert not mark.exists()


@pytest.mark.parametrize("program", [
    b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",  # an attribute in place of a method
    b"\x80\x02ctorch\nFloatStorage\n)R.",  # a storage called
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.",
    b"\x80\x02K\x01Q.", b"\x80\x02}h\x05.", b"\x80\x02(((((((((t.", b"\x80\x02\x82\x01.", b".", b"",
    b"\x80\x02]q\x00h\x00a.",
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2^63 - 1
])
def test_strange_pickles_are_refused(tmp_path, program):
    with pytest.raises(UserError, match="a.pth"):
        read_torch(write_zip(tmp_path / "a.pth", program))


def test_a_training_checkpoint_with_objects_of_its_own_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="argparse.Namespace.*torch.save"):
        read_torch(write_zip(tmp_path / "a.pth", b"\x80\x02cargparse\nNamespace\n)R."))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["tensors_zip.pth", "tensors_legacy.pth"]), data=st.data())
def test_damaged_torch_files_end_in_a_clear_error_or_are_read(tmp_path_factory, name, data):
    with open(os.path.join(GOLDEN, name), "rb") as file:
        content = bytearray(file.read())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(bytes(content[:data.draw(st.integers(len(content) // 2, len(content)))]))
    try:
        read_torch(str(path))
    except UserError as error:
        assert "damaged.pth" in str(error)


@pytest.mark.slow
def test_damaged_files_neither_crash_nor_fill_the_memory(tmp_path):
    names = ["a.safetensors", "a.h5", "a.keras", "a.pth", "b.pth", "a.pkl"]
    for name in names:
        WRITERS[name](tmp_path / name)
    mebibytes, refused = read_apart(60, *(tmp_path / name for name in names))
    assert set(refused) == set(names) and mebibytes < 200


def write_archive(path):
    with zipfile.ZipFile(str(path), "w") as archive:
        archive.write(write_keras(path.parent / "resnet.h5", "keras 3"), "model.weights.h5")


WRITERS = {"a.keras": write_archive, "a.pkl": lambda path: write_pickle(path, caffe2_state()),
           "a.safetensors": write_safetensors, "a.h5": write_keras,
           "a.pth": lambda path: golden_copy("tensors_zip.pth", path.parent) and os.rename(
               str(path.parent / "tensors_zip.pth"), str(path)),
           "b.pth": lambda path: golden_copy("tensors_legacy.pth", path.parent) and os.rename(
               str(path.parent / "tensors_legacy.pth"), str(path)),
           "a.params": lambda path: convert(write_keras(path.parent / "resnet.h5"), path.parent) and os.rename(
               str(path.parent / "base.params"), str(path))}


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("kept", [0, 3, 30, 0.3, 0.7, 0.99])
def test_truncated_files_are_named(tmp_path, name, kept):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=rf"{name} is (damaged|not a weight file)"):
        convert(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "base.params").exists()


@pytest.mark.parametrize("content", [
    b"", b"<!DOCTYPE html><html>not found</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    b"\xff\xd8\xff\xe0" + bytes(100), b"\x1f\x8b\x08" + bytes(50), struct.pack("<Q", 10 ** 15) + b"{}"])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "resnet50.pth").write_bytes(content)
    with pytest.raises(UserError, match="resnet50.pth is not a weight file: Keras .h5, .safetensors"):
        convert(str(tmp_path / "resnet50.pth"), tmp_path)


def test_archives_of_something_else_are_named(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="a.pth is a zip archive, but not one of torch.save"):
        convert(str(tmp_path / "a.pth"), tmp_path)
    h5py.File(str(tmp_path / "a.h5"), "w").close()
    with pytest.raises(UserError, match="a.h5 holds no ResNet-50"):
        convert(str(tmp_path / "a.h5"), tmp_path)


def test_content_in_other_files_is_not_read(tmp_path):
    """HDF5 can point to any file of the machine."""
    path = write_keras(tmp_path / "resnet.h5")
    (tmp_path / "secret").write_bytes(np.ones(WIDTH, np.float32).tobytes())
    with h5py.File(path, "a") as file:
        del file["conv1_bn/conv1_bn/gamma"]
        file.create_dataset("conv1_bn/conv1_bn/gamma", (WIDTH,), np.float32,
                            external=[(str(tmp_path / "secret"), 0, 4 * WIDTH)])
    with pytest.raises(UserError, match="lacks gamma of layer conv1_bn"):
        convert(path, tmp_path)


def script(tmp_path, *flags, status=0):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"width": WIDTH, "units": list(UNITS)}))
    return run_script(tmp_path, "convert_base_model.py", *flags, status=status)


def test_the_script_reports_what_was_mapped_and_what_was_left_over(tmp_path):
    write_safetensors(tmp_path / "resnet.safetensors")
    text = script(tmp_path, "resnet.safetensors")
    assert "res2a_branch1   (8, 2, 1, 1)        from layer1.0.downsample.0, layer1.0.downsample.1" in text
    assert "left over: fc bias (5,); fc weight (5, 32); num_batches_tracked of 20 layers" in text
    check_features(str(tmp_path / "models" / "resnet50.params"), "torch")


def test_the_script_replaces_a_file_only_when_asked_to(tmp_path):
    write_keras(tmp_path / "resnet.h5")
    (tmp_path / "mine.params").write_bytes(b"precious")
    assert "pass --overwrite" in script(tmp_path, "resnet.h5", "--output", "mine.params", status=2)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "resnet.h5").read_bytes()[:20000])
    script(tmp_path, "cut.h5", "--output", "mine.params", "--overwrite", status=2)
    assert (tmp_path / "mine.params").read_bytes() == b"precious"
    script(tmp_path, "resnet.h5", "--output", "mine.params", "--overwrite")
    check_features(str(tmp_path / "mine.params"), "keras")


@pytest.mark.parametrize("flags, message", [
    (("nowhere.pth",), "nowhere.pth can't be read: No such file"), ((".",), "can't be read: Is a directory"),
    (("--epsilon", "-1", "x"), "--epsilon"), (("--epsilon", "nan", "x"), "--epsilon"), ((), "SOURCE")])
def test_mistakes_end_in_one_line_and_status_2(tmp_path, flags, message):
    assert message in script(tmp_path, *flags, status=2)
