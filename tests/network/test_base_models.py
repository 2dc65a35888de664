"""Base models from other frameworks' files. golden/make.py tells how the expected features were made."""
import io
import os
import pickle
import shutil
import struct
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
from core.errors import UserError
from core.network.base_model import convert_base_model
from core.network.fcn import inference_symbol
from core.network.snapshots import read_parameters
from core.network.torch_files import read_torch
from core.runtime.mxnet_backend import mx
from core.training import train

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
            torch, keras = "layer%d.%d." % (stage - 1, unit), "conv%d_block%d_" % (stage, unit + 1)
            caffe = "%d%s_branch" % (stage, "ab"[unit])
            if unit == 0:
                yield ((torch + "downsample.0", torch + "downsample.1"), (keras + "0_conv", keras + "0_bn"),
                       ("res" + caffe + "1", "bn" + caffe + "1"), (4 * inner, inputs, 1, 1))
            for number, shape in enumerate(((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)), 1):
                branch = "%s2%s" % (caffe, "abc"[number - 1])
                yield (("%sconv%d" % (torch, number), "%sbn%d" % (torch, number)),
                       ("%s%d_conv" % (keras, number), "%s%d_bn" % (keras, number)),
                       ("res" + branch, "bn" + branch), shape)
            inputs = 4 * inner


def torch_state():
    state = {"fc.weight": np.zeros((5, 16 * WIDTH), np.float32), "fc.bias": np.zeros(5, np.float32)}
    for (conv, norm), _, _, shape in layers():
        state[conv + ".weight"] = draw(conv, shape, "kernel")
        for part, name in (("gamma", "weight"), ("beta", "bias"), ("mean", "running_mean"), ("var", "running_var")):
            state["%s.%s" % (norm, name)] = draw(norm, shape[:1], part)
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
                    file["optimizer_weights/adam/%s/%s" % (layer, name)] = value
                if layout == "keras 3":
                    file["layers/layer_%d/vars" % place].attrs["name"] = layer
        file["predictions/predictions/kernel"] = np.zeros((16 * WIDTH, 5), np.float32)
    return str(path)


def convert(source, tmp_path, config=None, **options):
    output = str(tmp_path / "base.params")
    convert_base_model(config or Config(**SMALL), source, output, **options)
    return output


def features(path, config=None):
    """What stages 2 to 5, with the strides of the classification network, put out for the picture."""
    config, (args, aux) = train._from_base_model(config or Config(**SMALL), "final", path)
    internals = inference_symbol("final", config).get_internals()
    names = internals.list_outputs()
    ends = [names[names.index(name) - 1] for name in (
        "res3a_branch1_weight", "res4a_branch1_weight", "res5a_branch1_g_weight", "g_pool_output")]
    stages = mx.sym.Group([internals[name] for name in ends])
    data = (PICTURE - np.array(config.mean_rgb)).transpose(2, 0, 1)[None]
    args = {name: value for name, value in args.items() if name in stages.list_arguments()}
    aux = {name: value for name, value in aux.items() if name in stages.list_auxiliary_states()}
    return [stage.asnumpy()[0] for stage in
            stages.bind(mx.cpu(), dict(args, data=mx.nd.array(data)), aux_states=aux).forward(is_train=False)]


def check_features(path, framework, **tolerance):
    with np.load(os.path.join(GOLDEN, "features.npz")) as golden:
        for number, found in enumerate(features(path), 2):
            expected = golden["%s_%d" % (framework, number)]
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


def test_channels_of_the_input_can_be_told(tmp_path):
    state = torch_state()
    state["conv1.weight"] = np.ascontiguousarray(state["conv1.weight"][:, ::-1])
    source = write_safetensors(tmp_path / "resnet.safetensors", state)
    check_features(convert(source, tmp_path, channels="bgr"), "torch")


def test_epsilon_goes_into_the_variance_exactly(tmp_path):
    state = torch_state()
    source = write_safetensors(tmp_path / "resnet.safetensors", state)
    for flag, epsilon in ((None, 1e-5), (1e-3, 1e-3)):
        aux = read_parameters(convert(source, tmp_path, epsilon=flag)).aux
        np.testing.assert_allclose(aux["bn2a_branch2a_moving_var"].asnumpy() + 1.001e-5,
                                   state["layer1.0.bn1.running_var"] + epsilon, rtol=2e-7)


