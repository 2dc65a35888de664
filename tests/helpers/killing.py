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
        if moment == "before" and path.endswith(target):
            die()
        replace(source, path)
        if moment == "after" and path.endswith(target):
            die()
    os.replace = replacing
    if moment in ("half", "batch"):
        kill_in_training(moment, target)


def kill_in_training(moment, target):
    import core.training.train
    from core.runtime.mxnet_backend import mx
    save, add, batches = mx.nd.save, core.training.train._Meter.add, []

    def saving(path, values):
        save(path, values)
        if moment == "half" and target + "." in path:  # the temporary name goes on with the process id
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    def adding(meter, batch, outputs):
        batches.append(batch)
        if moment == "batch" and len(batches) == int(target):
            die()
        add(meter, batch, outputs)
    mx.nd.save, core.training.train._Meter.add = saving, adding


if __name__ == "__main__":
    kill_at(*sys.argv[1].split(":"))
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
