"""Helpers of the guided tour, Demo.ipynb: find a trained run, or photographs to try the shipped network on, and show
pictures of it."""
import collections
import contextlib
import json
import os
import shutil

import numpy as np
from IPython.display import Image, Markdown, display

from core.config import make_config
from core.cosegmentation.by_cells import refined
from core.cosegmentation.cell_classifier import Models, fold_of, predict
from core.cosegmentation.cells import Cells, relative
from core.cosegmentation.cosegment import cosegment
from core.cosegmentation.feature_maps import Describer, imagenet_network
from core.cosegmentation.items import ROUNDS, model_path
from core.engines.chooser import resolve_devices
from core.errors import UserError
from core.evaluation.ranking import find_epoch
from core.evaluation.report import find_source
from core.evaluation.results import ResultFolder
from core.inference.segmenter import Segmenter
from core.io.drawing import legend
from core.io.files import read_arrays, write_lines, write_text
from core.io.images import encode_image, read_image, read_mask
from core.io.tables import read_table
from core.network.snapshots import identify_snapshot, load_snapshot
from core.paths import SHIPPED_SNAPSHOT, class_of, image_path, mask_path
from demo.pictures_table import side_by_side

# Photographs of demo/pictures, with the classes of VOC that they show; the first four play web images, too.
PHOTOGRAPHS = {"astronaut": ("person",), "admiral": ("person",), "cat": ("cat",), "cameraman": ("person",),
               "coffee": (), "rocket": ()}
_FOLDER = os.path.join("demo", "work", "tour")  # of the run on the photographs


def find_run(config_file=None):
    """Config of the run to look at.

    Args:
        config_file: of the run; None takes the one in the project's folder if there is a final model, else the
            photographs of demo/pictures.
    """
    config = make_config(*([config_file] if config_file else []))
    if config.layout.epochs("final"):
        return config
    if config_file or not os.path.exists(SHIPPED_SNAPSHOT):
        raise SystemExit(f"there is no final model in {config.layout.snapshots}: train one, for example with "
                         "demo/run.sh")
    return lay_out_photographs()


def lay_out_photographs():
    """Config of a run on the photographs, laid out below demo/work as those of any run; nothing is trained there."""
    config = make_config(root=_FOLDER)
    layout = config.layout
    shutil.rmtree(_FOLDER, ignore_errors=True)
    for folder in (layout.web_images, layout.train_images, layout.val_images):
        os.makedirs(folder)
    counts = collections.Counter()
    for name, classes in PHOTOGRAPHS.items():
        photograph = os.path.join("demo", "pictures", name + ".jpg")
        targets = [image_path(layout.val_images, name)]
        if classes:
            index = config.class_index(classes[0])
            targets += [image_path(layout.train_images, name),
                        image_path(layout.web_images, f"{index}_{counts[index]:06d}")]
            counts[index] += 1
        for target in targets:
            shutil.copy(photograph, target)
    labels = {name: list(map(config.class_index, classes)) for name, classes in PHOTOGRAPHS.items() if classes}
    write_lines(layout.train_list, labels)
    write_lines(layout.val_list, PHOTOGRAPHS)
    write_text(layout.train_labels, json.dumps(labels))
    return config


@contextlib.contextmanager
def step():
    """A step of the tour. If a file is missing, one line says so, and the tour continues."""
    try:
        yield
    except UserError as error:
        print(f"This step is skipped: {error}")


def needed(value, number):
    """The value that step `number` of the tour has computed.

    Raises:
        UserError: it is None because that step was skipped.
    """
    if value is None:
        raise UserError(f"it needs step {number}, which was skipped")
    return value


class Model:
    """A trained model of the run.

    Attributes:
        snapshot: snapshots.Snapshot. path: of its file. device: Device.
        segmenter: inference.Segmenter.
    """

    def __init__(self, config, name, device):
        """The best epoch by eval_loop.py's ranking, or the newest where there is none; for photographs the network that
        comes with the code.

        Args:
            name: "init" or "final".
            device: "cpu" or the number of a GPU.
        """
        self.device = resolve_devices(device)[0]
        if config.root == _FOLDER:
            self.snapshot = load_snapshot(config, *identify_snapshot(SHIPPED_SNAPSHOT), SHIPPED_SNAPSHOT)
        else:
            try:
                epoch = find_epoch(config, name, "best")
            except UserError:  # no ranking, or an outdated one
                epoch = find_epoch(config, name, "newest")
            self.snapshot = load_snapshot(config, name, epoch)
        self.path = self.snapshot.path
        self.segmenter = Segmenter(self.snapshot, [self.device])


