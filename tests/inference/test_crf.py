import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from crf import plain as published  # all labels in the mean field

import core.inference.mean_field
from core.config import Config
from core.errors import UserError
from core.inference.crf import crf_settings, largest_message, refine
from core.inference.mean_field import _kernels
from core.inference.permutohedral import add_filtered
from core.inference.postprocess import Scored, predict
from core.runtime.parallel import process_pool

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
    for minor_odds in (0, None):
        marginals = refine(scores, image, Config(), minor_odds)
        np.testing.assert_allclose(marginals, published(scores, image, Config()), atol=5e-3)


@needs_pydensecrf
def test_images_of_one_colour(rng):
    scores = rng.random((3, 30, 40)).astype(np.float32)
    image = np.full((30, 40, 3), 90, np.uint8)
    np.testing.assert_allclose(refine(scores, image, Config()), published(scores, image, Config()), atol=1e-3)


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
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(scores, before)


def test_scores_of_zero_are_no_trouble(scene):
    _, image, scores = scene
    marginals = refine(np.where(scores > 0.5, scores, 0), image, Config())
    assert np.isfinite(marginals).all()
    assert marginals[2].max() < 1e-6
    np.testing.assert_array_equal(refine(np.zeros_like(scores), image, Config()), np.float32(1 / 3))


def test_weights_far_beyond_the_published_ones_do_not_overflow(scene):
    _, image, scores = scene
    marginals = refine(scores, image, Config(crf_gaussian_compat=1000, crf_bilateral_compat=1000))
    np.testing.assert_allclose(marginals.sum(0), 1, atol=1e-4)


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


def test_without_labels_all_is_background(scene, rng):
    _, image, _ = scene
    mask, _ = predict(Scored("a", image, rng.random((3, 60, 80)).astype(np.float32)), Config(), False, allowed=[])
    assert not mask.any()


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


def test_messages_stay_below_the_bound(scene, rng):
    """The largest sum of a row over both kernels; images of noise, of slow changes and of two colours."""
    for image in (scene[1], textured(rng, (90, 110)), rng.integers(0, 256, (60, 70, 3)).astype(np.uint8)):
        size = image.shape[0] * image.shape[1]
        sums = np.zeros((size, 2), np.float32)
        for lattice, weight in _kernels(image, Config()):
            add_filtered(lattice, np.ones((size, 2), np.float32), weight, sums)
        assert 7 < sums.max() < largest_message(Config())


@needs_pydensecrf
def test_a_label_that_may_win_is_not_left_out(crowd):
    """With a patch where it leads, a label has the marginals of the whole mean field."""
    _, image, scores = crowd
    scores[5, 20:40, 30:50] = 2
    found, full = refine(scores, image, Config()), published(scores, image, Config())
    assert full[5].max() > 0.9 and np.abs(found[5] - full[5]).max() < 0.01


@needs_pydensecrf
def test_labels_that_fade_leave_the_mean_field(scene, rng, monkeypatch):
    """Labels that lead in single pixels at first, and nowhere once their neighbours have been heard."""
    channels = []

    def count(lattice, values, *rest):
        channels.append(values.shape[1])
        add_filtered(lattice, values, *rest)
    monkeypatch.setattr(core.inference.mean_field, "add_filtered", count)
    _, image, scores = scene
    spots = np.where(rng.random((6, 60, 80)) < 0.002, 1.5, 0.001).astype(np.float32)
    scores = np.concatenate([scores[:2], spots])
    found, full = refine(scores, image, Config()), published(scores, image, Config())
    assert channels[:4] == [4] * 4 and channels[-2:] == [2, 2]  # two groups of four with two kernels, then one of two
    assert np.unique(scores.argmax(0)).tolist() == list(range(8))
    assert (found.argmax(0) == full.argmax(0)).all() and np.abs(found - full).max() < 0.02


def test_unsure_scores_go_through_the_whole_mean_field(scene, rng):
    _, image, _ = scene
    scores = (1 + 0.1 * rng.random((20, 60, 80))).astype(np.float32)
    np.testing.assert_array_equal(refine(scores, image, Config()), refine(scores, image, Config(), 0))


def test_workers_find_the_same(scene):
    _, image, scores = scene
    with process_pool(2) as pool:
        found = list(pool.map(refine, [scores] * 3, [image] * 3, [Config()] * 3))
    for marginals in found:
        np.testing.assert_array_equal(marginals, refine(scores, image, Config()))


def test_neither_mxnet_nor_pydensecrf_is_imported():
    code = ("import sys, core.inference.mean_field, core.inference.postprocess; "
            "print(*{'mxnet', 'pydensecrf', 'numba'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0 and done.stdout.split() == ["numba"]


@needs_pydensecrf
def test_the_engine_may_be_pydensecrf(scene):
    _, image, scores = scene
    config = Config(crf_engine="pydensecrf")
    assert (refine(scores, image, config) != refine(scores, image, Config())).any()
    np.testing.assert_allclose(refine(scores, image, config), refine(scores, image, Config(), 0), atol=1e-3)


def test_an_engine_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pydensecrf2"):
        crf_settings(Config(crf_engine="pydensecrf"))
    assert "crf_engine" not in crf_settings(Config())  # results from before the setting keep counting


@needs_pydensecrf
def test_results_name_the_engine():
    assert crf_settings(Config(crf_engine="pydensecrf"))["crf_engine"] == "pydensecrf"
