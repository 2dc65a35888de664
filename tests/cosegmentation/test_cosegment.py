"""Co-segmentation of web images: parts, the whole stage, resuming, many processes, a cluster."""
import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import make_sample
import numpy as np
import pytest
import scipy.linalg
from conftest import CPUS, ROOT, TINY
from web_masks import beside, draw_web_images, masks

from core.config import Config
from core.cosegmentation import by_regions
from core.cosegmentation import cosegment as stage
from core.cosegmentation.by_regions import agreement
from core.cosegmentation.descriptors import Local, describe_foregrounds, hog_windows, pooled, second_order
from core.cosegmentation.evaluate_masks import evaluate_web_masks, precision_and_jaccard
from core.cosegmentation.grabcut import cut_box, cut_prior
from core.cosegmentation.noise_filter import fit_check, likeness, log_odds, other_classes, unjudged_classes
from core.cosegmentation.region_classifier import FOLDS, Sample, fit, fold_of, predict, relative
from core.cosegmentation.region_features import region_cues
from core.cosegmentation.results import decide, sample_names
from core.cosegmentation.saliency import ColourGraph, boundary_connectivity, geodesic_saliency, manifold_ranking
from core.cosegmentation.superpixels import Regions
from core.errors import UserError
from core.io.files import read_bytes, read_lines, write_bytes, write_json, write_lines
from core.io.images import read_mask, write_image, write_mask
from core.io.locks import locked
from core.network import imagenet_weights
from core.paths import folder_lock
from core.runtime import task_pool as task_pool_module
from core.runtime.parallel import ordered_map
from core.runtime.task_pool import task_pool

SETTINGS = {"web_side": 96, "web_regions": 80, "web_rounds": 2, "web_min_score": 0.3}


