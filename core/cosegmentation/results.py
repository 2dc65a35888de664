"""What the co-segmentation keeps of each image: files in its cache, the mask, and what became of the image."""
import collections
import functools
import hashlib
import json
import os
from typing import Callable, Dict, List, NamedTuple, Sequence, TypeVar

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.errors import UserError
from core.io.files import read_arrays, read_json, write_text
from core.io.images import write_mask
from core.paths import Layout, class_of, mask_path, web_class

_Content = TypeVar("_Content")
UNLIKE = "looks unlike the other images of its class"  # a reason


class Result(NamedTuple):
    """What became of an image.

    Attributes:
        score: agreement of its candidate masks, in [0, 1].
        foreground: share of its pixels.
        reason: why it is left out, or "".
        also: indices of other classes that it shows, as far as the feature set can tell.
    """
    name: str
    kept: bool
    score: float
    foreground: float
    reason: str
    also: Sequence[int] = ()


def finish_image(layout: Layout, config: Config, name: str, posterior: np.ndarray, score: float, likeness: float,
                 also: Sequence[int] = ()) -> None:
    """Write the mask of an image, and whether the image is kept.

    Args:
        posterior: (h, w) float32, foreground probability of the pixels.
        score: agreement of its candidate masks, in [0, 1].
        likeness: probability that it looks like its class, in [0, 1].
        also: see `Result`.
    """
    mask = decide(posterior, config)
    foreground = float((mask == 1).mean())
    reason = ""
    if not config.web_min_foreground <= foreground <= config.web_max_foreground:
        reason = f"foreground of {100 * foreground:.1f} %"
    elif score < config.web_min_score:
        reason = f"score below {config.web_min_score:g}"
    elif likeness < config.web_min_likeness:
        reason = UNLIKE
    mask[mask == 1] = web_class(name, config.num_classes)
    write_mask(mask_path(layout.web_masks, name), mask)
    write_result(layout, Result(name, not reason, score, foreground, reason, also))


def decide(posterior: np.ndarray, config: Config) -> np.ndarray:
    """Mask of a posterior, (h, w) float32: 1 above `web_threshold`, 255 from there down to `web_uncertain`, else 0."""
    uncertain = np.where(posterior > config.web_uncertain, IGNORE_LABEL, 0)
    return np.where(posterior > config.web_threshold, 1, uncertain).astype(np.uint8)


def sample_names(names: List[str], most: int) -> List[str]:
    """At most `most` names of each class, chosen by a hash of the name: sorted list."""
    chosen = collections.defaultdict(list)
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).hexdigest()):
        if len(chosen[class_of(name)]) < most:
            chosen[class_of(name)].append(name)
    return sorted(name for group in chosen.values() for name in group)


def write_result(layout: Layout, result: Result) -> None:
    write_text(cache_file(layout, "results", result.name, ".json"), json.dumps(result._asdict()) + "\n")


def read_result(layout: Layout, name: str) -> Result:
    """Result of an image.

    Raises:
        UserError: its file is missing or damaged.
    """
    path = cache_file(layout, "results", name, ".json")
    try:
        return Result(**read_json(path))
    except TypeError:
        raise UserError(f"{path} is damaged: remove it and run the same command again") from None


def read_once(path: str, read: Callable[[str], _Content]) -> _Content:
    """What `read` gives of a file that many images need: kept until the file changes."""
    return _read_once(path, read, os.stat(path).st_mtime_ns if os.path.exists(path) else 0)


@functools.lru_cache(maxsize=4)
def _read_once(path, read, changed):
    return read(path)


def read_check(layout: Layout) -> Dict[str, np.ndarray]:
    """The noise filter's classifier, see `noise_filter.fit_check`; by `read_once`."""
    return read_once(check_path(layout), read_arrays)


def cache_folder(layout: Layout, what: str) -> str:
    return os.path.join(layout.web_cache, what)


def cache_file(layout: Layout, what: str, name: str, ending: str) -> str:
    return os.path.join(cache_folder(layout, what), name + ending)


def check_path(layout: Layout) -> str:
    """File of the noise filter's classifier, `noise_filter.fit_check`."""
    return os.path.join(layout.web_cache, "class_check.npz")