def test_weights_of_conv1_keep_their_size(tmp_path):
    """So that a learning rate means the step that it means in PyTorch, though the input is 58 times as large."""
    args = read_parameters(convert(write_safetensors(tmp_path / "resnet.safetensors"), tmp_path)).args
    ratio = args["conv1_weight"].asnumpy() / torch_state()["conv1.weight"]
    assert 0.95 < ratio.min() and ratio.max() < 1.05


def test_a_mean_that_the_user_gives_is_kept_and_the_difference_goes_into_the_bias(tmp_path):
    source = write_safetensors(tmp_path / "resnet.safetensors")
    config = Config(mean_rgb=(100, 110, 120), **SMALL)
    path = convert(source, tmp_path, config)
    assert read_parameters(path).settings["mean_rgb"] == [100, 110, 120]

    def conv1(path, mean):
        args = read_parameters(path).args
        data = mx.nd.array((PICTURE - np.array(mean)).transpose(2, 0, 1)[None])
        return mx.nd.Convolution(data, args["conv1_weight"], args["conv1_bias"], kernel=(7, 7), num_filter=WIDTH)
    mine = conv1(path, (100, 110, 120)).asnumpy()
    theirs = conv1(convert(source, tmp_path), (123.675, 116.28, 103.53)).asnumpy()
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-3)
    assert np.abs(theirs).mean() > 10


def test_the_published_mean_given_as_a_flag_is_kept(tmp_path):
    config = make_config(mean_rgb=(123.0, 117.0, 104.0), **SMALL)
    path = convert(write_keras(tmp_path / "resnet.h5"), tmp_path, config)
    assert read_parameters(path).settings["mean_rgb"] == [123, 117, 104]


def test_a_stride_placement_that_the_source_has_not_is_refused(tmp_path):
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
    (change("module.conv1.weight", np.ones(2, np.float32)), "holds weight of layer conv1 twice"),
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
    found = read_torch(os.path.join(GOLDEN, name))
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
    text = "touch %s" % mark if function in (os.system, os.popen) else "open(%r, 'w')" % str(mark)
    program = pickle.dumps(wrap(Evil(function, text)), 2)
    path = str(tmp_path / "a.pth")
    if legacy:
        with open(path, "wb") as file:
            for value in (0x1950a86a20f9469cfc6c, 1001, {}):
                pickle.dump(value, file, 2)
            file.write(program)
    else:
        write_zip(path, program)
    with pytest.raises(UserError, match=r"a.pth names .*, which a file of weights has no need of"):
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


def test_a_training_checkpoint_with_objects_of_its_own_is_refused_with_the_mend(tmp_path):
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


WRITERS = {"a.safetensors": write_safetensors, "a.h5": write_keras,
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
    with pytest.raises(UserError, match=r"%s is (damaged|no weight file)" % name):
        convert(str(tmp_path / name), tmp_path)
    assert not (tmp_path / "base.params").exists()


@pytest.mark.parametrize("content", [
    b"", b"<!DOCTYPE html><html>not found</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    b"\xff\xd8\xff\xe0" + bytes(100), b"\x1f\x8b\x08" + bytes(50), struct.pack("<Q", 10 ** 15) + b"{}"])
def test_other_files_are_named(tmp_path, content):
    (tmp_path / "resnet50.pth").write_bytes(content)
    with pytest.raises(UserError, match="resnet50.pth is no weight file: Keras .h5, .safetensors"):
        convert(str(tmp_path / "resnet50.pth"), tmp_path)


def test_archives_of_something_else_are_named(tmp_path):
    with zipfile.ZipFile(str(tmp_path / "a.pth"), "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="a.pth is a zip archive, but none of torch.save"):
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


def test_the_script_tells_what_was_mapped_and_what_was_left_over(tmp_path):
    write_safetensors(tmp_path / "resnet.safetensors")
    text = script(tmp_path, "resnet.safetensors")
    assert "res2a_branch1   (8, 2, 1, 1)        from layer1.0.downsample.0, layer1.0.downsample.1" in text
    assert "left over: fc bias (5,); fc weight (5, 32); num_batches_tracked of 20 layers" in text
    check_features(str(tmp_path / "models" / "resnet50.params"), "torch")


def test_the_script_replaces_a_file_only_when_told(tmp_path):
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
