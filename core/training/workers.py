"""The processes that share every batch: MXNet's workers of launch.py, or those of torchrun.

With torch each process has one device. Several devices in --gpus are several processes on this machine, started here.
"""
import contextlib
import os
import sys
from typing import Any, Iterator

import joblib

from core.config import CLUSTER_STORES, Config
from core.errors import UserError
from core.runtime.engines import backend, choose_engine
from core.training.cluster import free_port, run_here


@contextlib.contextmanager
def joined_workers(config: Config, gpus: str) -> Iterator[Any]:
    """Give what connects this process with others that share every batch: rank, num_workers; or None where it is alone.

    Where torch is to compute on several devices, start a process with the same command for each, and end with them.

    Args:
        gpus: device flag, see `engines.resolve_devices`.

    Raises:
        UserError: kv_store does not suit how the process was started; a process failed or died.
    """
    engine, _ = choose_engine(gpus, config.engine)
    if engine == "mxnet":
        with backend(engine).joined_cluster(config.kv_store) as store:
            yield store
        return
    if config.kv_store in CLUSTER_STORES:
        raise UserError(f"kv_store {config.kv_store} is for --engine mxnet; with torch, torchrun starts several "
                        "processes: see docs/distributed.md")
    if "RANK" in os.environ:
        with backend(engine).process_group(gpus) as group:
            yield group
        return
    count = backend(engine).device_count(gpus)
    if count == 1:
        yield None
        return
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "none",
              "OMP_NUM_THREADS": str(max(1, joblib.cpu_count(only_physical_cores=True) // count))}
    run_here([sys.executable, *sys.argv], [dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)])
    sys.exit()
