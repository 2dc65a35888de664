"""The processes of torch that share every batch: those that torchrun started, or one for each device, started here."""
import contextlib
import os
import runpy
import socket
import sys
from typing import Any, Iterator

import joblib

from core.config import Config
from core.engines.chooser import choose_engine, load
from core.errors import UserError


@contextlib.contextmanager
def joined_workers(config: Config, gpus: str) -> Iterator[Any]:
    """Give this process's `ProcessGroup` of torch's backend, or None where it is alone, as with MXNet it always is.

    Where torch is to compute on several devices, run this script again in a process for each, and end with them.

    Args:
        gpus: device flag, see `engines.resolve_devices`.

    Raises:
        UserError: the processes can't meet; one of them failed or died, then all are ended.
    """
    engine, _ = choose_engine(gpus, config.engine, config.backbone)
    if engine == "mxnet":
        yield None
        return
    backend = load(engine, "backend")
    if "RANK" in os.environ:
        with backend.process_group(gpus) as group:
            yield group
    elif backend.device_count(gpus) == 1:
        yield None
    else:
        _run_processes(backend.device_count(gpus), backend.torch.multiprocessing)
        sys.exit()


def _run_processes(count, multiprocessing):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        multiprocessing.spawn(_run_process, (count, port), count)
    except multiprocessing.ProcessExitedException as error:
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with status {error.exit_code}"
        raise UserError(f"process {error.error_index} {how}: the job is ended") from error


def _run_process(rank, count, port):
    """Be the process of torchrun with that rank. It must not have imported torch's backend, which asks for it."""
    threads = max(1, joblib.cpu_count(only_physical_cores=True) // count)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="none",
                      OMP_NUM_THREADS=str(threads))
    runpy.run_path(sys.argv[0], run_name="__main__")
