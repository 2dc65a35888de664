"""Where the work runs: this process, processes of this machine, or the workers of a Dask cluster."""
import concurrent.futures
import contextlib
import logging
import os
import re
import threading
from typing import Iterator, NamedTuple, Optional

from core.errors import UserError
from core.runtime.parallel import process_pool

_PATIENCE = 60  # seconds to wait for workers
_RETRIES = 3  # times that a task whose worker died is started again elsewhere


class TaskPool(NamedTuple):
    """executor: as of concurrent.futures, or None for this process; ahead: tasks at once."""
    executor: Optional[concurrent.futures.Executor]
    ahead: int


@contextlib.contextmanager
def task_pool(jobs: int, scheduler: Optional[str], folder: str) -> Iterator[TaskPool]:
    """TaskPool for `parallel.ordered_map`.

    Args:
        jobs: processes of this machine; 1 stands for this process.
        scheduler: address of a Dask scheduler, such as tcp://10.0.0.1:8786, or None. It and its workers need the
            project on their PYTHONPATH, and the workers need the data at the same paths, on a common file system.
        folder: of the data, absolute.

    Raises:
        UserError: `distributed` is not installed, the scheduler does not answer, the workers can't import the project,
            don't see the folder or are gone, or a task killed several of them.
    """
    if scheduler is None:
        with process_pool(jobs) as pool:
            yield TaskPool(pool, 4 * jobs)
        return
    try:
        import distributed
    except ImportError as error:
        raise UserError("--scheduler needs Dask: pip install distributed") from error
    if not re.fullmatch(r"([a-z]+://)?[^/\s]+:[0-9]+/?", scheduler):
        raise UserError(f"--scheduler {scheduler} is not an address such as tcp://10.0.0.1:8786")
    for name in ("distributed", "distributed.client", "tornado", "asyncio"):  # reported here in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no Dask scheduler answers at {scheduler}: start one with: dask scheduler") from error
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, over), daemon=True)
    watcher.start()
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"the Dask scheduler at {scheduler} has no workers: start some with: dask worker "
                            f"{scheduler} --nworkers -1 --nthreads 1")
        _probe(client, scheduler, folder)
        yield TaskPool(client.get_executor(retries=_RETRIES), 4 * threads)
    except distributed.scheduler.KilledWorker as error:
        raise UserError(f"a task killed several workers of the Dask cluster: {error}; perhaps they have too little "
                        "memory") from error
    except (concurrent.futures.CancelledError, distributed.comm.CommClosedError) as error:
        raise UserError(f"the Dask scheduler at {scheduler}, or all of its workers, are gone: start them and run the "
                        "same command again") from error
    finally:
        over.set()
        watcher.join(_PATIENCE)
        client.close()


def _probe(client, scheduler, folder):
    """Raise UserError if the workers can't import the project, for whose results Dask would wait forever, or don't see
    the data."""
    try:
        client.submit(len, [UserError], pure=False).result(timeout=_PATIENCE)
        sees = client.run(os.path.isdir, folder)
    except Exception as error:  # Dask raises many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the Dask cluster at {scheduler} can't run this project ({reason}): start the scheduler and "
                        "the workers with its folder on PYTHONPATH, in the same environment") from error
    if not all(sees.values()):
        raise UserError(f"{folder} is not there for {min(worker for worker in sees if not sees[worker])}: the workers "
                        "need the data at the same path, on a common file system")


def _watch(client, over):
    """Cancel all tasks once the cluster has had no worker for a minute."""
    from distributed import Future
    missing = 0
    while not over.wait(_PATIENCE / 10):
        try:
            missing = 0 if client.nthreads() else missing + 1
            if missing >= 10:
                client.cancel([Future(key, client) for key in list(client.futures)])
        except Exception:  # the scheduler is gone, and with it the tasks
            return
