"""Helpers of the guided tour, Demo.ipynb: find a trained run and show pictures of it."""
import contextlib

import cv2
from IPython.display import Image, Markdown, display

from core.config import make_config
from core.cosegmentation.contact_sheet import outlined
from core.engines.chooser import resolve_devices
from core.errors import UserError
from core.evaluation.ranking import find_epoch
from core.evaluation.report import find_source
from core.evaluation.results import ResultFolder
from core.inference.segmenter import Segmenter
from core.io.drawing import side_by_side
from core.io.images import encode_image, read_image, read_mask
from core.io.tables import read_records
from core.network.snapshots import load_snapshot
from core.paths import image_path, mask_path


def find_run(config_file=None):
    """Config of the run to look at.

    Args:
        config_file: of the run; None takes the one in the project's folder if there is a final model, else the
            sample's.
    """
    runs = [[config_file]] if config_file else [[], ["demo/sample.yaml"]]
    for files in runs:
        config = make_config(*files)
        if config.layout.epochs("final"):
            return config
    raise SystemExit(f"there is no final model in {config.layout.snapshots}: run demo/run.sh (about ten minutes), or "
                     "put one there")


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
        """The best epoch by eval_loop.py's ranking, or the newest where there is none.

        Args:
            name: "init" or "final".
            device: "cpu" or the number of a GPU.
        """
        layout = config.layout
        try:
            epoch = find_epoch(config, name, "best")
        except UserError:  # no ranking, or an outdated one
            epoch = find_epoch(config, name, "newest")
        self.path = layout.snapshot(name, epoch)
        self.snapshot = load_snapshot(config, name, epoch)
        self.device = resolve_devices(device)[0]
        self.segmenter = Segmenter(self.snapshot, [self.device])


def show(rows, titles, height=190):
    """Show pictures, (h, w, 3) uint8 RGB, in rows and columns; titles are above the columns.

    Raises:
        UserError: there are none.
    """
    if not any(rows):
        raise UserError("there are no pictures to show")
    display(Image(data=encode_image(side_by_side(rows, titles, height), ".png")))


def read_report(config):
    """web_report.csv, the co-segmentation's: dicts of name, class, kept, score, foreground and reason, best first."""
    rows = read_records(config.layout.web_report)
    for row in rows:
        row.update(kept=row["kept"] == "1", score=float(row["score"]))
    return sorted(rows, key=lambda row: -row["score"])


def read_web(config, row):
    """A web image of the report: (h, w, 3) uint8 RGB, and its mask, (h, w) uint8."""
    layout = config.layout
    image = read_image(image_path(layout.web_images, row["name"]))
    return image, read_mask(mask_path(layout.web_masks, row["name"]), config.num_classes, image.shape[:2])


def outline(image, mask):
    """The image, enlarged, with the outlines of its mask: green, and grey around uncertain pixels."""
    size, scale = image.shape[1::-1], _scale(image)
    size = (size[0] * scale, size[1] * scale)
    return outlined(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC),
                    cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


def _scale(image):
    return max(1, round(300 / max(image.shape)))


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
            kind = result["model"], len(settings["scales"]), bool(settings["crf"])
            if result["mean_iou"] is not None:
                best[kind] = max(best.get(kind, (-1, 0)), (result["mean_iou"], -result["epoch"]))
    if not best:
        raise UserError("nothing has been evaluated yet: eval_seg_model.py does that")
    rows = [f"| {model} | {-epoch} | {scales} | {'yes' if crf else 'no'} | {100 * iou:.1f} |"
            for (model, scales, crf), (iou, epoch) in sorted(best.items(), key=lambda row: row[1])]
    head = ["| model | epoch | scales | CRF | mean IoU, % |", "|:---|---:|---:|:---|---:|"]
    display(Markdown("\n".join(head + rows)))