def web_report(config, model):
    """web_report.csv, the co-segmentation's: dicts of name, class, kept, score, foreground and reason, best first. The
    photographs are co-segmented now."""
    if config.root == _FOLDER:
        cosegment(config, lambda _: [model.device])
    header, *lines = [row.cells for row in read_table(config.layout.web_report)]
    rows = [dict(zip(header, cells)) for cells in lines]
    for row in rows:
        row.update(kept=row["kept"] == "1", score=float(row["score"]))
    return sorted(rows, key=lambda row: -row["score"])


def web_steps(config, name, model):
    """How the co-segmentation comes to the mask of a web image, step by step.

    Returns:
        four arrays, (h, w) in [0, 1]: evidence of the image's class in its cells, their first foreground, what the last
        round's regression says after the random walk, and the CRF's posterior of the pixels.
    """
    layout = config.layout
    image = read_image(image_path(layout.web_images, name))
    maps, = Describer(imagenet_network(), config, [model.device]).start([image])
    cells = Cells(**maps())
    first, last = (Models(**read_arrays(model_path(layout, number))) for number in (0, ROUNDS))
    evidence, learned = (predict(models, fold_of(name), class_of(name), cells.features) for models in (first, last))
    walked = cells.walk(relative(learned), first.centre).reshape(cells.size)
    posterior, _ = refined(image, walked, config)
    return (relative(evidence - evidence.min()).reshape(cells.size), cells.start(evidence).reshape(cells.size), walked,
            posterior)


def read_web(config, row):
    """A web image of the report: (h, w, 3) uint8 RGB, and its mask, (h, w) uint8."""
    layout = config.layout
    image = read_image(image_path(layout.web_images, row["name"]))
    return image, read_mask(mask_path(layout.web_masks, row["name"]), config.num_classes, image.shape[:2])


def read_truth(config, name, size):
    """The true mask of a val image, (h, w) uint8, or None where there is none."""
    path = mask_path(config.layout.val_masks, name)
    return read_mask(path, config.num_classes, size) if os.path.exists(path) else None


def show(rows, titles, height=190, masks=(), classes=()):
    """Show pictures, (h, w, 3) uint8 RGB, in rows and columns; titles are above the columns.

    Args:
        masks: whose classes a legend below names. classes: their names.

    Raises:
        UserError: there are no pictures.
    """
    if not any(rows):
        raise UserError("there are no pictures to show")
    sheet = side_by_side(rows, titles, height)
    if len(masks):
        present = np.unique(np.concatenate([mask.ravel() for mask in masks]))
        sheet = np.concatenate([sheet, legend(present, classes, sheet.shape[1])])
    display(Image(data=encode_image(sheet, ".jpg", 85), format="jpeg"))


def bars(values, known=()):
    """Bars of probabilities, the highest first.

    Args:
        values: dict from class name to a probability.
        known: names to print in bold: the classes in the image.
    """
    rows = [f"| {f'**{name}**' if name in known else name} | {'█' * round(30 * value)} | {value:.2f} |"
            for name, value in sorted(values.items(), key=lambda row: -row[1])]
    display(Markdown("\n".join(["| class | | probability |", "|:---|:---|---:|"] + rows)))


def show_results(config):
    """Table of the mean IoU of the best epoch of each model and kind of evaluation, from outputs/.

    Raises:
        UserError: nothing has been evaluated.
    """
    best = {}
    for folder in find_source(config.root).folders:
        for result in ResultFolder(folder).stored():
            settings = result["settings"]
            row = result["model"], len(settings["scales"]), bool(settings["crf"])
            if result["mean_iou"] is not None:
                best[row] = max(best.get(row, (-1, 0)), (result["mean_iou"], -result["epoch"]))
    if not best:
        raise UserError("nothing has been evaluated yet: eval_seg_model.py does that")
    rows = [f"| {model} | {-epoch} | {scales} | {'yes' if crf else 'no'} | {100 * iou:.1f} |"
            for (model, scales, crf), (iou, epoch) in sorted(best.items(), key=lambda row: row[1])]
    head = ["| model | epoch | scales | CRF | mean IoU, % |", "|:---|---:|---:|:---|---:|"]
    display(Markdown("\n".join(head + rows)))
