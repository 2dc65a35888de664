"""Regressions of cells, and the folds that keep an image apart from what judges it."""
import numpy as np
import pytest

from core.cosegmentation.cell_classifier import FOLDS, Moments, fold_of, predict


def labelled_cells(rng, count=24, classes=(3, 7), size=60):
    """Images of cells with (classes, fold, features, labels): the class's own direction marks its foreground."""
    found = []
    for number in range(count):
        index, labels = classes[number % len(classes)], rng.random(size) < 0.3
        features = rng.normal(size=(size, 9))
        features[:, 0] += 2
        features[labels, index] += 3
        features[:, 8] = 1
        found.append(((index,), number // len(classes) % FOLDS, features.astype(np.float32), labels))
    return found


def foreground_models(images):
    moments = Moments((classes, fold, features) for classes, fold, features, _ in images)
    return moments.fit_foreground([(classes, fold, features.T @ labels / len(labels))
                                   for classes, fold, features, labels in images])


def fitted(fit, images):
    if fit == "foreground":
        return foreground_models(images).weights
    return Moments(image[:3] for image in images).fit_classes().weights


def test_regressions_find_the_foreground_of_each_class(rng):
    images = labelled_cells(rng)
    models = foreground_models(images)
    for (index,), fold, features, labels in images:
        found = predict(models, fold, index, features)
        assert found[labels].mean() > found[~labels].mean() + 0.25
    expected = np.mean([features[:, :8].mean(0) for _, _, features, _ in images], 0)
    np.testing.assert_allclose(models.centre, expected, atol=1e-4)


def test_regression_is_the_weighted_ridge_of_its_definition(rng):
    images = [(classes, 0, features, labels) for classes, _, features, labels in labelled_cells(rng)]  # one fold only
    models = foreground_models(images)
    own = [part for part in images if part[0] == (3,)]
    others = [part for part in images if part[0] != (3,)]
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
    np.testing.assert_allclose(predict(models, 0, 3, features), expected, atol=1e-4)


@pytest.mark.parametrize("fit", ["classes", "foreground"])
def test_a_model_is_not_fitted_to_the_fold_that_it_judges(rng, fit):
    images = labelled_cells(rng)
    scale = np.append(np.full(8, 2), 1)
    changed = [(classes, fold, features * scale, ~labels) if fold == 1 else (classes, fold, features, labels)
               for classes, fold, features, labels in images]
    before, after = fitted(fit, images), fitted(fit, changed)
    assert (before[1] == after[1]).all() and not np.allclose(before[0], after[0])


@pytest.mark.parametrize("fit", ["classes", "foreground"])
def test_an_image_of_another_class_is_no_negative_of_a_class_that_it_shows_too(rng, fit):
    images = labelled_cells(rng)
    more = [((7, 3), fold, 5 * features, labels) for _, fold, features, labels in images[:6]]
    (before_3, before_7), (after_3, after_7) = (fitted(fit, part)[0] for part in (images, images + more))
    assert (before_3 == after_3).all() and not np.allclose(before_7, after_7)
    everywhere = [((7, 3) if classes == (7,) else classes, *rest) for classes, *rest in images]
    assert np.isfinite(fitted(fit, everywhere)).all(), "without any other image, they are all there is"


def test_a_class_that_no_image_had_is_predicted_as_the_mean_of_the_others(rng):
    models, features = foreground_models(labelled_cells(rng)), rng.normal(size=(4, 9)).astype(np.float32)
    expected = (predict(models, 0, 3, features) + predict(models, 0, 7, features)) / 2
    np.testing.assert_allclose(predict(models, 0, 5, features), expected, atol=1e-5)


def test_folds_depend_on_the_name_alone():
    folds = [fold_of("1_%06d" % number) for number in range(300)]
    assert all(60 < folds.count(fold) < 140 for fold in range(FOLDS))
    assert fold_of("1_000000") == folds[0]
