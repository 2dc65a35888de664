"""Mean-field inference in a fully connected CRF. Does not import mxnet, so that it runs in workers.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011).
"""
import functools
from typing import Tuple

import numpy as np

from core.config import Config
from core.inference.permutohedral import CHANNELS, add_filtered, compiled_for_lanes, gaussian_filter

_FILTERS_KEPT = 3  # sizes of images whose smoothness filters are kept: 7 MB each for 375 x 500 pixels


def mean_field(scores: np.ndarray, rest: np.ndarray, image: np.ndarray, config: Config, idle_odds: float
               ) -> Tuple[np.ndarray, np.ndarray]:
    """Marginals of the labels after `config.crf_iterations` steps of algorithm 1, with a Potts model.

    Args:
        scores: (labels, h * w) float32, above 0: exp(-unary), times any factor for each pixel.
        rest: (h * w,) float32, the summed scores of further labels, which send no messages.
        image: (h, w, 3) uint8 RGB.
        idle_odds: labels whose marginal is at every pixel at most that times the largest one send no more messages,
            once that leaves fewer channels to filter; below 1.

    Returns:
        (labels, h * w) float32 marginals, and (h * w,) float32 factors that make marginals of the scores of the rest.
    """
    kernels = list(_kernels(image, config))
    active, rest = np.arange(len(scores)), rest.copy()
    grouped = _grouped(scores)
    marginals, likelihoods, factors = np.empty_like(grouped), np.ones_like(grouped), np.ones_like(rest)
    _normalise(likelihoods, grouped, rest, marginals, factors, _lanes(grouped))
    for _ in range(config.crf_iterations):
        if len(active) > CHANNELS[0]:
            keep = _exceed(marginals, len(active), idle_odds, _lanes(marginals)).ravel()[:len(active)]
            if _shape(np.count_nonzero(keep)) < _shape(len(active)):
                rest += scores[active[~keep]].sum(0)
                marginals = _grouped(_ungrouped(marginals, len(active))[keep])
                active = active[keep]
                grouped, likelihoods = _grouped(scores[active]), np.empty_like(marginals)
        _pass_messages(marginals, kernels, likelihoods, factors)
        _normalise(likelihoods, grouped, rest, marginals, factors, _lanes(grouped))
    result = scores * factors
    result[active] = _ungrouped(marginals, len(active))
    return result, factors


def _pass_messages(marginals, kernels, likelihoods, factors):
    """Write exp(messages) to `likelihoods` and, for labels without messages, to `factors`; up to a common factor."""
    likelihoods.fill(0)
    for group, messages in zip(marginals, likelihoods):
        for lattice, weight in kernels:
            add_filtered(lattice, group, weight, messages)
    _subtract_largest(likelihoods, factors, _lanes(likelihoods))
    np.exp(likelihoods, out=likelihoods)  # over whole arrays NumPy's is several times as fast as Numba's
    np.exp(factors, out=factors)


def _kernels(image, config):
    """Filter and weight of the kernels of equation 3, but for those of weight 0."""
    size = image.shape[:2]
    if config.crf_gaussian_compat:
        yield _smoothness(size, config.crf_gaussian_sxy), config.crf_gaussian_compat
    if config.crf_bilateral_compat:
        features = np.empty(size + (5,), np.float32)
        features[..., :2] = _positions(size, config.crf_bilateral_sxy)
        features[..., 2:] = image
        features[..., 2:] /= np.float32(config.crf_bilateral_srgb)
        yield gaussian_filter(features.reshape(-1, 5)), config.crf_bilateral_compat


@functools.lru_cache(maxsize=_FILTERS_KEPT)
def _smoothness(size, deviation):
    return gaussian_filter(_positions(size, deviation).reshape(-1, 2))


def _positions(size, deviation):
    """(h, w, 2) float32, x and y of each pixel in units of the standard deviation."""
    return np.stack(np.meshgrid(*map(np.arange, size[::-1])), -1).astype(np.float32) / np.float32(deviation)


def _shape(labels):
    """Number of groups, and of channels in each, that hold as many labels."""
    groups = -(-labels // CHANNELS[-1])
    return groups, max(CHANNELS[0], -(-labels // groups))


def _grouped(rows):
    """(labels, n) as (groups, n, channels), filled up with zeros."""
    count, channels = _shape(len(rows))
    groups = np.zeros((count, rows.shape[1], channels), np.float32)
    for index, row in enumerate(rows):
        groups[index // channels, :, index % channels] = row
    return groups


def _ungrouped(groups, labels):
    return groups.transpose(0, 2, 1).reshape(-1, groups.shape[1])[:labels]


def _lanes(groups):
    return (0,) * groups.shape[2]


@compiled_for_lanes("float32[:, :, ::1], int64", "float32")
def _largest(values, i, lanes):
    """The largest value of a pixel over all channels, at least 0."""
    largest = np.float32(0)
    for group in range(len(values)):
        for channel in range(len(lanes)):
            largest = max(largest, values[group, i, channel])
    return largest


@compiled_for_lanes("float32[:, :, ::1], float32[::1]")
def _subtract_largest(messages, silent, lanes):
    """Subtract the largest message of each pixel from all; `silent` receives what that makes of no message, 0."""
    for i in range(len(silent)):
        largest = _largest(messages, i, lanes)
        for group in range(len(messages)):
            for channel in range(len(lanes)):
                messages[group, i, channel] -= largest
        silent[i] = -largest


@compiled_for_lanes("float32[:, :, ::1], float32[:, :, ::1], float32[::1], float32[:, :, ::1], float32[::1]")
def _normalise(likelihoods, scores, rest, marginals, factors, lanes):
    """Make marginals of likelihoods times scores; `factors` has the likelihood of the rest and becomes its factors."""
    for i in range(len(rest)):
        total = rest[i] * factors[i]
        for group in range(len(scores)):
            for channel in range(len(lanes)):
                product = likelihoods[group, i, channel] * scores[group, i, channel]
                marginals[group, i, channel] = product
                total += product
        scale = np.float32(1) / total
        factors[i] *= scale
        for group in range(len(scores)):
            for channel in range(len(lanes)):
                marginals[group, i, channel] *= scale


@compiled_for_lanes("float32[:, :, ::1], int64, float32", "boolean[:, ::1]")
def _exceed(marginals, labels, odds, lanes):
    """(groups, channels) bool: whether a label's marginal exceeds `odds` times the largest one at any pixel."""
    exceeding = np.zeros((len(marginals), len(lanes)), np.bool_)
    for i in range(marginals.shape[1]):
        largest = _largest(marginals, i, lanes)
        for group in range(len(marginals)):
            for channel in range(len(lanes)):
                if not exceeding[group, channel] and marginals[group, i, channel] > odds * largest:
                    exceeding[group, channel] = True
                    labels -= 1
        if labels == 0:
            break
    return exceeding
