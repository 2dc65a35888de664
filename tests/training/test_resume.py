"""Training that is stopped at any moment and resumes exactly; what stops it, and what is left then."""
import dataclasses
import logging
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest
import yaml
from conftest import CPUS, TINY, draw_sample, largest_file, run_script

from core.config import Config
from core.dataset.create import create_dataset
from core.dataset.samples import class_prior, training_samples
from core.errors import UserError
from core.evaluation.evaluate import evaluate, evaluation_options
from core.inference.estimate_masks import estimate_train_masks
from core.io.files import (
    file_digest,
    read_bytes,
    read_json,
    read_list,
    write_bytes,
    write_json,
    write_lines,
    write_text,
)
from core.io.images import read_image, write_image, write_mask
from core.io.locks import locked
from core.io.logs import logger
from core.network import snapshots
from core.network.snapshots import load_snapshot
from core.paths import folder_lock
from core.training import train as training

pytestmark = pytest.mark.slow

SETTINGS = {"dropout": 0.5, "learning_rate_decay": "poly", "max_epoch": 4, "final_epoch_size": 2, "workers": 1}
CPU = CPUS[:1]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Config of a data set with masks for the final model, and with two of three epochs of the init model trained."""
    config = Config(root=str(draw_sample(tmp_path_factory.mktemp("once"))), **{**TINY, **SETTINGS})
    create_dataset(config, 1)
    layout, rng = config.layout, np.random.default_rng(0)
    for name in read_list(layout.train_list):
        shape = read_image(f"{layout.train_images}/{name}.jpg").shape[:2]
        write_mask(f"{layout.train_masks}/{name}.png", rng.integers(0, 21, shape).astype(np.uint8))
    training.train(dataclasses.replace(config, learning_rate_decay="none", max_epoch=3), "init", devices=CPU)
    return config


@pytest.fixture
def prepared(once, tmp_path):
    """Config of a copy of that folder."""
    config = dataclasses.replace(once, root=str(tmp_path / "run"))
    shutil.copytree(once.root, config.root, symlinks=True)
    return config


@pytest.fixture
def begun(prepared):
    """A run of the init model that goes on to a third epoch."""
    return dataclasses.replace(prepared, learning_rate_decay="none", max_epoch=4)


@pytest.fixture
def messages(monkeypatch):
    """Lines that are logged from here on."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [handler])
    logger.setLevel(logging.INFO)
    return lines


def elsewhere(config, name):
    """The config in a copy of its folder."""
    root = os.path.join(config.root, "..", os.path.basename(config.root) + name)
    shutil.copytree(config.root, root, symlinks=True)
    return dataclasses.replace(config, root=root)


def values(config, epoch, model="final"):
    parts = load_snapshot(config, model, epoch).parameters
    return {name: value for part in parts for name, value in part.items()}


def assert_equal_bits(first, second):
    assert set(first) == set(second)
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


def killed(config, moment, *flags, script="train_seg_model.py"):
    """Run a script, by default to train the final model, in a process that is killed at `moment`."""
    if script == "train_seg_model.py":
        flags = ("--model", "final", "--gpus", "cpu:2") + flags
    write_text(config.path("settings.yaml"), yaml.safe_dump(SETTINGS))
    return run_script(pathlib.Path(config.root), script, "--config", "settings.yaml", *flags, killed_at=moment)


@pytest.mark.kill
def test_a_run_killed_again_and_again_ends_with_the_bits_of_one_never_stopped(prepared):
    devices = CPUS[:2]
    smooth = elsewhere(prepared, "smooth")
    training.train(smooth, "final", devices=devices)
    layout = prepared.layout

    killed(prepared, "half:-1.states", "--resume")
    assert layout.epochs("final") == [] and len(layout.unfinished("final")) == 1
    assert "no run to resume" in killed(prepared, "before:-2.params", "--resume")
    assert layout.epochs("final") == [1] and layout.epochs("final", "states") == [1, 2]
    assert "resuming after epoch 1" in killed(prepared, "half:-2.params", "--resume")
    assert layout.epochs("final") == [1]
    killed(prepared, "after:-2.params", "--resume")
    assert layout.epochs("final") == [1, 2]
    assert "resuming after epoch 2" in killed(prepared, "batch:2", "--resume")
    training.train(prepared, "final", devices=devices, resume=True)
    assert layout.unfinished("final") == []
    for epoch in (1, 2, 3):
        assert_equal_bits(values(prepared, epoch), values(smooth, epoch))
    rows = [open(config.layout.metrics("final")).read().splitlines() for config in (prepared, smooth)]
    found, expected = ([row.rsplit(",", 1)[0] for row in part] for part in rows)  # all but the speed
    assert found == expected and len(found) > 3
    before = file_digest(layout.snapshot("final", 3))
    training.train(prepared, "final", devices=devices, resume=True)  # there is nothing left to do
    assert file_digest(layout.snapshot("final", 3)) == before


