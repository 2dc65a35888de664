"""What becomes of the scores of an image: CRF, mask, files, comparison. Does not import mxnet: it runs in workers."""
import collections
import os

import numpy as np

from core.classes import BACKGROUND
from core.crf import SMALLEST_SCORE, refine
from core.files import read_mask, write_array, write_mask
from core.layout import mask_path
from core.metrics import confusion_matrix

Scored = collections.namedtuple("Scored", "name image scores")  # id, (h, w, 3) uint8 RGB, (classes, h, w) float32


def predict(scored, config, crf, allowed=None):
    """Mask of an image from its scores.

    Args:
        scored: Scored.
        crf: whether the dense CRF refines the scores.
        allowed: indices of the classes that may occur, besides the background; None allows all.

    Returns:
        (h, w) uint8 class indices, and (allowed classes, h, w) float32: the CRF's marginals, else the logarithm of the
        scores.
    """
    scores = scored.scores
    if allowed is not None:
        allowed = sorted({BACKGROUND, *allowed})
        scores = scores[allowed]
    if crf:
        values = refine(scores, scored.image, config)
    else:
        values = np.log(np.maximum(scores, SMALLEST_SCORE))
    mask = values.argmax(0).astype(np.uint8)
    return (mask if allowed is None else np.array(allowed, np.uint8)[mask]), values


def compare(scored, config, options):
    """Predict an image, keep what the options ask for, and count its pixels.

    Args:
        options: `evaluate.Options`.

    Returns:
        (classes, classes) int64 confusion matrix.

    Raises:
        UserError: the true mask is missing or wrong, or a file can't be written.
    """
    mask, values = predict(scored, config, options.crf)
    truth = read_mask(mask_path(options.masks, scored.name), config.num_classes, mask.shape)
    if options.save_scores:
        write_array(scores_path(options.output, scored.name), values)
    if options.save_masks:
        write_mask(mask_path(masks_folder(options.output), scored.name), mask)
    return confusion_matrix(truth, mask, config.num_classes)


def estimate(scored, config, crf, labels, folder):
    """Predict an image with its image-level labels only and write its mask.

    Args:
        labels: dict from id to class indices.
        folder: where the mask goes.
    """
    mask, _ = predict(scored, config, crf, labels[scored.name])
    write_mask(mask_path(folder, scored.name), mask)


def masks_folder(output):
    """Where an evaluation keeps its predictions."""
    return os.path.join(output, "masks")


def scores_path(output, name):
    """Where an evaluation keeps the scores of an image."""
    return os.path.join(output, "scoremaps", name + ".npy")
