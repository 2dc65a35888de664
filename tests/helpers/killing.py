"""Run a script of the project and kill it with SIGKILL at a chosen moment: killing.py MOMENT SCRIPT [flags].

Moments: before:ENDING and after:ENDING, of the move into place of a file whose name ends so; half:ENDING, with half of
such a file of arrays written; batch:N, when N batches are trained.
"""
import os
import runpy
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[2])))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment, target):
    replace = os.replace

    def replacing(source, path):
        if moment in ("before", "half") and path.endswith(target):
            if moment == "half":
                os.truncate(source, os.path.getsize(source) // 2)
            die()
        replace(source, path)
        if moment == "after" and path.endswith(target):
            die()
    os.replace = replacing
    if moment == "batch":
        kill_in_training(target)


def kill_in_training(target):
    import core.training.trainer
    add, batches = core.training.trainer._Meter.add, []

    def adding(meter, batch, outputs):
        batches.append(batch)
        if len(batches) == int(target):
            die()
        add(meter, batch, outputs)
    core.training.trainer._Meter.add = adding


if __name__ == "__main__":
    kill_at(*sys.argv[1].split(":"))
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