def test_momentum_resumes_with_resume_and_starts_fresh_with_epoch(begun):
    exact, fresh = begun, elsewhere(begun, "fresh")
    smooth = dataclasses.replace(elsewhere(begun, "smooth"), max_epoch=4)
    training.train(smooth, "init", devices=CPU)
    training.train(exact, "init", devices=CPU, resume=True)
    assert_equal_bits(values(exact, 3, "init"), values(smooth, 3, "init"))
    training.train(fresh, "init", devices=CPU, start_epoch=2)
    assert not np.array_equal(values(fresh, 3, "init")["fc_weight"], values(smooth, 3, "init")["fc_weight"])


def test_snapshots_of_the_init_model_record_the_prior_of_its_masks_after_a_resume_too(begun):
    expected = class_prior(training_samples("init", begun), begun)
    training.train(begun, "init", devices=CPU, resume=True)
    for epoch in (1, 3):
        np.testing.assert_allclose(load_snapshot(begun, "init", epoch).class_prior, expected, atol=1e-6)


def given(config, **changes):
    return dataclasses.replace(config, given=frozenset(changes), **changes)


def test_settings_of_the_run_are_adopted_and_others_refused(begun, messages):
    forgotten = dataclasses.replace(begun, learning_rate=Config().learning_rate, seed=0)
    with pytest.raises(UserError, match=r"setting learning_rate is 0.5, but .*-2.states was made with 0.01"):
        training.train(given(begun, learning_rate=0.5), "init", devices=CPU, resume=True)
    with pytest.raises(UserError, match=r"setting seed is 3, but .*-2.states was made with 0"):
        training.train(given(begun, seed=3), "init", devices=CPU, resume=True)
    training.train(forgotten, "init", devices=CPUS[:2], resume=True)
    assert any("states: learning_rate=0.01" in line for line in messages)
    assert any("on 1 devices and continues on 2" in line for line in messages)


def test_another_list_or_base_model_is_refused(begun):
    layout = begun.layout
    lines = open(layout.web_list).read().splitlines()
    with open(layout.web_list, "w") as file:
        file.write("\n".join(lines[1:]))
    with pytest.raises(UserError, match="-2.states was trained on another list than .*web_train_list.txt"):
        training.train(begun, "init", devices=CPU, resume=True)
    with open(layout.web_list, "w") as file:
        file.write("\r\n".join(lines))
    os.makedirs(os.path.dirname(layout.base_model), exist_ok=True)
    shutil.copy(layout.snapshot("init", 1), layout.base_model)
    with pytest.raises(UserError, match="was trained from other parameters than .*resnet50.params holds now"):
        training.train(begun, "init", devices=CPU, resume=True)


@pytest.mark.parametrize("what", ["images", "masks"])
def test_other_content_under_the_same_names_is_refused(begun, what):
    layout = begun.layout
    folder, ending = (layout.web_images, "jpg") if what == "images" else (layout.web_masks, "png")
    path = f"{folder}/1_000000.{ending}"
    before, size = read_bytes(path), read_image(layout.web_images + "/1_000000.jpg").shape
    (write_image if what == "images" else write_mask)(path, np.full(size[:2 + (what == "images")], 1, np.uint8))
    with pytest.raises(UserError, match=f"-2.states was trained on other {what} than .*web_.*: restore what "
                                        "it was trained with; --epoch 2 without --resume continues"):
        training.train(begun, "init", devices=CPU, resume=True)
    write_bytes(path, before)
    training.train(begun, "init", devices=CPU, resume=True)


def test_masks_estimated_again_with_another_snapshot_are_refused(begun):
    layout = begun.layout
    estimate_train_masks(begun, 1, devices=CPU, overwrite=True)
    training.train(dataclasses.replace(begun, max_epoch=2), "final", devices=CPU)
    sharp = snapshots.read_parameters(layout.snapshot("init", 2))
    sharp.args["score_bias"][:] = np.random.default_rng(0).normal(0, 9, 21)
    snapshots.write_parameters(layout.snapshot("init", 2), sharp)
    estimate_train_masks(begun, 2, devices=CPU, overwrite=True)
    with pytest.raises(UserError, match="final.*-1.states was trained on other masks than .*final_voc_masks holds now"):
        training.train(dataclasses.replace(begun, max_epoch=3), "final", devices=CPU, resume=True)
    estimate_train_masks(begun, 1, devices=CPU, overwrite=True)
    training.train(dataclasses.replace(begun, max_epoch=3), "final", devices=CPU, resume=True)
    assert layout.epochs("final") == [1, 2]


