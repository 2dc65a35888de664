"""Which epoch is the best, and which snapshot the flags name."""
import argparse
import dataclasses
import os

import numpy as np
import pytest

from core.config import Config
from core.errors import UserError
from core.evaluation.ranking import choose_snapshot, evaluate_all, find_epoch
from core.io.files import write_lines
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


def test_of_two_epochs_as_good_as_each_other_the_earlier_one_is_first(untrained, monkeypatch):
    write_lines(untrained.layout.val_list, [])
    for epoch in (11, 3):
        os.link(untrained.layout.snapshot("init", 2), untrained.layout.snapshot("init", epoch))
    values = {2: 0.25, 3: 0.5, 11: 0.5}
    monkeypatch.setattr("core.evaluation.ranking.evaluate", lambda config, model, epoch, **_: {
        "mean_iou": values[epoch], "settings": {"snapshot_sha256": None}})
    assert evaluate_all(untrained, "init", devices=[]) == [(3, 0.5), (11, 0.5), (2, 0.25)]
    assert find_epoch(untrained, "init", "best") == 3


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
