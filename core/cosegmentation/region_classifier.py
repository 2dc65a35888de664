"""What the images of all classes teach about one another: region classifiers.

Where descriptors are hand-made, exemplar-LDA directions of the classes are features, among others, of a classifier of
boosted trees. Activations of a trained network tell objects from background by themselves: there a linear regression
of each class is the classifier.

No mask is learned from: the labels are what the previous round found, and start as saliency and GrabCut of each image
alone. Images are dealt into folds; the model that judges an image was fitted to the labels of the other folds, so it
can't repeat the image's own errors by heart.
"""
import hashlib
from typing import Any, Dict, List, NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

FOLDS = 3
_SHRINKAGE = 0.1       # of the descriptors' covariance towards a multiple of the identity
_MOST_ROWS = 60000     # regions that a classifier is fitted to
_CERTAIN = 0.6         # labels above are foreground, to the regression
_SHARED = 0.3          # weight of the regions of all classes in the regression of one
_LEAST_VARIANCE = 1e-8  # of descriptors, where those of all regions are alike
_RIDGE = 0.5           # of the regression, times the mean variance of the descriptors


class Sample(NamedTuple):
    """Regions drawn from many images; one row each.

    Attributes:
        features: (m, f) float32.
        descriptors: (m, d) float32.
        labels: (m,) float32 in [0, 1], foreground of the last round.
        weights: (m,) float32, areas.
        classes, folds: (m,) int class index and fold of the image.
    """
    features: np.ndarray
    descriptors: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    classes: np.ndarray
    folds: np.ndarray


class Directions(NamedTuple):
    """Linear scores of descriptors.

    Attributes:
        mean: (d,) float32.
        weights: dict from class index, or 0 for any class, to (d,) float32.
        offsets: the same to float.
    """
    mean: np.ndarray
    weights: Dict[int, np.ndarray]
    offsets: Dict[int, float]


class Model(NamedTuple):
    """Directions, and a classifier with the method predict, None where the directions say it all."""
    directions: Directions
    classifier: Any


def fold_of(name: str) -> int:
    """Fold of an image, from its name alone: it stays when images come or go."""
    return int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:8], 16) % FOLDS


