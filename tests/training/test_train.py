import csv
import dataclasses
import os
import re

import numpy as np
import pytest
from conftest import CPUS
from networks import TRAINED as SMALL
from networks import batch_of, made, random_parameters, step

from core.config import Config
from core.dataset.preprocessing import batch_input
from core.dataset.samples import samples_record, training_samples
from core.engines.devices import explaining_engine_errors
from core.engines.mxnet.backend import mx
from core.engines.mxnet.steps import Steps, training_inputs, training_symbol
from core.errors import UserError
from core.io.images import read_image, write_mask
from core.io.logs import start_log
from core.network.fcn import parameter_shapes
from core.network.snapshots import load_snapshot, read_parameters, write_parameters
from core.training.batches import BatchLoader
from core.training.checkpoint import find_checkpoint, save_checkpoint
from core.training.initialization import from_base_model, from_scratch
from core.training.train import train


def arrays(values):
    return {name: mx.nd.array(value) for name, value in values.items()}


@pytest.mark.parametrize("backbone, frozen_stages", [("resnet50", 0), ("resnet50", 3), ("efficientnet_lite2", 1)])
@pytest.mark.parametrize("model", ["init", "final"])
def test_one_and_two_devices_make_the_same_step(backbone, frozen_stages, model, rng):
    config, parameters = made(backbone, model, rng, learning_rate=0.05, frozen_stages=frozen_stages, batch_size=4)
    batch = batch_of(config, rng)
    one = step(config, model, parameters, batch, CPUS[:1])
    two = step(config, model, parameters, batch, CPUS[:2])
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model", ["init", "final"])
def test_steps_are_those_of_sgd_with_momentum_decay_and_multipliers(model, rng):
    """Against v = 0.9 v - lr (g + wd w), w = w + v written out here, with gradients of the training symbol."""
    config = Config(learning_rate=0.02, weight_decay=0.3, **SMALL)
    parameters, batch = random_parameters(model, config, rng), batch_of(config, rng)
    found = step(config, model, parameters, batch, CPUS[:1], steps=2)

    symbol = training_symbol(model, config, 4)
    inputs, labels = training_inputs(model, config, 4)
    executor = symbol.simple_bind(mx.cpu(), **dict(inputs + labels))
    executor.copy_params_from(*map(arrays, parameters))
    feed = {"data": batch_input(batch.images, config.mean_rgb), "softmax_label": batch.labels}
    if model == "final":
        feed["g_logistic_label"] = batch.image_labels
    values = {name: value.astype(np.float64) for name, value in parameters[0].items()}
    speeds = {name: 0.0 for name in values}
    for _ in range(2):
        executor.copy_params_from(arrays(values))
        executor.forward(is_train=True, **arrays(feed))
        executor.backward()
        for name in values:
            shift = model == "final" and name.endswith(("beta", "conv1_bias")) and not name.startswith("new")
            rate = 0.02 * (2 if shift else 1)
            decay = 0.3 if name.endswith(("weight", "gamma")) else 0
            speeds[name] = 0.9 * speeds[name] - rate * (executor.grad_dict[name].asnumpy() + decay * values[name])
            values[name] = values[name] + speeds[name]
    for name in values:
        np.testing.assert_allclose(found[name], values[name], rtol=1e-3, atol=1e-5, err_msg=name)
    for name, value in parameters[1].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg="stored statistics must stay")


def test_polynomial_decay_ends_at_zero_and_continues_where_it_was(rng):
    config = Config(learning_rate=1.0, learning_rate_decay="poly", max_epoch=3, init_epoch_size=5, **SMALL)
    parameters, batch = random_parameters("init", config, rng), batch_of(config, rng)

    def rates(first):
        steps = Steps(config, "init", devices=CPUS[:1], parameters=parameters, momentum={}, first=first, last=10)
        for _ in range(first, 10):
            steps.step(batch.images, batch.labels, batch.image_labels)()
            yield steps.learning_rate
    expected = [(1 - step / 10) ** 0.9 for step in range(1, 11)]
    assert list(rates(0)) == pytest.approx(expected) and list(rates(5)) == pytest.approx(expected[5:])


