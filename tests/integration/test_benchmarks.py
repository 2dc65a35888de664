"""benchmarks/: the runs on the demo's sample. Their figures come from full runs, not from here."""
import io
import os
import re
import subprocess
import sys
import threading

import learning_options
import make_sample
import numpy as np
import pytest
import tradeoffs
import yaml
from conftest import ROOT, TINY
from PIL import Image
from sample_runs import at_once
from tradeoffs import Row

from core.errors import UserError
from core.io.files import write_lines
from core.io.images import read_image, read_mask, write_mask

pytestmark = pytest.mark.slow


def test_runs_at_once_share_the_cpus_and_keep_their_order():
    cpus = sorted(os.sched_getaffinity(0))
    jobs = min(2, len(cpus))
    meeting = threading.Barrier(jobs, timeout=30)  # all of them are under way at the same time

    def task(number):
        meeting.wait()
        return number, os.sched_getaffinity(0)
    results = at_once([lambda number=number: task(number) for number in range(jobs)], jobs)
    assert [number for number, _ in results] == list(range(jobs))
    assert sorted(cpu for _, share in results for cpu in share) == cpus
    assert sorted(os.sched_getaffinity(0)) == cpus


def test_after_a_failure_no_further_run_begins():
    begun = []

    def fail():
        raise UserError("no space")
    with pytest.raises(UserError, match="no space"):
        at_once([fail, lambda: begun.append(1)], 1)
    assert not begun


def test_lists_of_web_images(tmp_path):
    for name, label in (("1_000000", 1), ("1_000001", 0), ("2_000000", 2)):
        for folder in ("web_labels", "web_truth"):
            write_mask(str(tmp_path / folder / (name + ".png")), np.full((4, 4), label))
    write_lines(str(tmp_path / "web_train_list.txt"), ["2_000000", "1_000000"])
    lists = tradeoffs.web_lists(str(tmp_path), 21)
    assert lists == {"all": ["1_000000", "1_000001", "2_000000"], "filtered": ["1_000000", "2_000000"],
                     "right": ["1_000000", "2_000000"]}
    assert [tradeoffs.same(lists, kind) for kind in lists] == ["all", "filtered", "filtered"]


def test_the_sample_is_drawn_with_as_many_wrong_web_images_as_asked_for(tmp_path):
    def truth(name, **shares):
        make_sample.make_web(str(tmp_path / name), 0, 12, **shares)
        folder = tmp_path / name / "web_truth"
        return [np.unique(read_mask(str(path), 21)).max() for path in sorted(folder.iterdir())]
    assert min(truth("right", noise=0, empty=0)) > 0 and max(truth("empty", noise=0, empty=1)) == 0
    assert 0.2 < np.mean(np.equal(truth("partly", noise=0.2, empty=0.2), 0)) < 0.5
    images = {name: read_image(str(tmp_path / name / "web_images" / "7_000003.jpg")) for name in ("right", "empty")}
    assert images["right"].shape == images["empty"].shape and (images["right"] != images["empty"]).any()


def test_every_third_class_is_thinned_out_to_a_fourth():
    names = ["%d_%06d" % (label, number) for label in (1, 3, 4, 5, 9) for number in range(6)]
    few, rest = learning_options.thin_out(names, 21)
    assert few == [3, 9]
    assert rest == [name for name in names if name[0] not in "39" or name[2:] in ("000000", "000004")]


def test_the_figure_shows_the_rows_and_the_table_has_a_line_for_each():
    rows = [Row(seed, images, kind, images, images // 2, [images / 10 + seed, 40.0 + seed])
            for seed in (0, 1) for images in (100, 200) for kind in tradeoffs.FILTERS]
    text = tradeoffs.table(rows)
    assert len(text.splitlines()) == 1 + len(rows) and text.splitlines()[0].split()[-2:] == ["init", "final"]
    assert re.search(r"(?m)^ +1 +200 +noise filter +200 +100 +21\.0 +41\.0$", text)
    picture = np.asarray(Image.open(io.BytesIO(tradeoffs.figure(rows))).convert("RGB"))
    for colour in (looks[0] for looks in tradeoffs._LOOKS.values()):
        assert (picture == [int(colour[at:at + 2], 16) for at in (1, 3, 5)]).all(2).sum() > 50
    assert tradeoffs.figure(rows) != tradeoffs.figure([row._replace(scores=[1.0, 2.0]) for row in rows])


def test_tradeoffs_run_and_a_further_run_trains_only_what_is_new(tmp_path):
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))

    def run(*flags):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "benchmarks", "tradeoffs.py"),
                               "--config", "tiny.yaml", "--root", "runs", "--counts", "1", "--noise", "0", "--draw",
                               "--sbd 4 --train 4 --val 3", *flags], cwd=str(tmp_path), timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        assert done.returncode == 0, done.stdout
        trained = re.findall(r"(\S+): train_seg_model.py --model (\w+)", done.stdout)
        return [(os.path.relpath(folder, "runs/noise0-empty0/seed0"), model) for folder, model in trained], done.stdout
    trained, first = run("--empty", "0", "--rounds", "0")
    assert trained == [("web1/all", "init"), ("web1/all", "final")]  # the lists are equal
    trained, second = run("--empty", "0", "--rounds", "1")
    assert trained == [("web1/all/round2", "final")]
    rows = [re.findall(r"(?m)^ +0 +10  .*$", text) for text in (first, second)]
    assert len(rows[0]) == 3 and [row.startswith(old) for row, old in zip(rows[1], rows[0])] == [True] * 3
    assert Image.open(str(tmp_path / "runs" / "tradeoffs.png")).size[0] > 1000
