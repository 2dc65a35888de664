import importlib.util
import math

import numpy as np
import pytest
from crf import plain as published  # all labels in the mean field

from core.config import Config
from core.errors import UserError
from core.inference.crf import crf_settings, largest_message, refine
from core.inference.postprocess import Scored, predict

needs_pydensecrf = pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None,
                                      reason="pydensecrf2, the reference, is not installed")
SETTINGS = ({}, {"crf_iterations": 1}, {"crf_bilateral_compat": 1}, {"crf_gaussian_compat": 0},
            {"crf_bilateral_compat": 0}, {"crf_bilateral_srgb": 40}, {"crf_bilateral_sxy": 5}, {"crf_gaussian_sxy": 9})


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


def textured(rng, size):
    """Image whose colours drift and are noisy, so that its lattice has many points."""
    drift = np.linspace(0, 200, size[0] * size[1]).reshape(size)[..., None]
    return np.clip(drift + rng.normal(20, 12, size + (3,)), 0, 255).astype(np.uint8)


def test_masks_snap_to_the_edges_of_the_image(scene):
    truth, image, scores = scene
    before = (scores.argmax(0) == truth).mean()
    after = (refine(scores, image, Config()).argmax(0) == truth).mean()
    assert before < 0.9 and after > 0.96


@needs_pydensecrf
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_marginals_are_those_of_pydensecrf(scene, settings):
    _, image, scores = scene
    config = Config(**settings)
    np.testing.assert_allclose(refine(scores, image, config, 0), published(scores, image, config), atol=1e-3)


@needs_pydensecrf
@pytest.mark.parametrize("labels, size", [(1, (6, 7)), (2, (1, 1)), (2, (1, 40)), (3, (50, 1)), (4, (40, 50)),
                                          (5, (40, 50)), (21, (40, 50)), (41, (20, 30)), (3, (120, 150))])
def test_any_number_of_labels_and_size(rng, labels, size):
    image = textured(rng, size)
    scores = rng.random((labels,) + size).astype(np.float32) ** 3
    for picture, minor_odds in ((image, 0), (image, None), (np.full_like(image, 90), 0)):
        marginals = refine(scores, picture, Config(), minor_odds)
        np.testing.assert_allclose(marginals, published(scores, picture, Config()), atol=5e-3)


def test_scores_need_not_add_up_to_one_nor_lie_in_order(scene):
    _, image, scores = scene
    expected = refine(scores, image, Config())
    np.testing.assert_allclose(refine(1000 * scores, image, Config()), expected, atol=1e-4)
    last = np.ascontiguousarray(scores.transpose(1, 2, 0)).transpose(2, 0, 1)
    flipped = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(refine(last.astype(np.float64), flipped, Config()), expected)


def test_the_input_is_kept_and_the_result_is_the_same_each_time(scene):
    _, image, scores = scene
    before = scores.copy()
    first, second = refine(scores, image, Config()), refine(scores, image, Config())
    assert first.shape == scores.shape and first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(scores, before)


def test_scores_of_zero_are_no_trouble(scene):
    _, image, scores = scene
    marginals = refine(np.where(scores > 0.5, scores, 0), image, Config())
    assert np.isfinite(marginals).all()
    assert marginals[2].max() < 1e-6
    np.testing.assert_array_equal(refine(np.zeros_like(scores), image, Config()), np.float32(1 / 3))


def test_more_iterations_and_weights_of_the_configuration_count(scene):
    _, image, scores = scene
    plain = refine(scores, image, Config())
    for change in SETTINGS[1:]:
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
        assert not predict(Scored("a", image, scores), Config(), crf, allowed=[])[0].any()


@pytest.fixture
def crowd(scene, rng):
    """The scene with 18 more labels, of scores that vary over the image, are a few hundredths and minor by a hair."""
    truth, image, scores = scene
    more = rng.random((18, 60, 80)) ** 2
    odds = np.linspace(0.05, 0.999, 18) / (math.e * largest_message(Config()))
    more *= (odds / (more / scores.max(0)).reshape(18, -1).max(1))[:, None, None]
    return truth, image, np.concatenate([scores[:2], more.astype(np.float32)])


@needs_pydensecrf
def test_minor_labels_change_no_pixel(crowd):
    _, image, scores = crowd
    found, full = refine(scores, image, Config()), published(scores, image, Config())
    assert (found.argmax(0) == full.argmax(0)).all()
    assert np.abs(found - full).max() < 0.01
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-4)


@needs_pydensecrf
@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_marginals_of_minor_labels_stay_below_the_bound(scene, rng, iterations):
    """The hardest case: the best label changes from pixel to pixel, so that only the minor one's messages agree."""
    _, image, _ = scene
    config = Config(crf_iterations=iterations)
    bound = 1 / largest_message(config)
    scores = np.full((8,) + image.shape[:2], 1e-4, np.float32)
    np.put_along_axis(scores, rng.integers(1, 8, (1,) + image.shape[:2]), 1, 0)
    scores[0] = 0.5
    assert (published(scores, image, Config()).argmax(0) == 0).mean() > 0.9  # it would win with odds of a half
    scores[0] = bound / math.e
    full, found = published(scores, image, config), refine(scores, image, config)
    assert (full[0] / full.max(0)).max() <= bound
    assert (full.argmax(0) == found.argmax(0)).mean() >= 0.999
    lost = (full[0] / full[1:].max(0)) / (found[0] / found[1:].max(0))
    assert 1.0001 < lost.max() < math.e


@needs_pydensecrf
def test_a_label_that_may_win_is_not_left_out(crowd):
    """With a patch where it leads, a label has the marginals of the whole mean field."""
    _, image, scores = crowd
    scores[5, 20:40, 30:50] = 2
    found, full = refine(scores, image, Config()), published(scores, image, Config())
    assert full[5].max() > 0.9 and np.abs(found[5] - full[5]).max() < 0.01


def test_unsure_scores_go_through_the_whole_mean_field(scene, rng):
    _, image, _ = scene
    scores = (1 + 0.1 * rng.random((20, 60, 80))).astype(np.float32)
    np.testing.assert_array_equal(refine(scores, image, Config()), refine(scores, image, Config(), 0))


@needs_pydensecrf
def test_the_engine_may_be_pydensecrf(scene):
    _, image, scores = scene
    config = Config(crf_engine="pydensecrf")
    assert crf_settings(config)["crf_engine"] == "pydensecrf"
    assert (refine(scores, image, config) != refine(scores, image, Config())).any()
    np.testing.assert_allclose(refine(scores, image, config), refine(scores, image, Config(), 0), atol=1e-3)


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        crf_settings(Config(crf_engine="pydensecrf"))
    assert "crf_engine" not in crf_settings(Config())
