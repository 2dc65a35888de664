"""Where every stage finds and leaves its files: the stages know each other by these names only."""
import os
import re
from typing import Any, Iterable, List, Set

from core.errors import UserError
from core.io.files import find_path, list_folder

# The network that comes with the code; no training writes here.
SHIPPED_SNAPSHOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models",
                                "voc20_light.params")
_NAME_BYTES = 255  # of a file's name, on most file systems


class Layout:
    """Paths below the root folder of a Config, whose `layout` is made once."""

    def __init__(self, config: Any):
        path = config.path
        self.root = path(".")
        self.voc = path(config.voc_dir)
        self.voc_images = os.path.join(self.voc, "JPEGImages")
        self.voc_test_list = self.voc_list("test")
        self.voc_masks = os.path.join(self.voc, "SegmentationClass")
        self.sbd = path(config.sbd_dir)

        self.web_images = path("dataset", "web_images")
        self.web_manifest = path("dataset", "web_manifest.jsonl")
        self.web_masks = path("dataset", "web_labels")
        self.web_list = path("dataset", "web_train_list.txt")
        self.web_report = path("dataset", "web_report.csv")
        self.web_sheets = path("dataset", "web_sheets")
        self.web_cache = path("cache", "web_masks")
        self.train_cache = path("cache", "train_cosegmentation")
        self.web_decisions = path("dataset", "web_decisions.csv")
        self.web_corrected = path("dataset", "web_corrected")
        self.web_estimated = path("dataset", "web_estimated")
        self.web_estimated_list = path("dataset", "web_estimated_list.txt")
        self.web_record = os.path.join(self.web_cache, "origin.json")
        self.classes = path("dataset", "classes.json")
        self.train_images = path("dataset", "train_images")
        self.train_list = path("dataset", "train_list.txt")
        self.train_labels = path("dataset", "train_labels.json")
        self.train_masks = path("cache", "final_voc_masks")
        self.train_posteriors = path("cache", "train_posteriors")
        self.int8 = path("cache", "int8")
        self.val_images = path("dataset", "val_images")
        self.val_masks = path("dataset", "val_masks")
        self.val_list = path("dataset", "val_list.txt")

        self.base_model = path(config.base_model)
        self._network = "fcn_" + config.backbone
        self.snapshots = path("snapshots")
        self.outputs = path("outputs")
        self.logs = path("log")

    def voc_list(self, split: str) -> str:
        """List of the images of VOC's "train", "val" or "test" split that is segmented."""
        return os.path.join(self.voc, "ImageSets", "Segmentation", f"{split}.txt")

    def web_mask(self, name: str, *, estimated: bool = False) -> str:
        """Mask of a web image: the corrected one where there is one, else by co-segmentation or by a model."""
        corrected = mask_path(self.web_corrected, name)
        if os.path.exists(corrected):
            return corrected
        return mask_path(self.web_estimated if estimated else self.web_masks, name)

    def snapshot_prefix(self, model: str) -> str:
        return os.path.join(self.snapshots, f"{model}_{self._network}")

    def snapshot(self, model: str, epoch: int) -> str:
        """Parameters of `model` after `epoch`."""
        return f"{self.snapshot_prefix(model)}-{epoch}.params"

    def state(self, model: str, epoch: int) -> str:
        """What training needs beside the snapshot of `epoch` to resume as if it had never stopped."""
        return f"{self.snapshot_prefix(model)}-{epoch}.states"

    def symbol(self, model: str) -> str:
        return self.snapshot_prefix(model) + "-symbol.json"

    def epochs(self, model: str, ending: str = "params") -> List[int]:
        """Epochs of the finished snapshots of `model`, or of its "states", in rising order.

        Files still being written do not count.
        """
        pattern = re.compile(rf"{re.escape(os.path.basename(self.snapshot_prefix(model)))}-(0|[1-9][0-9]*)\.{ending}")
        return sorted(int(match.group(1)) for match in map(pattern.fullmatch, list_folder(self.snapshots)) if match)

    def unfinished(self, model: str) -> List[str]:
        """Paths of what a killed training run of `model` left behind half-written."""
        start = f".{os.path.basename(self.snapshot_prefix(model))}-"
        return [os.path.join(self.snapshots, name) for name in list_folder(self.snapshots)
                if name.startswith(start) and name.endswith(".tmp")]

    def training_lock(self, model: str) -> str:
        return os.path.join(self.snapshots, f".{os.path.basename(self.snapshot_prefix(model))}.lock")

    def output(self, model: str, epoch: int) -> str:
        """Folder of an evaluation of `model` after `epoch`."""
        return os.path.join(self.outputs, f"{model}_{self._network}_epoch{epoch}")

    def ranking(self, model: str) -> str:
        """Epochs of `model` in the order of their mean IoU, as eval_loop.py found them."""
        return os.path.join(self.outputs, f"{model}_ranking.json")

    @property
    def predictions(self) -> str:
        """Folder of predict.py's results."""
        return os.path.join(self.outputs, "predictions")

    def log(self, name: str) -> str:
        return os.path.join(self.logs, name + ".log")

    def metrics(self, model: str) -> str:
        """Losses and accuracies of a model's training, for learning curves."""
        return os.path.join(self.logs, f"{model}_metrics.csv")


