"""P and J of web masks against true ones, in the protocol of the co-segmentation papers."""
import collections
import os
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.data import check_classes
from core.errors import UserError
from core.io.files import read_list
from core.io.images import read_mask
from core.io.logs import logger
from core.paths import mask_path, stems, web_class


class Judged(NamedTuple):
    """How one mask compares with the true one.

    Attributes:
        name: id of the image.
        shows: whether the image shows its class at all.
        precision, jaccard: P and J, in [0, 1].
    """
    name: str
    shows: bool
    precision: float
    jaccard: float


def evaluate_web_masks(config: Config, truth_folder: str, masks_folder: Optional[str] = None
                       ) -> Dict[str, Tuple[float, float]]:
    """Compare masks with true ones of the same names, and log P and J, and what the list of web images leaves out.

    P is the share of the pixels that are right, foreground against background; J the Jaccard index of the foreground
    (Rubinstein et al., "Unsupervised Joint Object Discovery and Segmentation in Internet Images", CVPR 2013, section
    5). Both are averaged over the images of a class, then over the classes. Foreground is the class that the image's
    name starts with. A mask's 255 counts as background; pixels that are 255 in the true mask are not counted.

    Args:
        truth_folder: true masks, <class>_<id>.png; the class index where foreground, or 1 if no mask of the folder
            holds any other class.
        masks_folder: default dataset/web_labels; for others the list is not reported on.

    Returns:
        dict from class name, and "mean", to (P, J), in [0, 1].

    Raises:
        UserError: there are no true masks, none shows its class, a mask is missing, or has another size.
    """
    layout = config.layout
    if not masks_folder:
        check_classes(config, {web_class(name, config.num_classes) for name in stems(truth_folder, ".png")})
    judged = judge(config, truth_folder, masks_folder or layout.web_masks)
    rows = class_means(judged, config)
    for name, (precision, jaccard) in rows.items():
        logger.info("%-14s P %5.1f  J %5.1f", name, 100 * precision, 100 * jaccard)
    if not masks_folder and os.path.exists(layout.web_list):
        _log_list(judged, set(read_list(layout.web_list)), config, layout.web_list)
    return rows


def judge(config: Config, truth_folder: str, masks_folder: str) -> List[Judged]:
    """Judged of every true mask; see `evaluate_web_masks`."""
    names = sorted(stems(truth_folder, ".png"))
    if not names:
        raise UserError(f"{truth_folder} holds no .png: true masks named <class>_<id>.png are expected")
    indices = [web_class(name, config.num_classes) for name in names]

    def true_mask(name):
        return read_mask(mask_path(truth_folder, name), config.num_classes)

    binary = all(np.isin(true_mask(name), (0, 1, IGNORE_LABEL)).all() for name in names)
    judged = []
    for name, index in zip(names, indices):
        truth = true_mask(name)
        mask = read_mask(mask_path(masks_folder, name), config.num_classes)
        if mask.shape != truth.shape:
            raise UserError(f"{mask_path(truth_folder, name)} is {truth.shape[1]} x {truth.shape[0]} pixels, "
                            f"{mask_path(masks_folder, name)} {mask.shape[1]} x {mask.shape[0]}: one of them is not of "
                            "the image")
        if binary:
            truth = np.where(truth == 1, index, truth)
        judged.append(Judged(name, bool((truth == index).any()), *precision_and_jaccard(truth, mask, index)))
    if not any(image.shows for image in judged):
        raise UserError(f"no mask in {truth_folder} shows the class of its image: foreground is the class index, or 1 "
                        "in all of them; 255 is not counted")
    return judged


def class_means(judged: Iterable[Judged], config: Config) -> Dict[str, Tuple[float, float]]:
    """Dict from class name, and "mean", to (P, J): averaged over the images of a class, then over the classes."""
    values = collections.defaultdict(list)
    for image in judged:
        values[web_class(image.name, config.num_classes)].append((image.precision, image.jaccard))
    rows = {config.classes[index]: tuple(np.mean(pairs, 0)) for index, pairs in sorted(values.items())}
    rows["mean"] = tuple(np.mean(list(rows.values()), 0))
    return rows


def precision_and_jaccard(truth: np.ndarray, mask: np.ndarray, index: int) -> Tuple[float, float]:
    """(P, J) of one image; J of an empty mask where nothing is to be found is 1.

    Args:
        truth, mask: (h, w) uint8; `index` is foreground. 255 in `truth` is not counted.
    """
    counted = truth != IGNORE_LABEL
    true, predicted = (truth == index)[counted], (mask == index)[counted]
    union = (true | predicted).sum()
    precision = float((true == predicted).mean()) if len(true) else 1.0
    return precision, float((true & predicted).sum() / union) if union else 1.0


def _log_list(judged, kept, config, path):
    for what, on_list in (("on", True), ("not on", False)):
        group = [image for image in judged if (image.name in kept) == on_list]
        if group:
            logger.info("%d of %d images are %s %s: P %.1f  J %.1f", len(group), len(judged), what, path,
                        *(100 * value for value in class_means(group, config)["mean"]))
    left_out = collections.Counter(image.shows for image in judged if image.name not in kept)
    show = sum(image.shows for image in judged)
    logger.info("left out: %d of the %d images that show their class, %d of the %d that don't", left_out[True], show,
                left_out[False], len(judged) - show)
