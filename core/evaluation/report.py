"""Reports: an HTML page for each evaluation, and one that compares evaluations and epochs. No mxnet here."""
import collections
import os
import urllib.parse
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from core.classes import voc_palette
from core.errors import UserError
from core.evaluation.learning_curves import Curve, draw, training_curves
from core.evaluation.pages import bars, confusions, keys, matrix, percent, picture, render
from core.evaluation.results import ResultFolder
from core.io.drawing import overlay
from core.io.files import list_folder, read_text, write_bytes, write_text
from core.io.images import data_uri

EXAMPLES = 4  # images shown of the best, and as many of the worst

Result = Dict[str, Any]  # as result.json holds it


class Example(NamedTuple):
    """An image to show: id, (h, w, 3) uint8 RGB, (h, w) uint8 true and predicted classes."""
    name: str
    image: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


class Source(NamedTuple):
    """A folder to report on.

    folder: as the user named it; title: prefix of its curves' names, may be empty.
    folders: output folders of evaluations; metrics: (model, path) of the tables that training writes.
    """
    folder: str
    title: str
    folders: List[str]
    metrics: List[Tuple[str, str]]


_Row = Tuple[Source, str, Result]  # a result, with the source and the output folder that it comes from


def best_and_worst(image_iou: Mapping[str, Optional[float]]) -> Tuple[List[str], List[str]]:
    """Ids of the images to show: two lists, the best and the worst first; no image is in both. None has no IoU."""
    values = {name: value for name, value in image_iou.items() if value is not None}
    names = sorted(values, key=lambda name: (-values[name], name))
    worst = names[max(len(names) // 2, len(names) - EXAMPLES):][::-1]
    return names[:min(len(names) - len(worst), EXAMPLES)], worst


def report_path(folder: str) -> str:
    """Path of an evaluation's page in its output folder."""
    return os.path.join(folder, "report.html")


def write_report(folder: str, result: Result, examples: Mapping[str, Example], earlier: Iterable[Result] = ()) -> None:
    """Write the page of an evaluation into its folder.

    Args:
        examples: from id to Example, of the images of `best_and_worst`; others are left out.
        earlier: results with other settings in the same folder.
    """
    classes = result["settings"]["classes"]
    settings = [(key, value) for key, value in result["settings"].items() if key != "classes"]
    settings += [("classes", classes), ("settings that differ from the published ones", result["config"]),
                 ("device", result["device"]), ("versions", result["versions"])]
    shown, legend = _shown(result, examples)
    write_text(report_path(folder), render(
        "evaluation.html", title=f"{result['model']} model, epoch {result['epoch']}", conditions=_conditions(result),
        numbers=[("mean IoU", percent(result["mean_iou"], 2)), ("pixel accuracy", percent(result["pixel_accuracy"])),
                 ("mean accuracy", percent(result["mean_accuracy"])),
                 ("frequency-weighted IoU", percent(result["frequency_weighted_iou"])),
                 ("images", len(result["image_iou"])),
                 ("seconds per image", f"{result['seconds_per_image']:.3f}")],
        bars=bars(result["iou"], result["mean_iou"] or 0), matrix=matrix(result["confusion"], classes),
        confusions=confusions(result["confusion"], classes), examples=shown, legend=legend,
        earlier=[(_conditions(old), percent(old["mean_iou"], 2)) for old in earlier], keys=keys(settings)))


def _shown(result: Result, examples: Mapping[str, Example]) -> Tuple[List[Any], List[Any]]:
    """The best and the worst images with their masks, and the colours of the classes in them.

    Returns:
        list of (title, list of dicts of name, iou and pictures), and list of (class name, colour).
    """
    groups: List[Any] = []
    present: Set[int] = set()
    for title, names in zip(("Best images", "Worst images"), best_and_worst(result["image_iou"])):
        rows = []
        for example in (examples[name] for name in names if name in examples):
            present.update(np.unique(example.truth).tolist(), np.unique(example.mask).tolist())
            pictures = [("image", picture(example.image)),
                        ("ground truth", picture(overlay(example.image, example.truth))),
                        ("prediction", picture(overlay(example.image, example.mask)))]
            rows.append({"name": example.name, "iou": result["image_iou"][example.name], "pictures": pictures})
        if rows:
            groups.append((title, rows))
    palette = voc_palette().tolist()
    legend = [(name, palette[index]) for index, name in enumerate(result["settings"]["classes"])
              if index in present and index]
    return groups, legend + ([("not counted", palette[255])] if 255 in present else [])


def write_comparison(path: str, sources: Sequence[Source]) -> str:
    """Write a page that compares evaluations and shows learning curves, and a PNG of the curves beside it; returns the
    path of the PNG.
    """
    results = [(source, folder, result) for source in sources for folder in source.folders
               for result in ResultFolder(folder).stored() if result["mean_iou"] is not None]
    curves = []
    for source in sources:
        for model, table in source.metrics:
            curves += training_curves(read_text(table), _joined(source.title, model))
    if not results and not curves:
        raise UserError("there is nothing to report: no evaluation and no training metrics in "
                        + ", ".join(source.folder for source in sources))
    groups = []
    for title, rows in _groups(results):
        curves += _epoch_curves(title, rows)
        groups.append(_group(title, rows, os.path.dirname(os.path.abspath(path))))
    png = os.path.splitext(path)[0] + ".png"
    write_bytes(png, draw(curves, "png"))
    write_text(path, render("comparison.html", title="Evaluations and learning curves", groups=groups,
                            charts=data_uri(draw(curves, "svg"), "image/svg+xml"), description=_description(curves)))
    return png


def find_source(folder: str, title: str = "") -> Source:
    """Source of an evaluation's output folder, or of all below a root folder with outputs/ and log/."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder")
    if os.path.exists(ResultFolder(folder).path):
        return Source(folder, title, [folder], [])
    outputs = os.path.join(folder, "outputs")
    folders = [os.path.join(outputs, name) for name in list_folder(outputs)]
    metrics = [(model, os.path.join(folder, "log", f"{model}_metrics.csv")) for model in ("init", "final")]
    return Source(folder, title, [path for path in folders if os.path.exists(ResultFolder(path).path)],
                  [(model, path) for model, path in metrics if os.path.exists(path)])


def _conditions(result: Result, epoch: bool = True) -> str:
    """Model, epoch and settings of an evaluation in a few words."""
    settings = result["settings"]
    scales = ", ".join(f"{scale:g}" for scale in settings["scales"])
    words: Sequence[Any] = (result["model"], epoch and f"epoch {result['epoch']}",
                            "one scale" if scales == "1" else f"scales {scales}",
                            "inference_side" in settings and f"of {settings['inference_side']} pixels",
                            settings["crf"] and "CRF", settings.get("dtype"))
    return ", ".join(filter(None, words))


def _joined(title: str, name: str) -> str:
    return f"{title}: {name}" if title else name


def _groups(results: Iterable[_Row]) -> List[Tuple[str, List[_Row]]]:
    """Results grouped by images and ground truth, for only those can be compared, with a title for each group; the
    highest mean IoU first."""
    groups: Dict[Any, List[_Row]] = {}
    for row in results:
        settings = row[2]["settings"]
        groups.setdefault((settings["data_sha256"], tuple(settings["classes"])), []).append(row)
    titles = [f"data set {number}" for number in range(1, len(groups) + 1)] if len(groups) > 1 else [""]
    return list(zip(titles, sorted(groups.values(), key=lambda rows: -max(row[2]["mean_iou"] for row in rows))))


def _epoch_curves(title: str, rows: Iterable[_Row]) -> List[Curve]:
    """Curves of mean IoU over epochs, one for each model and its settings.

    An epoch may have several results, for example if its snapshot was trained again. The first counts: a folder's
    last one.
    """
    epochs: Dict[str, Dict[int, float]] = collections.defaultdict(dict)
    for source, _, result in rows:
        points = epochs[_joined(source.title, _conditions(result, epoch=False))]
        points.setdefault(result["epoch"], 100 * result["mean_iou"])
    quantity = f"mean IoU on {title}, %" if title else "mean IoU, %"
    return [Curve(quantity, name, sorted(values.items()))
            for name, values in sorted(epochs.items(), key=lambda item: -max(item[1].values()))]


def _description(curves: Sequence[Curve]) -> str:
    """The last values of the curves as text, for people who do not see the charts."""
    return ". ".join(f"{quantity} over epochs: " + "; ".join(
        f"{curve.name}: {curve.points[-1][1]:.4g} at epoch {curve.points[-1][0]}"
        for curve in curves if curve.quantity == quantity) for quantity in dict.fromkeys(
            curve.quantity for curve in curves))


def _group(title: str, rows: Sequence[_Row], start: str) -> Dict[str, Any]:
    """Values of comparison.html for a group: all evaluations, and the classes of the best epoch of each model and its
    settings.
    """
    lines = []
    best: Dict[str, Tuple[str, Mapping[str, Optional[float]]]] = {}
    for source, folder, result in sorted(rows, key=lambda row: -row[2]["mean_iou"]):
        name = _joined(source.title, _conditions(result))
        link = None
        if os.path.exists(report_path(folder)) and ResultFolder(folder).stored()[0] == result:
            link = urllib.parse.quote(os.fsencode(os.path.relpath(report_path(folder), start)))
        lines.append({"name": name, "link": link, "mean_iou": result["mean_iou"], "accuracy": result["pixel_accuracy"]})
        best.setdefault(_joined(source.title, _conditions(result, epoch=False)), (name, result["iou"]))
    compared = list(best.values())
    classes = [name for name in compared[0][1] if any(iou.get(name) is not None for _, iou in compared)]
    columns = range(1, len(compared) + 1)
    return {"title": f"Evaluations: {title}" if title else "Evaluations", "masks": rows[0][2]["settings"]["masks"],
            "evaluations": lines, "best": [name for name, _ in compared], "columns": columns,
            "heads": ["class"] + [f"{column}." for column in columns],
            "classes": [[name] + [percent(iou.get(name)) for _, iou in compared] for name in classes]}
