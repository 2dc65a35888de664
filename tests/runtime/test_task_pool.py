"""Clusters that can't work: one line each, and nothing hangs."""
import os
import time

import pytest
from dask_cluster import cluster, start_worker

from core.errors import UserError
from core.runtime import task_pool as module
from core.runtime.parallel import ordered_map
from core.runtime.task_pool import task_pool

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheduler, message", [("tcp://127.0.0.1:9", "no Dask scheduler answers"),
                                                ("nonsense", "--scheduler nonsense is not an address")])
def test_a_wrong_address_is_named(tmp_path, scheduler, message):
    with pytest.raises(UserError, match=message), task_pool(1, scheduler, str(tmp_path)):
        pass


def test_a_cluster_that_can_not_work_ends_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(module, "_PATIENCE", 10)
    ready = str(tmp_path / "ready")
    with cluster(str(tmp_path)) as (scheduler, processes):
        with pytest.raises(UserError, match="has no workers"), task_pool(1, scheduler, str(tmp_path)):
            pass
        processes.append(start_worker(scheduler, ready, environment={}))
        with pytest.raises(UserError, match="can't run this project"), task_pool(1, scheduler, str(tmp_path)):
            pass
        for victim in (1, 0):
            processes[1].kill()
            os.remove(ready)
            processes[1] = start_worker(scheduler, ready)
            with pytest.raises(UserError, match="/nowhere is not there for tcp://.*: the workers need the data"), \
                    task_pool(1, scheduler, "/nowhere"):
                pass
            with pytest.raises(UserError, match="the Dask scheduler at .*, or all of its workers, are gone: start"), \
                    task_pool(1, scheduler, str(tmp_path)) as pool:
                for _ in ordered_map(time.sleep, [0, 0, 90], pool.executor):
                    processes[victim].kill()
        assert "Traceback" not in capfd.readouterr().err
