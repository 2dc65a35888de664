"""What the images of all classes teach about one another, cell by cell: ridge regressions in closed form.

No mask is learned from. First, cells of a class's images are separated from those of other classes: a label that
every image has. Then rounds learn foreground from background, by what the round before found. Images are
dealt into folds; the model that judges an image was fitted to the other folds.
"""
import hashlib
from typing import Iterable, NamedTuple, Tuple

import numpy as np
from threadpoolctl import threadpool_limits

FOLDS = 3
_RIDGE = 0.1       # times the mean variance of the features
_LEAST_VARIANCE = 1e-8  # of features, where all cells are alike
_SHARED = 0.3      # weight of the other classes' images, where their foreground counts as foreground
_NEGATIVE = 0.3    # and where all of them counts as background


def fold_of(name: str) -> int:
    """Fold of an image, from its name alone: it stays when images come or go."""
    return int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:8], 16) % FOLDS


class Models(NamedTuple):
    """Linear models of cells, fold by fold.

    Attributes:
        classes: (k,) int class indices.
        weights: (FOLDS, k, c + 1) float32.
        centre: (c,) float32, mean features of all images.
    """
    classes: np.ndarray
    weights: np.ndarray
    centre: np.ndarray


class Moments:
    """Mean outer products of the cells' features over the images of each class and fold: all that a regression needs
    to know of the features, whatever its targets.

    An image is one of its class, the first of `classes`; the others are those that it is labelled with, too.
    """

    def __init__(self, images: Iterable[Tuple[Tuple[int, ...], int, np.ndarray]]):
        """
        Args:
            images: (classes, fold, (n, c + 1) float32 features of its cells, the last column 1) of each image; of two
                classes at least.
        """
        self._sums = _sums((classes, fold, features.T @ features / len(features))
                           for classes, fold, features in images)
        self._classes = sorted({classes[0] for classes, _ in self._sums})

    def fit_classes(self) -> Models:
        """Models that tell the cells of a class's images from those of the other classes' images, 1 from 0."""
        def solve(products):
            of_class, of_others = products
            return _ridge((of_class + of_others) / 2, of_class[-1] / 2)
        return self._fit(solve, self._sums)

    def fit_foreground(self, images: Iterable[Tuple[int, int, np.ndarray]]) -> Models:
        """Models that tell foreground from background, 1 from 0.

        Args:
            images: (classes, fold, (c + 1,) mean of features times foreground) of the same images.
        """
        share = 1 - _SHARED - _NEGATIVE

        def solve(products, foregrounds):
            return _ridge(share * products[0] + (_SHARED + _NEGATIVE) * products[1],
                          share * foregrounds[0] + _SHARED * foregrounds[1])
        return self._fit(solve, self._sums, _sums(images))

    def _fit(self, solve, *sums):
        """Models whose weights `solve` gives, from a pair of each of the sums: their mean over the images of the class,
        and that over the images of the other classes that don't show it, each class of which counts the same."""
        size = len(next(iter(self._sums.values()))[0])
        weights = np.zeros((FOLDS, len(self._classes), size), np.float32)
        for fold in range(FOLDS):
            for row, index in enumerate(self._classes):
                others = [other for other in self._classes if other != index]
                weights[fold, row] = solve(*(
                    (_mean(each, index, fold), sum(_mean(each, other, fold, index) for other in others) / len(others))
                    for each in sums))
        centre = np.mean([_mean(self._sums, index, None)[-1, :-1] for index in self._classes], 0)
        return Models(np.array(self._classes), weights, centre.astype(np.float32))


def _sums(images):
    """Dict from (classes, fold) to [sum of the images' arrays, number of images]."""
    sums = {}
    for classes, fold, array in images:
        entry = sums.setdefault((classes, fold), [np.zeros(array.shape), 0])
        entry[0] += array
        entry[1] += 1
    return sums


def _mean(sums, index, fold, without=None):
    """Mean over the images of a class in the other folds that don't show the class `without`; over all of the class
    where there are none."""
    keys = [key for key in sums if key[0][0] == index]
    keys = [key for key in keys if key[1] != fold] or keys
    keys = [key for key in keys if without not in key[0]] or keys
    return sum(sums[key][0] for key in keys) / sum(sums[key][1] for key in keys)


def predict(models: Models, fold: int, index: int, features: np.ndarray) -> np.ndarray:
    """(n,) predictions for the cells of an image of class `index`; a class that the models don't know has the mean
    of the others' predictions."""
    known = models.classes == index
    weights = models.weights[fold][known if known.any() else slice(None)].mean(0)
    return features @ weights


def _ridge(products: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(c + 1,) weights of the ridge regression, from mean outer products of features and the mean of features times
    targets; the intercept, the last one, is not penalised."""
    products = products.astype(np.float64)
    mean = products[-1, :-1] / products[-1, -1]
    variance = np.mean(np.diag(products)[:-1] / products[-1, -1] - mean ** 2)
    penalty = np.append(np.full(len(mean), _RIDGE * max(variance, _LEAST_VARIANCE) * products[-1, -1]), 0.0)
    with threadpool_limits(1):  # with more threads the last bits would be others
        return np.linalg.solve(products + np.diag(penalty), targets.astype(np.float64))
