"""EfficientNet-Lite2: against an independent implementation, the reading of its weights, its output strides."""
import json

import cv2
import make_sample
import numpy as np
import pytest

from core.config import Config
from core.engines.mxnet.backend import mx
from core.engines.mxnet.network import inference_symbol
from core.engines.mxnet.operations import SymbolOperations
from core.errors import UserError
from core.network import efficientnet_lite as lite
from core.network import imagenet_weights
from core.network.fcn import fold_batch_norms

# (channels out, kernel, stride, expansion) of the 21 blocks, written out.
BLOCKS = ([(16, 3, 1, 1)] + [(24, 3, 2, 6)] + 2 * [(24, 3, 1, 6)] + [(48, 5, 2, 6)] + 2 * [(48, 5, 1, 6)]
          + [(88, 3, 2, 6)] + 3 * [(88, 3, 1, 6)] + 4 * [(120, 5, 1, 6)] + [(208, 5, 2, 6)] + 4 * [(208, 5, 1, 6)]
          + [(352, 3, 1, 6)])
ENDS = (0, 3, 6, 10, 14, 19, 20)  # last block of each stage


@pytest.fixture(scope="module")
def tensors():
    """A state dict of random weights in the package's layout."""
    rng = np.random.default_rng(0)
    found = {}

    def layer(convolution, norm, shape):
        fan = shape[1] * shape[2] * shape[3]
        found[convolution + ".weight"] = rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32)
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.5, 1), ("running_mean", -0.3, 0.3),
                                ("running_var", 0.3, 1.5)):
            found[f"{norm}.{part}"] = rng.uniform(low, high, shape[0]).astype(np.float32)
        found[norm + ".num_batches_tracked"] = np.array(7)

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    incoming = 32
    for number, (channels, kernel, _, expansion) in enumerate(BLOCKS):
        name, inside = f"_blocks.{number}.", incoming * expansion
        if expansion > 1:
            layer(name + "_expand_conv", name + "_bn0", (inside, incoming, 1, 1))
        layer(name + "_depthwise_conv", name + "_bn1", (inside, 1, kernel, kernel))
        layer(name + "_project_conv", name + "_bn2", (channels, inside, 1, 1))
        incoming = channels
    layer("_conv_head", "_bn1", (1280, 352, 1, 1))
    found["_fc.weight"] = rng.normal(0, 0.03, (1000, 1280)).astype(np.float32)
    found["_fc.bias"] = rng.normal(0, 1, 1000).astype(np.float32)
    return found


