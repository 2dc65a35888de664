"""Dense CRF: sharpens scores along the edges of the image. Does not import mxnet, so that it runs in workers."""
import numpy as np
import pydensecrf.densecrf as densecrf

SMALLEST_SCORE = 1e-20  # lower scores, zeros among them, count as this: their logarithm stays finite
MINOR_ODDS = 0.5  # a label is minor if at every pixel its score is at most this times the best label's


def refine(scores, image, config, minor_odds=MINOR_ODDS):
    """Mean-field inference in a fully connected CRF.

    Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011),
    equation 3: unaries -log(scores), a smoothness kernel over positions and an appearance kernel over positions and
    colours.

    The minor labels share one label of the mean field, which no message reaches, and divide its marginal in
    proportion to their scores. That is the mean field of all labels but for the minor ones' own messages. A message
    is at most w max(Q), where w sums the weights of the kernels and Q is the label's marginal: at first its share of
    the scores, at most odds / (1 + odds), and less from step to step, as messages favour the labels that lead. So a
    step underestimates the odds of a minor label by a factor of at most exp(w max(Q)).

    Args:
        scores: (classes, h, w) float32, not negative; need not add up to 1.
        image: (h, w, 3) uint8 RGB.
        minor_odds: largest odds of a minor label against the best one, in [0, 1); 0 leaves out no messages.

    Returns:
        (classes, h, w) float32 marginals; they add up to 1 at each pixel.
    """
    scores = np.maximum(scores, SMALLEST_SCORE).reshape(len(scores), -1)
    minor = (scores / scores.max(0)).max(1) <= minor_odds
    if minor.sum() < 2:  # one label alone is as dear as the label that would stand for it
        minor[:] = False
    rest = scores[minor].sum(0, keepdims=True)
    labels = np.concatenate([scores[~minor], rest]) if minor.any() else scores
    marginals = _mean_field(labels, image, config, sends=np.arange(len(labels)) < np.count_nonzero(~minor))
    if not minor.any():
        return marginals.reshape((-1,) + image.shape[:2])
    result = np.empty_like(scores)
    result[~minor] = marginals[:-1]
    result[minor] = scores[minor] * (marginals[-1] / rest)
    return result.reshape((-1,) + image.shape[:2])


def _mean_field(scores, image, config, sends):
    """Marginals, (labels, h * w) float32, of scores of that shape; `sends` tells which labels have messages."""
    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(scores), np.float32))
    kernel = {"kernel": densecrf.DIAG_KERNEL, "normalization": densecrf.NORMALIZE_SYMMETRIC}
    sends = sends.astype(np.float32)
    crf.addPairwiseGaussian(sxy=config.crf_gaussian_sxy, compat=-config.crf_gaussian_compat * sends, **kernel)
    crf.addPairwiseBilateral(sxy=config.crf_bilateral_sxy, srgb=config.crf_bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=-config.crf_bilateral_compat * sends, **kernel)
    return np.asarray(crf.inference(config.crf_iterations), np.float32)
