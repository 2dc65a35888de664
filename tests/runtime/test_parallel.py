import functools
import os
import signal
import subprocess
import sys
import threading

import pytest
import workers
from conftest import ROOT
from dask_cluster import wait_for

from core.config import Config
from core.errors import UserError
from core.inference.options import EvaluationOptions, InferenceOptions, SegmentationOptions
from core.inference.postprocess import Picture, Scored, compare, segment
from core.inference.pseudo_masks import Estimation, estimate
from core.runtime.parallel import ordered_map, process_pool


def test_results_come_in_order():
    with process_pool(3) as pool:
        found = list(ordered_map(workers.square, range(20), pool, 6))
    assert found == [(number, number ** 2) for number in range(20)]
    assert list(ordered_map(workers.square, range(4))) == [(number, number ** 2) for number in range(4)]


def test_what_workers_are_sent_brings_no_mxnet_along():
    sent = (functools.partial(compare, config=Config(), options=EvaluationOptions(InferenceOptions(), *[None] * 4)),
            functools.partial(estimate, estimation=Estimation(Config(), True, {}, None, None, "")),
            functools.partial(segment, config=Config(), options=SegmentationOptions(InferenceOptions(), "")),
            Scored(Picture("a", "a.png", (1, 1)), None, None))
    with process_pool(2) as pool:
        assert pool.submit(workers.imported, "core.inference.postprocess", sent).result()
        assert not pool.submit(workers.imported, "mxnet", sent).result()


def test_items_are_read_no_further_than_needed():
    read = []

    def items():
        for number in range(50):
            read.append(number)
            yield number
    with process_pool(2) as pool:
        results = ordered_map(workers.square, items(), pool, 4)
        next(results)
        assert len(read) <= 6
        results.close()


def test_an_error_in_a_worker_ends_the_run_with_it_alone(monkeypatch):
    others = []
    monkeypatch.setattr(threading, "excepthook", others.append)
    with pytest.raises(UserError, match="number five is bad"):
        with process_pool(2) as pool:
            list(ordered_map(workers.fail_at_five, range(100), pool, 60))
    assert not others, "the executor's thread failed too"


def test_a_dying_worker_ends_the_run():
    with pytest.raises(UserError, match="worker process died"):
        with process_pool(2) as pool:
            list(ordered_map(workers.die_at_five, range(100), pool, 4))


@pytest.mark.parametrize("function, message", [("fail_at_five", "five is bad"), ("die_at_five", "process died"),
                                               ("square", "enough")])
def test_no_error_waits_for_large_items_under_way(tmp_path, function, message):
    parent = start_script(tmp_path, """
    try:
        with process_pool(2) as pool:
            work = functools.partial(workers.slowly, workers.%s)
            for item, _ in ordered_map(work, (workers.Item(number, bytes(20000000)) for number in range(50)), pool, 6):
                if item.name == 6:
                    raise UserError("enough")
    except UserError as error:
        print(error)
""" % function)
    try:
        output, _ = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert message in output and parent.returncode == 0


def start_script(folder, code):
    """Start a program whose workers find it."""
    places = [os.path.join(ROOT, "tests", "helpers"), ROOT]
    (folder / "parent.py").write_text("import functools, sys; sys.path[:0] = %r\nimport workers\n"
                                      "from core.errors import UserError\n"
                                      "from core.runtime.parallel import ordered_map, process_pool\n"
                                      "if __name__ == '__main__':%s" % (places, code))
    return subprocess.Popen([sys.executable, str(folder / "parent.py")], stdout=subprocess.PIPE,
                            universal_newlines=True)


@pytest.mark.kill
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    parent = start_script(tmp_path, """
    with process_pool(2) as pool:
        pool.submit(workers.sleep_long, %r).result()
""" % str(tmp_path / "pid"))
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(worker))


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False
