import json

import numpy as np
import pytest
import reference
from networks import SMALL, bind, random_parameters

from core.config import Config
from core.engines.mxnet.network import inference_symbol
from core.engines.mxnet.steps import training_symbol
from core.network.fcn import fold_batch_norms, multipliers, parameter_shapes


def test_a_network_has_one_text_however_many_were_made_before():
    one, other = (training_symbol("final", Config(**SMALL), 2).tojson() for _ in range(2))
    assert one == other


def test_published_names_and_shapes():
    args, aux = parameter_shapes("init", Config())
    assert (len(args), len(aux)) == (166, 106)
    assert args["conv1_weight"] == (64, 3, 7, 7) and args["conv1_bias"] == (64,)
    assert args["res2a_branch1_weight"] == (256, 64, 1, 1) and "res2b_branch1_weight" not in args
    assert args["res4f_branch2b_weight"] == (256, 256, 3, 3) and "res4a_branch2a_bias" not in args
    assert args["bn5c_branch2c_gamma"] == (2048,) and aux["bn5c_branch2c_moving_var"] == (2048,)
    assert args["new_conv1_weight"] == (512, 2048, 3, 3) and args["fc_weight"] == (512, 512, 1, 1)
    assert args["score_weight"] == (21, 512, 1, 1) and args["score_bias"] == (21,)
    final, final_aux = parameter_shapes("final", Config())
    assert (len(final), len(final_aux)) == (259, 164)
    assert {name: final[name] for name in args} == args
    assert final["res5a_branch1_g_weight"] == (2048, 1024, 1, 1) and "res3a_branch1_g_weight" not in final
    assert final["g_multi_fc1_weight"] == (1024, 2048, 1, 1) and final["g_score_weight"] == (21, 1024, 1, 1)


@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("model", ["init", "final"])
def test_probabilities_equal_those_of_a_second_implementation(model, stride_on, rng):
    config = Config(stride_on=stride_on, **SMALL)
    args, aux = random_parameters(model, config, rng)
    data = rng.normal(0, 1, (2, 3, 120, 136))  # wide enough for a dilation of 12 cells to reach both sides
    executor = bind(inference_symbol(model, config), args, aux, "null", data=data)
    found = executor.forward(is_train=False)[0].asnumpy()
    expected = reference.Network(args, aux, config.units, stride_on=stride_on).probabilities(data, model)
    assert found.shape == (2, 4, 15, 17)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("model", ["init", "final"])
def test_gradients_are_those_of_the_losses(model, rng):
    config = Config(**dict(SMALL, head_dilation=2))
    args, aux = random_parameters(model, config, rng)
    data, labels = rng.normal(0, 1, (2, 3, 32, 40)), rng.integers(0, 4, (2, 20)).astype(float)
    labels[0, 3:9] = 255
    image_labels = rng.integers(0, 2, (2, 4, 1, 1)).astype(float)
    inputs = {"data": data, "softmax_label": labels}
    if model == "final":
        inputs["g_logistic_label"] = image_labels
    executor = bind(training_symbol(model, config, 2), args, aux, **inputs)
    executor.forward(is_train=True)
    executor.backward()

    def loss(name, place, shift):
        changed = dict(args, **{name: args[name].copy()})
        changed[name][place] += shift
        return reference.Network(changed, aux, config.units, 2).loss(data, labels, image_labels, model)

    for name in args:
        gradient = executor.grad_dict[name].asnumpy()
        place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        expected = (loss(name, place, 1e-6) - loss(name, place, -1e-6)) / 2e-6
        assert gradient[place] == pytest.approx(expected, rel=2e-3, abs=1e-6), name


def test_both_stride_placements_have_the_same_parameters():
    for model in ("init", "final"):
        assert parameter_shapes(model, Config(stride_on="3x3")) == parameter_shapes(model, Config())


def test_stages_of_the_global_branch_learn_at_the_rate_of_a_mean_where_the_loss_is_a_sum():
    config = Config(label_loss="sum")
    assert multipliers("final", "res5a_branch1_g_weight", config) == (1 / 21, 1)
    assert multipliers("final", "bn5a_branch1_g_beta", config) == (2 / 21, 0)
    for name in ("res5a_branch1_weight", "g_multi_fc1_weight", "score_weight"):
        assert multipliers("final", name, config) == (1, 1)


@pytest.mark.parametrize("model", ["init", "final"])
def test_folded_batch_norms_change_no_probability(model, rng):
    config = Config(**SMALL)
    args, aux = random_parameters(model, config, rng)
    data = rng.normal(0, 1, (1, 3, 64, 72))
    folded = fold_batch_norms(args, aux)
    symbol = inference_symbol(model, config, folded=True)
    assert not symbol.list_auxiliary_states() and set(symbol.list_arguments()) == {"data", *folded}
    found = bind(symbol, folded, {}, "null", data=data).forward(is_train=False)[0].asnumpy()
    expected = reference.Network(args, aux, config.units).probabilities(data, model)
    assert expected.std() > 0.03
    np.testing.assert_allclose(found, expected, atol=2e-5)


def layers_of(symbol, op):
    """(name of the layer that goes in, through ReLUs; attributes) of every operation of a kind, in their order."""
    nodes = json.loads(symbol.tojson())["nodes"]

    def source(node):
        before = nodes[node["inputs"][0][0]]
        return source(before) if before["op"] == "Activation" else before["name"]
    return [(source(node), node["attrs"]) for node in nodes if node["op"] == op]


@pytest.mark.parametrize("model, dropped", [("init", ["new_conv1"]), ("final", ["new_conv1", "g_multi_fc1",
                                                                                 "g_multi_fc2"])])
def test_dropout_follows_the_published_layers(model, dropped):
    found = layers_of(training_symbol(model, Config(**dict(SMALL, dropout=0.25)), 1), "Dropout")
    assert sorted(name for name, _ in found) == sorted(dropped)
    assert {float(attributes["p"]) for _, attributes in found} == {0.25}
    assert layers_of(inference_symbol(model, Config(**dict(SMALL, dropout=0.25))), "Dropout") == []


def test_batch_norms_add_the_published_epsilon():
    for symbol in (training_symbol("final", Config(**SMALL), 1), inference_symbol("final", Config(**SMALL))):
        norms = [attributes for _, attributes in layers_of(symbol, "BatchNorm")]
        assert len(norms) > 10 and {float(attributes["eps"]) for attributes in norms} == {1.001e-5}