def relative(labels: np.ndarray) -> np.ndarray:
    """Values divided by the mean of their highest 2 %, at most 1: small and faint objects count like large ones."""
    top = np.sort(labels)[-max(3, len(labels) // 50):].mean()
    return np.clip(labels / max(top, 1e-6), 0, 1)


def fit(sample: Sample, seed: int, kind: str = "hog") -> List[Model]:
    """One model for each fold, fitted to the other folds.

    Args:
        sample: Sample.
        seed: of the rows drawn.
        kind: of the descriptors, "hog" or "resnet".

    Returns:
        list of FOLDS Models. O(m d^2 + k d^3) for the directions of k classes, O(min(m, 60000) f) for the trees.
    """
    if kind == "resnet":
        return [Model(_regressions(sample, _apart(sample, fold)), None) for fold in range(FOLDS)]
    covariance = _inverse_covariance(sample)
    rng = np.random.default_rng((seed, 2))
    models = []
    for fold in range(FOLDS):
        scores = np.zeros((len(sample.labels), 2), np.float32)
        for other in range(FOLDS):  # no row is scored by directions that its own labels, or this fold's, went into
            apart = _directions(sample, (sample.folds != fold) & (sample.folds != other), covariance)
            for index in np.unique(sample.classes):
                rows = (sample.folds == other) & (sample.classes == index)
                scores[rows] = score(apart, sample.descriptors[rows], index)
        rows = rng.permutation(np.flatnonzero(_apart(sample, fold)))[:_MOST_ROWS]
        classifier = HistGradientBoostingRegressor(max_iter=50, learning_rate=0.12, max_leaf_nodes=16,
                                                   min_samples_leaf=60, l2_regularization=1.0, random_state=seed,
                                                   early_stopping=False)
        classifier.fit(np.concatenate([sample.features, scores], 1)[rows], sample.labels[rows])
        models.append(Model(_directions(sample, sample.folds != fold, covariance), classifier))
    return models


def score(directions: Directions, descriptors: np.ndarray, index: int) -> np.ndarray:
    """(n, 2) float32 log-odds of the class's own direction and of the one for any class."""
    centred = descriptors - directions.mean
    index = index if index in directions.weights else 0
    return np.stack([centred @ directions.weights[key] - directions.offsets[key] for key in (index, 0)], 1)


def predict(model: Model, features: np.ndarray, descriptors: np.ndarray, index: int) -> np.ndarray:
    """(n,) float64 in [0, 1]: how much like foreground each region of an image of class `index` is."""
    scores = score(model.directions, descriptors, index)
    if model.classifier is None:
        return np.clip(scores[:, 0].astype(float), 0, 1)
    return np.clip(model.classifier.predict(np.concatenate([features, scores], 1)), 0, 1)


def _inverse_covariance(sample):
    centred = sample.descriptors - sample.descriptors.mean(0)
    covariance = centred.T @ centred / len(centred)
    spread = max(np.trace(covariance) / len(covariance), _LEAST_VARIANCE)
    covariance += _SHRINKAGE * spread * np.eye(len(covariance), dtype=np.float32)
    return np.linalg.inv(covariance.astype(np.float64))


def _directions(sample, rows, inverse):
    """Linear discriminants in closed form, with one covariance for all (Hariharan, Malik and Ramanan,
    "Discriminative Decorrelation for Clustering and Classification", ECCV 2012): inverse covariance times the
    difference of the means of a class's foreground and of every image's background."""
    mean = sample.descriptors.mean(0)
    descriptors = sample.descriptors[rows] - mean
    labels, weights, classes = sample.labels[rows], sample.weights[rows], sample.classes[rows]
    found = Directions(mean, {}, {})
    background = weighted_mean(descriptors, weights * (1 - labels))
    for index in [0] + np.unique(classes).tolist():
        own = np.ones(len(classes), bool) if index == 0 else classes == index
        foreground = weighted_mean(descriptors[own], weights[own] * labels[own])
        direction = inverse @ (foreground - background)
        found.weights[index] = direction.astype(np.float32)
        found.offsets[index] = float((foreground + background) @ direction / 2)
    return found


def _apart(sample, fold):
    """(m,) bool, rows of the other folds; all rows where there are none."""
    apart = sample.folds != fold
    return apart if apart.any() else np.ones(len(apart), bool)


def _regressions(sample, rows):
    """Ridge regression of each class's foreground, and of any class's, on the descriptors.

    Labels count as foreground or not, as certainty is no property of the region. Regions of other classes take part:
    what is foreground there looks more like an object than like background.
    """
    descriptors, classes = sample.descriptors[rows].astype(float), sample.classes[rows]
    labels, weights = (sample.labels[rows] > _CERTAIN).astype(float), sample.weights[rows].astype(float)
    found = Directions(weighted_mean(descriptors, weights).astype(np.float32), {}, {})
    centred = descriptors - found.mean
    moments = {index: _moments(centred[own], labels[own], weights[own] / weights[own].sum())
               for index, own in ((index, classes == index) for index in np.unique(classes).tolist())}
    of_all = [sum(parts) / len(moments) for parts in zip(*moments.values())]
    for index, own in {0: of_all, **moments}.items():
        mean, label, second, both = ((1 - _SHARED) * part + _SHARED * whole for part, whole in zip(own, of_all))
        second = second - np.outer(mean, mean)
        second += _RIDGE * max(np.trace(second) / len(second), _LEAST_VARIANCE) * np.eye(len(second))
        direction = np.linalg.solve(second, both - mean * label)
        found.weights[index] = direction.astype(np.float32)
        found.offsets[index] = float(mean @ direction - label)
    return found


def _moments(descriptors, labels, weights):
    """Weighted means of descriptors, labels, outer products of descriptors, and products of both."""
    weighted = descriptors * weights[:, None]
    return weights @ descriptors, weights @ labels, weighted.T @ descriptors, weighted.T @ labels


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(d,) mean of (n, d) values, or 0 where all (n,) weights are."""
    return weights @ values / max(weights.sum(), 1e-9)
