"""The output folder of an evaluation: result.json, and the record that lets a killed evaluation continue."""
import os
from typing import Any, Dict, Iterable, List, Optional

from core.errors import UserError
from core.io.files import read_json, write_json
from core.io.logs import logger
from core.io.provenance import StageRecord

_FIELDS = {"model", "epoch", "mean_iou", "pixel_accuracy", "iou", "settings", "saved"}


class ResultFolder:
    """Results of one snapshot.

    result.json is the last finished evaluation; those of other settings (scales, CRF, list) are kept in it under
    "earlier". The paths of images and masks make no difference, only their content.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.path = os.path.join(folder, "result.json")
        self.lock = os.path.join(folder, ".lock")

    def stored(self) -> List[Dict[str, Any]]:
        """Results in the folder, the last one first."""
        if not os.path.exists(self.path):
            return []
        last = read_json(self.path)
        earlier = last.get("earlier") if isinstance(last, dict) else None
        results = [last, *(earlier if isinstance(earlier, list) else [None])]
        if not all(isinstance(result, dict) and _FIELDS <= set(result) for result in results):
            raise UserError(f"{self.path} is not the result of an evaluation: move it away")
        return results

    def find(self, settings: Dict[str, Any], saved: Iterable[str] = ()) -> Optional[Dict[str, Any]]:
        """The stored result with these settings that kept the files of all folders named in `saved`, or None."""
        for result in self.stored():
            if identity(result["settings"]) == identity(settings) and set(saved) <= set(result["saved"]):
                return result
        return None

    def others(self, settings: Dict[str, Any]) -> List[Dict[str, Any]]:
        """Stored results of the same snapshot on the same images and masks, by other settings."""
        same = "snapshot_sha256", "data_sha256"
        return [result for result in self.stored() if identity(result["settings"]) != identity(settings)
                and all(result["settings"].get(name) == settings[name] for name in same)]

    def release(self, folders: Iterable[str]) -> None:
        """Files of these folders are about to be overwritten: they no longer count as those of the stored results."""
        results = self._without(folders)
        if results:
            write_json(self.path, dict(results[0], earlier=results[1:]))

    def write(self, result: Dict[str, Any]) -> None:
        """Store a result as the last one. Files that it wrote over no longer count as those of earlier ones."""
        earlier = [old for old in self._without(result["saved"])
                   if identity(old["settings"]) != identity(result["settings"])]
        write_json(self.path, dict(result, earlier=earlier))

    def _without(self, folders):
        """Copies of the stored results, to which no files of these folders belong."""
        results = [dict(old, saved=[name for name in old["saved"] if name not in folders]) for old in self.stored()]
        for old in results:
            old.pop("earlier", None)
        return results

    def record(self, settings: Dict[str, Any], saved: Iterable[str]) -> StageRecord:
        """Record of an unfinished evaluation with these settings: its values are what `pack_counts` gives."""
        work = {name: value for name, value in identity(settings).items() if not name.endswith("_sha256")
                or name == "snapshot_sha256"}  # whether an image is another one, its inputs say
        record = StageRecord(os.path.join(self.folder, "progress.jsonl"), f"the evaluation in {self.folder}",
                             disposable=True)
        record.claim({"settings": work, "saved": list(saved)})
        return record


def identity(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Settings of an evaluation without the paths of its images and masks, whose content data_sha256 stands for."""
    return {name: value for name, value in settings.items() if name not in ("images", "masks")}


def report(result: Dict[str, Any]) -> None:
    """Log a result: a line for each class, the means, then the lines of the published log."""
    if result["settings"]["masks"] is None:
        logger.info("there are no masks to compare with: predictions only")
        return
    shown = [sum(row) for row in result["confusion"]]
    missing = [name for name, pixels in zip(result["iou"], shown) if not pixels]
    if missing:
        logger.warning("no ground truth mask in %s shows: %s; pixels of 255 are not counted",
                       result["settings"]["masks"], ", ".join(missing))
    width = max(map(len, result["iou"]))
    for name, value in result["iou"].items():
        logger.info("%s  %s", name.ljust(width), _percent(value))
    logger.info("mean IoU %s, pixel accuracy %s, mean accuracy %s, frequency-weighted IoU %s", *(
        _percent(result[key]) for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")))
    logger.info("[perclass] %s", " ".join(f"[{name}: {_share(value)}]" for name, value in result["iou"].items()))
    logger.info("[overall] [iou: %s]", _share(result["mean_iou"]))


def _percent(value):
    return "-" if value is None else f"{100 * value:.2f} %"


def _share(value):
    return "-" if value is None else f"{value:.4f}"
