"""What becomes of each web image: its mask, and whether it is kept."""
import json
import os
from typing import NamedTuple, Sequence

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.errors import UserError
from core.io.files import read_json, write_text
from core.io.images import write_mask
from core.paths import Layout, mask_path, web_class

_FOREGROUND = 0.6  # probability above which a pixel is foreground
_UNCERTAIN = 0.5  # from here up to that, it is written as 255
UNLIKE = "looks unlike the other images of its class"  # a reason


class Result(NamedTuple):
    """What became of a web image.

    Attributes:
        score: how well its foregrounds before and after the CRF agree, Jaccard index.
        foreground: share of its pixels.
        reason: why it is left out, or "".
        also: indices of other classes that it shows, as far as the network can tell.
    """
    name: str
    kept: bool
    score: float
    foreground: float
    reason: str
    also: Sequence[int] = ()


def finish_web_image(layout: Layout, config: Config, name: str, posterior: np.ndarray, agreement: float,
                     likeness: float, also: Sequence[int] = ()) -> None:
    """Write the mask of an image, and whether the image is kept.

    Args:
        posterior: (h, w) float32, foreground probability of the pixels.
        agreement, also: score and also of `Result`.
        likeness: probability that it looks like its class, in [0, 1].
    """
    mask = decide(posterior)
    foreground = float((mask == 1).mean())
    reason = ""
    if not config.web_min_foreground <= foreground <= config.web_max_foreground:
        reason = f"foreground of {100 * foreground:.1f} %"
    elif agreement < config.web_min_score:
        reason = f"score below {config.web_min_score:g}"
    elif likeness < config.web_min_likeness:
        reason = UNLIKE
    mask[mask == 1] = web_class(name, config.num_classes)
    write_mask(mask_path(layout.web_masks, name), mask)
    write_result(layout, Result(name, not reason, agreement, foreground, reason, also))


def decide(posterior: np.ndarray) -> np.ndarray:
    """Mask of a posterior, (h, w) float32: 1 for foreground, 255 where it is uncertain, else 0."""
    uncertain = np.where(posterior > _UNCERTAIN, IGNORE_LABEL, 0)
    return np.where(posterior > _FOREGROUND, 1, uncertain).astype(np.uint8)


def write_result(layout: Layout, result: Result) -> None:
    write_text(result_path(layout, result.name), json.dumps(result._asdict()) + "\n")


def read_result(layout: Layout, name: str) -> Result:
    """Result of an image."""
    path = result_path(layout, name)
    try:
        return Result(**read_json(path))
    except TypeError:
        raise UserError(f"{path} is damaged: remove it and run the same command again") from None


def results_folder(layout: Layout) -> str:
    return os.path.join(layout.web_cache, "results")


def result_path(layout: Layout, name: str) -> str:
    return os.path.join(results_folder(layout), name + ".json")
