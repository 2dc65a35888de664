"""Dense CRF: sharpens scores along the edges of the image. Does not import mxnet, so that it runs in workers."""
import numpy as np
import pydensecrf.densecrf as densecrf

SMALLEST_SCORE = 1e-20  # lower scores, zeros among them, count as this: their logarithm stays finite


def refine(scores, image, config):
    """Mean-field inference in a fully connected CRF.

    Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011),
    equation 3: unaries -log(scores), a smoothness kernel over positions and an appearance kernel over positions and
    colours.

    Args:
        scores: (classes, h, w) float32, not negative; need not add up to 1.
        image: (h, w, 3) uint8 RGB.

    Returns:
        (classes, h, w) float32 marginals; they add up to 1 at each pixel.
    """
    classes, height, width = scores.shape
    unary = -np.log(np.maximum(scores, SMALLEST_SCORE)).reshape(classes, -1)
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    crf.addPairwiseGaussian(sxy=config.crf_gaussian_sxy, compat=config.crf_gaussian_compat,
                            kernel=densecrf.DIAG_KERNEL, normalization=densecrf.NORMALIZE_SYMMETRIC)
    crf.addPairwiseBilateral(sxy=config.crf_bilateral_sxy, srgb=config.crf_bilateral_srgb,
                             rgbim=np.ascontiguousarray(image), compat=config.crf_bilateral_compat,
                             kernel=densecrf.DIAG_KERNEL, normalization=densecrf.NORMALIZE_SYMMETRIC)
    return np.asarray(crf.inference(config.crf_iterations), np.float32).reshape(scores.shape)