def by_hand(tensors, data):
    """Stage outputs and the image's 1000 logits, in float64, straight from the definition."""
    def convolved(values, kernel, stride):
        size, pads = kernel.shape[-1], []
        for length in values.shape[1:]:  # TensorFlow's SAME
            whole = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads.append((whole // 2, whole - whole // 2))
        values = np.pad(values, ((0, 0), *pads))
        windows = np.lib.stride_tricks.sliding_window_view(values, (size, size), (1, 2))[:, ::stride, ::stride]
        if kernel.shape[1] == 1 and len(values) == len(kernel):
            return np.einsum("chwij,cij->chw", windows, kernel[:, 0].astype(float))
        return np.einsum("chwij,ocij->ohw", windows, kernel.astype(float), optimize=True)

    def layer(values, convolution, norm, stride=1, activate=True):
        values = convolved(values, tensors[convolution + ".weight"], stride)
        mean, var, weight, bias = (tensors[f"{norm}.{part}"].astype(float)[:, None, None]
                                   for part in ("running_mean", "running_var", "weight", "bias"))
        values = (values - mean) / np.sqrt(var + 1e-3) * weight + bias
        return np.minimum(np.maximum(values, 0), 6) if activate else values

    values, stages = layer(data.astype(float), "_conv_stem", "_bn0", 2), []
    for number, (channels, _, stride, expansion) in enumerate(BLOCKS):
        name, inner = f"_blocks.{number}.", values
        if expansion > 1:
            inner = layer(inner, name + "_expand_conv", name + "_bn0")
        inner = layer(inner, name + "_depthwise_conv", name + "_bn1", stride)
        inner = layer(inner, name + "_project_conv", name + "_bn2", activate=False)
        values = inner + values if stride == 1 and len(inner) == len(values) else inner
        if number in ENDS:
            stages.append(values)
    pooled = layer(values, "_conv_head", "_bn1").mean((1, 2))
    return stages, tensors["_fc.weight"].astype(float) @ pooled + tensors["_fc.bias"]


def run(symbol, args, aux, data):
    executor = symbol.bind(mx.cpu(), dict({name: mx.nd.array(args[name]) for name in symbol.list_arguments()
                                           if name != "data"}, data=mx.nd.array(data[None])),
                           aux_states={name: mx.nd.array(value) for name, value in aux.items()}, grad_req="null")
    return [output.asnumpy()[0] for output in executor.forward(is_train=False)]


@pytest.mark.parametrize("norm", ["stored", "folded"])
def test_every_stage_and_the_logits_are_those_of_an_independent_implementation(tensors, norm):
    args, aux = lite.from_torch(tensors, "weights")
    if norm == "folded":
        args, aux = fold_batch_norms(args, aux), {}
    data = np.random.default_rng(1).normal(0, 1, (3, 64, 96)).astype(np.float32)
    ops = SymbolOperations(norm)
    stages = lite.stages(ops, ops.input())
    *found, maps = run(mx.sym.Group([*stages, lite.class_logits(ops, stages[-1])]), args, aux, data)
    expected, logits = by_hand(tensors, data)
    for own, other in zip(found, expected):
        assert own.shape == other.shape
        np.testing.assert_allclose(own, other, atol=1e-4 * np.abs(other).max())
    np.testing.assert_allclose(maps.mean((1, 2)), logits, atol=1e-4 * np.abs(logits).max())


@pytest.mark.parametrize("stage, blocks", [(1, (0, 0)), (2, (1, 3)), (3, (4, 6)), (4, (7, 10)), (5, (11, 14)),
                                           (6, (15, 19)), (7, (20, 20))])
def test_parameters_belong_to_the_stage_of_their_block(stage, blocks):
    """Of the paper's B2, table 1: 1, 3, 3, 4, 4, 5 and, in Lite, 1 blocks."""
    for block in blocks:
        assert lite.stage_of(f"block{block}_project_weight") == lite.stage_of(f"block{block}_expand_g_bn_beta") == stage
    assert lite.stage_of("stem_bn_gamma") == 1 and lite.stage_of("new_conv1_weight") is None


@pytest.mark.parametrize("stride, sizes", [(32, (32, 16, 8, 4, 4, 2, 2)), (16, (32, 16, 8, 4, 4, 4, 4)),
                                           (8, (32, 16, 8, 8, 8, 8, 8))])
def test_dilation_keeps_the_output_stride(stride, sizes):
    symbol = mx.sym.Group(lite.stages(SymbolOperations("folded"), mx.sym.Variable("data"), stride))
    _, shapes, _ = symbol.infer_shape(data=(1, 3, 64, 64))
    assert [shape[2:] for shape in shapes] == [(size, size) for size in sizes]


def test_dilated_cells_are_those_of_the_strided_network_between_them(tensors):
    args, aux = lite.from_torch(tensors, "weights")
    args = fold_batch_norms(args, aux)
    data = np.random.default_rng(1).normal(0, 1, (3, 512, 32)).astype(np.float32)
    ops = SymbolOperations("folded")
    strided, dilated = (run(lite.stages(ops, ops.input(), stride)[5], args, {}, data)[0]
                        for stride in (32, 16))
    middle = slice(6, 10)  # far from the borders, where the two pad at other places
    np.testing.assert_allclose(dilated[:, 1::2][:, middle, 1], strided[:, middle, 0], atol=1e-3 * np.abs(strided).max())


@pytest.mark.parametrize("model, layer", [("init", "new_conv1"), ("final", "g_multi_fc1")])
def test_new_layers_start_from_features_of_about_unit_size(model, layer):
    picture, _ = make_sample.web_picture(np.random.default_rng(0), "bus")
    picture = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_CUBIC)
    config = Config(backbone="efficientnet_lite2")
    args, aux = fold_batch_norms(*lite.read_imagenet_weights()), {}
    args.update({base + "_g_" + part: args[base + "_" + part] for base, part in (name.rsplit("_", 1) for name in args)})
    features = inference_symbol(model, config, folded=True).get_internals()
    node = next(node for node in json.loads(features.tojson())["nodes"] if node["name"] == layer)
    features = features[list(features.list_outputs()).index(
        json.loads(features.tojson())["nodes"][node["inputs"][0][0]]["name"] + "_output")]
    found = run(features, {name: args[name] for name in features.list_arguments() if name != "data"}, aux,
                lite.network_input(picture, 16))[0]
    assert 0.1 < np.sqrt(np.mean(found ** 2)) < 3


def test_the_packages_weights_are_read_and_checked(tmp_path, tensors):
    args, aux = lite.read_imagenet_weights()
    assert args["fc_weight"].shape == (1000, 1280, 1, 1) and len(args) + len(aux) == 386 - 64  # num_batches_tracked
    with open(imagenet_weights.weights_path(), "rb") as file:
        content = file.read()
    path = tmp_path / "a.pth"
    path.write_bytes(content[:1000] + b"x" + content[1001:])
    with pytest.raises(UserError, match="a.pth is damaged or of another version"):
        lite.read_imagenet_weights(str(path))


@pytest.mark.parametrize("change", [{"_fc.bias": None}, {"_conv_head.weight": np.zeros((2, 2), np.float32)}])
def test_another_network_is_refused(tensors, change):
    tensors = {name: value for name, value in {**tensors, **change}.items() if value is not None}
    with pytest.raises(UserError, match=f"weights: {next(iter(change))} is missing or not of shape"):
        lite.from_torch(tensors, "weights")


def test_input_is_scaled_and_filled_up():
    image = np.full((40, 33, 3), 255, np.uint8)
    found = lite.network_input(image)
    assert found.shape == (3, 64, 64) and (found[:, :40, :33] == 1).all()
    assert not found[:, 40:].any() and not found[:, :, 33:].any()