def test_resume_with_an_epoch_resumes_with_the_run_of_that_start_only(begun, messages):
    fine = given(begun, learning_rate=0.001, max_epoch=4)
    training.train(fine, "init", devices=CPU, start_epoch=1, resume=True)  # epoch 2 is one of the run from scratch
    assert "there is no run to resume" in messages
    assert begun.layout.epochs("init") == [1, 2, 3]
    del messages[:]
    training.train(dataclasses.replace(fine, max_epoch=5), "init", devices=CPU, start_epoch=1, resume=True)
    assert "resuming after epoch 3" in messages


def test_keep_leaves_the_last_ones_the_best_one_and_the_start(begun):
    layout = begun.layout
    write_json(layout.ranking("init"), {"ranking": [{"epoch": 3, "mean_iou": 0.5}, {"epoch": 2, "mean_iou": 0.4}]})
    training.train(dataclasses.replace(begun, max_epoch=8), "init", devices=CPU, resume=True, keep=2)
    assert layout.epochs("init") == [3, 6, 7] and layout.epochs("init", "states") == [6, 7]
    training.train(dataclasses.replace(begun, max_epoch=10), "init", devices=CPU, start_epoch=7, keep=1)
    assert layout.epochs("init") == [3, 6, 7, 9] and layout.epochs("init", "states") == [9]


@pytest.mark.parametrize("kind", ["snapshot", "state"])
def test_a_truncated_file_is_named_and_the_one_before_resumes_exactly(begun, kind):
    smooth, layout = elsewhere(begun, "smooth"), begun.layout
    training.train(smooth, "init", devices=CPU, resume=True)
    path = getattr(layout, kind)("init", 2)
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(UserError, match=rf"{path} is damaged.* epoch 2 moved away, --resume continues from epoch 1"):
        training.train(begun, "init", devices=CPU, resume=True)
    os.remove(path)
    training.train(begun, "init", devices=CPU, resume=True)
    assert_equal_bits(values(begun, 3, "init"), values(smooth, 3, "init"))


def test_a_state_of_another_snapshot_is_passed_over(begun, messages):
    layout = begun.layout
    shutil.copy(layout.snapshot("init", 1), layout.snapshot("init", 2))
    training.train(begun, "init", devices=CPU, resume=True)
    assert any("-2.states does not belong to" in line for line in messages) and "resuming after epoch 1" in messages


@pytest.mark.parametrize("lacking", [(1, 2), (1,)])
def test_snapshots_without_a_state_of_theirs_are_named_and_not_written_over(begun, lacking):
    layout = begun.layout
    for epoch in lacking:
        os.remove(layout.state("init", epoch))
    shutil.copy(layout.snapshot("init", 1), layout.snapshot("init", 2))
    with pytest.raises(UserError, match="-2.states (is missing|does not belong to its snapshot).*--epoch 2 without --"):
        training.train(begun, "init", devices=CPU, resume=True)


def test_a_full_disk_stops_training_with_the_last_snapshot_intact(begun):
    layout, smooth = begun.layout, elsewhere(begun, "smooth")
    training.train(smooth, "init", devices=CPU, resume=True)
    before = sorted(os.listdir(layout.snapshots)), values(begun, 2, "init")
    size = os.path.getsize(layout.state("init", 2))
    with largest_file(size - 1), pytest.raises(UserError, match=r"-3\.\w+ can't be written"):
        training.train(begun, "init", devices=CPU, resume=True)
    assert_equal_bits(values(begun, 2, "init"), before[1])
    training.train(begun, "init", devices=CPU, resume=True)
    assert_equal_bits(values(begun, 3, "init"), values(smooth, 3, "init"))


def test_a_second_training_run_and_a_second_estimation_are_refused(begun):
    layout = begun.layout
    with locked(layout.training_lock("init"), "training"):
        with pytest.raises(UserError, match=r"training of the init model in .*snapshots is under way in another"):
            training.train(begun, "init", devices=CPU, resume=True)
        training.train(dataclasses.replace(begun, max_epoch=2), "final", devices=CPU)  # another model is another matter
    with locked(folder_lock(layout.train_masks), "mask estimation"):
        with pytest.raises(UserError, match="mask estimation into .* is under way"):
            estimate_train_masks(begun, 2, devices=CPU, overwrite=True)


