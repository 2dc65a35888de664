"""The co-segmentation's region classifiers in a file of plain arrays (.npz).

scikit-learn can store its trees as pickles only, which may run anything, and its compiled code follows whatever
indices a stored tree holds. Here trees are arrays, their indices are checked, and numpy walks through them: with
wrong numbers a file gives wrong masks, but runs nothing and reads no other memory.
"""
import io
import zipfile
from typing import Any, Dict, List, NamedTuple

import numpy as np

from core.cosegmentation.region_classifier import Directions, Model
from core.cosegmentation.results import write_arrays
from core.errors import UserError
from core.io.files import read_bytes


class Trees(NamedTuple):
    """Boosted regression trees, their nodes one after the other.

    features, thresholds: (n,) int32 and float64; a row goes left where its feature is at most the threshold.
    left, right: (n,) int32, the nodes that follow; a leaf's are itself, others come later.
    values: (n,) float64, of leaves. roots: (t,) int32. baseline: () float64, to which the trees' values are added.
    """
    features: np.ndarray
    thresholds: np.ndarray
    left: np.ndarray
    right: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    baseline: np.ndarray

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(m,) float64 for (m, f) rows, to the last bit what scikit-learn predicts."""
        rows = np.asarray(rows, np.float64)
        nodes, columns = np.repeat(self.roots[:, None], len(rows), 1), np.arange(len(rows))
        while True:
            left = rows[columns, self.features[nodes]] <= self.thresholds[nodes]
            following = np.where(left, self.left[nodes], self.right[nodes])
            if (following == nodes).all():
                break
            nodes = following
        total = np.full(len(rows), self.baseline)
        for values in self.values[nodes]:  # in this order, as floating-point sums depend on it
            total += values
        return total


_TYPES = {"mean": "f4", "classes": "i4", "weights": "f4", "offsets": "f8", "features": "i4", "thresholds": "f8",
          "left": "i4", "right": "i4", "values": "f8", "roots": "i4", "baseline": "f8"}


def write_models(path: str, models: List[Model]) -> None:
    """Write a list of `region_classifier.Model` as `fit` returns it."""
    arrays: Dict[str, np.ndarray] = {}
    for number, (directions, classifier) in enumerate(models):
        classes = sorted(directions.weights)
        parts = {"mean": directions.mean, "classes": classes, "weights": [directions.weights[key] for key in classes],
                 "offsets": [directions.offsets[key] for key in classes]}
        if classifier is not None:
            parts.update(plain_trees(classifier)._asdict())
        arrays.update((f"{number}_{name}", np.asarray(value, _TYPES[name])) for name, value in parts.items())
    write_arrays(path, arrays)


def plain_trees(classifier: Any) -> Trees:
    """Trees of a fitted sklearn.ensemble.HistGradientBoostingRegressor with a squared error."""
    trees = [predictor.nodes for predictors in classifier._predictors for predictor in predictors]
    roots = np.cumsum([0] + [len(nodes) for nodes in trees[:-1]])
    nodes, starts = np.concatenate(trees), np.repeat(roots, [len(nodes) for nodes in trees])
    leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(starts))
    return Trees(nodes["feature_idx"], nodes["num_threshold"], np.where(leaf, own, starts + nodes["left"]),
                 np.where(leaf, own, starts + nodes["right"]), nodes["value"], roots,
                 np.ravel(classifier._baseline_prediction)[0])


def read_models(path: str) -> List[Model]:
    """List of `region_classifier.Model` that `write_models` wrote.

    Raises:
        UserError: the file is missing or damaged, or no file of such models.
    """
    content = read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in stored.zip.infolist()):
                raise ValueError("it is compressed")
            arrays = dict(stored)
        models: List[Model] = []
        while f"{len(models)}_mean" in arrays:
            start = f"{len(models)}_"
            models.append(_model({name[len(start):]: array for name, array in arrays.items()
                                  if name.startswith(start)}))
        if not models:
            raise ValueError("it holds none")
        return models
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on damaged files
        raise UserError(f"{path} is damaged, or no file of models: remove it and run the same command again ({error})"
                        ) from error


def _model(parts: Dict[str, np.ndarray]) -> Model:
    """Model of its checked arrays."""
    for name, array in parts.items():
        if array.dtype != _TYPES[name] or not np.isfinite(array).all():
            raise ValueError(f"{name} holds other numbers")
    classes = parts["classes"].tolist()
    shapes = {"classes": (len(classes),), "weights": (len(classes), len(parts["mean"])), "offsets": (len(classes),)}
    trees = None
    if "roots" in parts:
        trees = Trees(*(parts[name] for name in Trees._fields))
        own, count = np.arange(len(trees.left)), len(trees.left)
        shapes.update({"roots": (len(trees.roots),), "baseline": ()},
                      **dict.fromkeys(("features", "thresholds", "left", "right", "values"), (count,)))
        leaf = (trees.left == own) & (trees.right == own)
        later = (trees.left > own) & (trees.right > own) & (trees.left < count) & (trees.right < count)
        if not ((leaf | later).all() and (trees.features >= 0).all() and (0 <= trees.roots).all()
                and (trees.roots < count).all()):
            raise ValueError("a tree has wrong nodes")
    if any(parts[name].shape != shape for name, shape in shapes.items()) or 0 not in classes:
        raise ValueError("its arrays do not fit one another")
    directions = Directions(parts["mean"], dict(zip(classes, parts["weights"])),
                            dict(zip(classes, parts["offsets"].tolist())))
    return Model(directions, trees)
