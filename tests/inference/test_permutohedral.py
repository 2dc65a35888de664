import numpy as np
import pytest

from core.inference.permutohedral import CHANNELS, add_filtered, gaussian_filter


def filtered(features, values):
    result = np.zeros_like(values)
    add_filtered(gaussian_filter(features), values, 1, result)
    return result


def exact(features, values):
    """The normalised Gaussian filter by its definition."""
    kernel = np.exp(-0.5 * ((features[:, None] - features[None]).astype(np.float64) ** 2).sum(-1))
    norm = 1 / np.sqrt(kernel.sum(1))
    return (norm[:, None] * kernel * norm) @ values


@pytest.mark.parametrize("dimensions, step, tolerance", [(1, 0.3, 0.06), (2, 0.5, 0.08), (3, 0.7, 0.1)])
def test_it_approximates_the_gaussian_filter(rng, dimensions, step, tolerance):
    sides = np.arange(0, 5, step)
    features = np.stack(np.meshgrid(*[sides] * dimensions), -1).reshape(-1, dimensions).astype(np.float32)
    values = np.zeros((len(features), 2), np.float32)
    values[:, 0] = features[:, 0] > 2.5
    values[:, 1] = 1
    np.testing.assert_allclose(filtered(features, values), exact(features, values), atol=tolerance)


@pytest.mark.parametrize("channels", CHANNELS)
def test_channels_are_filtered_by_themselves(rng, channels):
    features = rng.normal(0, 1, (500, 5)).astype(np.float32)
    values = rng.random((500, channels)).astype(np.float32)
    expected = [filtered(features, np.ascontiguousarray(values[:, [channel] * 2]))[:, 0] for channel in range(channels)]
    np.testing.assert_allclose(filtered(features, values), np.stack(expected, 1), rtol=1e-5)


def test_results_are_added_with_their_factor(rng):
    lattice = gaussian_filter(rng.normal(0, 1, (50, 2)).astype(np.float32))
    values = rng.random((50, 2)).astype(np.float32)
    once, thrice = np.zeros_like(values), np.ones_like(values)
    add_filtered(lattice, values, 1, once)
    add_filtered(lattice, values, 3, thrice)
    np.testing.assert_allclose(thrice, 1 + 3 * once, rtol=1e-5)


def test_weights_are_barycentric_before_normalisation(rng):
    """The norm takes one factor from all weights of a value: their shares stay, and are not negative."""
    lattice = gaussian_filter(rng.normal(0, 3, (1000, 5)).astype(np.float32))
    shares = lattice.weights / lattice.weights.sum(1, keepdims=True)
    assert shares.min() > -1e-5 and (np.sort(lattice.vertices, 1)[:, 1:] != np.sort(lattice.vertices, 1)[:, :-1]).all()


@pytest.mark.parametrize("spread", [100, 1e5])
def test_values_far_apart_do_not_mix(rng, spread):
    """Also where positions spread so far that the keys of lattice points are taken modulo 2 ** 64."""
    features = (rng.integers(-9, 10, (20000, 5)) * spread).astype(np.float32)
    features = np.unique(features, axis=0)
    values = rng.random((len(features), 2)).astype(np.float32)
    lattice = gaussian_filter(features)
    assert lattice.neighbours.shape[1] - 1 > 1 << 16  # the hash table has grown several times
    assert len(np.unique(lattice.vertices)) == lattice.vertices.size  # no vertex is shared
    result = np.zeros_like(values)
    add_filtered(lattice, values, 1, result)
    np.testing.assert_allclose(result, values, rtol=1e-3)
