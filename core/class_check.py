"""Whether what was found in an image looks like its class, in the eyes of the other images: the check for noise.

An image's foreground is pooled into one descriptor, and a linear discriminant tells the classes apart. It sees no mask
and no image that it judges: images are dealt into folds as in `core.self_training`.
"""
import io

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from core.self_training import FOLDS, weighted_mean

FEWEST_IMAGES = 10  # of a class in the images learned from; smaller classes are not judged
_SHRINKAGE = 0.3    # of the descriptors' covariance towards its diagonal


def pooled(descriptors, labels, areas):
    """Mean descriptor of an image's foreground.

    Args:
        descriptors: (n, d) float32 of regions. labels: (n,) in [0, 1], how much foreground. areas: (n,).

    Returns:
        (d,) float32.
    """
    return weighted_mean(descriptors, np.asarray(labels, np.float32) * areas).astype(np.float32)


def fit_check(descriptors, classes, folds):
    """One linear discriminant for each fold, fitted to the images of the other folds.

    Args:
        descriptors: (m, d) float32, `pooled` of m images. classes, folds: (m,) int.

    Returns:
        bytes for `likeness`: an .npz of classes (k,), weights (FOLDS, k, d) and offsets (FOLDS, k); NaN where a fold
        has too few images to tell. O(m d^2 + d^3).
    """
    known = np.unique(classes)
    weights = np.full((FOLDS, len(known), descriptors.shape[1]), np.nan, np.float32)
    offsets = np.full((FOLDS, len(known)), np.nan, np.float32)
    for fold in range(FOLDS):
        apart = folds != fold
        enough = [index for index in known if (classes[apart] == index).sum() >= FEWEST_IMAGES]
        rows = apart & np.isin(classes, enough)
        if len(enough) < 2:
            continue
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE).fit(descriptors[rows], classes[rows])
        coefficients, intercepts = fitted.coef_, fitted.intercept_
        if len(enough) == 2:  # scikit-learn then keeps the difference of the two alone
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            intercepts = np.append(0.0, intercepts)
        places = np.searchsorted(known, fitted.classes_)
        weights[fold, places], offsets[fold, places] = coefficients, intercepts
    buffer = io.BytesIO()
    np.savez_compressed(buffer, classes=known, weights=weights, offsets=offsets)
    return buffer.getvalue()


def likeness(check, fold, descriptor, index):
    """Probability that an image's foreground is of class `index` rather than of another one, in [0, 1].

    Args:
        check: dict of arrays, as `fit_check` stores them.
        descriptor: (d,) float32, `pooled` of the image.

    Returns:
        float; 1 where the other images are too few to tell.
    """
    scores = check["weights"][fold] @ descriptor + check["offsets"][fold]
    own = scores[check["classes"] == index]
    if not len(own) or np.isnan(own[0]):
        return 1.0
    return float(1 / np.exp((scores[~np.isnan(scores)] - own[0]).clip(max=80)).sum())