def disc_image(height=90, width=120, radius=25):
    """A red disc on green, with noise; and its mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    mask = np.hypot(y - height / 2, x - width / 2) < radius
    image = np.where(mask[..., None], (200, 40, 40), (60, 140, 70)) + rng.normal(0, 8, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


@pytest.fixture(autouse=True)
def hog_by_default(monkeypatch):
    monkeypatch.setattr(stage, "weights_path", lambda: None)


@pytest.fixture
def web(tmp_path):
    """Config of a folder with 4 images of each of 3 classes, and their exact masks in truth/."""
    draw_web_images(tmp_path)
    return Config(root=str(tmp_path), **SETTINGS)


def report(config):
    with open(config.path("dataset", "web_report.csv"), newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def command(config, *flags):
    settings = [os.path.join(config.root, "settings.json")]
    with open(settings[0], "w") as file:
        json.dump(dict({key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()},
                       **SETTINGS), file)
    return [sys.executable, os.path.join(ROOT, "create_web_masks.py"), "--config", settings[0], "--root", config.root,
            "--features", "hog", *flags]


def test_regions_cover_the_image_and_follow_its_edges():
    image, mask = disc_image()
    regions = Regions(image, 120, 100)
    assert sorted(np.unique(regions.labels)) == list(range(regions.count)) and 40 < regions.count < 160
    inside = regions.mean(mask)
    assert (np.minimum(inside, 1 - inside) * regions.area).sum() < 0.02 * mask.size
    assert (regions.boundary == regions.boundary.T).all() and (regions.boundary.sum(1) > 0).all()
    assert (regions.border.sum(0) > 0).sum() == len(np.unique(np.concatenate(
        [regions.labels[0], regions.labels[-1], regions.labels[:, 0], regions.labels[:, -1]])))


def test_small_images_are_not_enlarged_and_get_fewer_regions():
    image, _ = disc_image(40, 50, 10)
    regions = Regions(image, 288, 300)
    assert regions.labels.shape == (40, 50) and regions.count <= 60


def test_stored_superpixels_give_the_same_regions():
    image, _ = disc_image()
    first = Regions(image, 120, 100)
    again = Regions(image, 120, 100, first.labels.astype(np.uint16))
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(again, name)), name
    merged = Regions(image, 120, 100, first.labels // 2)
    assert merged.count == (first.count + 1) // 2


def test_every_saliency_is_higher_on_an_object_that_differs_from_the_border():
    image, mask = disc_image()
    regions = Regions(image, 120, 100)
    graph = ColourGraph(regions)
    inside, outside = regions.mean(mask) > 0.9, regions.mean(mask) < 0.1
    connectivity, contrast, robust, _ = boundary_connectivity(graph)
    colour, edges, sides = geodesic_saliency(graph)
    for values in (-connectivity, contrast, robust, colour, edges, sides[:, 0], *manifold_ranking(graph)):
        assert values[inside].mean() > values[outside].mean() + 0.5
    assert region_cues(regions)[1][inside].min() > region_cues(regions)[1][outside].max()


@pytest.mark.parametrize("image", [np.full((40, 60, 3), 128, np.uint8), np.zeros((9, 200, 3), np.uint8),
                                   np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)])
def test_plain_tiny_and_noisy_images_have_finite_features(image):
    regions = Regions(image, 96, 80)
    features, prior, _ = region_cues(regions)
    assert np.isfinite(features).all() and np.isfinite(prior).all() and np.isfinite(hog_windows(regions)).all()
    assert np.isfinite(describe_foregrounds(regions, np.stack([prior, np.zeros_like(prior)]), "hog", None)).all()


def test_cuts_find_a_disc():
    image, mask = disc_image()
    assert precision_and_jaccard(mask, cut_box(image, 0.1), True)[1] > 0.9
    rough = np.full(mask.shape, 0.2, np.float32)
    rough[35:55, 50:70] = 0.9
    assert precision_and_jaccard(mask, cut_prior(image, rough, 0.5), True)[1] > 0.9
    assert not cut_prior(image, np.zeros(mask.shape, np.float32), 0.5).any()


def test_second_order_pooling_sees_the_foreground_alone():
    rng = np.random.default_rng(0)
    stripes = np.broadcast_to((np.arange(120) // 4 % 2 * 160 + 40)[:, None], (120, 120)).astype(np.uint8)

    def picture(object_, background):
        image = np.repeat(background[..., None], 3, 2).copy()
        image[:, 60:] = object_[:, 60:, None]
        regions = Regions(image, 120, 150)
        return describe_foregrounds(regions, np.stack([regions.x > 0.1, regions.x < -0.1]), "hog", None)

    noise = rng.integers(0, 256, (120, 120), dtype=np.uint8)
    plain = np.full((120, 120), 90, np.uint8)
    striped, before_noise, turned = picture(stripes, plain), picture(stripes, noise), picture(stripes.T, plain)
    assert striped.shape == (2, 1770)
    np.testing.assert_allclose(np.linalg.norm(striped, axis=1), 1, rtol=1e-5)
    same = striped[0] @ before_noise[0]
    assert 1 - same < (1 - striped[0] @ turned[0]) / 2 and 1 - same < (1 - striped[0] @ striped[1]) / 2


def test_second_order_pooling_is_the_logarithm_of_the_weighted_covariance():
    image, mask = disc_image()
    regions = Regions(image, 120, 100)
    labels, local = regions.mean(mask), Local(regions)
    weights = np.maximum(labels[local.region], 1e-3)
    weights /= weights.sum()
    place = local.place - weights @ local.place
    place = 0.14 * place / (np.sqrt(weights @ place ** 2) + 0.02)
    points = [np.concatenate([one, local.colour, place], 1) for one in local.gradients]
    covariance = sum(one.T @ np.diag(weights) @ one for one in points) / 3 + 1e-3 * np.eye(59)
    logarithm = scipy.linalg.logm(covariance)
    found = np.zeros((59, 59))
    found[np.triu_indices(59)] = second_order(local, labels)
    found[~np.eye(59, dtype=bool)] /= 2 ** 0.5
    np.testing.assert_allclose(found + np.triu(found, 1).T, logarithm / np.linalg.norm(logarithm), atol=1e-5)


def test_foregrounds_of_activations_are_their_weighted_means():
    image, _ = disc_image()
    regions = Regions(image, 120, 100)
    descriptors = np.random.default_rng(0).normal(size=(regions.count, 5)).astype(np.float32)
    one = np.zeros((1, regions.count))
    one[0, 3] = 1
    found = describe_foregrounds(regions, np.concatenate([one, np.ones_like(one)]), "resnet", descriptors)
    assert found[0] @ descriptors[3] / np.linalg.norm(descriptors[3]) > 0.9
    mean = regions.area @ descriptors
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-5)


def test_hog_windows_do_not_change_with_the_light():
    image, _ = disc_image()
    strong = hog_windows(Regions(image, 120, 100))
    assert strong.shape[1] == 756
    turned = hog_windows(Regions(np.ascontiguousarray(image[:, ::-1]), 120, 100))
    assert turned.shape[1] == 756 and not np.allclose(strong[:20], turned[:20])


def test_activations_are_averaged_over_the_regions():
    image, mask = disc_image()
    regions = Regions(image, 120, 100)
    height, width = 12, 15
    across = np.tile(np.linspace(0, 1, width) ** 2, (height, 1))
    found = pooled(np.stack([across, np.ones((height, width))]).astype(np.float16), regions)
    assert found.shape == (regions.count, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 1], 1, atol=1e-5)
    column = np.clip((np.arange(120) + 0.5) * width / 120 - 0.5, 0, width - 1)  # cells are areas, not points
    pixels = np.interp(column, np.arange(width), across[0].astype(np.float16))
    expected = [np.broadcast_to(pixels, (90, 120))[regions.labels == index].mean() for index in range(regions.count)]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hog", "resnet"])
def test_a_model_is_not_fitted_to_the_labels_of_the_images_it_judges(kind):
    rng = np.random.default_rng(0)
    rows = 900
    sample = Sample(rng.normal(size=(rows, 5)).astype(np.float32), rng.normal(size=(rows, 6)).astype(np.float32),
                    rng.random(rows).astype(np.float32), np.ones(rows, np.float32), rng.integers(1, 3, rows),
                    np.arange(rows) % FOLDS)
    models = fit(sample, 0, kind)
    for fold in range(FOLDS):
        own = sample.folds == fold
        changed = fit(sample._replace(labels=np.where(own, 1 - sample.labels, sample.labels)), 0, kind)[fold]
        for index in (1, 2):
            before, after, other = (predict(model, sample.features, sample.descriptors, index)
                                    for model in (models[fold], changed, models[(fold + 1) % FOLDS]))
            assert (before == after).all() and not np.allclose(before, other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hog", "resnet"])
def test_descriptors_tell_a_class_from_the_background_of_all(kind):
    rng = np.random.default_rng(0)
    rows = 1200
    classes = rng.integers(1, 3, rows)
    labels = (rng.random(rows) < 0.3).astype(np.float32)
    descriptors = rng.normal(size=(rows, 6)).astype(np.float32)
    descriptors[np.arange(rows), classes] += 3 * labels
    sample = Sample(np.zeros((rows, 2), np.float32), descriptors, labels, np.ones(rows, np.float32), classes,
                    np.arange(rows) % FOLDS)
    model = fit(sample, 0, kind)[0]
    own = (sample.folds == 0) & (classes == 1)
    found = predict(model, sample.features[own], descriptors[own], 1)
    assert found[labels[own] == 1].mean() > found[labels[own] == 0].mean() + 0.4


def test_activations_are_told_apart_by_ridge_regression_with_a_share_of_the_other_classes():
    rng = np.random.default_rng(0)
    rows = 300
    classes = np.repeat([4, 9], [100, 200])
    sample = Sample(np.zeros((rows, 1), np.float32), rng.normal(1, 2, (rows, 3)).astype(np.float32),
                    rng.random(rows).astype(np.float32), rng.random(rows).astype(np.float32), classes,
                    np.zeros(rows, int))
    weights = sample.weights.astype(float)
    per_class = {index: weights * (classes == index) / weights[classes == index].sum() for index in (4, 9)}
    both = (per_class[4] + per_class[9]) / 2
    model = fit(sample, 0, "resnet")[0]  # of one fold only, which is therefore its own
    for index, own in {**per_class, 7: both}.items():  # 7 is not in the sample
        share = 0.7 * own + 0.3 * both
        points = sample.descriptors - share @ sample.descriptors.astype(float)
        target = (sample.labels > 0.6) - share @ (sample.labels > 0.6)
        covariance = points.T @ (points * share[:, None])
        ridge = 0.5 * np.trace(covariance) / 3 * np.eye(3)
        direction = np.linalg.solve(covariance + ridge, points.T @ (share * target))
        expected = np.clip(points @ direction + share @ (sample.labels > 0.6), 0, 1)
        np.testing.assert_allclose(predict(model, sample.features, sample.descriptors, index), expected, atol=1e-4)


def test_relative_labels_bring_small_objects_to_one():
    labels = np.full(100, 0.1)
    labels[:3] = 0.4
    np.testing.assert_allclose(relative(labels)[:3], 1)
    np.testing.assert_allclose(relative(labels)[3:], 0.25)


def test_folds_depend_on_the_name_alone():
    folds = [fold_of("1_%06d" % number) for number in range(300)]
    assert all(60 < folds.count(fold) < 140 for fold in range(FOLDS))
    assert fold_of("1_000000") == folds[0]


def test_the_sample_is_bounded_and_stays_when_images_come():
    few = sample_names(["%d_%03d" % (index, number) for index in (1, 2) for number in range(50)], 10)
    assert len(few) == 20 and sum(name.startswith("1_") for name in few) == 10
    assert few == sample_names(sorted(few) + [name for name in few[::-1] if name not in few], 10)


def test_decision_between_foreground_uncertain_and_background():
    posterior = np.array([[0.9, 0.61], [0.52, 0.1]], np.float32)
    assert decide(posterior, Config()).tolist() == [[1, 1], [255, 0]]


def test_agreement_is_high_where_cut_and_labels_find_the_same():
    image, mask = disc_image()
    regions = Regions(image, 120, 100)
    right = np.where(regions.mean(mask) > 0.5, 0.9, 0.1)
    wrong = np.where(regions.x < -0.5, 0.9, 0.1)
    assert agreement(regions, right, right, Config()) > 0.9
    assert agreement(regions, right, wrong, Config()) < 0.6
    assert agreement(regions, np.zeros(regions.count), right, Config()) == 0


def test_precision_and_jaccard_by_hand():
    truth = np.array([[7, 7, 0, 255]])
    assert precision_and_jaccard(truth, np.array([[7, 0, 255, 7]]), 7) == (pytest.approx(2 / 3), 0.5)
    assert precision_and_jaccard(truth * 0, np.zeros((1, 4), int), 7) == (1, 1)


def test_evaluation_reports_what_the_list_keeps_and_leaves_out(tmp_path, caplog):
    config = Config(root=str(tmp_path))
    half, empty = np.repeat([[8, 0]], 2, 0).astype(np.uint8), np.zeros((2, 2), np.uint8)
    for name, truth, mask in (("8_a", half, half), ("8_b", half, half | 8), ("8_c", empty, half),
                              ("8_d", half // 8, empty)):  # d shows class 1 and not 8
        write_mask(config.path("truth", name + ".png"), truth)
        write_mask(config.path("dataset", "web_labels", name + ".png"), mask)
    write_lines(config.path("dataset", "web_train_list.txt"), ["8_a", "8_c"])
    with caplog.at_level("INFO"):
        assert evaluate_web_masks(config, config.path("truth"))["mean"] == (pytest.approx(0.75), pytest.approx(0.625))
    assert "2 of 4 images are on" in caplog.text and "P 75.0  J 50.0" in caplog.text
    assert "left out: 1 of the 2 images that show their class, 1 of the 2 that don't" in caplog.text


def test_true_masks_that_hold_no_class_but_1_are_binary(tmp_path):
    config = Config(root=str(tmp_path))
    write_mask(config.path("truth", "8_a.png"), np.array([[1, 255, 0]], np.uint8))
    write_mask(config.path("masks", "8_a.png"), np.array([[8, 8, 8]], np.uint8))
    assert evaluate_web_masks(config, config.path("truth"), config.path("masks"))["cat"] == (0.5, 0.5)


@pytest.mark.parametrize("truth, message", [
    (np.array([[255, 255, 0]], np.uint8), "no mask in .*truth shows the class of its image: .* 255 is not counted"),
    (np.array([[8], [8]], np.uint8), "truth/8_a.png is 1 x 2 pixels, .*masks/8_a.png 3 x 1: one of them"),
])
def test_true_masks_that_can_not_be_compared_are_reported(tmp_path, truth, message):
    config = Config(root=str(tmp_path))
    write_mask(config.path("truth", "8_a.png"), truth)
    write_mask(config.path("masks", "8_a.png"), np.array([[8, 8, 8]], np.uint8))
    with pytest.raises(UserError, match=message):
        evaluate_web_masks(config, config.path("truth"), config.path("masks"))


@pytest.mark.slow
def test_the_stage_finds_the_objects(web):
    found = stage.cosegment(web)
    assert len(masks(web)) == 12
    scores = evaluate_web_masks(web, os.path.join(web.root, "truth"))
    assert scores["mean"][1] > 0.6 and scores["mean"][0] > 0.85
    for name in masks(web):
        values = set(np.unique(read_mask(web.path("dataset", "web_labels", name), 21)).tolist())
        assert values <= {0, int(name.split("_")[0]), 255}
    assert read_lines(web.path("dataset", "web_train_list.txt")) == [result.name for result in found if result.kept]
    assert set(os.listdir(web.path("dataset", "web_sheets"))) == {"bus.jpg", "cat.jpg", "bottle.jpg"}


@pytest.mark.slow
def test_noise_is_left_out_with_its_reason_and_still_has_a_mask(web):
    bad = os.path.join(web.root, "dataset", "web_images", "6_000009.jpg")
    with open(bad, "wb") as file:
        file.write(b"no picture")
    picky = Config(root=web.root, **dict(SETTINGS, web_min_score=0.97))
    found = stage.cosegment(picky)
    rows = report(picky)
    assert len(rows) == 13 and len(masks(picky)) == 12
    for name, row in rows.items():
        unsure = name != "6_000009" and float(row["score"]) < 0.97
        assert (row["reason"] == "score below 0.97") == unsure and (row["kept"] == "0") == (row["reason"] != "")
    assert len({row["kept"] for row in rows.values()}) == 2
    assert rows["6_000009"]["reason"].startswith("unreadable") and "6_000009.png" not in masks(picky)
    assert read_lines(picky.path("dataset", "web_train_list.txt")) == [result.name for result in found if result.kept]


@pytest.mark.slow
def test_images_of_another_class_are_left_out(tmp_path):
    wrong = ("6_000003", "8_000007")
    for index, name in ((6, "bus"), (8, "cat"), (5, "bottle")):
        for number in range(24):
            stem = "%d_%06d" % (index, number)
            shown = {"6_000003": "bottle", "8_000007": "bus"}.get(stem, name)
            image, _ = make_sample.web_picture(np.random.default_rng((9, index, number)), shown)
            write_image(str(tmp_path / "dataset" / "web_images" / (stem + ".jpg")), image)
    settings = dict(SETTINGS, web_rounds=0)
    results = stage.cosegment(Config(root=str(tmp_path), **settings))
    unlike = {result.name for result in results if "unlike" in result.reason}
    assert unlike >= set(wrong) and len(unlike) <= 2 + 10
    kept = stage.cosegment(Config(root=str(tmp_path), web_min_likeness=0, **settings), overwrite=True)
    assert not any("unlike" in result.reason for result in kept) and len(kept) == 72


def test_likeness_is_a_probability_and_certain_where_too_few_tell():
    rng = np.random.default_rng(0)
    classes, folds = np.repeat([3, 7], 30), np.arange(60) % FOLDS
    descriptors = (rng.normal(size=(60, 5)) + np.where(classes == 3, 2, -2)[:, None]).astype(np.float32)
    check = fit_check(descriptors, classes, folds)
    own = [likeness(check, 0, descriptors[row], 3) for row in range(60)]
    other = [likeness(check, 0, descriptors[row], 7) for row in range(60)]
    np.testing.assert_allclose(np.add(own, other), 1, atol=1e-5)
    assert min(own[:30]) > 0.9 and max(own[30:]) < 0.1
    assert likeness(check, 0, descriptors[0], 5) == 1
    few = fit_check(descriptors[20:45], classes[20:45], folds[20:45])
    assert likeness(few, 0, descriptors[0], 7) == 1 and log_odds(few, 0, descriptors, 7) is None
    assert unjudged_classes(few) == [3, 7] and unjudged_classes(check) == []


def test_odds_are_against_an_average_other_class():
    classes, folds = np.repeat([2, 3, 7], 30), np.arange(90) % FOLDS
    descriptors = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    check = fit_check(descriptors, classes, folds)
    scores = np.exp(descriptors @ check["weights"][1].T + check["offsets"][1])
    expected = np.log(scores[:, 1] / scores[:, [0, 2]].mean(1))
    np.testing.assert_allclose(log_odds(check, 1, descriptors, 3), expected, rtol=1e-4, atol=1e-4)
    check["weights"][:], check["offsets"][:] = 0, 0
    assert likeness(check, 1, descriptors[0], 3) == pytest.approx(0.5)


def mixed_up(count, share, seed=0):
    """Descriptors of four classes, the classes that they are labelled with, folds, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    true = np.repeat([1, 2, 5, 6], count)
    descriptors = rng.normal(size=(4, 40))[np.searchsorted([1, 2, 5, 6], true)] + rng.normal(size=(4 * count, 40))
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)
    labelled = np.where(rng.random(4 * count) < share, rng.permutation(true), true)
    return descriptors, labelled, rng.integers(0, FOLDS, 4 * count), labelled != true


