"""From maps of a trained network to the foreground of one image, cell by cell."""
import numpy as np

_CENTRE_SIGMA = 0.6  # of half the image's width and height
LIKENESS = 8.0       # exponent of the cosine between two cells
REACH = 0.25         # standard deviation of the distance between two cells, as a share of the longest side
WALK, STEPS = 0.8, 5  # share of what a cell takes over from the others in each step


class Cells:
    """The cells of an image.

    Attributes:
        size: (h, w).
        features: (h * w, c + 1) float32; the last column is 1.
        contrast: (h * w,) float32.
        centred: (h * w,) float32, 1 in the middle of the image and less towards its border.
        border: (h * w,) bool, the outermost ring of cells.
        positions: (h * w, 2) float32 (x, y), in units of the image's longest side.
    """

    def __init__(self, maps: np.ndarray, contrast: np.ndarray):
        """
        Args:
            maps: (c, h, w). contrast: (h, w); see `feature_maps.Describer`.
        """
        self.size = contrast.shape
        flat = maps.reshape(len(maps), -1).astype(np.float32)
        self.features = np.concatenate([flat, np.ones((1, flat.shape[1]), np.float32)]).T
        self.contrast = contrast.astype(np.float32).ravel()
        y, x = np.indices(self.size)
        self.border = ((y == 0) | (x == 0) | (y == self.size[0] - 1) | (x == self.size[1] - 1)).ravel()
        y, x = ((2 * (axis.ravel() + 0.5) / length - 1).astype(np.float32) for axis, length in zip((y, x), self.size))
        self.centred = np.exp(-(x ** 2 + y ** 2) / (2 * _CENTRE_SIGMA ** 2))
        self.positions = np.stack([x * self.size[1], y * self.size[0]], 1) / (2 * max(self.size))

    def start(self, evidence: np.ndarray) -> np.ndarray:
        """(n,) foreground probability before any round: where the network sees something that it knows, near the
        centre, and rather of the image's class than of another.

        Args:
            evidence: (n,), higher where a cell looks more like those of its class than like those of the others.
        """
        return relative(_stretched(evidence) * _stretched(self.contrast) * np.sqrt(self.centred))

    def walk(self, foreground: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """`walk` of (n,) foreground probabilities among the cells."""
        return walk(foreground, self.around(centre), self.positions)

    def around(self, centre: np.ndarray) -> np.ndarray:
        """(n, c) float32 features, less the (c,) mean features of all images."""
        return self.features[:, :-1] - centre


def walk(foreground: np.ndarray, features: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Foreground after a random walk with restarts: cells take over the foreground probability of near cells that look
    like them.

    A classifier of cells finds the parts of an object that tell it from background, such as a head or a wheel. The
    walk completes them.

    Args:
        foreground: (n,) in [0, 1].
        features: (n, c) float32. positions: (n, 2), in units of the image's longest side.

    Returns:
        (n,), relative to the highest.
    """
    features = unit(features)
    squares = (positions ** 2).sum(1)
    steps = LIKENESS * (features @ features.T - 1)
    steps -= (squares[:, None] + squares - 2 * positions @ positions.T) / (2 * REACH ** 2)
    steps = np.exp(steps, out=steps)
    steps /= steps.sum(1, keepdims=True)
    walked = foreground
    for _ in range(STEPS):
        walked = (1 - WALK) * foreground + WALK * (steps @ walked)
    return relative(walked)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, c) vectors, each divided by its length."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def relative(values: np.ndarray) -> np.ndarray:
    """Values divided by the mean of their highest 2 %, at most 1: small and faint objects count like large ones."""
    top = np.sort(values)[-max(3, len(values) // 50):].mean()
    return np.clip(values / max(top, 1e-6), 0, 1)


def _stretched(values: np.ndarray) -> np.ndarray:
    return relative(values - values.min())
