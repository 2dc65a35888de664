"""A Dask cluster of processes of this machine."""
import contextlib
import os
import subprocess
import sys
import time

from conftest import ROOT

_SCHEDULER = """
import asyncio, os, sys
from distributed import Scheduler
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=None) as scheduler:
        open(sys.argv[1] + ".new", "w").write(scheduler.address)
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        await scheduler.finished()
asyncio.run(main())
"""
_WORKER = """
import asyncio, sys
from distributed import Worker
async def main():
    async with Worker(sys.argv[1], nthreads=1, dashboard=False) as worker:
        open(sys.argv[2], "w").close()
        await worker.finished()
asyncio.run(main())
"""


@contextlib.contextmanager
def cluster(folder, *workers, environment=None):
    """A scheduler, and workers of these names: its address, and the processes, the scheduler's first."""
    address = os.path.join(folder, "address")
    processes = [_start(_SCHEDULER, address)]
    try:
        wait_for(lambda: os.path.exists(address))
        with open(address) as file:
            scheduler = file.read()
        ready = [os.path.join(folder, name) for name in workers]
        processes += [start_worker(scheduler, path, environment, wait=False) for path in ready]
        wait_for(lambda: all(map(os.path.exists, ready)))
        yield scheduler, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_worker(scheduler, ready, environment=None, *, wait=True):
    """A worker's process, which makes the file `ready` once it is connected; it runs in / and finds the project unless
    another environment says otherwise."""
    process = _start(_WORKER, scheduler, ready, environment=environment)
    if wait:
        wait_for(lambda: os.path.exists(ready))
    return process


def wait_for(condition, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _start(code, *arguments, environment=None):
    if environment is None:
        environment = {"PYTHONPATH": os.path.abspath(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=dict(os.environ, **environment), cwd="/",
                            stderr=subprocess.DEVNULL)
