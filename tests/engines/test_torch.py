"""The torch engine against MXNet, the reference. Skipped where torch is not installed."""
import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import CPUS, ROOT, run_script, tiny_settings
from networks import batch_of, made, step

pytest.importorskip("torch", reason="torch is not installed: pip install -r tests/torch-dependencies.txt")

from core.config import Config  # noqa: E402
from core.cosegmentation.feature_maps import Describer, imagenet_network, network_view  # noqa: E402
from core.engines.chooser import load, resolve_dtype  # noqa: E402
from core.engines.devices import Device  # noqa: E402
from core.engines.network import Network  # noqa: E402
from core.engines.torch import backend as torch_backend  # noqa: E402
from core.engines.torch import steps as torch_steps  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.inference.segmenter import Segmenter, branch_scores  # noqa: E402
from core.io.files import read_json  # noqa: E402
from core.network import fcn, imagenet_weights, resnet  # noqa: E402
from core.network.snapshots import Snapshot, load_snapshot  # noqa: E402
from core.training.batches import Batch  # noqa: E402
from core.training.checkpoint import Checkpoint  # noqa: E402
from core.training.train import check_agreement, train  # noqa: E402

torch = torch_backend.torch
TORCH = Device("torch")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.parametrize("backbone", fcn.BACKBONES)
@pytest.mark.parametrize("model", ["init", "final"])
def test_both_engines_give_the_same_scores(backbone, model, rng):
    config, parameters = made(backbone, model, rng)
    snapshot = Snapshot(config, model, 0, parameters, "")
    image = rng.integers(0, 256, (90, 141, 3)).astype(np.uint8)
    theirs, mine = (Segmenter(snapshot, [device]).scores(image, (0.7, 1.0)) for device in (CPUS[0], TORCH))
    np.testing.assert_allclose(mine, theirs, atol=5e-5)
    assert mine.std() > 0.01


def test_the_branches_and_stages_are_the_same(rng):
    config, parameters = made("resnet50", "final", rng)
    image = rng.integers(0, 256, (60, 75, 3)).astype(np.uint8)
    for theirs, mine in zip(*(branch_scores(Snapshot(config, "final", 0, parameters, ""), image, device)
                              for device in (CPUS[0], TORCH))):
        np.testing.assert_allclose(mine, theirs, atol=5e-5)
    data = rng.normal(0, 50, (3, 64, 96)).astype(np.float32)
    theirs, mine = (Network(lambda ops: [ops.concat(resnet.cell_maps(ops, config))], fcn.fold_batch_norms(*parameters),
                                 device).forward(data)()[0] for device in (CPUS[0], TORCH))
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.skipif(imagenet_weights.weights_path() is None, reason="the package with ImageNet weights is missing")
def test_the_maps_of_the_imagenet_network_are_the_same(rng):
    image, network = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8), imagenet_network()
    data = network.prepare(network_view(image, 192))

    def build(ops):
        groups, contrast = network.build(ops)
        return [*sum(groups, []), contrast]

    for theirs, mine in zip(*(Network(build, network.args, device).forward(data)() for device in (CPUS[0], TORCH))):
        np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())
    theirs, mine = (Describer(network, Config(web_side=96), [device]).start([image])[0]()
                    for device in (CPUS[0], TORCH))
    for name in ("maps", "contrast"):  # float16
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-3 * np.abs(theirs[name]).max())


@pytest.mark.parametrize("backbone, frozen_stages", [("resnet50", 1), ("resnet50", 3), ("efficientnet_lite2", 1),
                                                     ("efficientnet_lite2", 5), ("efficientnet_lite2", 7)])
@pytest.mark.parametrize("model", ["init", "final"])
def test_a_training_step_is_the_same(backbone, frozen_stages, model, rng):
    config, parameters = made(backbone, model, rng, learning_rate=0.05, weight_decay=0.3, frozen_stages=frozen_stages,
                              label_loss="sum" if frozen_stages == 5 else "mean", crop_size=32, batch_size=4,
                              dropout=0.0)
    batch = batch_of(config, rng)
    theirs, mine = (step(config, model, parameters, batch, [device]) for device in (CPUS[0], TORCH))
    before = {**parameters[0], **parameters[1]}
    assert list(theirs) == list(mine)
    changes = {name: np.abs(theirs[name] - before[name]).max() for name in theirs}
    for name in theirs:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0, err_msg=name,
                                   atol=1e-5 * max(changes.values()) + 1e-6 * np.abs(theirs[name]).max())
    assert sum(change > 0 for change in changes.values()) > (5 if frozen_stages == 7 else 20)


