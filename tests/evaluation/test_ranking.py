"""Which epoch is the best, and which snapshot the flags name."""
import argparse
import dataclasses
import os

import numpy as np
import pytest

from core.config import Config
from core.errors import UserError
from core.evaluation import ranking
from core.evaluation.ranking import choose_snapshot, evaluate_all, find_epoch
from core.io.files import file_digest, read_json, read_text, write_lines, write_text
from core.network.snapshots import load_snapshot, read_parameters, write_parameters


def flags(**given):
    return argparse.Namespace(**{"model": None, "epoch": None, "snapshot": None, **given})


@pytest.fixture
def shipped(untrained, tmp_path, monkeypatch):
    """Path of a network in half precision that comes with the code."""
    path = str(tmp_path / "models" / "shipped.params")
    parameters = read_parameters(untrained.layout.snapshot("final", 2))
    low = {name: value.astype(np.float16) for name, value in parameters.args.items()}
    write_parameters(path, parameters._replace(args=low))
    monkeypatch.setattr("core.evaluation.ranking.SHIPPED_SNAPSHOT", path)
    return path


@pytest.fixture
def ranked(tiny, monkeypatch):
    """Config of a folder without snapshots; the text of one is its mean IoU in per cent."""
    def evaluate(config, model, epoch, **_):
        path = config.layout.snapshot(model, epoch)
        if not read_text(path).isdigit():
            raise UserError(f"{path} is damaged")
        return {"mean_iou": int(read_text(path)) / 100, "settings": {"snapshot_sha256": file_digest(path)}}
    monkeypatch.setattr("core.evaluation.ranking.evaluate", evaluate)
    write_lines(tiny.layout.val_list, ["a"])
    return tiny


def ranking_of(config):
    return {row["epoch"]: round(100 * row["mean_iou"]) for row in read_json(config.layout.ranking("init"))["ranking"]}


def test_of_two_epochs_as_good_as_each_other_the_earlier_one_is_first(ranked):
    for epoch, value in ((2, "25"), (11, "50"), (3, "50")):
        write_text(ranked.layout.snapshot("init", epoch), value)
    assert evaluate_all(ranked, "init", devices=[]) == [(3, 0.5), (11, 0.5), (2, 0.25)]
    assert find_epoch(ranked, "init", "best") == 3
    write_text(ranked.layout.snapshot("init", 3), "51")
    with pytest.raises(UserError, match="init_fcn_resnet50-3.params has changed since .*ranking.json was made"):
        find_epoch(ranked, "init", "best")


def test_the_ranking_follows_the_snapshots_that_are_there(ranked, monkeypatch):
    """One was still being copied; one is replaced by a file of the same size and time; one goes and another comes."""
    path, looked = ranked.layout.snapshot, []

    def meanwhile(_):
        looked.append(ranking_of(ranked))
        if len(looked) == 1:
            write_text(path("init", 1), "10")
        elif len(looked) == 2:
            status = os.stat(path("init", 2))
            write_text(path("init", 2), "30")
            os.utime(path("init", 2), ns=(status.st_atime_ns, status.st_mtime_ns))
        elif len(looked) == 3:
            os.remove(path("init", 1))
            write_text(path("init", 3), "05")
    monkeypatch.setattr("core.evaluation.ranking.time.sleep", meanwhile)
    write_text(path("init", 1), "half")
    write_text(path("init", 2), "20")
    evaluate_all(ranked, "init", devices=[], wait_hours=1)
    assert looked == [{2: 20}, {1: 10, 2: 20}, {1: 10, 2: 30}, {2: 30, 3: 5}]


def test_a_restarted_ranking_replaces_the_earlier_one_when_it_is_whole(ranked, monkeypatch):
    for epoch, value in ((1, "25"), (2, "50")):
        write_text(ranked.layout.snapshot("init", epoch), value)
    evaluate_all(ranked, "init", devices=[])
    evaluate = ranking.evaluate

    def interrupted(config, model, epoch, **flags):
        if epoch == 2:
            raise KeyboardInterrupt
        return evaluate(config, model, epoch, **flags)
    monkeypatch.setattr(ranking, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_all(ranked, "init", devices=[])
    assert ranking_of(ranked) == {1: 25, 2: 50}


def test_a_snapshot_from_anywhere_says_which_model_it_is(untrained, tmp_path):
    for model in ("init", "final"):
        for name, epoch in (("any.params", 0), ("mine-12.params", 12)):
            path = str(tmp_path / name)
            os.replace(untrained.layout.snapshot(model, 2), path)
            chosen = choose_snapshot(untrained, flags(snapshot=path), "init")
            assert chosen == (model, epoch, path)
            assert load_snapshot(untrained, *chosen).path == path
            os.replace(path, untrained.layout.snapshot(model, 2))


def test_without_a_snapshot_the_one_that_comes_with_the_code_is_used(untrained, shipped, tmp_path, caplog):
    def choose(config, **given):
        return choose_snapshot(config, flags(**given), "final", "newest", shipped=True)
    assert choose(untrained) == ("final", 2, None)
    nothing_here = Config(root=str(tmp_path / "elsewhere"))
    with caplog.at_level("INFO"):
        chosen = choose(nothing_here)
    assert chosen == ("final", 0, shipped) and f"using {shipped}, which comes with the code" in caplog.text
    theirs, mine = (load_snapshot(*arguments).parameters[0]["fc_weight"]
                    for arguments in ((untrained, "final", 2), (nothing_here, *chosen)))
    assert mine.dtype == np.float32 and np.abs(mine - theirs).max() < 1e-3 < np.abs(theirs).max()
    for config, given in ((nothing_here, {"epoch": "newest"}), (nothing_here, {"model": "final"}),
                          (dataclasses.replace(nothing_here, width=8), {})):
        with pytest.raises(UserError, match="no snapshot of the final model"):
            choose(config, **given)


@pytest.mark.parametrize("given, message", [
    ({"model": "init", "snapshot": "x.params"}, "--snapshot takes the place of"), ({"model": "init"}, "are needed"),
    ({"epoch": "2"}, "are needed"), ({"snapshot": "nowhere.params"}, "nowhere.params can't be read")])
def test_flags_that_name_no_snapshot_are_told(untrained, given, message):
    with pytest.raises(UserError, match=message):
        choose_snapshot(untrained, flags(**given))