def test_from_scratch_the_batch_norms_store_the_statistics_of_a_batch(prepared):
    loader = BatchLoader(training_samples("init", prepared), prepared)
    batches = loader.batches(0)
    batch = next(batches)
    batches.close()
    args, aux = from_scratch(prepared, "init", CPUS[0], batch.images)
    assert (set(args), set(aux)) == tuple(map(set, parameter_shapes("init", prepared)))
    assert np.abs(aux["bn_conv1_moving_mean"]).max() > 1
    data = mx.nd.array(batch_input(batch.images, prepared.mean_rgb))
    symbol = training_symbol("init", prepared, 4).get_internals()["bn3a_branch2a_output"]
    executor = symbol.simple_bind(mx.cpu(), data=data.shape, grad_req="null")
    executor.copy_params_from(arrays(args), arrays(aux), allow_extra_params=True)
    normal = executor.forward(is_train=False, data=data)[0].asnumpy()
    np.testing.assert_allclose(normal.mean((0, 2, 3)), 0, atol=0.02)
    np.testing.assert_allclose(normal.std((0, 2, 3)), 1, atol=0.02)


def test_a_base_model_fills_the_stages_and_their_global_copies(tiny, rng, tmp_path):
    args, aux = random_parameters("init", tiny, rng)
    head = {name for name in args if name.startswith(("new_", "fc_", "score_"))}
    base = {"arg:" + name: mx.nd.array(value) for name, value in args.items() if name not in head}
    base.update(("aux:" + name, mx.nd.array(value)) for name, value in aux.items())
    path = str(tmp_path / "resnet50.params")
    mx.nd.save(path, base)
    _, (found, states) = from_base_model(dataclasses.replace(tiny, base_model=path), "final")
    np.testing.assert_allclose(found["res4a_branch2b_g_weight"], args["res4a_branch2b_weight"], rtol=1e-6)
    np.testing.assert_allclose(found["res2a_branch1_weight"], args["res2a_branch1_weight"], rtol=1e-6)
    np.testing.assert_allclose(states["bn5a_branch1_g_moving_var"], aux["bn5a_branch1_moving_var"], rtol=1e-6)
    for name in ("new_conv1_weight", "g_multi_fc1_weight"):
        assert found[name].std() == pytest.approx(0.01, rel=0.3)
    assert not found["score_bias"].any()

    del base["arg:res4a_branch2b_weight"]
    mx.nd.save(path, base)
    with pytest.raises(UserError, match="resnet50.params lacks the parameter res4a_branch2b_weight"):
        from_base_model(dataclasses.replace(tiny, base_model=path), "final")
    base["arg:res4a_branch2b_weight"] = mx.nd.ones((1, 2, 3, 3))
    mx.nd.save(path, base)
    with pytest.raises(UserError, match=r"res4a_branch2b_weight has shape \(1, 2, 3, 3\)"):
        from_base_model(dataclasses.replace(tiny, base_model=path), "final")


def test_a_base_model_that_is_set_and_missing_is_named(prepared):
    config = dataclasses.replace(prepared, given=frozenset(["base_model"]))  # to its default, in the --config file
    with pytest.raises(UserError, match="resnet50.params can't be read: No such file"):
        train(config, "init", devices=CPUS[:1])


def test_the_same_seed_gives_the_same_snapshots_and_another_one_others(prepared):
    config = dataclasses.replace(prepared, dropout=0.5, max_epoch=2)

    def run(seed, workers):
        changed = dataclasses.replace(config, seed=seed, workers=workers)
        train(changed, "init", devices=CPUS[:1])
        return load_snapshot(config, "init", 1).parameters[0]["fc_weight"]
    first = run(1, 1)
    assert (run(1, 3) == first).all()
    assert not (run(2, 1) == first).all()