def image_path(folder: str, name: str) -> str:
    return os.path.join(folder, name + ".jpg")


def mask_path(folder: str, name: str) -> str:
    return os.path.join(folder, name + ".png")


def folder_lock(folder: str) -> str:
    """Lock of a folder that one process fills; it lies beside it."""
    above, name = os.path.split(folder)
    return os.path.join(above, f".{name}.lock")


def stems(folder: str, ending: str) -> Set[str]:
    """Names, without the ending, of the finished files of a folder; an empty set where there is no folder."""
    return {name[:-len(ending)] for name in list_folder(folder) if name.endswith(ending) and not name.startswith(".")}


def check_id(name: str, path: str) -> None:
    """Raise UserError unless a list can hold the id of the image at `path`, and a file can be called <id>.json."""
    if name.strip().splitlines() != [name] or re.search("[\\\\\ud800-\udfff]", name):
        raise UserError(f"{path!r}: rename it, as no list can hold such a name: names are one line of UTF-8, without "
                        "backslashes and without spaces at the ends")
    if len(f"{name}.json".encode()) > _NAME_BYTES:
        raise UserError(f"{path}: rename it or its folders: {name} is too long for the names of its files, which have "
                        f"at most {_NAME_BYTES} bytes")


def web_class(name: str, num_classes: int) -> int:
    """Class index that the name of a web image starts with: 7 for "7_000123".

    Raises:
        UserError: the name does not start with a class index and an underscore, or a list can't hold it.
    """
    check_id(name, name)
    match = re.match(r"([0-9]{1,3})_", name)
    if not match or not 1 <= int(match.group(1)) < num_classes:
        raise UserError(f"web image {name}: its name must start with a class index 1..{num_classes - 1} and an "
                        "underscore, as 7_000123")
    return int(match.group(1))


def class_of(name: str) -> int:
    """Class index of a web image whose name was checked before."""
    return int(name.split("_")[0])


def check_no_true_mask(folder: str, names: Iterable[str], *truth: str) -> None:
    """Raise UserError if <name>.png in `folder` is, links followed, a mask of one of the folders `truth`."""
    true = {os.path.realpath(mask_path(masks, name)) for masks in truth for name in stems(masks, ".png")}
    real = os.path.realpath(folder)
    for name in names:
        if mask_path(real, name) in true:
            raise UserError(f"{mask_path(real, name)} is a true mask, and a result would take its place: choose "
                            "another --output")


def check_files(folder: str, ending: str, names: Iterable[str], remedy: str) -> None:
    """Check that a folder has the file <name><ending> of every name."""
    present = set(list_folder(folder))
    missing = [name for name in names if name + ending not in present]
    if missing:
        first = os.path.join(folder, missing[0] + ending)
        twin = find_path(first)
        if twin:
            raise UserError(f"{first} is missing, but {ascii(os.path.basename(twin))} is there, the same name with its "
                            "accents written in another Unicode form: rename one of them")
        more = f", and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(f"{first} is missing{more}: {remedy}")
