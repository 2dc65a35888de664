"""Gaussian filters of any dimension, on the permutohedral lattice. Does not import mxnet, so that it runs in workers.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). The points
of the lattice in d dimensions are the vectors of d + 1 integers that add up to 0 and leave the same remainder (the
"colour" of the point) when divided by d + 1. They cut the space into simplices with one point of each remainder.
"""
from typing import Any, Callable, NamedTuple

import numpy as np

from core.runtime.numba_cache import compiled

CHANNELS = 2, 3, 4  # that may be filtered at once; more gain nothing
_ROOM = 1 << 13  # lattice points that the hash table is made for at first; it doubles as they get more
_GOLDEN = -7046029254386353131  # odd; 2 ** 64 divided by the golden ratio, as a signed number
_HASH_SHIFT = 36  # of the product of 64 bits: leaves the upper ones, which more bits of the key change


class Lattice(NamedTuple):
    """A linear filter of n values.

    Attributes:
        vertices: (n, d + 1) uint32, the corners of the simplex around each position, as indices of lattice points.
        weights: (n, d + 1) float32, between each value and its vertices.
        neighbours: (d + 1, points + 1, 2) uint32, the next and the last point in each direction. The last row is a
            point that stands for those that do not exist, and has itself as neighbours.
    """
    vertices: np.ndarray
    weights: np.ndarray
    neighbours: np.ndarray


def gaussian_filter(features: np.ndarray) -> Lattice:
    """Lattice that filters with exp(-|f_i - f_j|^2 / 2), normalised on both sides.

    Args:
        features: (n, d) float32, the position of each value in units of the standard deviation.

    Returns:
        Lattice of the matrix D^-1/2 K D^-1/2, where K is the unnormalised filter and D has its row sums. No eigenvalue
        is above 1; row sums may be.
    """
    lattice = _unnormalised(features)
    ones = np.ones((len(features), CHANNELS[0]), np.float32)
    sums = np.zeros_like(ones)
    add_filtered(lattice, ones, 1, sums)
    norm = 1 / np.sqrt(sums[:, :1] + np.float32(1e-20))
    return lattice._replace(weights=lattice.weights * norm)


def add_filtered(lattice: Lattice, values: np.ndarray, factor: float, result: np.ndarray) -> None:
    """Add `factor` times the filtered values to the result.

    Args:
        lattice: Lattice of n values.
        values, result: (n, channels) float32, in C order, for as many channels as are in CHANNELS.
    """
    lanes = (0,) * values.shape[1]
    points = np.zeros((lattice.neighbours.shape[1], len(lanes)), np.float32)
    _splat(values, lattice.vertices, lattice.weights, points, lanes)
    points = _blur(points, np.empty_like(points), lattice.neighbours, lanes)
    _slice(points, lattice.vertices, lattice.weights, factor, result, lanes)