def test_log_and_metrics_hold_loss_accuracy_label_loss_and_speed(prepared):
    layout = prepared.layout
    for name in layout and open(layout.train_list).read().split():
        image = read_image(f"{layout.train_images}/{name}.jpg")
        write_mask(f"{layout.train_masks}/{name}.png", np.zeros(image.shape[:2], np.uint8))
    start_log(layout.log("train_final_model"), prepared)
    train(prepared, "final", devices=CPUS[:2])
    text = open(layout.log("train_final_model")).read()
    last = re.findall(r"\[epoch: 2\] \[batch: 3/3\] \[loss: ([0-9.]+)\] \[accuracy: ([0-9.]+)\] "
                      r"\[label loss: ([0-9.]+)\] \[images/s: ([0-9.]+)\] \[waiting for data: ([0-9.]+) %\]", text)
    assert len(last) == 1
    assert float(last[0][1]) == 1.0  # all is background
    with open(layout.metrics("final"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["batch"]) for row in rows] == [(epoch, batch) for epoch in "12" for batch in "123"]
    for text, column in zip(last[0], ("loss", "accuracy", "label_loss", "images_per_second")):
        rounding = 0.06 if column == "images_per_second" else 6e-5
        assert float(rows[-1][column]) == pytest.approx(float(text), abs=rounding)
    assert {float(row["lr"]) for row in rows} == {prepared.learning_rate}
    assert layout.epochs("final") == [1, 2]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_images(prepared):
    train(dataclasses.replace(prepared, max_epoch=2), "init", devices=CPUS[:1])
    huge = read_parameters(prepared.layout.snapshot("init", 1))
    for name in ("new_conv1_bias", "fc_weight"):
        huge.args[name][:] = 3e38
    write_parameters(prepared.layout.snapshot("init", 1), huge)
    with pytest.raises(UserError, match=r"not finite in epoch 2, batch 1: .*\d+_000000"):
        train(prepared, "init", devices=CPUS[:1], start_epoch=1)


def test_parameters_that_are_not_finite_are_not_saved(prepared):
    train(dataclasses.replace(prepared, max_epoch=2), "init", devices=CPUS[:1])
    layout = prepared.layout
    reached = find_checkpoint("init", prepared, engine="mxnet", data=samples_record(
        training_samples("init", prepared)), start_epoch=None, devices=1)
    reached.parameters[0]["fc_weight"][0] = np.inf  # a ReLU makes 0 of minus infinity
    before = os.listdir(layout.snapshots)
    with pytest.raises(UserError, match="training diverged in epoch 2, fc_weight is no longer finite: lower --lr"):
        save_checkpoint("init", None, reached._replace(epoch=2))
    assert os.listdir(layout.snapshots) == before


def test_a_batch_that_can_not_be_shared_evenly_is_refused(prepared):
    with pytest.raises(UserError, match="4 images can't be shared evenly by 3 devices"):
        train(prepared, "init", devices=CPUS)


def test_a_network_that_no_memory_holds_is_reported_in_one_line():
    network = mx.sym.exp(mx.sym.Variable("data"))
    with pytest.raises(UserError, match="lower --batch-size"), explaining_engine_errors("a", "lower --batch-size"):
        network.simple_bind(mx.cpu(), data=(1 << 15, 1 << 15, 1 << 15))  # 128 TiB


def test_an_engine_that_fails_in_a_step_is_reported_in_one_line_and_in_the_log(prepared, monkeypatch):
    log = prepared.layout.log("train_init_model")
    start_log(log, prepared)
    monkeypatch.setattr(Steps, "step", lambda *_: lambda: mx.nd.zeros(3).reshape(4).asnumpy())
    with pytest.raises(UserError, match="^training failed: .*--engine.*DNNL_MAX_CPU_ISA=AVX2.*lower --batch-size"
                       ) as caught:
        train(prepared, "init", devices=CPUS[:1])
    assert "\n" not in str(caught.value)
    assert "Traceback" in open(log).read()
