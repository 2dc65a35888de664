"""Superpixels of an image, their colour and texture statistics and their adjacency graph."""
from typing import Optional, Tuple

import cv2
import numpy as np
import scipy.sparse

from core.io.resize import resize_longest_side

_COMPACTNESS = 15.0  # SLIC's ruler: Lab distance that weighs as much as one superpixel's side
_ITERATIONS = 6
_SMALLEST = 25  # superpixels below this percentage of the mean area join a neighbour
_FEWEST_PIXELS = 60  # of a superpixel
_LIGHTNESS_BINS, _CHROMA_BINS, _CHROMA_RANGE = 6, 9, 60.0
_TEXTURE_CODES = 10  # uniform, rotation-invariant local binary patterns of 8 neighbours
ORIENTATIONS = 9


class Regions:
    """SLIC superpixels (Achanta et al., PAMI 2012) of an image scaled to a working size.

    Attributes:
        image: (h, w, 3) uint8 RGB, the scaled image.
        lab: (h, w, 3) float32 CIE Lab; lightness 0..100.
        labels: (h, w) int32, 0..count-1.
        count: number of regions n.
        area: (n,) float64 pixels.
        x, y: (n,) float64 centres, -1 at the left and top border of the image, 1 at the right and bottom.
        colour: (n, 3) float64 mean Lab.
        boundary: (n, n) float64, length of the common boundary in pixels, symmetric.
        edge: (n, n) float64, mean gradient of the lightness along that boundary.
        border: (4, n) float64, pixels of each region along the top, bottom, left and right border of the image.
        gradient_x, gradient_y, magnitude: (h, w) float32, gradient of the lightness.
    """

    def __init__(self, image: np.ndarray, side: int, regions: int, labels: Optional[np.ndarray] = None):
        """
        Args:
            image: (h, w, 3) uint8 RGB.
            side: longest side of the working image, pixels; a smaller image stays as it is.
            regions: superpixels to aim at; fewer where they would have less than 60 pixels.
            labels: those of the same image from before, of any integer dtype; by default they are computed.
        """
        self.image = resize_longest_side(image, min(side, max(image.shape[:2])), smallest=8)
        height, width = self.image.shape[:2]
        self.labels = superpixels(self.image, regions) if labels is None else labels.astype(np.int32)
        self.lab = cv2.cvtColor(self.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        self.count = int(self.labels.max()) + 1
        self.area = np.bincount(self.labels.ravel(), minlength=self.count).astype(float)
        rows, columns = np.indices((height, width))
        self.x = self.mean(2.0 * columns / max(1, width - 1) - 1)
        self.y = self.mean(2.0 * rows / max(1, height - 1) - 1)
        self.colour = np.stack([self.mean(self.lab[..., channel]) for channel in range(3)], 1)
        self.gradient_x = cv2.Scharr(self.lab[..., 0], cv2.CV_32F, 1, 0) / 32
        self.gradient_y = cv2.Scharr(self.lab[..., 0], cv2.CV_32F, 0, 1) / 32
        self.magnitude = np.hypot(self.gradient_x, self.gradient_y)
        self._connect()
        band = max(1, round(0.01 * max(height, width)))
        sides = (self.labels[:band], self.labels[-band:], self.labels[:, :band], self.labels[:, -band:])
        self.border = np.stack([np.bincount(side.ravel(), minlength=self.count) / band for side in sides])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of (h, w) values over each region: (n,) float64."""
        return np.bincount(self.labels.ravel(), np.ravel(values), minlength=self.count) / self.area

    def histogram(self, codes: np.ndarray, bins: int, weights: Optional[np.ndarray] = None) -> np.ndarray:
        """(n, bins) float64 histograms of (h, w) integer codes over each region: shares of its pixels, or means of the
        weights that its pixels of a code have."""
        flat = self.labels.ravel() * bins + np.ravel(codes)
        weights = None if weights is None else np.ravel(weights)
        counts = np.bincount(flat, weights, minlength=self.count * bins)
        return counts.reshape(self.count, bins) / self.area[:, None]

    def _connect(self):
        labels, magnitude = self.labels, self.magnitude
        first = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
        second = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
        edge = np.concatenate([np.maximum(magnitude[:, :-1], magnitude[:, 1:]).ravel(),
                               np.maximum(magnitude[:-1], magnitude[1:]).ravel()])
        cross = first != second
        shape = (self.count, self.count)
        pairs = (first[cross], second[cross])
        length = scipy.sparse.coo_matrix((np.ones(cross.sum()), pairs), shape).toarray()
        strength = scipy.sparse.coo_matrix((edge[cross], pairs), shape).toarray()
        self.boundary = length + length.T
        self.edge = np.divide(strength + strength.T, self.boundary, out=np.zeros(shape), where=self.boundary > 0)


def superpixels(image: np.ndarray, regions: int) -> np.ndarray:
    """(h, w) int32 labels, 0..count-1, of the SLIC superpixels of an (h, w, 3) uint8 RGB image."""
    height, width = image.shape[:2]
    regions = max(1, min(regions, height * width // _FEWEST_PIXELS))
    smooth = cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2LAB)
    slic = cv2.ximgproc.createSuperpixelSLIC(smooth, cv2.ximgproc.SLIC,
                                             max(3, int(round((height * width / regions) ** 0.5))), _COMPACTNESS)
    slic.iterate(_ITERATIONS)
    slic.enforceLabelConnectivity(_SMALLEST)
    return np.unique(slic.getLabels(), return_inverse=True)[1].reshape(height, width).astype(np.int32)


def colour_histograms(regions: Regions) -> Tuple[np.ndarray, np.ndarray]:
    """(n, bins) float64 histograms over those bins of a coarse Lab grid that the image uses, smoothed over near bins.

    Returns:
        (raw, smoothed); rows add up to 1.
    """
    lab = regions.lab
    chroma = (lab[..., 1:] + _CHROMA_RANGE) / (2 * _CHROMA_RANGE) * _CHROMA_BINS
    chroma = np.clip(chroma, 0, _CHROMA_BINS - 1).astype(int)
    lightness = np.clip(lab[..., 0] / 100 * _LIGHTNESS_BINS, 0, _LIGHTNESS_BINS - 1).astype(int)
    code = (lightness * _CHROMA_BINS + chroma[..., 0]) * _CHROMA_BINS + chroma[..., 1]
    used, code = np.unique(code, return_inverse=True)
    place = np.stack([used // _CHROMA_BINS ** 2, used // _CHROMA_BINS % _CHROMA_BINS, used % _CHROMA_BINS], 1)
    smooth = np.exp(-((place[:, None] - place) ** 2).sum(-1) / 0.8)
    raw = regions.histogram(code.ravel(), len(used))
    return raw, raw @ (smooth / smooth.sum(1, keepdims=True))


def texture_histograms(regions: Regions) -> np.ndarray:
    """(n, 10) float64 histograms of uniform rotation-invariant local binary patterns (Ojala et al., PAMI 2002)."""
    grey = cv2.GaussianBlur(regions.lab[..., 0], (0, 0), 1)
    padded = np.pad(grey, 1, mode="edge")
    height, width = grey.shape
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    brighter = np.stack([padded[y:y + height, x:x + width] > grey + 2 for y, x in ring])
    changes = (brighter != np.roll(brighter, 1, 0)).sum(0)
    return regions.histogram(np.where(changes <= 2, brighter.sum(0), _TEXTURE_CODES - 1), _TEXTURE_CODES)


def chi_squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Chi-squared distance of histograms along the last axis, in [0, 1]."""
    return 0.5 * ((first - second) ** 2 / (first + second + 1e-9)).sum(-1)
