"""What stages take for granted: images and masks are there, class indices mean what they meant when the data set was
made, and a mask was made of the image and for the labels that there are now."""
import os
from typing import Any, Collection, Dict, Iterable, Mapping, Optional, Sequence

from core.config import Config
from core.errors import UserError
from core.io.files import read_json, write_json
from core.io.logs import logger
from core.io.provenance import StageRecord, content_digests, difference
from core.paths import check_files, image_path, mask_path


class MaskedImages:
    """Images of a list and the masks that a script makes of them.

    Args:
        config: the class indices of `labels` are those of its classes.
        labels: dict from id, in the order of the list, to the class indices that the image's mask may show.
        images, masks: folders of <id>.jpg and <id>.png.
        script: the one that makes the masks, for messages.
        record: path of its record; by default the folder's, with .json.
    """

    def __init__(self, config: Config, labels: Mapping[str, Sequence[int]], *, images: str, masks: str, script: str,
                 record: Optional[str] = None):
        self.names = list(labels)
        self.images = images
        self.masks = os.path.normpath(masks)
        self._config = config
        self.labels = labels
        self._script = script
        self._record = record or self.masks + ".json"

    def record(self) -> StageRecord:
        """What the masks that are there were made of: its items are what `inputs` gave."""
        return StageRecord(self._record, f"the masks in {self.masks}")

    def inputs(self, names: Optional[Iterable[str]] = None) -> Dict[str, Dict[str, str]]:
        """Dict from id to what its mask depends on, besides what all masks do: content and classes of the image."""
        names = self.names if names is None else list(names)
        digests = content_digests([image_path(self.images, name) for name in names])
        return {name: {"image_sha256": digest, **{f"class {index}": self._config.classes[index]
                                                  for index in self.labels[name]}}
                for name, digest in zip(names, digests)}

    def check_images(self, remedy: str) -> None:
        """Raise UserError if an image is missing."""
        check_files(self.images, ".jpg", self.names, remedy)

    def check_masks(self, corrected: Collection[str] = ()) -> None:
        """Check that the masks are there, but for the `corrected` ones, which lie elsewhere, and up to date; masks
        without a record are the user's own.

        Raises:
            UserError: a mask is missing, or was made of another image or for other labels or classes, or the script
                was interrupted while it made all masks again.
        """
        record = self.record()
        if record.overwriting:
            raise UserError(f"{self.masks} holds masks of two runs, as {self._script} --overwrite was interrupted: run "
                            "it again")
        check_files(self.masks, ".png", (name for name in self.names if name not in corrected), f"run {self._script}")
        if record.origin is None:
            logger.info("%s is missing: the masks in %s are taken as they are", record.path, self.masks)
            return
        for name, now in self.inputs(filter(record.items.__contains__, self.names)).items():
            if record.items[name] != now:
                raise UserError(f"{mask_path(self.masks, name)} is out of date: {difference(record.items[name], now)}; "
                                f"run {self._script} again")


def check_classes(config: Config, indices: Optional[Iterable[int]] = None, *, record: bool = False) -> None:
    """Check that the class indices in a data set stand for the classes of the configuration.

    dataset/classes.json says what they stood for when they were written; without it, nothing is checked.

    Args:
        indices: compare these classes only, as web images have their index in their name; None compares the whole list.
        record: write the file where it is missing.

    Raises:
        UserError: an index stands for another class, or create_dataset.py was interrupted while it changed them.
    """
    path = config.layout.classes
    then = recorded_classes(path)
    if then.get("unfinished"):
        raise UserError(f"{path}: create_dataset.py was interrupted while it wrote the data set: run it again")
    if then:
        compare_classes(path, then["classes"], config.classes, indices)
    elif record:
        record_classes(path, config.classes)


def compare_classes(path: str, then: Sequence[str], now: Sequence[str], indices: Optional[Iterable[int]]) -> None:
    """Raise UserError if an index stands for another class now; see `check_classes`."""
    for index in range(max(len(now), len(then))) if indices is None else sorted(set(indices)):
        old, new = (f"class {index} as {names[index]}" if index < len(names) else f"no class {index}"
                    for names in (then, now))
        if old != new and not (indices is not None and index >= len(then)):
            raise UserError(f"{path}: the data set was made with {old}, and the setting classes has {new}: bring back "
                            "the classes, or run create_dataset.py again; web images with other classes need another "
                            "--root")


def recorded_classes(path: str) -> Dict[str, Any]:
    """Content of dataset/classes.json: "classes", their names; "unfinished" while create_dataset.py writes. Empty where
    there is no such file.
    """
    if not os.path.exists(path):
        return {}
    then = read_json(path)
    if not isinstance(then, dict) or not isinstance(then.get("classes"), list):
        raise UserError(f"{path} is damaged: remove it, and run create_dataset.py again")
    return then


def record_classes(path: str, classes: Sequence[str], *, unfinished: bool = False) -> None:
    """Write dataset/classes.json; see `recorded_classes`."""
    write_json(path, {"classes": list(classes), **({"unfinished": True} if unfinished else {})})
