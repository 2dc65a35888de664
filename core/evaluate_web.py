"""P and J of web masks against true ones, in the protocol of the co-segmentation papers."""
import collections

import numpy as np

from core.classes import IGNORE_LABEL
from core.errors import UserError
from core.files import read_mask
from core.layout import Layout, mask_path, stems, web_class
from core.logs import logger


def evaluate_web_masks(config, truth_folder, masks_folder=None):
    """Compare masks with true ones of the same names.

    P is the share of the pixels that are right, foreground against background; J the Jaccard index of the foreground
    (Rubinstein et al., "Unsupervised Joint Object Discovery and Segmentation in Internet Images", CVPR 2013, section
    5). Both are averaged over the images of a class, then over the classes. Foreground is the class that the image's
    name starts with. A mask's 255 counts as background; pixels that are 255 in the true mask are not counted.

    Args:
        truth_folder: true masks, <class>_<id>.png; the class index or 1 where foreground.
        masks_folder: default dataset/web_labels.

    Returns:
        dict from class name, and "mean", to (P, J), in [0, 1].

    Raises:
        UserError: there are no true masks, a mask is missing, or has another size.
    """
    masks_folder = masks_folder or Layout(config).web_masks
    names = sorted(stems(truth_folder, ".png"))
    if not names:
        raise UserError("%s holds no .png: true masks named <class>_<id>.png are expected" % truth_folder)
    found = collections.defaultdict(list)
    for name in names:
        index = web_class(name, config.num_classes)
        truth = read_mask(mask_path(truth_folder, name), config.num_classes)
        mask = read_mask(mask_path(masks_folder, name), config.num_classes, truth.shape)
        found[index].append(precision_and_jaccard(np.where(truth == 1, index, truth) if not (truth == index).any()
                                                  else truth, mask, index))
    rows = {config.classes[index]: tuple(np.mean(values, 0)) for index, values in sorted(found.items())}
    rows["mean"] = tuple(np.mean(list(rows.values()), 0))
    for name, (precision, jaccard) in rows.items():
        logger.info("%-14s P %5.1f  J %5.1f", name, 100 * precision, 100 * jaccard)
    return rows


def precision_and_jaccard(truth, mask, index):
    """(P, J) of one image; J of an empty mask where nothing is to be found is 1.

    Args:
        truth, mask: (h, w) uint8; `index` is foreground. 255 in `truth` is not counted.
    """
    counted = truth != IGNORE_LABEL
    true, found = (truth == index)[counted], (mask == index)[counted]
    union = (true | found).sum()
    return float((true == found).mean()) if len(true) else 1.0, float((true & found).sum() / union) if union else 1.0