def test_a_second_evaluation_waits_and_uses_the_first_ones_result(begun, messages):
    options = evaluation_options(begun, "init", epoch=2)
    first = evaluate(begun, "init", epoch=2, devices=CPU, options=options)
    path = os.path.join(options.output, "result.json")
    finished = os.path.join(begun.root, "finished.json")
    os.replace(path, finished)
    del messages[:]
    held, waiting = threading.Event(), threading.Event()
    logger.handlers[0].emit = lambda record: (messages.append(record.getMessage()),
                                              "waiting for it" in messages[-1] and waiting.set())

    def other():
        with locked(os.path.join(options.output, ".lock"), "evaluation"):
            held.set()
            waiting.wait(60)
            os.replace(finished, path)
    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    second = evaluate(begun, "init", epoch=2, devices=CPU, options=options)
    thread.join()
    assert waiting.is_set() and second["confusion"] == first["confusion"]
    assert any("holds this evaluation already" in line for line in messages)
    assert read_json(path)["confusion"] == first["confusion"]


@pytest.mark.kill
def test_repeated_estimation_that_is_killed_resumes_with_the_same_command(begun):
    flags, folder = ("--gpu", "cpu", "--epoch", "2", "--jobs", "1", "--overwrite"), begun.layout.train_masks
    times = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    killed(begun, "after:2012_000003.png", *flags, script="est_voc_train_masks.py")
    made = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    assert 0 < len(made) < len(times) and not set(made.items()) & set(times.items())
    estimate_train_masks(begun, 2, devices=CPU, overwrite=True)
    assert len(os.listdir(folder)) == len(times)
    assert all(os.stat(os.path.join(folder, name)).st_mtime_ns == time for name, time in made.items())
    estimate_train_masks(begun, 2, devices=CPU, overwrite=True)  # that one has come to its end, and this is another
    assert not any(os.stat(os.path.join(folder, name)).st_mtime_ns == time for name, time in made.items())


@pytest.mark.kill
def test_evaluation_and_estimation_that_are_killed_resume_to_the_same_files(begun):
    flags = ("--gpu", "cpu", "--epoch", "2", "--jobs", "1")
    smooth, layout = elsewhere(begun, "smooth"), begun.layout
    for config in (smooth, begun):
        shutil.rmtree(config.layout.train_masks)
        if config is begun:
            killed(config, "after:2012_000003.png", *flags, script="est_voc_train_masks.py")
            assert 0 < len(os.listdir(layout.train_masks)) < 8
            killed(config, "before:2012_000009.png", *flags, "--model", "init", "--savemask",
                   script="eval_seg_model.py")
            masks = os.path.join(layout.output("init", 2), "masks")
            assert len(os.listdir(masks)) == 2  # and one not yet in place
            os.remove(os.path.join(masks, "2012_000008.png"))
        estimate_train_masks(config, 2, devices=CPU)
    estimated = [{name: file_digest(os.path.join(config.layout.train_masks, name))
                  for name in os.listdir(config.layout.train_masks) if not name.startswith(".")}
                 for config in (smooth, begun)]
    assert estimated[0] == estimated[1] and len(estimated[0]) == 8
    results = [evaluate(config, "init", epoch=2, devices=CPU,
                        options=evaluation_options(config, "init", epoch=2, save_masks=True))
               for config in (smooth, begun)]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert {name + ".png" for name in results[1]["image_iou"]} <= set(os.listdir(masks))


@pytest.mark.kill
def test_masks_that_a_killed_evaluation_wrote_over_count_for_none(begun):
    options = evaluation_options(begun, "init", epoch=2, save_masks=True, output=begun.path("mine"))
    evaluate(begun, "init", epoch=2, devices=CPU, options=options)
    path = os.path.join(options.output, "masks", "2012_000008.png")
    expected = file_digest(path)
    killed(begun, "after:2012_000008.png", "--gpu", "cpu", "--epoch", "1", "--model", "init", "--savemask",
           "--output", options.output, script="eval_seg_model.py")
    write_mask(path, np.ones((2, 2), np.uint8))  # whatever the other snapshot predicted
    evaluate(begun, "init", epoch=2, devices=CPU, options=options)
    assert file_digest(path) == expected


def test_overwriting_takes_masks_of_its_own_only(begun):
    layout = begun.layout
    names = read_list(layout.train_list)
    estimate_train_masks(begun, 1, devices=CPU, overwrite=True)
    write_lines(layout.train_list, names[1:])
    estimate_train_masks(begun, 1, devices=CPU)
    write_mask(os.path.join(layout.train_masks, "holiday.png"), np.zeros((2, 2), np.uint8))
    estimate_train_masks(begun, 2, devices=CPU, overwrite=True)
    left = {name for name in os.listdir(layout.train_masks) if not name.startswith(".")}
    assert left == {name + ".png" for name in names[1:] + ["holiday"]}, "the first mask comes from the other epoch"
