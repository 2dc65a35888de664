#!/usr/bin/env python3
"""Effect of each training option on the sample: mean IoU of the last epoch on the val images, without and with it.

Draws the sample and runs the scripts on it once for each side of a comparison; everything else is as in the --config
file. With one seed, only differences well above the spread between seeds mean anything; run other seeds to see it.
The same command continues an interrupted run.
"""
import functools

from sample_runs import Runs, at_once, runs_parser

from core.cli import parse_config, run
from core.io.files import read_list
from core.paths import web_class

FEW_EVERY, FEW_SHARE = 3, 4  # every third class keeps a fourth of its web images
CONSTANT = ("--learning-rate-decay", "none")


def main():
    args = runs_parser(__doc__.splitlines()[0], "learning_options").parse_args()
    config = parse_config(args)
    runs, plain = Runs(args, config, config.seed, f"seed{config.seed}"), "reference"

    runs.draw(plain)
    few, thinned = thin_out(read_list(runs.path(plain, "dataset", "web_train_list.txt")), config.num_classes)
    for folder in ("crf", "second_round", "constant"):
        runs.share(plain, folder)
    for folder in ("uneven", "balanced"):
        runs.share(plain, folder, thinned)

    def estimate_and_train(source, folder, estimation=(), training=()):
        runs.masks(source, folder, *estimation)
        runs.train_final(folder, "constant" if folder == "constant" else plain, *training)

    at_once([functools.partial(runs.train, plain, "init"),
             functools.partial(runs.train, "constant", "init", *CONSTANT),
             functools.partial(runs.train, "uneven", "init"),
             functools.partial(runs.train, "balanced", "init", "--web-sampling", "balanced")], args.jobs)
    at_once([functools.partial(estimate_and_train, plain, plain),
             functools.partial(estimate_and_train, plain, "crf", ["--crf"]),
             functools.partial(estimate_and_train, "constant", "constant", training=CONSTANT)], args.jobs)
    estimate_and_train(plain, "second_round", ["--model", "final"])

    names = [config.classes[label] for label in few]
    rows = [("polynomial learning-rate decay", model, ("constant",), (plain,), None) for model in ("init", "final")]
    rows += [("CRF in mask estimation", "final", (plain,), ("crf",), None),
             ("second round", "final", (plain,), ("second_round",), None),
             ("balanced web sampling", "init", ("uneven",), ("balanced",), None),
             (f"  on the {len(few)} rare classes", "init", ("uneven",), ("balanced",), names)]
    sides = list(dict.fromkeys((folder, model, *flags) for _, model, *both, _ in rows for folder, *flags in both))
    results = dict(zip(sides, at_once([functools.partial(runs.result, *side) for side in sides], args.jobs)))
    lines = []
    for title, model, *both, classes in rows:
        without, with_it = (100 * mean(results[(folder, model, *flags)], classes) for folder, *flags in both)
        lines.append(f"{title:<40} {model:<6} {without:7.2f} {with_it:7.2f} {with_it - without:+7.2f}")
    count = len(read_list(runs.path(plain, "dataset", "val_list.txt")))
    print(f"\nseed {config.seed}, mean IoU in % on {count} val images")
    print(f"{'option':<40} {'model':<6} {'without':>7} {'with':>7} {'change':>7}")
    print("\n".join(lines))
    print(f"rare classes, with a quarter of their web images: {' '.join(names)}")


def thin_out(names, num_classes):
    """Leave out most web images of some classes.

    Returns:
        indices of these classes, and the names that are left.
    """
    of_class = {}
    for name in names:
        of_class.setdefault(web_class(name, num_classes), []).append(name)
    few = sorted(of_class)[1::FEW_EVERY]
    left_out = {name for label in few for place, name in enumerate(of_class[label]) if place % FEW_SHARE}
    return few, [name for name in names if name not in left_out]


def mean(result, classes=None):
    """Mean IoU, of some classes where they are named; those that did not occur are left out."""
    if classes is None:
        return result["mean_iou"]
    values = [result["iou"][name] for name in classes if result["iou"][name] is not None]
    return sum(values) / max(1, len(values))


if __name__ == "__main__":
    run(main)