def unlike(check, descriptors, classes, folds):
    return np.array([likeness(check, *image) < 0.5 for image in zip(folds, descriptors, classes)])


def test_later_passes_learn_without_the_wrong_images():
    descriptors, classes, folds, wrong = mixed_up(60, 0.4)
    once, often = (unlike(fit_check(descriptors, classes, folds, passes), descriptors, classes, folds)
                   for passes in (1, 3))
    assert often[wrong].mean() > once[wrong].mean() + 0.05 and often[wrong].mean() > 0.9
    assert often[~wrong].mean() < once[~wrong].mean() / 2 and often[~wrong].mean() < 0.05


def test_later_passes_leave_out_no_class():
    descriptors, classes, _, _ = mixed_up(20, 0.0)
    descriptors[60:] = descriptors[:60:3]  # what is labelled 6 shows another class
    folds = np.arange(80) // 4 % FOLDS
    once, twice = (fit_check(descriptors, classes, folds, passes) for passes in (1, 2))
    assert unlike(once, descriptors, classes, folds)[60:].mean() > 0.9
    assert twice["classes"].tolist() == [1, 2, 5, 6] and unjudged_classes(twice) == []


def test_other_classes_are_those_of_a_part_of_the_image():
    descriptors, classes, folds, _ = mixed_up(60, 0.0)
    check = fit_check(descriptors, classes, folds)
    own, other = (descriptors[(classes == index) & (folds == 0)] for index in (2, 6))
    assert other_classes(check, 0, np.concatenate([own[:10]] * 3 + [other[:6]]), 2) == [6]
    assert other_classes(check, 0, np.concatenate([own[:10]] * 20 + [other[:6]]), 2) == []
    assert other_classes(check, 0, other, 6) == []
    few = fit_check(descriptors[:70], classes[:70], folds[:70])
    assert other_classes(few, 0, other, 2) == []


