"""Where the work runs: this process, processes of this machine, or the workers of a Dask cluster."""
import collections
import contextlib

from core.errors import UserError
from core.parallel import process_pool

Crew = collections.namedtuple("Crew", "executor ahead")
Crew.__doc__ = """executor: of the concurrent.futures interface, None: this process; ahead: tasks under way at once."""
_RETRIES = 3  # times that a task whose worker died starts anew elsewhere


@contextlib.contextmanager
def hire(jobs, scheduler=None):
    """Crew for `parallel.ordered_map`.

    Args:
        jobs: processes of this machine; 1 works in this one.
        scheduler: address of a Dask scheduler, such as tcp://10.0.0.1:8786, or None. Its workers see the project (on
            their PYTHONPATH) and the data, under the same paths, on a common file system.

    Raises:
        UserError: `distributed` is not installed, the scheduler does not answer, or a task killed several workers.
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
    try:
        client = distributed.Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError("no Dask scheduler answers at %s: start one with: dask scheduler" % scheduler) from error
    try:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError("the Dask scheduler at %s has no workers: start some with: dask worker %s --nthreads 1"
                            % (scheduler, scheduler))
        yield Crew(client.get_executor(retries=_RETRIES), 4 * threads)
    except distributed.scheduler.KilledWorker as error:
        raise UserError("a task ended worker after worker of the Dask cluster: %s; perhaps their memory is too small"
                        % error) from error
    finally:
        client.close()
