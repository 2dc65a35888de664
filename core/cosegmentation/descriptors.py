"""What a region and its surroundings, and an image's foreground, look like: two feature sets behind one interface.

"hog" needs no weights: histograms of oriented gradients and colours in windows of three sizes. "resnet" averages the
activations of the ImageNet ResNet-50, which `core.cosegmentation.activations` has written, over the region. Both give
(n, d) float32 descriptors of regions and a (d,) float32 descriptor of the foreground; the classifiers that read them
do not know which they have.
"""
import cv2
import numpy as np
import scipy.fft
import scipy.sparse

from core.cosegmentation.superpixels import ORIENTATIONS, Regions
from core.errors import UserError
from core.io.files import read_array

_CELLS = (0.028, 0.05, 0.085)  # sides of a HOG cell, as shares of the longest side of the image
_GRID = (-2, -1, 0, 1, 2)      # cells around the region's centre, in both directions

_STEP = 0.03                                         # between local descriptors, as a share of the longest side
_PATCH = np.array((-1.5, -0.5, 0.5, 1.5))            # centres of a local descriptor's cells, in both directions
_WINDOW = np.exp(-np.add.outer(_PATCH ** 2, _PATCH ** 2) / 8)  # as of SIFT: deviation of half the patch
_LOWEST = (0, 0, 1, 1, 0, 2), (0, 1, 0, 1, 2, 0)     # frequencies over the cells that are kept
_LEAST_ENERGY = 0.5                                  # of a patch, in levels of 255: plain ones stay near 0
_COLOUR = 0.5 * np.array((1 / 255, 1 / 60, 1 / 60))  # weight of Lab beside gradients
_PLACE = 0.14                                        # weight of the place in the foreground
_LEAST_EXTENT = 0.02                                 # of a foreground, as a share of the image
_LEAST_LABEL, _LEAST_VARIANCE = 1e-3, 1e-3
_CHANNELS = 64                                       # resized at once: OpenCV 5 takes at most 128


def describe(regions: Regions, kind: str, path: str) -> np.ndarray:
    """Descriptors of the regions of an image.

    Args:
        regions: Regions.
        kind: "hog" or "resnet".
        path: of the activations, (channels, h', w') float16 .npy, for "resnet".

    Returns:
        (n, d) float32.

    Raises:
        UserError: the activations are missing or damaged.
    """
    if kind == "hog":
        return hog_windows(regions)
    activations = read_array(path)
    if activations.ndim != 3 or not activations.size:
        raise UserError(f"{path} is damaged: remove it and run the same command again")
    return pooled(activations, regions)


def hog_windows(regions: Regions) -> np.ndarray:
    """HOG (Dalal and Triggs, CVPR 2005) and mean Lab of 5 x 5 cells around each region's centre, at three sizes.

    Gradients come from the Lab channel where they are strongest, are unsigned, and are normalised by the energy of
    3 x 3 cells.

    Returns:
        (n, 756) float32.
    """
    height, width = regions.labels.shape
    lab, magnitude, votes = _oriented_gradients(regions.image)
    x = (regions.x + 1) / 2 * (width - 1)
    y = (regions.y + 1) / 2 * (height - 1)
    parts = []
    for share in _CELLS:
        cell = max(3, round(share * max(height, width)))
        cells = cv2.blur(votes, (cell, cell))
        colours = cv2.blur(lab, (cell, cell)) / 128
        energy = np.sqrt(np.maximum(cv2.blur(magnitude ** 2, (3 * cell, 3 * cell)), 0)) + 4
        for down in _GRID:
            for right in _GRID:
                column = np.clip(x + right * cell, 0, width - 1).astype(int)
                row = np.clip(y + down * cell, 0, height - 1).astype(int)
                parts.append(cells[row, column] / energy[row, column, None])
                if down % 2 == 0 and right % 2 == 0:
                    parts.append(colours[row, column])
    return np.concatenate(parts, 1).astype(np.float32)


def _oriented_gradients(image):
    """Gradients of the Lab channel where they are strongest, shared out between the two nearest orientations.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        Lab (h, w, 3) float32 in levels of 255, magnitude (h, w) float32, votes (h, w, 9) float32.
    """
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), 0.7)
    gradients = np.stack([cv2.Sobel(lab, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(lab, cv2.CV_32F, 0, 1, ksize=1)])
    strongest = np.hypot(*gradients).argmax(2)
    dx, dy = np.take_along_axis(gradients, np.broadcast_to(strongest[..., None], (2, *strongest.shape, 1)), 3)[..., 0]
    magnitude = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx) % np.pi / np.pi * ORIENTATIONS
    low = np.floor(angle).astype(int)
    share = angle - low
    votes = np.zeros((*strongest.shape, ORIENTATIONS), np.float32)
    for bin_, weight in ((low, 1 - share), (low + 1, share)):
        part = np.zeros_like(votes)
        np.put_along_axis(part, (bin_ % ORIENTATIONS)[..., None], (magnitude * weight)[..., None], 2)
        votes += part
    return lab, magnitude, votes