def test_a_run_that_keeps_nothing_says_so(web):
    with pytest.raises(UserError, match="no web image is kept"):
        stage.cosegment(Config(root=web.root, **dict(SETTINGS, web_max_foreground=0.01)))
    assert all(row["reason"].startswith("foreground of") for row in report(web).values()) and len(masks(web)) == 12
    assert not os.path.exists(web.path("dataset", "web_train_list.txt"))


def test_the_same_seed_gives_the_same_masks_with_any_number_of_processes(web):
    stage.cosegment(web)
    first = masks(web)
    stage.cosegment(web, jobs=2, overwrite=True)
    assert masks(web) == first


def test_finished_work_stays_and_new_images_are_judged(web):
    stage.cosegment(web)
    first = masks(web)
    before = {path: os.stat(path).st_mtime_ns for path in files(web.path("cache", "web_masks"))}
    os.remove(web.path("dataset", "web_labels", "6_000001.png"))
    image, _ = make_sample.web_picture(np.random.default_rng(77), "bus")
    write_image(web.path("dataset", "web_images", "6_000004.jpg"), image)
    stage.cosegment(web)
    assert {name: content for name, content in masks(web).items() if name in first} == first
    assert "6_000004.png" in masks(web)
    changed = [path for path, when in before.items() if os.stat(path).st_mtime_ns != when]
    assert sorted(os.path.basename(path) for path in changed) == ["6_000001.json", "origin.json"]


