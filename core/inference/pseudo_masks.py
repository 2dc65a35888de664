"""The pseudo mask of an image, limited to its image-level labels. Does not import mxnet: it runs in workers."""
from typing import Mapping, NamedTuple, Optional, Sequence

import numpy as np

from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.dataset.train_posteriors import read_foreground
from core.inference.postprocess import Scored, predict
from core.io.images import write_mask
from core.paths import mask_path

_NEAR_BEST = 0.5  # of a lost label's highest probability


class Estimation(NamedTuple):
    """How to make pseudo masks.

    Attributes:
        config: its settings `min_confidence` and of the CRF count.
        crf: whether the dense CRF refines the scores.
        labels: dict from id to class indices.
        prior: (classes,) array that the model's scores are divided by; None leaves them as they are.
        posteriors: folder of the co-segmentation's posteriors, or None.
        folder: where the masks go.
    """
    config: Config
    crf: bool
    labels: Mapping[str, Sequence[int]]
    prior: Optional[np.ndarray]
    posteriors: Optional[str]
    folder: str


def estimate(scored: Scored, estimation: Estimation) -> None:
    """Write the pseudo mask of an image."""
    labels, foreground = sorted(set(estimation.labels[scored.name])), None
    if estimation.prior is not None:
        scored = scored._replace(scores=scored.scores / estimation.prior.astype(np.float32)[:, None, None])
    if estimation.posteriors and labels:
        foreground = read_foreground(estimation.posteriors, scored.name, labels, scored.image.shape[:2])
    mask = pseudo_mask(scored, labels, estimation.config, crf=estimation.crf, foreground=foreground)
    write_mask(mask_path(estimation.folder, scored.name), mask)


def pseudo_mask(scored: Scored, labels: Sequence[int], config: Config, *, crf: bool,
                foreground: Optional[np.ndarray] = None) -> np.ndarray:
    """Mask of an image that shows some of the labels and background.

    Where the co-segmentation has an opinion, the probabilities of both are multiplied (Hinton, "Products of experts",
    ICANN 1999): a class needs both. Pixels whose class has a probability of at most `min_confidence` before the CRF are
    255, so that training leaves them out. A label that would be lost by that keeps its pixels, and one that the mask
    does not show at all gets those where it is at least half as probable as anywhere in the image.

    Args:
        labels: class indices, rising.
        foreground: (labels, h, w) float32 in (0, 1), probability of each label rather than anything else, or None.

    Returns:
        (h, w) uint8 class indices or 255.
    """
    classes = np.array([BACKGROUND, *labels], np.uint8)
    scores = scored.scores[classes]
    if foreground is not None:
        scores[1:] *= foreground / (1 - foreground)
    best, _ = predict(scored._replace(scores=scores), config, crf)
    mask = classes[best]
    if config.min_confidence:
        probabilities = scores / scores.sum(0)
        sure = np.take_along_axis(probabilities, best[None], 0)[0] > config.min_confidence
        made = np.where(sure, mask, IGNORE_LABEL).astype(np.uint8)
        for label, likely in zip(labels, probabilities[1:]):
            if not (made == label).any():
                shown = mask == label
                made[shown if shown.any() else likely >= _NEAR_BEST * likely.max()] = label
        mask = made
    return mask
