"""The noise filter: which foregrounds look like their class."""
import numpy as np
import pytest

from core.cosegmentation.cell_classifier import FOLDS
from core.cosegmentation.noise_filter import fit_noise_filter, likeness, log_odds, other_classes, unjudged_classes


def test_likeness_is_a_probability_and_certain_where_too_few_tell():
    rng = np.random.default_rng(0)
    classes, folds = np.repeat([3, 7], 30), np.arange(60) % FOLDS
    descriptors = (rng.normal(size=(60, 5)) + np.where(classes == 3, 2, -2)[:, None]).astype(np.float32)
    fitted = fit_noise_filter(descriptors, classes, folds, 1)
    own = [likeness(fitted, 0, descriptors[row], 3) for row in range(60)]
    other = [likeness(fitted, 0, descriptors[row], 7) for row in range(60)]
    np.testing.assert_allclose(np.add(own, other), 1, atol=1e-5)
    assert min(own[:30]) > 0.9 and max(own[30:]) < 0.1
    assert likeness(fitted, 0, descriptors[0], 5) == 1
    few = fit_noise_filter(descriptors[20:45], classes[20:45], folds[20:45], 1)
    assert likeness(few, 0, descriptors[0], 7) == 1 and log_odds(few, 0, descriptors, 7) is None
    assert unjudged_classes(few) == [3, 7] and unjudged_classes(fitted) == []


def test_odds_are_against_an_average_other_class():
    classes, folds = np.repeat([2, 3, 7], 30), np.arange(90) % FOLDS
    descriptors = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    fitted = fit_noise_filter(descriptors, classes, folds, 1)
    scores = np.exp(descriptors @ fitted.weights[1].T + fitted.offsets[1])
    expected = np.log(scores[:, 1] / scores[:, [0, 2]].mean(1))
    np.testing.assert_allclose(log_odds(fitted, 1, descriptors, 3), expected, rtol=1e-4, atol=1e-4)
    fitted.weights[:], fitted.offsets[:] = 0, 0
    assert likeness(fitted, 1, descriptors[0], 3) == pytest.approx(0.5)


def mixed_up(count, share, seed=0):
    """Descriptors of four classes, the classes that they are labelled with, folds, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    true = np.repeat([1, 2, 5, 6], count)
    descriptors = rng.normal(size=(4, 40))[np.searchsorted([1, 2, 5, 6], true)] + rng.normal(size=(4 * count, 40))
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)
    labelled = np.where(rng.random(4 * count) < share, rng.permutation(true), true)
    return descriptors, labelled, rng.integers(0, FOLDS, 4 * count), labelled != true


def unlike(fitted, descriptors, classes, folds):
    return np.array([likeness(fitted, *image) < 0.5 for image in zip(folds, descriptors, classes)])


def test_later_passes_learn_without_the_wrong_images():
    descriptors, classes, folds, wrong = mixed_up(60, 0.4)
    once, often = (unlike(fitted, descriptors, classes, folds)
                   for fitted in (fit_noise_filter(descriptors, classes, folds, 1),
                                  fit_noise_filter(descriptors, classes, folds)))
    assert often[wrong].mean() > once[wrong].mean() + 0.05 and often[wrong].mean() > 0.9
    assert often[~wrong].mean() < once[~wrong].mean() / 2 and often[~wrong].mean() < 0.05


def test_later_passes_leave_out_no_class():
    descriptors, classes, _, _ = mixed_up(20, 0.0)
    descriptors[60:] = descriptors[:60:3]  # what is labelled 6 shows another class
    folds = np.arange(80) // 4 % FOLDS
    once, twice = (fit_noise_filter(descriptors, classes, folds, passes) for passes in (1, 2))
    assert unlike(once, descriptors, classes, folds)[60:].mean() > 0.9
    assert twice.classes.tolist() == [1, 2, 5, 6] and unjudged_classes(twice) == []


def test_other_classes_are_those_of_a_part_of_the_image():
    descriptors, classes, folds, _ = mixed_up(60, 0.0)
    fitted = fit_noise_filter(descriptors, classes, folds, 1)
    own, other = (descriptors[(classes == index) & (folds == 0)] for index in (2, 6))
    assert other_classes(fitted, 0, np.concatenate([own[:10]] * 3 + [other[:6]]), 2) == [6]
    assert other_classes(fitted, 0, np.concatenate([own[:10]] * 20 + [other[:6]]), 2) == []
    assert other_classes(fitted, 0, other, 6) == []
    few = fit_noise_filter(descriptors[:70], classes[:70], folds[:70], 1)
    assert other_classes(few, 0, other, 2) == []