def files(folder):
    return [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names
            if not name.startswith(".")]


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_run_resumes_to_the_same_masks(web):
    whole = beside(web)
    stage.cosegment(whole)
    run = subprocess.Popen(command(web, "--jobs", "1"), stdout=subprocess.DEVNULL)
    wait_for(lambda: count(web.path("cache", "web_masks", "regions")) >= 3)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert 3 <= count(web.path("cache", "web_masks", "regions")) < 12
    assert not os.path.exists(web.path("dataset", "web_labels"))
    kept = {path: os.stat(path).st_mtime_ns for path in files(web.path("cache", "web_masks", "regions"))}
    stage.cosegment(web)
    assert masks(web) == masks(whole)
    assert all(os.stat(path).st_mtime_ns == when for path, when in kept.items())


def count(folder):
    return len([name for name in os.listdir(folder) if not name.startswith(".")]) if os.path.isdir(folder) else 0


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_other_settings_and_strange_masks_are_not_mixed_in(web):
    write_mask(web.path("dataset", "web_labels", "6_000000.png"), np.zeros((4, 4)))
    with pytest.raises(UserError, match="web_labels are not in the record .*pass --overwrite"):
        stage.cosegment(web)
    stage.cosegment(web, overwrite=True)
    for changed, message in (({"web_min_score": 0.1}, "web_min_score was 0.3 and is 0.1 now"),
                             ({"seed": 1}, "seed was 0 and is 1 now")):
        with pytest.raises(UserError, match="other settings: " + message):
            stage.cosegment(Config(root=web.root, **dict(SETTINGS, **changed)))
    first = masks(web)
    stage.cosegment(Config(root=web.root, **dict(SETTINGS, web_rate=9.0, web_sampling="balanced")))
    assert masks(web) == first, "settings of other stages"


