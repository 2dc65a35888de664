"""Whether what was found in an image looks like its class, in the eyes of the other images: the check for noise.

A logistic regression tells the classes apart by one descriptor of each image's foreground. It learns from no image that
it judges: images are dealt into folds as in `core.cosegmentation.cell_classifier`. Further passes learn from the
images alone that the pass before found to look like their class.
"""
import warnings
from typing import Dict, List, Mapping, Optional

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


def fit_check(descriptors: np.ndarray, classes: np.ndarray, folds: np.ndarray, passes: int
              ) -> Dict[str, np.ndarray]:
    """One classifier for each fold, fitted to the images of the other folds.

    Args:
        descriptors: (m, d) float32 of unit length, of m images' foregrounds.
        classes, folds: (m,) int.
        passes: how often to fit, from the second time on without the images that look unlike their class.

    Returns:
        dict of arrays for `likeness`: classes (k,), weights (FOLDS, k, d) and offsets (FOLDS, k); NaN where a fold has
        too few images to tell. O(m d k).
    """
    check = _fit(descriptors, classes, folds)
    for _ in range(passes - 1):
        alike = _alike(check, descriptors, classes, folds)
        check = _fit(descriptors[alike], classes[alike], folds[alike])
    return check


def _alike(check, descriptors, classes, folds):
    """(m,) bool: the images that look like their class, and all of a class that would have too few of them."""
    alike = np.ones(len(classes), bool)
    for fold, index in set(zip(folds.tolist(), classes.tolist())):
        rows = (folds == fold) & (classes == index)
        odds = log_odds(check, fold, descriptors[rows], index)
        if odds is not None:
            alike[rows] = odds >= 0
    for index in np.unique(classes):
        own = classes == index
        if min((alike & own & (folds != fold)).sum() for fold in range(FOLDS)) < FEWEST_IMAGES:
            alike |= own
    return alike


def _fit(descriptors, classes, folds):
    """Dict of the arrays that `fit_check` describes."""
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
        places = np.searchsorted(known, fitted.classes_)
        weights[fold, places], offsets[fold, places] = coefficients, intercepts
    return {"classes": known, "weights": weights, "offsets": offsets}


def unjudged_classes(check: Mapping[str, np.ndarray]) -> List[int]:
    """Indices of the classes of which at least one fold has too few images in the other folds to tell."""
    return check["classes"][np.isnan(check["offsets"]).any(0)].tolist()


def log_odds(check: Mapping[str, np.ndarray], fold: int, descriptors: np.ndarray, index: int) -> Optional[np.ndarray]:
    """Logarithms of the odds that foregrounds belong to class `index` rather than to an average other one.

    Args:
        check: dict of arrays, as `fit_check` returns it.
        descriptors: (n, d) float32.

    Returns:
        (n,) float64, or None where the other images are too few to tell.
    """
    scores = descriptors @ check["weights"][fold].T + check["offsets"][fold]
    own = check["classes"] == index
    if not own.any() or np.isnan(scores[:, own]).any():
        return None
    others = scores[:, ~own & ~np.isnan(scores[0])] - scores[:, own]
    return -scipy.special.logsumexp(others.astype(float), axis=1) + np.log(others.shape[1])


def likeness(check: Mapping[str, np.ndarray], fold: int, descriptor: np.ndarray, index: int) -> float:
    """Probability that an image's foreground belongs to class `index` rather than to an average other one: [0, 1].

    It is 0.5 where the classifier gives the class no more than its share by chance, so a threshold means the same
    whatever the number of classes.

    Args:
        check, fold, index: as for `log_odds`. descriptor: (d,) float32 of the image.

    Returns:
        float; 1 where the other images are too few to tell.
    """
    odds = log_odds(check, fold, descriptor[None], index)
    return 1.0 if odds is None else float(scipy.special.expit(odds[0]))


def other_classes(check: Mapping[str, np.ndarray], fold: int, cells: np.ndarray, index: int) -> List[int]:
    """The other classes that an image shows too: to the classifier, a twentieth of its cells do.

    Args:
        check, fold, index: as for `log_odds`. cells: (n, d) float32 descriptors of unit length.

    Returns:
        sorted list of class indices.
    """
    known = ~np.isnan(check["offsets"][fold])
    if not known.any():
        return []
    scores = cells @ check["weights"][fold][known].T + check["offsets"][fold][known]
    shown = np.quantile(scipy.special.softmax(scores, axis=1), 1 - _SHOWN_SHARE, axis=0) >= _SHOWN
    return [label for label in check["classes"][known][shown].tolist() if label != index]