def compiled_for_lanes(arguments: str, result: str = "void") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator as `compiled`, of a function with one more argument, `lanes`: a tuple as long as there are channels.

    Loops over the length of a tuple are unrolled, which makes those over channels several times as fast.
    """
    return compiled([f"{result}({arguments}, UniTuple(int64, {channels}))" for channels in CHANNELS])


def _unnormalised(features):
    """Lattice that filters up to a constant factor."""
    dimensions = features.shape[1]
    index = np.arange(1, dimensions + 1)
    # Section 3.1: the columns of the embedding, and the scale that gives splat, blur and slice unit variance together
    scale = (np.sqrt(2 / 3) * (dimensions + 1) / np.sqrt(index * (index + 1))).astype(np.float32)
    strides = _strides(features, scale)
    directions = strides.sum() - np.append(strides * (dimensions + 1), 0)
    keys, weights = _simplices(features, scale, directions)
    vertices, points, table = _enumerate(keys)
    return Lattice(vertices, weights, _neighbours(points, table, directions))


def _strides(features, scale):
    """(d,) int64 factors by which the first d coordinates of a lattice point add up to one number, its key.

    As digits of a number do: no two points nor their neighbours share a key, as long as the product of the ranges of
    the coordinates is below 2 ** 64. Beyond, where the positions spread over some thousand standard deviations in each
    of five dimensions, keys are taken modulo 2 ** 64 and hardly ever meet.
    """
    dimensions = len(scale)
    farthest = [np.abs(features[:, j]).max() * scale[j] for j in range(dimensions)]  # faster than along an axis
    reach = [sum(farthest[j:]) + (j * farthest[j - 1] if j else 0) for j in range(dimensions)]
    digits = 2 * np.ceil(reach).astype(np.int64) + 6 * (dimensions + 1) + 1  # odd: no product is 0 modulo 2 ** 64
    return np.cumprod(np.concatenate([[1], digits[:-1]]))


@compiled("void(float32[::1], float32[::1], float32[::1], int64[::1])")
def _round(position, scale, offset, multiple):
    """Embed a position in the hyperplane of coordinates that add up to 0, and round each to a multiple of d + 1.

    Writes the multiples, and what is left of the coordinates, to `offset`; both in units of d + 1.
    """
    d = len(position)
    unit = np.float32(1 / (d + 1))
    above = np.float32(0)
    for j in range(d, -1, -1):
        value = np.float32(0)
        if j:
            value = position[j - 1] * scale[j - 1]
        coordinate = (above - np.float32(j) * value) * unit
        above += value
        nearest = np.floor(coordinate + np.float32(0.5))
        offset[j] = coordinate - nearest
        multiple[j] = np.int64(nearest)


@compiled("void(float32[::1], int64[::1])")
def _rank(offset, rank):
    """Number the offsets from the largest one, 0, to the smallest."""
    rank[:] = 0
    for j in range(len(offset)):
        for k in range(j + 1, len(offset)):
            less = np.int64(offset[j] < offset[k])
            rank[j] += less
            rank[k] += 1 - less


@compiled("Tuple((int64[:, ::1], float32[:, ::1]))(float32[:, ::1], float32[::1], int64[::1])")
def _simplices(features, scale, directions):
    """Keys and barycentric weights of the vertices of the simplex around each position; sections 3.1 and 3.2.

    `directions` has the key of the step from a point to the next in each direction: 1 in all coordinates but one.
    """
    d = features.shape[1]
    keys, weights = np.empty((len(features), d + 1), np.int64), np.empty((len(features), d + 1), np.float32)
    barycentric = np.empty(d + 2, np.float32)
    offset, multiple = np.empty(d + 1, np.float32), np.empty(d + 1, np.int64)
    rank, order = np.empty(d + 1, np.int64), np.empty(d + 1, np.int64)
    for i in range(len(features)):
        _round(features[i], scale, offset, multiple)
        _rank(offset, rank)
        excess = multiple.sum()
        key = 0
        barycentric[:] = 0
        for j in range(d + 1):
            # Multiples that don't add up to 0 are corrected where the rounding was coarsest
            vertex = rank[j] + excess
            shift = np.int64(vertex < 0) - np.int64(vertex > d)
            vertex = d - vertex - shift * (d + 1)
            order[vertex] = j
            share = offset[j] - np.float32(shift)
            barycentric[vertex] += share
            barycentric[vertex + 1] -= share
            key += (multiple[j] + shift) * (directions[d] - directions[j])
        barycentric[0] += np.float32(1) + barycentric[d + 1]
        for j in range(d + 1):  # section 3.1: the vertices, by their remainder
            keys[i, j] = key
            weights[i, j] = barycentric[j]
            key += directions[order[j]]
    return keys, weights


@compiled("int64(int64, int64[::1], int32[::1])")
def _slot(key, points, table):
    """Slot of a key in a hash table of indices into `points`: the one that has it, else the free one for it."""
    slot = (key * _GOLDEN >> _HASH_SHIFT) & (len(table) - 1)
    while table[slot] >= 0 and points[table[slot]] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@compiled("Tuple((int64[::1], int32[::1]))(int64[::1])")
def _doubled(points):
    """The points and twice the room, and their hash table, of which they fill half by then."""
    more = np.empty(2 * len(points), np.int64)
    table = np.full(4 * len(points), -1, np.int32)
    for i in range(len(points)):
        more[i] = points[i]
        table[_slot(points[i], points, table)] = i
    return more, table


@compiled("Tuple((uint32[:, ::1], int64[::1], int32[::1]))(int64[:, ::1])")
def _enumerate(keys):
    """Number the different keys; returns the numbers in place of the keys, the keys in that order, and a hash table."""
    vertices = np.empty(keys.shape, np.uint32)  # unsigned: Numba would look for negative ones at each use
    points, table = np.empty(_ROOM, np.int64), np.full(2 * _ROOM, -1, np.int32)
    count = 0
    for i in range(keys.shape[0]):
        for j in range(keys.shape[1]):
            slot = _slot(keys[i, j], points, table)
            if table[slot] < 0:
                if count == len(points):
                    points, table = _doubled(points)
                    slot = _slot(keys[i, j], points, table)
                points[count] = keys[i, j]
                table[slot] = count
                count += 1
            vertices[i, j] = table[slot]
    return vertices, points[:count].copy(), table


@compiled("uint32[:, :, ::1](int64[::1], int32[::1], int64[::1])")
def _neighbours(points, table, directions):
    none = len(points)
    neighbours = np.full((len(directions), none + 1, 2), none, np.uint32)
    for j in range(len(directions)):
        for i in range(none):
            next_ = table[_slot(points[i] + directions[j], points, table)]
            if next_ >= 0:
                neighbours[j, i, 0] = next_
                neighbours[j, next_, 1] = i
    return neighbours


@compiled_for_lanes("float32[:, ::1], uint32[:, ::1], float32[:, ::1], float32[:, ::1]")
def _splat(values, vertices, weights, points, lanes):
    for i in range(vertices.shape[0]):
        for j in range(vertices.shape[1]):
            vertex, weight = vertices[i, j], weights[i, j]
            for channel in range(len(lanes)):
                points[vertex, channel] += weight * values[i, channel]


@compiled_for_lanes("float32[:, ::1], float32[:, ::1], uint32[:, :, ::1]", "float32[:, ::1]")
def _blur(points, other, neighbours, lanes):
    """Filter with (0.5, 1, 0.5) along each direction in turn; overwrites both arrays and returns one of them."""
    for j in range(neighbours.shape[0]):
        for i in range(neighbours.shape[1]):
            next_, last = neighbours[j, i, 0], neighbours[j, i, 1]
            for channel in range(len(lanes)):
                both = points[next_, channel] + points[last, channel]
                other[i, channel] = points[i, channel] + np.float32(0.5) * both
        points, other = other, points
    return points


@compiled_for_lanes("float32[:, ::1], uint32[:, ::1], float32[:, ::1], float32, float32[:, ::1]")
def _slice(points, vertices, weights, factor, result, lanes):
    for i in range(vertices.shape[0]):
        for j in range(vertices.shape[1]):
            vertex, weight = vertices[i, j], factor * weights[i, j]
            for channel in range(len(lanes)):
                result[i, channel] += weight * points[vertex, channel]