def test_what_was_made_of_an_image_that_changed_is_made_again(web):
    stage.cosegment(web)
    first = masks(web)
    images, results = web.path("dataset", "web_images"), web.path("cache", "web_masks", "results")
    before = {name: os.stat(os.path.join(results, name)).st_mtime_ns for name in os.listdir(results)}
    other = os.path.join(images, "6_000001.jpg")
    write_image(other, make_sample.web_picture(np.random.default_rng(78), "bus")[0])
    os.utime(os.path.join(images, "6_000002.jpg"))
    with open(os.path.join(images, "6_000003.jpg"), "wb"):
        pass
    stage.cosegment(web)
    again = {name for name, when in before.items() if os.stat(os.path.join(results, name)).st_mtime_ns != when}
    assert again == {"6_000001.json", "6_000003.json"} and report(web)["6_000003"]["reason"].startswith("unreadable")
    assert {name for name, mask in masks(web).items() if first[name] != mask} == {"6_000001.png"}
    assert "6_000003.png" not in masks(web)
    write_image(os.path.join(images, "6_000003.jpg"), make_sample.web_picture(np.random.default_rng(79), "bus")[0])
    stage.cosegment(web)
    assert "unreadable" not in report(web)["6_000003"]["reason"] and len(masks(web)) == 12


def test_an_image_replaced_by_one_of_the_same_size_and_time_counts_as_changed(web):
    images = web.path("dataset", "web_images")
    paths = [os.path.join(images, "6_00000%d.jpg" % number) for number in (1, 2)]
    longest = max(map(os.path.getsize, paths))
    for path in paths:
        write_bytes(path, read_bytes(path).ljust(longest, b"\0"))
        os.utime(path, (10 ** 9, 10 ** 9))
    stage.cosegment(web)
    first = masks(web)
    shutil.copy2(paths[1], paths[0])
    stage.cosegment(web)
    assert {name for name, mask in masks(web).items() if first[name] != mask} == {"6_000001.png"}


def test_a_cache_of_an_earlier_version_is_refused_and_can_be_overwritten(web):
    stage.cosegment(web)
    write_json(web.path("cache", "web_masks", "origin.json"), {"settings": {"seed": 0}, "features": "hog", "format": 4})
    with pytest.raises(UserError, match="web_labels were made by another version of this program: pass --overwrite"):
        stage.cosegment(web)
    stage.cosegment(web, overwrite=True)
    stage.cosegment(web)


@pytest.mark.kill
def test_overwriting_empties_a_linked_cache_and_resumes_when_killed(web, monkeypatch):
    os.makedirs(web.path("elsewhere"))
    os.makedirs(web.path("cache"))
    os.symlink(web.path("elsewhere"), web.path("cache", "web_masks"))
    stage.cosegment(web)
    old = os.stat(web.path("elsewhere", "round1.npz")).st_mtime_ns

    def killed(*args):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(by_regions, "fit", killed)
        stage.cosegment(web, overwrite=True)
    assert not os.path.exists(web.path("elsewhere", "round1.npz"))
    regions = {path: os.stat(path).st_mtime_ns for path in files(web.path("elsewhere", "regions"))}
    assert len(regions) == 12
    stage.cosegment(web, overwrite=True)
    assert all(os.stat(path).st_mtime_ns == when for path, when in regions.items()), "the same command resumes"
    assert os.stat(web.path("elsewhere", "round1.npz")).st_mtime_ns != old
    stage.cosegment(web, overwrite=True)
    assert all(os.stat(path).st_mtime_ns != when for path, when in regions.items()), "and then starts from scratch"


