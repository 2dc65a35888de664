"""benchmarks/: the runs on the demo's sample. Their figures come from full runs, not from here."""
import os
import re
import subprocess
import sys
import threading

import make_sample
import numpy as np
import pytest
import yaml
from conftest import ROOT, TINY
from PIL import Image
from sample_runs import at_once

from core.io.images import read_image, read_mask

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


def test_the_sample_is_drawn_with_as_many_wrong_web_images_as_asked_for(tmp_path):
    def truth(name, **shares):
        make_sample.make_web(str(tmp_path / name), 0, 12, **shares)
        folder = tmp_path / name / "web_truth"
        return [np.unique(read_mask(str(path), 21)).max() for path in sorted(folder.iterdir())]
    assert min(truth("right", noise=0, empty=0)) > 0 and max(truth("empty", noise=0, empty=1)) == 0
    assert 0.2 < np.mean(np.equal(truth("partly", noise=0.2, empty=0.2), 0)) < 0.5
    images = {name: read_image(str(tmp_path / name / "web_images" / "7_000003.jpg")) for name in ("right", "empty")}
    assert images["right"].shape == images["empty"].shape and (images["right"] != images["empty"]).any()


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


@pytest.mark.slow
def test_the_benchmark_of_gpus_runs_small_on_a_cpu():
    pytest.importorskip("torch", reason="torch is not installed: pip install -r tests/torch-dependencies.txt")
    done = subprocess.run([sys.executable, os.path.join(ROOT, "benchmarks", "gpu.py")], stdout=subprocess.PIPE,
                          env=dict(os.environ, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"), timeout=600,
                          universal_newlines=True)
    assert done.returncode == 0 and done.stdout.startswith("no GPU: small, on the CPU; torch 2.")
    rows = re.findall(r"(?m)^\| (\w+) \| ([12]) \| (float32) \| [0-9.]+ \| 0.0 \|", done.stdout)
    assert len(rows) == len(set(rows)) == 4
    assert done.stdout.count("probabilities differ by at most 0.0e+00, parameters after a step by 0.0e+00") == 2
