"""What the init model's scores are divided by in mask estimation: how often its training masks showed each class."""
from typing import Iterable, Mapping, Optional, Sequence

import numpy as np

from core.classes import BACKGROUND
from core.config import Config
from core.dataset.train_posteriors import read_foreground
from core.errors import UserError
from core.inference.crf import SMALLEST_SCORE
from core.inference.postprocess import Scored
from core.io.logs import logger
from core.network.snapshots import Snapshot

SAMPLE = 50   # images of each class that tell how much of an image the class takes
_STEP = 8     # of the pixels that count, in both directions
_ROUNDS = 30  # of the fixed-point iteration


def web_prior(snapshot: Snapshot) -> Optional[np.ndarray]:
    """(classes,) array that the init model's scores are divided by, 1 for the most common class; None for none.

    Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), equation 9. Most pixels of web images are
    background, so where the network is unsure it says background; that an image's labels are known makes it too timid.
    """
    power, prior = snapshot.config.logit_adjustment, snapshot.class_prior
    if not power or snapshot.model != "init":
        return None
    if prior is None:
        raise UserError(f"{snapshot.path} does not record how often its training masks show each class: train it again "
                        "with this program, or set logit_adjustment to 0")
    return np.where(prior > 0, prior / prior.max(), 1) ** power


def lower_to_cosegmentation(prior: np.ndarray, scored: Iterable[Scored], labels: Mapping[str, Sequence[int]],
                            posteriors: str, config: Config) -> np.ndarray:
    """The prior, lower for classes that the model finds less of than the co-segmentation does.

    A model that knows persons from portraits sees the heads of riders alone. So the scores of a class are raised until
    its share of the images labelled with it is the geometric mean of the model's own and the co-segmentation's; those
    of classes that take more stay as they are. The iteration is that of Saerens, Latinne and Decaestecker, "Adjusting
    the outputs of a classifier to new a priori probabilities" (Neural Computation, 2002), with shares that are known.

    Args:
        prior: (classes,), see `web_prior`.
        scored: some of the images of each class.
        labels: dict from id to class indices.
        posteriors: folder of the co-segmentation's posteriors.
    """
    images, known = [], []
    for name, _, scores in scored:
        shown = sorted(set(labels[name]))
        rows = [BACKGROUND, *shown]
        scores = scores[rows, ::_STEP, ::_STEP]
        foreground = read_foreground(posteriors, name, shown, scores.shape[1:])
        odds = np.concatenate([np.ones_like(foreground[:1]), foreground / (1 - foreground)])
        images.append((rows, np.maximum(scores.reshape(len(rows), -1), SMALLEST_SCORE)))
        known.append((rows, (odds / odds.sum(0)).mean((1, 2))))

    def found(factors):
        return _mean_shares(((rows, _shares(scores * factors[rows, None])) for rows, scores in images), len(prior))

    factors = least = 1 / prior
    wanted = np.sqrt(found(least) * _mean_shares(known, len(prior)))
    for _ in range(_ROUNDS):
        raised = factors * wanted / np.maximum(found(factors), 1e-9)
        raised[BACKGROUND] = least[BACKGROUND]
        factors = np.maximum(raised, least)
    for index in np.flatnonzero(factors > 2 * least):
        logger.info("%s: the model gives it less of its images than the co-segmentation does: its scores count %.0f "
                    "times", config.classes[index], factors[index] / least[index])
    return 1 / factors


def _shares(scores):
    """(k,) mean shares of k classes in (k, n) scores."""
    return (scores / scores.sum(0)).mean(1)


def _mean_shares(images, classes):
    """(classes,) mean share of each class in the images that show it, 0 for a class in none of them."""
    sums, counts = np.zeros(classes), np.zeros(classes)
    for rows, shares in images:
        sums[rows] += shares
        counts[rows] += 1
    return sums / np.maximum(counts, 1)
