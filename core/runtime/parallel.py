"""Work spread over processes: results in order, errors passed on, no process left behind.

Workers are spawned, never forked (MXNet's threads don't survive a fork), and must not import mxnet.
"""
import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from typing import Any, Callable, Generator, Iterable, Iterator, Optional, Tuple, TypeVar

from core.errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextlib.contextmanager
def process_pool(jobs: int) -> Iterator[Optional[concurrent.futures.ProcessPoolExecutor]]:
    """Executor of `jobs` spawned processes; none outlives this process, however it ends. None for one job, which
    this process does."""
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, _die_with_parent)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        call_queue: Any = getattr(pool, "_call_queue", None)
        if (3, 9) <= sys.version_info < (3, 11, 5) and call_queue:
            call_queue._reader.close()  # else shutdown waits for a thread that writes on to them (gh-94777)
        raise
    finally:
        pool.shutdown()


def ordered_map(function: Callable[[_Item], _Result], items: Iterable[_Item],
                executor: Optional[concurrent.futures.Executor] = None, ahead: int = 1
                ) -> Generator[Tuple[_Item, _Result], None, None]:
    """Yield (item, function(item)) in the order of the items.

    Args:
        function: picklable, from a module that does not import mxnet.
        items: iterable, read no further than `ahead` items before the one whose result comes next.
        executor: anything with the interface of concurrent.futures.Executor; None works in this process.
        ahead: items under way beside the one whose result comes next.

    Raises:
        UserError: a worker died.
    """
    if executor is None:
        for item in items:
            yield item, function(item)
        return
    pending = collections.deque()
    items = iter(items)
    try:
        while True:
            for item in itertools.islice(items, ahead + 1 - len(pending)):
                pending.append((item, executor.submit(function, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    except concurrent.futures.BrokenExecutor as error:  # from result, or from submit where it knows first
        raise UserError(f"a worker process died near {getattr(item, 'name', item)}: perhaps the memory ran out; try "
                        "fewer --jobs") from error
    finally:  # also where the caller wants no more
        # Those of processes end with `process_pool`, whose executor would stumble over a cancelled one.
        if not isinstance(executor, concurrent.futures.ProcessPoolExecutor):
            for _, future in pending:
                future.cancel()


def _die_with_parent():
    """End this worker when its parent ends, even by SIGKILL, which shuts no pool down."""
    parent = multiprocessing.parent_process()

    def watch():
        multiprocessing.connection.wait([parent.sentinel])  # type: ignore[union-attr]  # workers have a parent
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
