"""Dense CRF: sharpens scores along the edges of the image. Does not import mxnet, so that it runs in workers."""
import importlib.util
import math
from typing import Any, Dict, Optional

import numpy as np

from core.config import Config
from core.errors import UserError

SMALLEST_SCORE = 1e-20  # lower scores, zeros among them, count as this: their logarithm stays finite
_LARGEST_ROW = 1.5  # of the normalised kernels; on photographs up to 1.1 (smoothness) and 1.35 (appearance)


def refine(scores: np.ndarray, image: np.ndarray, config: Config, minor_odds: Optional[float] = None) -> np.ndarray:
    """Mean-field inference in a fully connected CRF.

    Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011),
    equation 3: unaries -log(scores), a smoothness kernel over positions and an appearance kernel over positions and
    colours, both normalised by the square roots of their row sums on both sides.

    Minor labels, whose score is at every pixel at most `minor_odds` times the best label's, send no messages. A message
    is at most S times the label's largest marginal (S: `largest_message`), so at the default, 1 / (e S), such a label
    wins nowhere, and a step without its message underestimates its odds by a factor of at most e. Labels whose marginal
    falls to 2 / S times the largest one at every pixel send no more messages, where that leaves fewer channels to
    filter.

    Args:
        scores: (classes, h, w) float32, not negative; need not add up to 1.
        image: (h, w, 3) uint8 RGB.
        minor_odds: in [0, 0.1]; None is the default, 0 leaves out no messages.

    Returns:
        (classes, h, w) float32 marginals; they add up to 1 at each pixel.
    """
    if config.crf_engine == "pydensecrf":
        return _reference(scores, image, config)
    from core.inference.mean_field import mean_field  # imports numba, which takes half a second

    if minor_odds is None:
        minor_odds = 1 / (math.e * largest_message(config))
    odds = np.maximum(scores, np.float32(SMALLEST_SCORE), dtype=np.float32, order="C").reshape(len(scores), -1)
    odds /= odds.max(0)
    minor = odds.max(1) <= minor_odds
    marginals, factors = mean_field(odds[~minor], odds[minor].sum(0), image, config, 2 * math.e * minor_odds)
    odds[~minor] = marginals
    odds[minor] *= factors
    return odds.reshape((-1,) + image.shape[:2])


def largest_message(config: Config) -> float:
    """S of `refine`: the kernels' weights times their largest row sums; at least 4, so that labels left out are well
    below the best one, however little messages count."""
    return max(4, _LARGEST_ROW * (config.crf_gaussian_compat + config.crf_bilateral_compat))


def crf_settings(config: Config) -> Dict[str, Any]:
    """What decides the CRF's marginals, as JSON keeps it.

    The default engine goes without saying.

    Raises:
        UserError: crf_engine names a package that is not installed.
    """
    if config.crf_engine == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise UserError("--crf-engine pydensecrf: the package is missing: pip install pydensecrf2==1.1 (needs a C++ "
                        "compiler and Python 3.8 to 3.12), or leave the flag out")
    return {name: value for name, value in vars(config).items()
            if name.startswith("crf_") and (name, value) != ("crf_engine", "own")}


def _reference(scores, image, config):
    """Marginals of all labels by pydensecrf, the published implementation."""
    from pydensecrf import densecrf

    crf = densecrf.DenseCRF2D(image.shape[1], image.shape[0], len(scores))
    crf.setUnaryEnergy(-np.log(np.maximum(scores, SMALLEST_SCORE, dtype=np.float32)).reshape(len(scores), -1))
    crf.addPairwiseGaussian(sxy=config.crf_gaussian_sxy, compat=config.crf_gaussian_compat)
    crf.addPairwiseBilateral(sxy=config.crf_bilateral_sxy, srgb=config.crf_bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=config.crf_bilateral_compat)
    return np.array(crf.inference(config.crf_iterations)).reshape(scores.shape)
