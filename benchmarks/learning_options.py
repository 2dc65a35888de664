#!/usr/bin/env python3
"""What each learning option changes on the sample: mean IoU of the last epoch on the val images, without and with it.

Draws the sample and runs the scripts on it, once for each side of a comparison; everything else is as in the --config
file. One seed: the figures tell no more than changes well above the spread between seeds, which further runs with
other seeds show. A run that was stopped goes on with the same command; a network that was being trained then is
trained anew.
"""
import os
import shlex
import subprocess
import sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, ROOT)
from core.cli import make_parser, parse_config, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.files import read_json, read_list, write_lines  # noqa: E402
from core.layout import Layout, web_class  # noqa: E402

FINAL = ("--crop-size", "144", "--lr", "0.02")  # as demo/run.sh trains the final model
FEW_EVERY, FEW_SHARE = 3, 4  # every third class keeps a fourth of its web images


class Runs:
    """The folders of the runs, and the scripts in them."""

    def __init__(self, args, config):
        self._config = config
        self._flags = ["--config", os.path.abspath(args.config), "--seed", str(config.seed)]
        self._device = args.gpu
        self._last = config.max_epoch - 1
        self._base = os.path.abspath(config.path("seed%d" % config.seed))

    def path(self, *names):
        return os.path.join(self._base, *names)

    def call(self, script, folder, *flags):
        """Run a script of the project with --root `folder`."""
        command = [sys.executable, os.path.join(ROOT, script), *self._flags, "--root", self.path(folder), *flags]
        print("\n== " + " ".join(map(shlex.quote, command)), flush=True)
        status = subprocess.call(command)
        if status:
            raise UserError("%s ended with status %d; the same command goes on from here" % (script, status))

    def draw(self, folder):
        """The sample, whole or not at all in the eyes of the next run."""
        mark = self.path(folder, "drawn")
        if not os.path.exists(mark):
            self.call("demo/make_sample.py", folder)
            write_lines(mark, [])
        self.call("create_web_masks.py", folder)
        self.call("create_dataset.py", folder)

    def share(self, source, folder):
        """Give `folder` the data set of `source`."""
        os.makedirs(self.path(folder), exist_ok=True)
        if not os.path.lexists(self.path(folder, "dataset")):
            os.symlink(os.path.join("..", source, "dataset"), self.path(folder, "dataset"))

    def thin_out(self, source, folder):
        """Give `folder` the web images of `source` but for most of some classes; returns the indices of these."""
        for name in os.listdir(self.path(source, "dataset")):
            link = self.path(folder, "dataset", name)
            os.makedirs(os.path.dirname(link), exist_ok=True)
            if name != "web_train_list.txt" and not os.path.lexists(link):
                os.symlink(os.path.join("..", "..", source, "dataset", name), link)
        names = read_list(self.path(source, "dataset", "web_train_list.txt"))
        of_class = {}
        for name in names:
            of_class.setdefault(web_class(name, self._config.num_classes), []).append(name)
        few = sorted(of_class)[1::FEW_EVERY]
        left_out = {name for label in few for place, name in enumerate(of_class[label]) if place % FEW_SHARE}
        write_lines(self.path(folder, "dataset", "web_train_list.txt"), [name for name in names if name not in left_out])
        return few

    def train(self, folder, model, *flags):
        snapshot = os.path.join("snapshots", "%s_fcn_resnet50-%d.params" % (model, self._last))
        if not os.path.exists(self.path(folder, snapshot)):
            self.call("train_seg_model.py", folder, "--model", model, "--gpus", self._device, *flags)

    def train_final(self, folder, init, *flags):
        """Train the final model from the init model of the folder `init`, as the sample has no ImageNet weights."""
        base = self.path(init, "snapshots", "init_fcn_resnet50-%d.params" % self._last)
        self.train(folder, "final", *FINAL, "--base-model", base, *flags)

    def masks(self, source, folder, *flags):
        """Masks by a model of `source` for the training of the final model in `folder`."""
        self.call("est_voc_train_masks.py", source, "--epoch", str(self._last), "--gpu", self._device, "--output",
                  Layout(self._config).train_masks.replace(self._config.path("."), self.path(folder)), *flags)

    def result(self, folder, model, *flags):
        """Evaluation of the last epoch: the content of result.json."""
        output = self.path(folder, "outputs", "".join((model,) + flags))
        self.call("eval_seg_model.py", folder, "--model", model, "--epoch", str(self._last), "--gpu", self._device,
                  "--output", output, *flags)
        return read_json(os.path.join(output, "result.json"))


def main():
    parser = make_parser(__doc__)
    parser.set_defaults(config=os.path.join(ROOT, "demo", "sample.yaml"),
                        root=os.path.join(ROOT, "demo", "work", "learning_options"))
    parser.add_argument("--gpu", default="cpu", metavar="DEVICES", help="device of all runs (default: %(default)s)")
    args = parser.parse_args()
    config = parse_config(args)
    runs, plain = Runs(args, config), "reference"

    runs.draw(plain)
    runs.train(plain, "init")
    runs.masks(plain, plain)
    runs.train_final(plain, plain)

    runs.share(plain, "crf")
    runs.masks(plain, "crf", "--crf")
    runs.train_final("crf", plain)

    runs.share(plain, "second_round")
    runs.masks(plain, "second_round", "--model", "final")
    runs.train_final("second_round", plain)

    constant = ("--learning-rate-decay", "none")
    runs.share(plain, "constant")
    runs.train("constant", "init", *constant)
    runs.masks("constant", "constant")
    runs.train_final("constant", "constant", *constant)

    few = runs.thin_out(plain, "uneven")
    runs.train("uneven", "init")
    runs.share("uneven", "balanced")
    runs.train("balanced", "init", "--web-sampling", "balanced")

    names = [config.classes[label] for label in few]
    rows = [("polynomial learning-rate decay", model, ("constant",), (plain,), None) for model in ("init", "final")]
    rows += [("flip testing" + title, model, (plain, *flags), (plain, *flags, "--flip"), None)
             for title, flags in (("", ()), (", --ms on both sides", ("--ms",))) for model in ("init", "final")]
    rows += [("CRF in mask estimation", "final", (plain,), ("crf",), None),
             ("second round", "final", (plain,), ("second_round",), None),
             ("balanced web sampling", "init", ("uneven",), ("balanced",), None),
             ("  on the %d rare classes" % len(few), "init", ("uneven",), ("balanced",), names)]
    lines = []
    for title, model, *sides, classes in rows:
        results = [runs.result(folder, model, *flags) for folder, *flags in sides]
        without, with_it = (100 * (result["mean_iou"] if classes is None else mean(result, classes))
                            for result in results)
        lines.append("%-40s %-6s %7.2f %7.2f %+7.2f" % (title, model, without, with_it, with_it - without))
    print("\nseed %d, mean IoU in %% on %d val images\n%-40s %-6s %7s %7s %7s" % (
        config.seed, len(read_list(runs.path(plain, "dataset", "val_list.txt"))), "option", "model", "without", "with",
        "change"))
    print("\n".join(lines))
    print("rare classes, with a quarter of their web images: %s" % " ".join(names))


def mean(result, classes):
    """Mean IoU of some classes; those that did not occur are left out."""
    values = [result["iou"][name] for name in classes if result["iou"][name] is not None]
    return sum(values) / max(1, len(values))


if __name__ == "__main__":
    run(main)