def test_nothing_is_lost_to_an_overwriting_that_can_not_begin(web):
    stage.cosegment(web)
    first = {path: os.stat(path).st_mtime_ns for path in files(web.path("cache"))}
    write_bytes(web.path("models", "resnet50.params"), b"damaged")
    with pytest.raises(UserError, match="resnet50.params"):
        stage.cosegment(web, overwrite=True, device=lambda: None)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        stage.cosegment(web, scheduler="tcp://127.0.0.1:9", features="hog", overwrite=True)
    with locked(folder_lock(web.path("cache", "web_masks")), "this test"), pytest.raises(UserError, match="under way"):
        stage.cosegment(web, features="hog", overwrite=True)
    assert {path: os.stat(path).st_mtime_ns for path in files(web.path("cache"))} == first


def test_damaged_caches_and_pipes_are_named(web):
    stage.cosegment(web)
    path = web.path("cache", "web_masks", "regions", "6_000001.npz")
    content = read_bytes(path)
    for damaged in (b"", content[:len(content) // 2], content[:-30] + bytes(30), b"PK\x03\x04" + content[9:]):
        write_bytes(path, damaged)
        os.remove(web.path("dataset", "web_labels", "6_000001.png"))
        with pytest.raises(UserError, match="6_000001.npz is damaged: remove it"):
            stage.cosegment(web)
        write_mask(web.path("dataset", "web_labels", "6_000001.png"), np.zeros((4, 4)))
    os.mkfifo(web.path("dataset", "web_images", "6_000009.jpg"))
    with pytest.raises(UserError, match="6_000009.jpg is no regular file"):
        stage.cosegment(web)


@pytest.mark.parametrize("size, count", [((1, 1, 3), 1), ((120, 140, 3), 2)])
def test_images_whose_regions_are_all_alike_get_masks(web, size, count):
    config = Config(root=os.path.join(web.root, "black"), **SETTINGS)
    for number in range(count):
        write_image(config.path("dataset", "web_images", "6_%d.jpg" % number), np.zeros(size, np.uint8))
    with contextlib.suppress(UserError):  # whether they count as noise
        stage.cosegment(config)
    assert len(masks(config)) == len(report(config)) == count


@pytest.mark.parametrize("flags, message", [
    (("--features", "resnet"), "resnet50.params is missing"),
    (("--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler answers"),
    (("--scheduler", "nonsense"), "--scheduler nonsense is not an address"),
    (("--web-threshold", "0.2"), "setting web_uncertain is 0.5"),
])
def test_mistakes_end_in_one_line(web, flags, message):
    done = subprocess.run(command(web, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_names_without_class_and_empty_folders_are_reported(tmp_path):
    config = Config(root=str(tmp_path))
    with pytest.raises(UserError, match="holds no .jpg"):
        stage.cosegment(config)
    write_image(config.path("dataset", "web_images", "bus1.jpg"), disc_image()[0])
    with pytest.raises(UserError, match="bus1: its name must start"):
        stage.cosegment(config)


def test_a_cluster_that_loses_a_worker_makes_the_same_masks(web):
    alone = beside(web)
    stage.cosegment(alone)
    with cluster(web.root, "first", "second") as (scheduler, processes):
        run = subprocess.Popen(command(web, "--scheduler", scheduler), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, universal_newlines=True)
        processes.append(run)
        wait_for(lambda: count(web.path("cache", "web_masks", "regions")) >= 2 or run.poll() is not None)
        processes[1].send_signal(signal.SIGKILL)
        assert count(web.path("cache", "web_masks", "regions")) < 12
        _, errors = run.communicate(timeout=200)
        assert run.returncode == 0, errors
    assert masks(web) == masks(alone)


def test_workers_of_a_cluster_need_the_maps_and_models_but_not_the_network(web, tmp_path, monkeypatch):
    """With the default feature set: masks as of local processes, and one line for a worker that lacks a file."""
    pytest.importorskip("core.runtime.mxnet_backend")
    from core.cosegmentation import by_cells, imagenet_maps
    monkeypatch.setattr(stage, "weights_path", imagenet_weights.weights_path)
    monkeypatch.setattr(imagenet_maps, "_SIDE", 160)
    for number in range(2, 4):
        for index in (5, 6, 8):
            os.remove(web.path("dataset", "web_images", f"{index}_{number:06d}.jpg"))
    web, options = dataclasses.replace(web, web_min_score=0.0), {"device": lambda: CPUS[0]}
    alone = beside(web)
    stage.cosegment(alone, jobs=2, **options)
    assert stage.feature_set(web)[0] == "imagenet"
    (tmp_path / "shadow").mkdir()
    for module in ("mxnet", "torch", imagenet_weights._MODULE):
        (tmp_path / "shadow" / (module + ".py")).write_text("raise ImportError('lost')")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "shadow"), os.path.abspath(ROOT)])}
    with cluster(web.root, "first", "second", environment=environment) as (scheduler, _):
        monkeypatch.chdir(web.root)  # the workers run elsewhere
        here = dataclasses.replace(web, root=".")
        stage.cosegment(here, scheduler=scheduler, **options)
        assert len(masks(web)) == 6 and masks(web) == masks(alone)

        monkeypatch.setattr(by_cells, "_learn", lambda *_: None)  # the models were there when the run began
        os.remove(web.path("dataset", "web_labels", "6_000000.png"))
        os.remove(web.path("cache", "web_masks", "cells2.npz"))
        with pytest.raises(UserError, match="cells2.npz can't be read: No such file or directory$"):
            stage.cosegment(here, scheduler=scheduler, **options)
        with pytest.raises(UserError, match="/nowhere is not there for tcp://.*: the workers need the data"), \
                task_pool(1, scheduler, "/nowhere"):
            pass


def test_a_cluster_that_can_not_work_ends_the_run(web, monkeypatch, capfd):
    monkeypatch.setattr(task_pool_module, "_PATIENCE", 10)
    ready = os.path.join(web.root, "ready")
    with cluster(web.root) as (scheduler, processes):
        with pytest.raises(UserError, match="has no workers"), task_pool(1, scheduler, web.root):
            pass
        processes.append(start_dask(WORKER, scheduler, ready, environment={}))
        wait_for(lambda: os.path.exists(ready))
        with pytest.raises(UserError, match="can't run this project"), task_pool(1, scheduler, web.root):
            pass
        for victim, message in ((1, "or all of its workers, are gone"), (0, "the Dask scheduler at .* are gone")):
            processes[1].kill()
            os.remove(ready)
            processes[1] = start_dask(WORKER, scheduler, ready)
            wait_for(lambda: os.path.exists(ready))
            with pytest.raises(UserError, match=message), task_pool(1, scheduler, web.root) as pool:
                for _ in ordered_map(time.sleep, [0, 0, 90], pool.executor):
                    processes[victim].kill()
        assert "Traceback" not in capfd.readouterr().err


SCHEDULER = """
import asyncio, os, sys
from distributed import Scheduler
async def main():
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=None) as scheduler:
        open(sys.argv[1] + ".new", "w").write(scheduler.address)
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        await scheduler.finished()
asyncio.run(main())
"""
WORKER = """
import asyncio, sys
from distributed import Worker
async def main():
    async with Worker(sys.argv[1], nthreads=1, dashboard=False) as worker:
        open(sys.argv[2], "w").close()
        await worker.finished()
asyncio.run(main())
"""


@contextlib.contextmanager
def cluster(folder, *workers, environment=None):
    """A Dask scheduler, and workers of these names: its address, and the processes, the scheduler's first."""
    address = os.path.join(folder, "address")
    processes = [start_dask(SCHEDULER, address)]
    try:
        wait_for(lambda: os.path.exists(address))
        with open(address) as file:
            scheduler = file.read()
        ready = [os.path.join(folder, name) for name in workers]
        processes += [start_dask(WORKER, scheduler, path, environment=environment) for path in ready]
        wait_for(lambda: all(map(os.path.exists, ready)))
        yield scheduler, processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_dask(code, *arguments, environment=None):
    if environment is None:
        environment = {"PYTHONPATH": os.path.abspath(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=dict(os.environ, **environment), cwd="/",
                            stderr=subprocess.DEVNULL)


def test_activations_of_random_weights_replace_hog(web, tmp_path):
    mx = pytest.importorskip("core.runtime.mxnet_backend").mx
    from core.network import resnet
    from core.network.symbols import SymbolOperations
    config = Config(root=web.root, **dict(SETTINGS, **TINY))
    symbol = resnet.activations(SymbolOperations(), config)
    shapes, _, aux = symbol.infer_shape(data=(1, 3, 64, 64))
    values = {"arg:" + name: mx.nd.random.normal(0, 0.1, shape) for name, shape in
              zip(symbol.list_arguments(), shapes) if name != "data"}
    values.update(("aux:" + name, mx.nd.ones(shape)) for name, shape in zip(symbol.list_auxiliary_states(), aux))
    os.makedirs(config.path("models"))
    mx.nd.save(config.path("models", "resnet50.params"), values)
    assert stage.feature_set(config)[0] == "resnet"
    stage.cosegment(config, device=lambda: CPUS[0])
    folder = config.path("cache", "web_masks", "activations")
    image, _ = make_sample.web_picture(np.random.default_rng((9, 6, 0)), "bus")
    scale = 96 / max(image.shape[:2])
    found = np.load(os.path.join(folder, "6_000000.npy"))
    assert found.shape == (256, -(-round(image.shape[0] * scale) // 8), -(-round(image.shape[1] * scale) // 8))
    assert np.isfinite(found).all() and found.std() > 0
    assert evaluate_web_masks(config, os.path.join(web.root, "truth"))["mean"][1] > 0.5
    with pytest.raises(UserError, match="features was resnet and is hog now"):
        stage.cosegment(web, features="hog")


def test_a_base_model_of_another_network_is_refused(web):
    mx = pytest.importorskip("core.runtime.mxnet_backend").mx
    os.makedirs(web.path("models"))
    mx.nd.save(web.path("models", "resnet50.params"), {"arg:conv1_weight": mx.nd.ones((2, 2))})
    with pytest.raises(UserError, match="conv1_weight has shape .*, the ResNet-50 base model wants"):
        stage.cosegment(web, device=lambda: CPUS[0])


def test_evaluation_names_a_missing_mask(web):
    with pytest.raises(UserError, match="can't be read"):
        evaluate_web_masks(web, os.path.join(web.root, "truth"))
