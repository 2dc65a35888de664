import numpy as np
import pytest

from core.config import Config
from core.crf import MINOR_ODDS, refine
from core.predictions import Scored, predict


@pytest.fixture
def scene(rng):
    """A bright square on a dark ground, and scores that miss its border and are noisy."""
    truth = np.zeros((60, 80), bool)
    truth[15:45, 20:60] = True
    image = np.where(truth[..., None], 200, 40) + rng.integers(0, 2, (60, 80, 3))
    blurred = np.full((60, 80), 0.2)
    blurred[19:41, 24:56] = 0.8
    blurred = np.clip(blurred + rng.normal(0, 0.1, (60, 80)), 0.05, 0.95)
    scores = np.stack([1 - blurred, blurred, np.zeros((60, 80))]).astype(np.float32)
    return truth, image.astype(np.uint8), scores


def test_marginals_are_probabilities(scene):
    _, image, scores = scene
    marginals = refine(scores, image, Config())
    assert marginals.shape == scores.shape and marginals.dtype == np.float32
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-4)


def test_masks_snap_to_the_edges_of_the_image(scene):
    truth, image, scores = scene
    before = (scores.argmax(0) == truth).mean()
    after = (refine(scores, image, Config()).argmax(0) == truth).mean()
    assert before < 0.9 and after > 0.96


def test_scores_of_zero_are_no_trouble(scene):
    _, image, scores = scene
    marginals = refine(np.where(scores > 0.5, scores, 0), image, Config())
    assert np.isfinite(marginals).all()
    assert marginals[2].max() < 1e-6


def test_more_iterations_and_weights_of_the_configuration_count(scene):
    _, image, scores = scene
    plain = refine(scores, image, Config())
    for change in ({"crf_iterations": 1}, {"crf_bilateral_compat": 1}, {"crf_gaussian_compat": 0},
                   {"crf_bilateral_srgb": 40}, {"crf_bilateral_sxy": 5}, {"crf_gaussian_sxy": 9}):
        assert np.abs(refine(scores, image, Config(**change)) - plain).max() > 1e-3, change


@pytest.mark.parametrize("crf", [False, True])
def test_only_allowed_classes_and_the_background_are_predicted(scene, rng, crf):
    _, image, _ = scene
    scores = rng.random((5, 60, 80)).astype(np.float32)
    mask, values = predict(Scored("a", image, scores), Config(classes=("bk", "a", "b", "c", "d")), crf, allowed=[3])
    assert set(np.unique(mask)) == {0, 3} and values.shape == (2, 60, 80)
    if not crf:
        limited = scores * np.array([1, 0, 0, 1, 0])[:, None, None]
        assert (mask == limited.argmax(0)).all()


def test_without_labels_all_is_background(scene, rng):
    _, image, _ = scene
    mask, _ = predict(Scored("a", image, rng.random((3, 60, 80)).astype(np.float32)), Config(), False, allowed=[])
    assert not mask.any()


@pytest.fixture
def crowd(scene, rng):
    """The scene with 18 more labels, of scores that vary over the image and are up to half of the best."""
    truth, image, scores = scene
    more = rng.random((18, 60, 80)) ** 8 * np.linspace(0.001, 0.16, 18)[:, None, None]
    scores = np.concatenate([scores[:2], more.astype(np.float32)])
    odds = (scores / scores.max(0)).reshape(20, -1).max(1)
    assert 0.25 < odds[2:].max() <= MINOR_ODDS
    return truth, image, scores


def test_minor_labels_change_no_more_than_a_few_pixels(crowd):
    _, image, scores = crowd
    found, full = refine(scores, image, Config()), refine(scores, image, Config(), minor_odds=0)
    assert (found.argmax(0) == full.argmax(0)).mean() >= 0.999
    assert 0 < np.abs(found - full).max() < 0.02
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


def test_minor_labels_keep_their_marginal_within_the_bound(crowd):
    """Without their message, the odds of a minor label fall by a factor between 1 and exp(sum of weights * share)."""
    _, image, scores = crowd
    config = Config(crf_iterations=1)
    found, full = refine(scores, image, config), refine(scores, image, config, minor_odds=0)
    weights = config.crf_gaussian_compat + config.crf_bilateral_compat
    for label in range(2, 20):
        lost = (full[label] / full[0]) / (found[label] / found[0])
        share = (scores[label] / scores.sum(0)).max()
        assert 0.999 < lost.min() and 1.0001 < lost.max() < np.exp(weights * share), label


def test_a_label_that_may_win_is_not_left_out(crowd):
    """With a patch where it leads, a label has the marginals of the whole mean field."""
    _, image, scores = crowd
    scores[5, 20:40, 30:50] = 2
    found, full = refine(scores, image, Config()), refine(scores, image, Config(), minor_odds=0)
    assert full[5].max() > 0.9 and np.abs(found[5] - full[5]).max() < 0.01


def test_scores_without_a_leader_go_through_the_whole_mean_field(scene, rng):
    _, image, _ = scene
    scores = (1 + 0.1 * rng.random((20, 60, 80))).astype(np.float32)
    np.testing.assert_array_equal(refine(scores, image, Config()), refine(scores, image, Config(), minor_odds=0))
