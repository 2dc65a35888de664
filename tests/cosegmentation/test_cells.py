"""The cells of one image: where the foreground starts, and how it walks."""
import numpy as np

from core.cosegmentation import cells
from core.cosegmentation.cells import Cells, relative, walk


def test_the_walk_completes_what_looks_alike_and_is_near():
    positions = np.stack([np.zeros(40), np.arange(40) / 40], 1)
    features = np.where(np.arange(40)[:, None] < 20, (1.0, 0.0), (0.0, 1.0)).astype(np.float32)
    foreground = np.zeros(40)
    foreground[:5] = 1
    found = walk(foreground, features, positions)
    assert found[6] > found[10] > found[19] > 10 * found[20:].max()
    assert found[10] > 0.2


def test_the_walk_is_the_sum_over_its_steps(rng):
    features, positions = rng.normal(size=(12, 4)), rng.random((12, 2))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = ((positions[:, None] - positions) ** 2).sum(-1)
    steps = np.exp(cells.LIKENESS * (unit @ unit.T - 1) - distance / (2 * cells.REACH ** 2))
    steps /= steps.sum(1, keepdims=True)
    foreground = rng.random(12)
    power, expected = np.eye(12), 0
    for number in range(cells.STEPS):
        expected, power = expected + (1 - cells.WALK) * power @ foreground, cells.WALK * power @ steps
    expected += power @ foreground
    np.testing.assert_allclose(walk(foreground, features, positions), cells.relative(expected), rtol=1e-5)


def test_the_foreground_starts_where_evidence_contrast_and_centre_meet():
    evidence, contrast = np.zeros((5, 5)), np.zeros((5, 5))
    evidence[2, 1:4], contrast[1:4, 2], contrast[0] = 1, 1, 1
    evidence[0, 0] = 1
    found = Cells(np.zeros((1, 5, 5)), contrast).start(evidence.ravel()).reshape(5, 5)
    assert found.argmax() == 12 and 0 < found[0, 0] < found[2, 2]
    assert (np.delete(found.ravel(), [0, 12]) == 0).all()


def test_relative_values_bring_small_objects_to_one():
    foreground = np.full(100, 0.1)
    foreground[:3] = 0.4
    np.testing.assert_allclose(relative(foreground)[:3], 1)
    np.testing.assert_allclose(relative(foreground)[3:], 0.25)


def test_positions_are_those_of_the_cells_in_an_image_that_is_wider_than_high():
    """With axes swapped or of different units the walk would reach further along one of them."""
    made = Cells(np.zeros((1, 4, 8)), np.zeros((4, 8)))
    x, y = made.positions.reshape(4, 8, 2).transpose(2, 0, 1)
    np.testing.assert_allclose(np.diff(x, axis=1), 1 / 8, atol=1e-6)
    np.testing.assert_allclose(np.diff(y, axis=0), 1 / 8, atol=1e-6)
    assert np.allclose(np.diff(x, axis=0), 0) and np.allclose(np.diff(y, axis=1), 0)


def test_the_border_is_the_outermost_ring():
    border = Cells(np.zeros((1, 4, 5)), np.zeros((4, 5))).border.reshape(4, 5)
    assert not border[1:-1, 1:-1].any() and border.sum() == 14
