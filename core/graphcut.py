"""GrabCut: colour models of foreground and background and a cut along the image's edges, from a box or a prior."""
import cv2
import numpy as np

_ITERATIONS = 3
_BOX_ITERATIONS = 5


def cut_box(image, margin):
    """GrabCut (Rother et al., SIGGRAPH 2004) from a centred box.

    Args:
        image: (h, w, 3) uint8 RGB.
        margin: share of the width and height that the box leaves free on each side; all of it is background.

    Returns:
        (h, w) bool, true on the foreground.
    """
    height, width = image.shape[:2]
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    top, left = max(1, round(margin * height)), max(1, round(margin * width))
    mask[top:height - top, left:width - left] = cv2.GC_PR_FGD
    return _cut(image, mask, _BOX_ITERATIONS)


def cut_prior(image, prior, threshold):
    """GrabCut from a prior.

    Args:
        image: (h, w, 3) uint8 RGB.
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
    except cv2.error:  # a plain image, whose colour models can't be told apart
        return foreground
    return (mask & 1).astype(bool)