def describe_foregrounds(regions: Regions, labels: np.ndarray, kind: str, descriptors: np.ndarray) -> np.ndarray:
    """Descriptors of what may be an image's foreground, each as a whole.

    Args:
        regions: Regions.
        labels: (k, n) in [0, 1], how much each of the n regions belongs to each of the k foregrounds.
        kind: "hog" or "resnet".
        descriptors: (n, d) float32, `describe` of the same kind.

    Returns:
        (k, d) float32 of unit length: `second_order` for "hog", mean descriptors for "resnet".
    """
    if kind == "hog":
        local = Local(regions)
        return np.stack([second_order(local, row) for row in labels])
    return np.stack([_unit(np.maximum(row, _LEAST_LABEL) * regions.area @ descriptors) for row in labels])


def second_order(local: "Local", labels: np.ndarray) -> np.ndarray:
    """What the local descriptors of a foreground have in common: second-order pooling (Carreira et al., "Semantic
    Segmentation with Second-Order Pooling", ECCV 2012), the logarithm of their mean outer product, weighted by labels.

    With them go Lab colour, and the place relative to the foreground's centre and extent.

    Args:
        local: Local.
        labels: (n,) in [0, 1], how much foreground each region is.

    Returns:
        (1770,) float32 of unit length, the upper triangle of a symmetric 59 x 59 matrix.
    """
    weights = np.maximum(labels[local.region], _LEAST_LABEL)
    weights = weights / weights.sum()
    place = local.place - weights @ local.place
    place = _PLACE * place / (np.sqrt(weights @ place ** 2) + _LEAST_EXTENT)
    shared = np.concatenate([local.colour, place], 1)
    points = np.concatenate([local.gradients, np.broadcast_to(shared, (len(local.gradients), *shared.shape))], 2)
    products = np.mean(points.transpose(0, 2, 1) @ (points * weights[:, None]), 0)

    values, vectors = np.linalg.eigh(products + _LEAST_VARIANCE * np.eye(len(products)))
    logarithm = (vectors * np.log(values)) @ vectors.T
    logarithm *= np.sqrt(2 - np.eye(len(logarithm)))  # so that the triangle has the length of the whole matrix
    return _unit(logarithm[np.triu_indices(len(logarithm))])


class Local:
    """Local descriptors of an image on a grid of m points.

    They are like SIFT's, at three sizes: 4 x 4 cells of gradient orientations, normalised, as square roots
    (Arandjelovic and Zisserman, CVPR 2012), of which the lowest frequencies over the cells are kept.

    Attributes:
        gradients: (3, m, 54) float64. colour: (m, 3) float64, Lab. place: (m, 2) float64, y and x in [0, 1).
        region: (m,) int32, region of each point.
    """

    def __init__(self, regions: Regions):
        height, width = regions.labels.shape
        longest = max(height, width)
        lab, _, votes = _oriented_gradients(regions.image)
        step = max(2, round(_STEP * longest))
        y, x = (axis.ravel() for axis in np.mgrid[step // 2:height:step, step // 2:width:step])
        self.region = regions.labels[y, x]
        self.place = np.stack([y, x], 1) / (height, width)
        self.colour = (cv2.GaussianBlur(lab, (0, 0), 3)[y, x] - (0, 128, 128)) * _COLOUR
        found = []
        for share in _CELLS:
            cell = max(3.0, share * longest)
            cells = np.maximum(cv2.blur(votes, (round(cell) | 1,) * 2, borderType=cv2.BORDER_REFLECT), 0)
            rows = np.clip(y[:, None] + _PATCH * cell, 0, height - 1).astype(int)
            columns = np.clip(x[:, None] + _PATCH * cell, 0, width - 1).astype(int)
            patches = cells[rows[:, :, None], columns[:, None]] * _WINDOW[..., None]
            energy = np.sqrt((patches ** 2).sum((1, 2, 3), keepdims=True))
            waves = scipy.fft.dctn(np.sqrt(patches / (energy + _LEAST_ENERGY)), axes=(1, 2), norm="ortho")
            found.append(waves[(slice(None), *_LOWEST)].reshape(len(y), -1))
        self.gradients = np.stack(found)


def _unit(vector):
    return (vector / max(np.linalg.norm(vector), 1e-6)).astype(np.float32)


def pooled(activations: np.ndarray, regions: Regions) -> np.ndarray:
    """Mean activations of the regions, bilinear between the cells.

    Args:
        activations: (c, h', w') array over the whole image.

    Returns:
        (n, c) float32.
    """
    maps = np.moveaxis(np.asarray(activations, np.float32), 0, 2)
    height, width = regions.labels.shape
    parts = [np.ascontiguousarray(maps[..., start:start + _CHANNELS]) for start in range(0, maps.shape[2], _CHANNELS)]
    pixels = np.concatenate([cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).reshape(
        height * width, -1) for part in parts], 1)
    shares = scipy.sparse.csr_matrix((1 / regions.area[regions.labels.ravel()],
                                      (regions.labels.ravel(), np.arange(height * width))))
    return (shares @ pixels).astype(np.float32)
