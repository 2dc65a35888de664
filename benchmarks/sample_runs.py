"""Runs of the project's scripts on the demo's sample, in folders of their own, several at once."""
import concurrent.futures
import os
import queue
import shlex
import subprocess
import sys
import threading
import time

import joblib
import numpy as np

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, ROOT)
from core.cli import make_parser, positive  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.io.files import read_json, write_lines  # noqa: E402

FINAL = ("--crop-size", "144", "--lr", "0.02")  # as demo/run.sh trains the final model
_WEB_LIST = "web_train_list.txt"


def runs_parser(description, name):
    """Parser with --config, --root, --seed, --gpu and --jobs; the runs go into demo/work/`name` by default."""
    parser = make_parser(description)
    demo = os.path.join(ROOT, "demo")
    parser.set_defaults(config=[os.path.join(demo, "sample.yaml")], root=os.path.join(demo, "work", name))
    parser.add_argument("--gpu", default="cpu", metavar="DEVICES", help="device of all runs (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=joblib.cpu_count(), metavar="N",
                        help="runs at once, each on its share of the CPUs (default: one for each CPU: %(default)s)")
    return parser


class Runs:
    """The folders of the runs, and the scripts in them. Interrupted scripts continue when called again."""

    def __init__(self, args, config, seed, name):
        """
        Args:
            args: of `runs_parser`.
            seed: of the drawing and of all trainings.
            name: folder below --root that holds those of the runs.
        """
        self._flags = ["--seed", str(seed)]
        for path in args.config:
            self._flags += ["--config", os.path.abspath(path)]
        self._device = args.gpu
        self._last = config.max_epoch - 1
        self._base = os.path.abspath(config.path(name))

    def path(self, *names):
        return os.path.join(self._base, *names)

    def call(self, script, folder, *flags):
        """Run a script of the project with --root `folder`, and print what ran how long.

        Raises:
            UserError: it failed; the message has its last line.
        """
        command = [sys.executable, os.path.join(ROOT, script), *self._flags, "--root", self.path(folder), *flags]
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            last = (done.stdout.strip() or "no output").splitlines()[-1]
            raise UserError(f"{' '.join(map(shlex.quote, command))} ended with status {done.returncode} ({last}); the "
                            "same command continues from here")
        shown = " ".join((script,) + flags).replace(self._base + os.sep, "")
        print(f"{time.monotonic() - start:6.0f} s  {os.path.relpath(self.path(folder))}: {shown}", flush=True)

    def draw(self, folder, *flags):
        """The sample with the masks of its web images, whole or not at all in the eyes of the next run."""
        mark = self.path(folder, "drawn")
        if not os.path.exists(mark):
            self.call("demo/make_sample.py", folder, *flags)
            write_lines(mark, [])
        self.call("create_web_masks.py", folder)
        self.call("create_dataset.py", folder)

    def share(self, source, folder, web_list=None):
        """Give `folder` the data set of `source`, with another list of web images, if there is one."""
        for name in os.listdir(self.path(source, "dataset")):
            link = self.path(folder, "dataset", name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if not (name == _WEB_LIST and web_list) and not os.path.lexists(link):
                os.symlink(os.path.relpath(self.path(source, "dataset", name), os.path.dirname(link)), link)
        if web_list:
            write_lines(self.path(folder, "dataset", _WEB_LIST), web_list)

    def train(self, folder, model, *flags):
        snapshot = os.path.join("snapshots", f"{model}_fcn_resnet50-{self._last}.params")
        if not os.path.exists(self.path(folder, snapshot)):
            self.call("train_seg_model.py", folder, "--model", model, "--resume", "--keep", "1",
                      "--gpus", self._device, *flags)

    def train_final(self, folder, init, *flags):
        """Train the final model from the init model of the folder `init`, as the sample has no ImageNet weights."""
        base = self.path(init, "snapshots", f"init_fcn_resnet50-{self._last}.params")
        self.train(folder, "final", *FINAL, "--base-model", base, *flags)

    def masks(self, source, folder, *flags):
        """Masks by a model of `source` for the training of the final model in `folder`."""
        self.call("est_voc_train_masks.py", source, "--epoch", str(self._last), "--gpu", self._device, "--output",
                  self.path(folder, "cache", "final_voc_masks"), *flags)

    def result(self, folder, model, *flags):
        """Evaluation of the last epoch: the content of result.json."""
        output = self.path(folder, "outputs", "".join((model,) + flags))
        self.call("eval_seg_model.py", folder, "--model", model, "--epoch", str(self._last), "--gpu", self._device,
                  "--output", output, *flags)
        return read_json(os.path.join(output, "result.json"))


def at_once(tasks, jobs):
    """Results of functions without arguments, in order; `jobs` of them run at a time, each on its share of the CPUs.

    The threads of one small network wait for one another at every layer; networks on a core each do not. When one run
    fails, those that have not begun are left out.
    """
    cpus = sorted(os.sched_getaffinity(0))
    shares = queue.SimpleQueue()
    jobs = min(jobs, len(cpus))
    for share in np.array_split(cpus, jobs):
        shares.put(share.tolist())

    def pin():  # Linux pins the calling thread, and what it starts inherits that
        os.sched_setaffinity(0, shares.get())

    with concurrent.futures.ThreadPoolExecutor(jobs, initializer=pin) as pool:
        failed = threading.Event()

        def run(task):
            try:
                return None if failed.is_set() else task()
            except BaseException:
                failed.set()
                raise
        return [future.result() for future in [pool.submit(run, task) for task in tasks]]
