"""Foreground cues of a single image, without learning: what differs from, and is not connected to, its border.

All functions take a `Regions` and return one value for each of its n regions; most are dense in n (about 300), so an
image costs O(n^3) at worst, whatever the number of images.
"""
from typing import Tuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

from core.cosegmentation.superpixels import Regions, chi_squared

_GEODESIC_SIGMA = 10.0     # Zhu et al.: 7 to 15 Lab units
_CONNECTIVITY_SIGMA = 1.0  # Zhu et al.
_SPATIAL_SIGMA = 0.25      # Zhu et al., as a share of the image
_RANKING_SIGMA = 10.0      # Yang et al., in Lab units
_RANKING_ALPHA = 0.99      # Yang et al.


def stretched(values: np.ndarray) -> np.ndarray:
    """The values moved and scaled to [0, 1]."""
    values = values - values.min()
    return values / (values.max() + 1e-9)


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks of the values over their number, in [0, 1)."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)


class ColourGraph:
    """What the cues share: adjacency, colour distances and the regions at the border.

    Attributes:
        regions: Regions.
        distance: (n, n) float64 distances of mean Lab colours.
        near: (n, n) bool, adjacent.
        at_border: (n,) bool.
        slack: mean distance of a region to its nearest neighbour, below which colours count as one.
    """

    def __init__(self, regions: Regions):
        self.regions = regions
        self.distance = np.sqrt(((regions.colour[:, None] - regions.colour) ** 2).sum(-1))
        self.near = regions.boundary > 0
        self.at_border = regions.border.sum(0) > 0
        smallest = np.where(self.near, self.distance, np.inf).min(1)
        self.slack = smallest[np.isfinite(smallest)].mean() if self.near.any() else 0.0

    def paths(self, near: np.ndarray, weights: np.ndarray) -> scipy.sparse.csr_matrix:
        """Sparse graph of the adjacent pairs; tiny weights stay edges."""
        rows, columns = np.nonzero(near)
        return scipy.sparse.csr_matrix((weights[rows, columns] + 1e-5, (rows, columns)), near.shape)

    def with_border_joined(self) -> np.ndarray:
        """Adjacency in which all border regions are neighbours of one another."""
        joined = self.near | np.outer(self.at_border, self.at_border)
        np.fill_diagonal(joined, False)
        return joined


def boundary_connectivity(graph: ColourGraph) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boundary connectivity and optimised saliency (Zhu et al., "Saliency Optimization from Robust Background
    Detection", CVPR 2014, equations 3 to 9).

    Returns:
        (connectivity, contrast, saliency, colour reach), each (n,) float64; contrast and saliency in [0, 1].
    """
    regions, border = graph.regions, graph.at_border
    geodesic = scipy.sparse.csgraph.shortest_path(graph.paths(graph.with_border_joined(), graph.distance),
                                                  directed=False)
    alike = np.exp(-geodesic ** 2 / (2 * _GEODESIC_SIGMA ** 2))
    reach = alike.sum(1)
    connectivity = alike[:, border].sum(1) / np.sqrt(reach)
    background = 1 - np.exp(-connectivity ** 2 / (2 * _CONNECTIVITY_SIGMA ** 2))

    height, width = regions.labels.shape
    place = np.stack([regions.x * width, regions.y * height], 1) / (2.0 * max(height, width))
    far = ((place[:, None] - place) ** 2).sum(-1)
    weight = graph.distance * np.exp(-far / (2 * _SPATIAL_SIGMA ** 2)) * regions.area / regions.area.mean()
    contrast = stretched(weight @ background)

    smooth = np.where(_two_rings(graph), np.exp(-graph.distance ** 2 / (2 * _GEODESIC_SIGMA ** 2)) + 0.1, 0)
    laplacian = np.diag(smooth.sum(1)) - smooth
    saliency = np.linalg.solve(laplacian + np.diag(5 * background + contrast + 1e-6), contrast)
    return connectivity, contrast, stretched(saliency), reach / regions.count


def geodesic_saliency(graph: ColourGraph) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour and edge distance to the border along the cheapest path (Wei et al., "Geodesic Saliency Using Background
    Priors", ECCV 2012).

    Returns:
        colour, edges: (n,) float64 in [0, 1].
        sides: (n, 4) float64, colour distance to each side of the image, in rising order.
    """
    sources = np.flatnonzero(graph.at_border)
    cost = np.maximum(graph.distance - graph.slack, 0)
    shortest = scipy.sparse.csgraph.dijkstra
    colour = shortest(graph.paths(graph.with_border_joined(), cost), directed=False, indices=sources, min_only=True)
    edges = shortest(graph.paths(graph.near, graph.regions.edge), directed=False, indices=sources, min_only=True)
    steps = graph.paths(graph.near, cost)
    sides = np.stack([shortest(steps, directed=False, indices=np.flatnonzero(side), min_only=True)
                      for side in graph.regions.border], 1)
    sides = np.nan_to_num(sides, posinf=0)
    return stretched(np.nan_to_num(colour, posinf=0)), stretched(np.nan_to_num(edges, posinf=0)), \
        np.sort(sides, 1) / (sides.max() + 1e-9)


def manifold_ranking(graph: ColourGraph) -> Tuple[np.ndarray, np.ndarray]:
    """Ranking of the regions against each side, then against the foreground so found (Yang et al., "Saliency
    Detection via Graph-Based Manifold Ranking", CVPR 2013, equation 3).

    Returns:
        (first, second stage), each (n,) float64 in [0, 1].
    """
    affinity = np.where(_two_rings(graph), np.exp(-graph.distance / _RANKING_SIGMA), 0) + 1e-9
    ranking = np.linalg.inv(np.diag(affinity.sum(1)) - _RANKING_ALPHA * affinity)
    np.fill_diagonal(ranking, 0)
    first = np.ones(graph.regions.count)
    for side in graph.regions.border:
        first *= 1 - stretched(ranking @ (side > 0))
    first = stretched(first)
    return first, stretched(ranking @ (first > first.mean()))


def border_contrast(graph: ColourGraph, histograms: np.ndarray, textures: np.ndarray) -> np.ndarray:
    """Distances of each region to the four sides of the image in mean colour, colour and texture histogram.

    Returns:
        (n, 12) float64: for each of the three the distances to the sides in rising order.
    """
    regions = graph.regions
    found = []
    for side in regions.border:
        weights = side / side.sum()
        found.append([np.sqrt(((regions.colour - weights @ regions.colour) ** 2).sum(1)),
                      chi_squared(histograms, weights @ histograms), chi_squared(textures, weights @ textures)])
    return np.sort(np.array(found), 0).transpose(2, 1, 0).reshape(regions.count, -1)


def _two_rings(graph):
    near = graph.near.astype(np.float32)
    joined = graph.near | (near @ near > 0) | np.outer(graph.at_border, graph.at_border)
    np.fill_diagonal(joined, False)
    return joined
