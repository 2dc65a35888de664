"""Features of regions that tell objects from background in any class, and the prior that starts the rounds."""
from typing import Tuple

import cv2
import numpy as np

from core.cosegmentation.grabcut import cut_box, views
from core.cosegmentation.saliency import (
    ColourGraph,
    border_contrast,
    boundary_connectivity,
    geodesic_saliency,
    manifold_ranking,
    ranked,
)
from core.cosegmentation.superpixels import ORIENTATIONS, Regions, colour_histograms, texture_histograms

BOX_MARGINS = (0.01, 0.04, 0.09)
_CENTRE_SIGMA = 0.6    # of half the image's width and height
_COLOUR_REACH = 8.0    # Lab units within which colours count as the same


def region_cues(regions: Regions) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of every region, and the prior probability that it is foreground.

    Position, colour, texture, contrast to the border of the image, the saliencies of `core.cosegmentation.saliency`
    and the shares of the region inside GrabCuts of three boxes; about the features of Jiang et al., "Salient Object
    Detection: A Discriminative Regional Feature Integration Approach" (CVPR 2013). The prior mixes cuts, saliency ranks
    and distance to the centre, with fixed weights.

    Returns:
        features: (n, f) float32.
        prior: (n,) float32 in [0, 1].
        cuts: (n, 9) float64 in [0, 1], `box_cuts`.
    """
    graph = ColourGraph(regions)
    x, y, area, colour = regions.x, regions.y, regions.area, regions.colour
    raw, histograms = colour_histograms(regions)
    textures = texture_histograms(regions)

    connectivity, contrast, robust, reach = boundary_connectivity(graph)
    geodesic, edge_geodesic, sides = geodesic_saliency(graph)
    first_ranking, second_ranking = manifold_ranking(graph)
    centred = np.exp(-(x ** 2 + y ** 2) / (2 * _CENTRE_SIGMA ** 2))
    border = regions.border.sum(0)
    border_share = border / border.sum()
    middle = area * np.exp(-2 * (x ** 2 + y ** 2))
    likelihood = raw @ np.log(((middle / middle.sum()) @ histograms + 1e-4) / (border_share @ histograms + 1e-4))

    spread = np.exp(-graph.distance ** 2 / (2 * _COLOUR_REACH ** 2)) * area
    spread /= spread.sum(1, keepdims=True)
    mean_x, mean_y = spread @ x, spread @ y
    neighbours = regions.boundary / np.maximum(regions.boundary.sum(1, keepdims=True), 1)
    deviation = np.sqrt(np.maximum(np.stack([regions.mean(regions.lab[..., channel] ** 2) for channel in range(3)], 1)
                                   - colour ** 2, 0))
    gradients = _gradients(regions)
    cuts = box_cuts(regions)

    columns = [
        x, np.abs(x), y, np.abs(y), np.hypot(x, y), np.maximum(np.abs(x), np.abs(y)), area / area.mean(),
        border / np.sqrt(area), colour, deviation, colour - border_share @ colour, textures, gradients,
        gradients - border_share @ gradients, connectivity, contrast, robust, reach, geodesic, edge_geodesic, sides,
        first_ranking, second_ranking, likelihood, border_contrast(graph, histograms, textures),
        (neighbours * graph.distance).sum(1), (neighbours * regions.edge).sum(1),
        mean_x, mean_y, spread @ x ** 2 - mean_x ** 2, spread @ y ** 2 - mean_y ** 2, spread @ graph.at_border,
        spread @ geodesic, np.hypot(mean_x, mean_y),
        *map(ranked, (robust, geodesic, second_ranking, edge_geodesic, likelihood, connectivity)),
    ]
    features = np.concatenate([np.reshape(column, (regions.count, -1)) for column in columns], 1)
    salient = (ranked(robust) + ranked(geodesic) + ranked(second_ranking)) / 3
    prior = 0.6 * cuts.mean(1) + 0.4 * salient * centred
    return features.astype(np.float32), np.clip(prior, 0, 1).astype(np.float32), cuts


def box_cuts(regions: Regions) -> np.ndarray:
    """(n, 9) float64 shares of each region inside the GrabCuts of three centred boxes in each of three views."""
    size = regions.labels.shape[::-1]
    return np.stack([regions.mean(cv2.resize(cut_box(view, margin).astype(np.float32), size))
                     for view in views(regions.image) for margin in BOX_MARGINS], 1)


def _gradients(regions):
    """(n, 12) float64: mean gradient at two scales, orientations weighted by it, and the share of the strongest."""
    angle = np.arctan2(regions.gradient_y, regions.gradient_x) % np.pi / np.pi * ORIENTATIONS
    orientations = regions.histogram(angle.astype(int) % ORIENTATIONS, ORIENTATIONS, regions.magnitude)
    blurred = cv2.GaussianBlur(regions.lab[..., 0], (0, 0), 3)
    coarse = np.hypot(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
    return np.concatenate([np.stack([regions.mean(regions.magnitude), regions.mean(coarse),
                                     orientations.max(1) / (orientations.sum(1) + 1e-6)], 1), orientations], 1)
