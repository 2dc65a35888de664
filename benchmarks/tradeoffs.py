#!/usr/bin/env python3
"""How the sample's mean IoU depends on the number of web images, the noise filter, and the rounds of training.

Draws samples with wrong web images, as in search results: a share of --noise shows a random class, a share of --empty
no object. For each number of web images the whole chain runs on three lists: all images, those that the noise filter
of create_web_masks.py keeps, and those that do show their class, as a perfect filter would keep. Equal lists are
trained on once. Every network is trained for the same number of steps. Further rounds, in which a final model
estimates the masks for the next one, continue with the list of the noise filter.

Prints a table and draws tradeoffs.png. The same command continues an interrupted run; with more --counts, --seeds or
--rounds it trains only what is new.
"""
import collections
import functools
import io
import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from sample_runs import Runs, at_once, runs_parser

from core.cli import non_negative, parse_config, run
from core.io.files import read_list, write_bytes
from core.io.images import read_mask
from core.paths import mask_path, stems, web_class

FILTERS = {"all": "all images", "filtered": "noise filter", "right": "right images only"}
_LOOKS = {"all": ("#d55e00", "s"), "filtered": ("#0072b2", "o"), "right": ("#666666", "^")}  # colour-blind safe
_COUNT_LOOKS = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "D"), ("#cc79a7", "^"), ("#000000", "v"))

Row = collections.namedtuple("Row", "seed images kind kept right scores")
Row.__doc__ = """What came of one list of web images.

images: web images drawn, of all classes together; kept, right: those on the list, and those of them that show their
class. kind: key of FILTERS.
scores: mean IoU in % of the init model, of the final model, and of the final model of each further round.
"""


def main():
    parser = runs_parser(__doc__.splitlines()[0], "tradeoffs")
    parser.add_argument("--counts", type=_counts, default=[10, 20, 40, 80], metavar="N,...",
                        help="web images of each class (default: 10,20,40,80)")
    parser.add_argument("--seeds", type=_seeds, metavar="N,...",
                        help="seeds of samples and trainings; the figure shows means and ranges (default: --seed)")
    parser.add_argument("--rounds", type=int, choices=range(10), default=1, metavar="N",
                        help="further rounds after the final model, 0 to 9 (default: %(default)s)")
    parser.add_argument("--noise", type=non_negative, default=0.2, metavar="SHARE",
                        help="share of the web images that show any class (default: %(default)s)")
    parser.add_argument("--empty", type=non_negative, default=0.1, metavar="SHARE",
                        help="share of the web images that show no object (default: %(default)s)")
    parser.add_argument("--draw", default="", metavar="FLAGS",
                        help="further flags of make_sample.py, such as --draw='--val 50'")
    args = parser.parse_args()
    config = parse_config(args)
    drawn = f"noise{args.noise:g}-empty{args.empty:g}"
    draw = ["--noise", str(args.noise), "--empty", str(args.empty), *args.draw.split()]
    seeds = args.seeds or [config.seed]
    runs = {seed: Runs(args, config, seed, os.path.join(drawn, f"seed{seed}")) for seed in seeds}
    samples = [(seed, count) for seed in seeds for count in args.counts]

    at_once([functools.partial(runs[seed].draw, _folder(count), "--web", str(count), *draw)
             for seed, count in samples], args.jobs)
    lists = {sample: web_lists(runs[sample[0]].path(_folder(sample[1]), "dataset"), config.num_classes)
             for sample in samples}
    tasks = {}
    for (seed, count), kinds in lists.items():
        for kind, names in kinds.items():
            if kind == same(kinds, kind):
                rounds = args.rounds if names == kinds["filtered"] else 0
                tasks[seed, count, kind] = functools.partial(chain, runs[seed], _folder(count), kind, names, rounds)
    scores = dict(zip(tasks, at_once(list(tasks.values()), args.jobs)))
    rows = []
    for (seed, count), kinds in lists.items():
        images = len(stems(runs[seed].path(_folder(count), "dataset", "web_images"), ".jpg"))
        rows += [Row(seed, images, kind, len(names), len(set(names) & set(kinds["right"])),
                     scores[seed, count, same(kinds, kind)]) for kind, names in kinds.items()]
    print("\nmean IoU in % of the last epoch, one scale, no CRF; " + drawn.replace("-", ", "))
    print(table(rows))
    path = config.path("tradeoffs.png")
    write_bytes(path, figure(rows))
    print(f"figure: {path}")


