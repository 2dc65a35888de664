"""Where the work runs: this process, processes of this machine, or the workers of a Dask cluster."""
import collections
import concurrent.futures
import contextlib
import logging
import re
import threading

from core.errors import UserError
from core.runtime.parallel import process_pool

Crew = collections.namedtuple("Crew", "executor ahead")
Crew.__doc__ = """executor: with the interface of concurrent.futures, or None for this process; ahead: tasks at once."""
_PATIENCE = 60  # seconds to wait for workers
_RETRIES = 3  # times that a task whose worker died is started again elsewhere


@contextlib.contextmanager
def hire(jobs, scheduler=None):
    """Crew for `parallel.ordered_map`.

    Args:
        jobs: processes of this machine; 1 stands for this process.
        scheduler: address of a Dask scheduler, such as tcp://10.0.0.1:8786, or None. It and its workers need the
            project on their PYTHONPATH, and the workers need the data at the same paths, on a common file system.

    Raises:
        UserError: `distributed` is not installed, the scheduler does not answer, the workers can't import the project
            or are gone, or a task killed several of them.
    """
    if scheduler is None:
        if jobs == 1:
            yield Crew(None, 1)
            return
        with process_pool(jobs) as pool:
            yield Crew(pool, 4 * jobs)
        return
    try:
        import distributed
    except ImportError as error:
        raise UserError("--scheduler needs Dask: pip install distributed") from error
    if not re.fullmatch(r"([a-z]+://)?[^/\s]+:[0-9]+/?", scheduler):
        raise UserError("--scheduler %s is not an address such as tcp://10.0.0.1:8786" % scheduler)
    for name in ("distributed", "distributed.client", "tornado", "asyncio"):  # reported here in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError("no Dask scheduler answers at %s: start one with: dask scheduler" % scheduler) from error
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError("the Dask scheduler at %s has no workers: start some with: dask worker %s --nthreads 1"
                            % (scheduler, scheduler))
        _probe(client, scheduler)
        with _watch(client):
            yield Crew(client.get_executor(retries=_RETRIES), 4 * threads)
    except distributed.scheduler.KilledWorker as error:
        raise UserError("a task killed several workers of the Dask cluster: %s; perhaps they have too little memory"
                        % error) from error
    except (concurrent.futures.CancelledError, distributed.comm.CommClosedError) as error:
        raise UserError("the Dask scheduler at %s, or all of its workers, are gone: start them and run the same "
                        "command again" % scheduler) from error
    finally:
        client.close()


def _probe(client, scheduler):
    """Raise UserError if the workers can't import the project: Dask would wait for its first result forever."""
    try:
        client.submit(len, [UserError], pure=False).result(timeout=_PATIENCE)
    except Exception as error:  # Dask raises many kinds
        raise UserError("the Dask cluster at %s can't run this project (%s): start the scheduler and the workers with "
                        "its folder on PYTHONPATH, in the same environment"
                        % (scheduler, " ".join(str(error).split())[:200] or type(error).__name__)) from error


@contextlib.contextmanager
def _watch(client):
    """Close the client, which cancels all tasks, once the cluster has had no worker for a minute."""
    over = threading.Event()

    def look():
        missing = 0
        while not over.wait(_PATIENCE / 10):
            try:
                missing = 0 if client.nthreads() else missing + 1
            except Exception:  # the scheduler is gone
                missing += 1
            if missing == 10:
                client.close(timeout=1)
                return
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(_PATIENCE)