def test_a_batch_in_parts_makes_the_same_step(rng):
    config, parameters = made("resnet50", "final", rng, learning_rate=0.05, batch_size=4, dropout=0.0)
    batch = batch_of(config, rng)
    batch.labels[0, :9] = 255  # the parts have other numbers of valid cells
    whole, parts = (step(dataclasses.replace(config, accumulate=count), "final", parameters, batch, [TORCH])
                    for count in (1, 4))
    largest = max(np.abs(whole[name] - value).max() for name, value in parameters[0].items())
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=1e-5 * largest + 1e-6 * np.abs(value).max(),
                                   err_msg=name)


def test_momentum_and_the_decayed_learning_rate_pass_from_one_engine_to_the_other(rng):
    config, parameters = made("resnet50", "init", rng, learning_rate=0.05, learning_rate_decay="poly")
    batch, found = batch_of(config, rng), []
    for first, second in ((CPUS[0], CPUS[0]), (CPUS[0], TORCH), (TORCH, CPUS[0])):
        momentum, reached = {}, parameters
        for number, device in enumerate((first, second)):
            steps = load(device.engine, "steps").Steps(config, "init", devices=[device], parameters=reached,
                                                       momentum=momentum, first=number, last=4)
            steps.step(batch.images, batch.labels, batch.image_labels)()
            reached, momentum = steps.parameters(), steps.momentum()
        found.append((steps.learning_rate, reached[0], momentum))
    for rate, args, momentum in found[1:]:
        assert rate == pytest.approx(found[0][0])
        for part, expected in ((args, found[0][1]), (momentum, found[0][2])):
            assert part.keys() == expected.keys()
            for name, value in part.items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_statistics_of_a_batch_are_the_same(rng):
    config, parameters = made("resnet50", "init", rng)
    batch = batch_of(config, rng)
    theirs, mine = (load(device.engine, "steps").batch_statistics(config, "init", device, parameters[0], batch.images)
                    for device in (CPUS[0], TORCH))
    assert theirs.keys() == mine.keys()
    for name in theirs:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_batch_without_labels_changes_nothing_but_what_decays(rng):
    config, parameters = made("resnet50", "init", rng, weight_decay=0.0)
    batch = batch_of(config, rng)
    batch = Batch(batch.names, batch.images, np.full_like(batch.labels, 255), batch.image_labels)
    for device in (CPUS[0], TORCH):
        for name, value in step(config, "init", parameters, batch, [device]).items():
            np.testing.assert_array_equal(value, {**parameters[0], **parameters[1]}[name], err_msg=name)


@pytest.mark.parametrize("device", [CPUS[0], TORCH], ids=["mxnet", "torch"])
def test_the_image_level_loss_is_a_mean_or_a_sum_over_the_classes(device, rng):
    changes = []
    for loss in ("mean", "sum"):
        config, parameters = made("efficientnet_lite2", "final", np.random.default_rng(0), label_loss=loss,
                                  weight_decay=0.0, dropout=0.0)
        batch = batch_of(config, np.random.default_rng(1))
        unlabelled = batch._replace(labels=np.full_like(batch.labels, 255))
        changes.append(step(config, "final", parameters, unlabelled, [device])["g_score_bias"]
                       - parameters[0]["g_score_bias"])
    np.testing.assert_allclose(changes[1], config.num_classes * changes[0], rtol=1e-3)
    assert np.abs(changes[0]).max() > 0


def test_narrow_types_train_float32_weights_and_give_nearly_the_same_scores(rng):
    config, parameters = made("resnet50", "final", rng, learning_rate=0.05)
    batch = batch_of(config, rng)
    exact, low = (step(dataclasses.replace(config, dtype=dtype), "final", parameters, batch, [TORCH])
                  for dtype in ("float32", "bfloat16"))
    difference = np.concatenate([(low[name] - exact[name]).ravel() for name in exact])
    change = np.concatenate([(exact[name] - parameters[0][name]).ravel() for name in parameters[0]])
    assert all(value.dtype == np.float32 for value in low.values())
    assert 0 < np.linalg.norm(difference) < 0.1 * np.linalg.norm(change)
    snapshot = Snapshot(config, "final", 0, parameters, "")
    image = rng.integers(0, 256, (64, 80, 3)).astype(np.uint8)
    plain, low = (Segmenter(snapshot, [TORCH], dtype).scores(image) for dtype in ("float32", "bfloat16"))
    assert low.dtype == np.float32 and 1e-4 < np.abs(plain - low).max() and np.abs(plain - low).mean() < 0.02