def web_lists(dataset, num_classes):
    """Web images to train on: dict from key of FILTERS to a sorted list of names, none of them empty."""
    everything = sorted(stems(os.path.join(dataset, "web_labels"), ".png"))
    truth = os.path.join(dataset, "web_truth")
    right = [name for name in everything
             if (read_mask(mask_path(truth, name), num_classes) == web_class(name, num_classes)).any()]
    return {"all": everything, "filtered": sorted(read_list(os.path.join(dataset, "web_train_list.txt"))),
            "right": right or everything}


def same(kinds, kind):
    """The first kind whose list is equal: its networks serve for both."""
    return next(other for other in FILTERS if kinds[other] == kinds[kind])


def chain(runs, source, kind, names, rounds):
    """Train on a list of the web images of the folder `source`, and further rounds of the final model.

    Returns:
        mean IoU in % of the init model, the final model, and that of each round.
    """
    first = last = os.path.join(source, kind)
    runs.share(source, first, names)
    runs.train(first, "init")
    scores = [runs.result(first, "init")]
    for number in range(1, rounds + 2):
        folder = first if number == 1 else os.path.join(first, f"round{number}")
        if number == 1:
            runs.masks(first, first, "--crf")
        else:
            runs.share(first, folder)
            runs.masks(last, folder, "--crf", "--model", "final")
        runs.train_final(folder, first)
        scores.append(runs.result(folder, "final"))
        last = folder
    return [100 * score["mean_iou"] for score in scores]


def table(rows):
    """Text of a line for each row."""
    stages = _stages(max(len(row.scores) for row in rows))
    lines = [f"{'seed':>4} {'images':>7}  {'trained on':<18} {'kept':>5} {'right':>6}"
             + "".join(f"{stage:>9}" for stage in stages)]
    for row in rows:
        lines.append(f"{row.seed:4} {row.images:7}  {FILTERS[row.kind]:<18} {row.kept:5} {row.right:6}"
                     + "".join(f"{score:9.1f}" for score in row.scores))
    return "\n".join(lines)


def figure(rows):
    """PNG (bytes): mean IoU over the number of web images for each list, and over the rounds for each number."""
    canvas = Figure(figsize=(10, 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2, sharey=True)
    numbers = sorted({row.images for row in rows})
    for stage, line, face in ((1, "-", None), (0, "--", "white")):
        for kind, (colour, marker) in _LOOKS.items():
            _plot(left, numbers, [[row.scores[stage] for row in rows if (row.images, row.kind) == (number, kind)]
                                  for number in numbers],
                  f"{_stages(2)[stage]}, {FILTERS[kind]}", color=colour, marker=marker, linestyle=line,
                  markerfacecolor=face or colour)
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator(numbers))
    left.xaxis.set_minor_locator(NullLocator())
    left.set_xticklabels(map(str, numbers))
    left.set(xlabel="web images of all classes", ylabel="mean IoU, %", title="web images and noise filter")
    for place, number in enumerate(numbers):
        colour, marker = _COUNT_LOOKS[place % len(_COUNT_LOOKS)]
        own = [row.scores for row in rows if (row.images, row.kind) == (number, "filtered")]
        stages = range(max(map(len, own)))
        _plot(right, stages, [[scores[stage] for scores in own if len(scores) > stage] for stage in stages],
              f"{number} web images", color=colour, marker=marker)
    names = _stages(max(len(row.scores) for row in rows))
    right.set_xticks(range(len(names)))
    right.set_xticklabels(names)
    right.set(title="stages, on the list of the noise filter")
    for axes in (left, right):
        axes.grid(True, color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    content = io.BytesIO()
    canvas.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _plot(axes, places, groups, label, **looks):
    """A line through the means of the groups, with bars from the lowest to the highest of each."""
    means = [sum(group) / len(group) for group in groups]
    reach = [[mean - min(group) for mean, group in zip(means, groups)],
             [max(group) - mean for mean, group in zip(means, groups)]]
    axes.errorbar(places, means, reach if max(map(len, groups)) > 1 else None, label=label, linewidth=1.6, capsize=3,
                  **looks)


def _stages(count):
    return ["init", "final"] + [f"round {number}" for number in range(2, count)]


def _folder(count):
    return f"web{count}"


def _counts(text):
    counts = sorted({int(part) for part in text.split(",")})
    if counts[0] < 1:
        raise ValueError
    return counts


def _seeds(text):
    seeds = sorted({int(part) for part in text.split(",")})
    if seeds[0] < 0:
        raise ValueError
    return seeds


if __name__ == "__main__":
    run(main)
