"""Reports: an HTML page for each evaluation, and one that compares evaluations and epochs. No mxnet here."""
import collections
import os
import urllib.parse

import numpy as np

from core.classes import voc_palette
from core.errors import UserError
from core.evaluation.pages import (
    bars,
    confusions,
    keys,
    legend,
    matrix,
    ordered,
    page,
    percent,
    picture,
    table,
    text,
    tiles,
    two_faced,
)
from core.evaluation.results import ResultFolder
from core.io.drawing import overlay
from core.io.files import list_folder, read_text, write_bytes, write_text

EXAMPLES = 4  # images shown of the best, and as many of the worst

Example = collections.namedtuple("Example", "name image truth mask")
Example.__doc__ = """An image to show: id, (h, w, 3) uint8 RGB, (h, w) uint8 true and predicted classes."""


def best_and_worst(image_iou):
    """Ids of the images to show.

    Args:
        image_iou: dict from id to mean IoU, or None for an image without counted pixels.

    Returns:
        two lists, the best and the worst first; no image is in both.
    """
    names = sorted((name for name, value in image_iou.items() if value is not None),
                   key=lambda name: (-image_iou[name], name))
    worst = names[max(len(names) // 2, len(names) - EXAMPLES):][::-1]
    return names[:min(len(names) - len(worst), EXAMPLES)], worst


def report_path(folder):
    """Where the page of an evaluation lies in its output folder."""
    return os.path.join(folder, "report.html")


def write_report(folder, result, examples, earlier=()):
    """Write the page of an evaluation into its folder.

    Args:
        result: as result.json holds it.
        examples: dict from id to Example, of the images of `best_and_worst`; others are left out.
        earlier: results of other settings in the same folder.
    """
    classes = result["settings"]["classes"]
    parts = [
        "<p class=\"faint\">%s</p>" % text(_conditions(result)),
        tiles([("mean IoU", percent(result["mean_iou"], 2)), ("pixel accuracy", percent(result["pixel_accuracy"])),
               ("mean accuracy", percent(result["mean_accuracy"])),
               ("frequency-weighted IoU", percent(result["frequency_weighted_iou"])),
               ("images", len(result.get("image_iou", ())) or "–"),
               ("seconds an image", "%.3f" % result["seconds_per_image"])]),
        "<h2>IoU of each class</h2>", bars(result["iou"], result["mean_iou"] or 0),
        "<h2>Confusion matrix</h2>", matrix(result["confusion"], classes),
        "<h3>Most frequent mistakes</h3>", confusions(result["confusion"], classes)]
    parts += _shown(result, examples)
    if earlier:
        parts += ["<h2>Other settings, same snapshot folder</h2>",
                  table(("settings", "mean IoU"), [(text(_conditions(old)), percent(old["mean_iou"], 2))
                                                   for old in earlier], (1,))]
    rows = [(key, value) for key, value in result["settings"].items() if key != "classes"]
    rows += [("classes", classes), ("settings that differ from the published ones", result.get("config")),
             ("device", result["device"]), ("versions", result["versions"])]
    parts += ["<h2>Settings and versions</h2>", keys(rows)]
    write_text(report_path(folder), page("%s model, epoch %d" % (result["model"], result["epoch"]), *parts))


def _shown(result, examples):
    """HTML of the best and the worst images with their masks."""
    parts = []
    present = set()
    for title, names in zip(("Best images", "Worst images"), best_and_worst(result.get("image_iou", {}))):
        figures = []
        for example in (examples[name] for name in names if name in examples):
            present.update(np.unique(example.truth).tolist(), np.unique(example.mask).tolist())
            pictures = [picture(shown, "%s, %s" % (example.name, what)) for shown, what in (
                (example.image, "image"), (overlay(example.image, example.truth), "truth"),
                (overlay(example.image, example.mask), "prediction"))]
            figures.append("<figure><div class=\"three\">%s</div><figcaption>%s: mean IoU of its classes %s"
                           "</figcaption></figure>" % ("".join(pictures), text(example.name),
                                                       percent(result["image_iou"][example.name])))
        if figures:
            parts += ["<h3>%s</h3>" % title, "<div class=\"examples\">%s</div>" % "".join(figures)]
    if not parts:
        return []
    names = [(label, name) for label, name in enumerate(result["settings"]["classes"]) if label in present and label]
    names += [(255, "not counted")] if 255 in present else []
    return ["<h2>Best and worst images</h2>", "<p class=\"faint\">Image, truth, prediction.</p>",
            legend([name for _, name in names], voc_palette()[[label for label, _ in names]])] + parts


def write_comparison(path, sources):
    """Write a page that compares evaluations and shows how training went, and the curves as a PNG beside it.

    Args:
        path: of the page; the PNG has the same name but for its ending.
        sources: list of `Source`.

    Returns:
        path of the PNG.

    Raises:
        UserError: there is nothing to report, or a file is damaged.
    """
    from core.evaluation.learning_curves import (  # imports matplotlib, which takes a second
        Curve,
        draw,
        draw_all,
        training_curves,
    )
    results = [(source, folder, result) for source in sources for folder in source.folders
               for result in ResultFolder(folder).stored() if result["mean_iou"] is not None]
    curves = []
    for source in sources:
        for model, log in source.logs:
            curves += training_curves(read_text(log), _joined(source.title, model))
    if not results and not curves:
        raise UserError("there is nothing to report: no evaluation and no training log in %s"
                        % ", ".join(source.folder for source in sources))
    parts = []
    for title, rows in _groups(results):
        curves += [Curve(*curve) for curve in _epoch_curves(title, rows)]
        parts += _evaluations(title, rows, os.path.dirname(os.path.abspath(path)))
    quantities = list(dict.fromkeys(curve.quantity for curve in curves))
    charts = ["<figure>%s</figure>" % two_faced(
        *(draw(curves, quantity, dark) for dark in (False, True)),
        alternative=_told(curves, quantity)) for quantity in quantities]
    parts += ["<h2>Learning curves</h2>",
              "<p class=\"faint\">Loss and accuracy of training are means over the batches of an epoch.</p>",
              "<div class=\"charts\">%s</div>" % "".join(charts)]
    png = os.path.splitext(path)[0] + ".png"
    write_bytes(png, draw_all(curves))
    write_text(path, page("Evaluations and learning curves", *parts))
    return png


class Source(collections.namedtuple("Source", "folder title folders logs")):
    """A folder to report on.

    folder: as the user named it; title: what its curves are called, may be empty.
    folders: output folders of evaluations; logs: (model, path) of training logs.
    """


def find_source(folder, title=""):
    """Source of an evaluation's output folder, or of all below a root folder with outputs/ and log/.

    Raises:
        UserError: the folder is missing.
    """
    if not os.path.isdir(folder):
        raise UserError("%s is no folder" % folder)
    if os.path.exists(ResultFolder(folder).path):
        return Source(folder, title, [folder], [])
    outputs = os.path.join(folder, "outputs")
    folders = [os.path.join(outputs, name) for name in list_folder(outputs)]
    logs = [(model, os.path.join(folder, "log", "train_%s_model.log" % model)) for model in ("init", "final")]
    return Source(folder, title, [path for path in folders if os.path.exists(ResultFolder(path).path)],
                  [(model, path) for model, path in logs if os.path.exists(path)])


def _conditions(result, epoch=True):
    """What an evaluation is of, in a few words."""
    settings = result["settings"]
    words = [result["model"]] + ["epoch %d" % result["epoch"]] * epoch
    words.append("scales " + ", ".join("%g" % scale for scale in settings["scales"])
                 if len(settings["scales"]) > 1 or settings["scales"] != [1.0] else "one scale")
    words += ["mirrored too"] * bool(settings.get("flip")) + ["CRF"] * bool(settings["crf"])
    words += [settings["dtype"]] if "dtype" in settings else []
    return ", ".join(words)


def _joined(title, name):
    return "%s: %s" % (title, name) if title else name


def _groups(results):
    """Results of the same images and masks together, for only those compare, with a title for each group.

    Args:
        results: list of (Source, folder, result).

    Returns:
        list of (title, list of the same triples in their order), the group of the highest mean IoU first.
    """
    groups = collections.OrderedDict()
    for row in results:
        settings = row[2]["settings"]
        groups.setdefault(settings.get("data_sha256") or (settings["names_sha256"], settings["masks"]), []).append(row)
    titles = ["data set %d" % number for number in range(1, len(groups) + 1)] if len(groups) > 1 else [""]
    return list(zip(titles, sorted(groups.values(), key=lambda rows: min(map(_falling, rows)))))


def _falling(row):
    """Sorts (Source, folder, result) by the mean IoU, the highest first."""
    return -row[2]["mean_iou"]


def _epoch_curves(title, rows):
    """Fields of curves of mean IoU over epochs, one for each model and kind of evaluation.

    Of several results of an epoch, as of a snapshot that was trained anew, the first counts: a folder's last one.
    """
    epochs = collections.defaultdict(dict)
    for source, _, result in rows:
        points = epochs[_joined(source.title, _conditions(result, epoch=False))]
        points.setdefault(result["epoch"], 100 * result["mean_iou"])
    quantity = "mean IoU on %s, %%" % title if title else "mean IoU, %"
    return [(quantity, name, sorted(values.items()))
            for name, values in sorted(epochs.items(), key=lambda item: -max(item[1].values()))]


def _told(curves, quantity):
    """What a chart shows, for those who don't see it."""
    return "%s over epochs: %s" % (quantity, "; ".join(
        "%s: %.4g at epoch %d" % (curve.name, curve.points[-1][1], curve.points[-1][0])
        for curve in curves if curve.quantity == quantity))


def _evaluations(title, rows, start):
    """HTML of a group: all evaluations, and the classes of the best epoch of each kind.

    Args:
        start: folder that links start from.
    """
    lines = []
    best = collections.OrderedDict()
    for source, folder, result in sorted(rows, key=_falling):
        name = text(_joined(source.title, _conditions(result)))
        if os.path.exists(report_path(folder)) and ResultFolder(folder).stored()[0] == result:
            link = urllib.parse.quote(os.path.relpath(report_path(folder), start).replace(os.sep, "/"))
            name = "<a href=\"%s\">%s</a>" % (link, name)
        lines.append((name, percent(result["mean_iou"], 2), percent(result["pixel_accuracy"])))
        best.setdefault(_joined(source.title, _conditions(result, epoch=False)),
                        (_joined(source.title, _conditions(result)), result["iou"]))
    best = list(best.values())
    names = [name for name in best[0][1] if any(iou.get(name) is not None for _, iou in best)]
    classes = [[text(name)] + [percent(iou.get(name)) for _, iou in best] for name in names]
    columns = range(1, len(best) + 1)
    return ["<h2>%s</h2>" % text(_joined("Evaluations", title) if title else "Evaluations"),
            "<p class=\"faint\">Against the masks in %s.</p>" % text(rows[0][2]["settings"]["masks"]),
            table(("model and settings", "mean IoU", "accuracy"), lines, (1, 2)),
            "<h3>IoU of each class, best epochs</h3>", ordered(name for name, _ in best),
            table(["class"] + ["%d." % column for column in columns], classes, columns)]