def test_float16_keeps_gradients_that_it_would_round_to_zero(rng, monkeypatch):
    config, (args, aux) = made("resnet50", "init", rng, learning_rate=1e3, weight_decay=0.0, momentum=0.0)
    args["score_weight"] = np.sign(args["score_weight"]) * np.float32(2e-6)
    batch, changes = batch_of(config, rng), []
    for dtype in ("float32", "float16"):
        monkeypatch.setattr(torch_steps, "resolve_dtype", lambda *_, dtype=dtype, **__: dtype)  # CPUs can
        changes.append({name: value - args[name] for name, value in step(config, "init", (args, aux), batch,
                                                                         [TORCH]).items() if name in args})
    for name in ("fc_weight", "new_conv1_weight", "res5a_branch2b_weight"):
        exact, narrow = (change[name] for change in changes)
        assert np.linalg.norm(narrow - exact) < 0.1 * np.linalg.norm(exact), name


def test_dropout_is_the_same_for_the_same_seed_only(rng):
    config, parameters = made("resnet50", "init", rng, dropout=0.5)
    first, second, other = (step(dataclasses.replace(config, seed=seed), "init", parameters, batch_of(
        config, np.random.default_rng(0)), [TORCH]) for seed in (0, 0, 1))
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("numbers, rank, size, expected", [
    ([0, 1, 2, 3], 0, 1, [0, 1, 2, 3]), ([0, 2, 4, 6], 2, 4, [4]), ([0], 5, 8, [5]), ([0, 1], 0, 4, None),
    ([8], 0, 1, None)])
def test_a_process_of_torchrun_has_the_device_of_its_number(monkeypatch, numbers, rank, size, expected):
    monkeypatch.setattr(torch_backend, "gpus", lambda: 8)
    monkeypatch.setattr(torch_backend.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_backend, "_LOCAL_RANK", rank)
    monkeypatch.setattr(torch_backend, "_LOCAL_SIZE", size)
    if expected is None:
        with pytest.raises(UserError, match="2 devices are named|there is no GPU 8"):
            torch_backend.process_devices("gpu", numbers)
    else:
        assert torch_backend.process_devices("gpu", numbers) == [Device("torch", "gpu", number) for number in expected]
    monkeypatch.setattr(torch_backend, "gpus", lambda: 0)
    assert torch_backend.device_count("0,1") == 1 and torch_backend.device_count("cpu:2") == 2


@pytest.mark.parametrize("capabilities, expected", [([(8, 0), (9, 0)], "bfloat16"), ([(9, 0), (7, 5)], "float32")])
def test_training_takes_bfloat16_on_gpus_that_are_fast_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch_backend.torch.cuda, "get_device_capability", capabilities.__getitem__)
    gpus = [Device("torch", "gpu", number) for number in range(2)]
    assert resolve_dtype("auto", gpus, fastest=True) == expected
    assert resolve_dtype("auto", gpus) == resolve_dtype("float32", gpus, fastest=True) == "float32"


def test_types_that_are_for_gpus_are_refused_on_the_cpu():
    for dtype in ("float16", "tf32"):
        with pytest.raises(UserError, match="is for GPUs"):
            resolve_dtype(dtype, [TORCH])
    assert resolve_dtype("tf32", [Device("torch", "gpu")]) == "tf32" and resolve_dtype("auto", [TORCH]) == "float32"


@pytest.fixture
def without_mxnet(tmp_path):
    """Environment in which importing mxnet fails."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "mxnet.py").write_text("raise ImportError('mxnet is not to be imported')\n")
    return dict(os.environ, PYTHONPATH=str(tmp_path / "hidden"), OMP_NUM_THREADS="1")


def parameters_of(config, epoch):
    args, aux = load_snapshot(config, "init", epoch).parameters
    return {**args, **aux}


@pytest.mark.slow
@pytest.mark.parametrize("start", [(), TORCHRUN])
def test_two_processes_train_as_two_devices_of_mxnet(prepared, tmp_path, without_mxnet, start):
    train(prepared, "init", devices=CPUS[:2])
    expected = parameters_of(prepared, 2)
    shutil.rmtree(prepared.layout.snapshots)
    run_script(tmp_path, "train_seg_model.py", "--model", "init", "--engine", "torch", "--gpus",
               "cpu" if start else "cpu:2", start=start, env=without_mxnet)
    for name, value in parameters_of(prepared, 2).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max(),
                                   err_msg=name)


@pytest.mark.slow
def test_a_run_resumes_on_the_other_engine(prepared):
    train(prepared, "init", devices=CPUS[:1])
    expected = parameters_of(prepared, 2)
    for first, second in ((CPUS[0], TORCH), (TORCH, CPUS[0])):
        shutil.rmtree(prepared.layout.snapshots)
        train(dataclasses.replace(prepared, max_epoch=2), "init", devices=[first])
        train(prepared, "init", devices=[second], resume=True)
        for name, value in parameters_of(prepared, 2).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max(),
                                       err_msg=name)


@pytest.mark.slow
def test_a_run_resumes_with_torch_to_the_same_bits(prepared):
    prepared = dataclasses.replace(prepared, dropout=0.5, accumulate=2)
    train(prepared, "init", devices=[TORCH])
    expected = parameters_of(prepared, 2)
    shutil.rmtree(prepared.layout.snapshots)
    train(dataclasses.replace(prepared, max_epoch=2), "init", devices=[TORCH])
    train(prepared, "init", devices=[TORCH], resume=True)
    for name, value in parameters_of(prepared, 2).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_in_one_line(prepared, tmp_path, without_mxnet):
    (tmp_path / "train.py").write_text(f"import sys\nsys.path.insert(0, {os.path.abspath(ROOT)!r})\n" + """
