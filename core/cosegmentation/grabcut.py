"""GrabCut: colour models of foreground and background and a cut along the image's edges, from a box or a prior.

The cuts run on views of the image: small, without its texture, and with its colours in CIE Lab. On photographs their
Jaccard index is about 3 points above that of cuts of the image itself.
"""
from typing import List

import cv2
import numpy as np

from core.io.resize import resize_longest_side

_ITERATIONS = 3
_BOX_ITERATIONS = 5
_VIEWS = ((128, 3.0), (128, 1.5), (160, 2.0))  # longest side in pixels, factor of the chroma
_REACH, _COLOUR_REACH = 6, 18                  # of the mean shift, in pixels and in levels of 255


def views(image: np.ndarray, count: int = len(_VIEWS)) -> List[np.ndarray]:
    """The image as the cuts see it: the first `count` of three views.

    Each is scaled down, filtered by mean shift (Comaniciu and Meer, PAMI 2002), which takes the texture away and leaves
    the edges, and turned to CIE Lab with its chroma stretched.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        list of (h', w', 3) uint8.
    """
    found = []
    for side, chroma in _VIEWS[:count]:
        small = resize_longest_side(image, min(side, max(image.shape[:2])), smallest=8)
        flat = cv2.pyrMeanShiftFiltering(small, _REACH, _COLOUR_REACH)
        lab = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * (2.55, chroma, chroma) + (0, 128, 128)
        found.append(np.clip(lab, 0, 255).astype(np.uint8))
    return found


def cut_box(image: np.ndarray, margin: float) -> np.ndarray:
    """GrabCut (Rother et al., SIGGRAPH 2004) from a centred box.

    Args:
        image: (h, w, 3) uint8, of any colour space.
        margin: share of the width and height that the box leaves free on each side; all of it is background.

    Returns:
        (h, w) bool, true on the foreground.
    """
    height, width = image.shape[:2]
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    top, left = max(1, round(margin * height)), max(1, round(margin * width))
    mask[top:height - top, left:width - left] = cv2.GC_PR_FGD
    return _cut(image, mask, _BOX_ITERATIONS)


def cut_prior(image: np.ndarray, prior: np.ndarray, threshold: float) -> np.ndarray:
    """GrabCut from a prior.

    Args:
        image: (h, w, 3) uint8, of any colour space.
        prior: (h, w) float32 in [0, 1].
        threshold: pixels above start as foreground; those near 0 and near 1 stay what they are.

    Returns:
        (h, w) bool, true on the foreground.
    """
    mask = np.where(prior > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[prior < 0.05 * threshold] = cv2.GC_BGD
    mask[prior > 1 - 0.05 * (1 - threshold)] = cv2.GC_FGD
    return _cut(image, mask, _ITERATIONS)


def _cut(image, mask, iterations):
    foreground = (mask & 1).astype(bool)
    if foreground.sum() < 10 or (~foreground).sum() < 10:  # too few pixels for the colour models
        return foreground
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(np.ascontiguousarray(image), mask, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # a plain image, whose colour models can't be distinguished
        return foreground
    return (mask & 1).astype(bool)
