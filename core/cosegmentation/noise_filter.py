"""Whether the foreground of an image looks like its class, in the eyes of the other images.

A logistic regression tells the classes apart by one descriptor of each image's foreground. It learns from no image that
it judges: images are dealt into folds as in `core.cosegmentation.cell_classifier`. Further passes learn from the
images alone that look like their class to the pass before.
"""
import warnings
from typing import List, NamedTuple, Optional

import numpy as np
import scipy.special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from core.cosegmentation.cell_classifier import FOLDS

FEWEST_IMAGES = 10  # of a class in the folds learned from, two thirds of them; smaller classes are not judged
_STRENGTH = 75.0    # of the fit, scikit-learn's C, for descriptors of unit length
_ITERATIONS = 200
_SHOWN = 0.85       # probability from which a part of an image shows another class
_SHOWN_SHARE = 0.05  # of the image, at least


class NoiseFilter(NamedTuple):
    """One classifier of foregrounds for each fold; NaN where a fold has too few images to tell.

    Attributes:
        classes: (k,) int class indices.
        weights: (FOLDS, k, d) float32.
        offsets: (FOLDS, k) float32.
    """
    classes: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray


def fit_noise_filter(descriptors: np.ndarray, classes: np.ndarray, folds: np.ndarray, passes: int = 3) -> NoiseFilter:
    """Fit the classifier of each fold to the images of the other folds. O(m d k).

    Args:
        descriptors: (m, d) float32 of unit length, of m images' foregrounds.
        classes, folds: (m,) int.
        passes: how often to fit, from the second time on without the images that look unlike their class.
    """
    fitted = _fit(descriptors, classes, folds)
    for _ in range(passes - 1):
        alike = _alike(fitted, descriptors, classes, folds)
        fitted = _fit(descriptors[alike], classes[alike], folds[alike])
    return fitted


def _alike(noise_filter, descriptors, classes, folds):
    """(m,) bool: the images that look like their class, and all of a class that would have too few of them."""
    alike = np.ones(len(classes), bool)
    for fold, index in set(zip(folds.tolist(), classes.tolist())):
        rows = (folds == fold) & (classes == index)
        odds = log_odds(noise_filter, fold, descriptors[rows], index)
        if odds is not None:
            alike[rows] = odds >= 0
    for index in np.unique(classes):
        members = classes == index
        if min((alike & members & (folds != fold)).sum() for fold in range(FOLDS)) < FEWEST_IMAGES:
            alike |= members
    return alike


def _fit(descriptors, classes, folds):
    known = np.unique(classes)
    weights = np.full((FOLDS, len(known), descriptors.shape[1]), np.nan, np.float32)
    offsets = np.full((FOLDS, len(known)), np.nan, np.float32)
    for fold in range(FOLDS):
        apart = folds != fold
        enough = [index for index in known if (classes[apart] == index).sum() >= FEWEST_IMAGES]
        rows = apart & np.isin(classes, enough)
        if len(enough) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits don't matter
            fitted = LogisticRegression(C=_STRENGTH, max_iter=_ITERATIONS, class_weight="balanced")
            fitted.fit(descriptors[rows], classes[rows])
        coefficients, intercepts = fitted.coef_, fitted.intercept_
        if len(enough) == 2:  # scikit-learn then keeps the difference of the two alone
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            intercepts = np.append(0.0, intercepts)
        judged = np.searchsorted(known, fitted.classes_)
        weights[fold, judged], offsets[fold, judged] = coefficients, intercepts
    return NoiseFilter(known, weights, offsets)


def unjudged_classes(noise_filter: NoiseFilter) -> List[int]:
    """Indices of the classes of which at least one fold has too few images in the other folds to tell."""
    return noise_filter.classes[np.isnan(noise_filter.offsets).any(0)].tolist()


def log_odds(noise_filter: NoiseFilter, fold: int, descriptors: np.ndarray, index: int) -> Optional[np.ndarray]:
    """Logarithms of the odds that foregrounds belong to class `index` rather than to an average other one, by
    their (n, d) float32 descriptors.

    Returns:
        (n,) float64, or None where the other images are too few to tell.
    """
    logits = descriptors @ noise_filter.weights[fold].T + noise_filter.offsets[fold]
    column = noise_filter.classes == index
    if not column.any() or np.isnan(logits[:, column]).any():
        return None
    others = logits[:, ~column & ~np.isnan(logits[0])] - logits[:, column]
    return -scipy.special.logsumexp(others.astype(float), axis=1) + np.log(others.shape[1])


def likeness(noise_filter: NoiseFilter, fold: int, descriptor: np.ndarray, index: int) -> float:
    """Probability that an image's foreground belongs to class `index` rather than to an average other one: [0, 1].

    It is 0.5 where the classifier gives the class no more than its share by chance, so a threshold means the same
    whatever the number of classes, and 1 where the other images are too few to tell.
    """
    odds = log_odds(noise_filter, fold, descriptor[None], index)
    return 1.0 if odds is None else float(scipy.special.expit(odds[0]))


def other_classes(noise_filter: NoiseFilter, fold: int, cells: np.ndarray, index: int) -> List[int]:
    """Sorted indices of the other classes that an image shows too: to the classifier, a twentieth of its cells, (n, d)
    float32 descriptors of unit length, do."""
    known = ~np.isnan(noise_filter.offsets[fold])
    if not known.any():
        return []
    logits = cells @ noise_filter.weights[fold][known].T + noise_filter.offsets[fold][known]
    shown = np.quantile(scipy.special.softmax(logits, axis=1), 1 - _SHOWN_SHARE, axis=0) >= _SHOWN
    return [label for label in noise_filter.classes[known][shown].tolist() if label != index]