import os, signal
from core.training import trainer
add = trainer._Meter.add
def adding(*args):
    if os.environ.get("RANK") == "1": os.kill(os.getpid(), signal.SIGKILL)
    add(*args)
trainer._Meter.add = adding
""" + f"exec(open({os.path.join(ROOT, 'train_seg_model.py')!r}).read())\n")
    flags = ["--config", tiny_settings(tmp_path), "--model", "init", "--engine", "torch", "--gpus", "cpu:2"]
    done = subprocess.run([sys.executable, "train.py", *flags], env=without_mxnet, cwd=str(tmp_path),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=200)
    assert done.returncode == 2 and "process 1 was killed by SIGKILL: the job is ended" in done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("given, message", [
    ({}, "WORLD_SIZE, MASTER_ADDR, MASTER_PORT not: unset RANK"), ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x is in the env"),
    ({"WORLD_SIZE": "1", "MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "29511"}, "can't meet, as RANK=0 WORLD"),
    ({"WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "taken"}, "can't meet, as .*MASTER_PORT=[0-9]+ ")])
def test_half_an_environment_of_torchrun_is_reported_in_one_line(prepared, tmp_path, without_mxnet, given, message):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = dict(given, **({"MASTER_PORT": str(taken.getsockname()[1])} if "taken" in given.values() else {}))
        done = subprocess.run([sys.executable, os.path.join(ROOT, "train_seg_model.py"), "--root", prepared.root,
                               "--config", tiny_settings(tmp_path), "--model", "init", "--engine", "torch", "--gpus",
                               "cpu"], stderr=subprocess.PIPE, env={**without_mxnet, "RANK": "0", **given},
                              universal_newlines=True, timeout=200)
    assert done.returncode == 2 and re.search(message, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_processes_that_start_from_different_files_are_refused():
    said = []
    group = types.SimpleNamespace(rank=1, of_first=lambda values: said.append(values) or said[0])
    check_agreement(group, Checkpoint(None, 1, None, {}, {"list_sha256": "a"}))
    check_agreement(group, Checkpoint(None, 1, None, {}, {"list_sha256": "a"}))
    for epoch, digest in ((1, "b"), (2, "a")):
        with pytest.raises(UserError, match="process 1 starts from another epoch"):
            check_agreement(group, Checkpoint(None, epoch, None, {}, {"list_sha256": digest}))


@pytest.mark.slow
def test_processes_wait_for_the_one_that_saves(tmp_path, without_mxnet):
    (tmp_path / "save.py").write_text(f"import sys\nsys.path.insert(0, {os.path.abspath(ROOT)!r})\n" """
import pathlib, time
from core.engines.torch.backend import process_group
left = pathlib.Path(__file__).with_name("left")
with process_group("cpu") as group:
    if not group.rank:
        for _ in range(20):
            assert not left.exists()
            time.sleep(0.05)
if group.rank:
    left.touch()
""")
    run_script(tmp_path, str(tmp_path / "save.py"), start=TORCHRUN, env=without_mxnet)
    assert (tmp_path / "left").exists()


@pytest.mark.slow
def test_the_chain_runs_without_mxnet(prepared, tmp_path, without_mxnet):
    def run(*command):
        return run_script(tmp_path, *command, "--engine", "torch", env=without_mxnet)
    assert "device: torch cpu(0); engine: torch, as set" in run("train_seg_model.py", "--model", "init")
    run("est_voc_train_masks.py", "--epoch", "2")
    run("train_seg_model.py", "--model", "final", "--epoch-size", "2")
    run("eval_loop.py", "--model", "final", "--once", "--ms")
    run("predict.py", prepared.layout.val_images, "--ms", "--crf")
    result = read_json(os.path.join(prepared.layout.output("final", 2), "result.json"))
    assert result["device"] == "torch cpu(0)" and "torch 2." in result["versions"]
