"""Mask estimation by the init model's scores."""
import collections
import dataclasses

import numpy as np
import pytest
from conftest import CPUS

from core.dataset.create import create_dataset
from core.dataset.samples import read_labels
from core.dataset.train_posteriors import Posteriors, write_posteriors
from core.errors import UserError
from core.inference import estimate_masks
from core.inference.estimate_masks import estimate_train_masks
from core.inference.options import InferenceOptions
from core.inference.pseudo_masks import estimate
from core.inference.segmenter import Segmenter, scored_images
from core.io.files import read_list
from core.io.images import read_mask, write_mask
from core.network.snapshots import load_snapshot, read_parameters, write_parameters
from core.paths import mask_path

pytestmark = pytest.mark.slow

CPU = CPUS[:1]


def test_logit_adjustment_divides_the_scores_by_the_prior_that_the_snapshot_records(untrained, sample):
    create_dataset(untrained, 1)
    layout = untrained.layout
    adjusted = dataclasses.replace(untrained, logit_adjustment=2.0)
    path = layout.snapshot("init", 2)
    with pytest.raises(UserError, match=f"{path} does not record"):
        estimate_train_masks(adjusted, 2, devices=CPU)
    prior = np.where(np.arange(untrained.num_classes) % 2, 0.01, 0.0)  # nothing is known of every other class
    prior[0] = 1 - prior.sum()
    write_parameters(path, read_parameters(path)._replace(class_prior=prior))
    factors = np.where(prior > 0, (prior / prior[0]) ** 2, 1)
    expected = {}
    for scored in scored_images(Segmenter(load_snapshot(untrained, "init", 2), CPU), read_list(layout.train_list),
                                folder=layout.train_images, options=InferenceOptions(untrained.scales)):
        allowed = sorted({0, *read_labels(layout.train_labels, [scored.name], untrained)[scored.name]})
        odds = scored.scores[allowed] / factors[allowed, None, None]
        expected[scored.name] = np.array(allowed)[np.maximum(odds, 1e-20).argmax(0)]  # as everywhere
    estimate_train_masks(adjusted, 2, devices=CPU)
    masks = {name: read_mask(mask_path(layout.train_masks, name), untrained.num_classes) for name in expected}
    assert all((masks[name] == expected[name]).mean() > 0.999 for name in expected)
    with pytest.raises(UserError, match="logit_adjustment"):
        estimate_train_masks(untrained, 2, devices=CPU)
    estimate_train_masks(untrained, 2, devices=CPU, overwrite=True)
    plain = {name: read_mask(mask_path(layout.train_masks, name), untrained.num_classes) for name in expected}
    assert sum((mask > 0).sum() for mask in masks.values()) > sum((mask > 0).sum() for mask in plain.values())


def test_a_class_that_the_model_misses_is_raised_to_its_share_by_cosegmentation(untrained, sample, monkeypatch):
    create_dataset(untrained, 1)
    layout = untrained.layout
    path = layout.snapshot("init", 2)
    write_parameters(path, read_parameters(path)._replace(class_prior=np.full(untrained.num_classes, 1.0)))
    names = read_list(layout.train_list)
    labels = read_labels(layout.train_labels, names, untrained)
    missed = labels[names[0]][0]  # which the co-segmentation gives nearly all of its images, and others hardly anything
    for name in names:
        shown = tuple(sorted(labels[name]))
        write_posteriors(layout.train_posteriors, name, Posteriors(
            shown, np.stack([np.full((4, 4), 0.99 if label == missed else 0.01) for label in shown])))
    priors = []

    def noted(scored, estimation):
        priors.append(estimation.prior)
        estimate(scored, estimation)
    monkeypatch.setattr(estimate_masks, "estimate", noted)
    config = dataclasses.replace(untrained, cosegmented_images="web+train", logit_adjustment=1.0)
    estimate_train_masks(config, 2, devices=CPU)
    assert priors[0][missed] < 0.5 and (np.delete(priors[0], missed) == 1).all()
    estimate_train_masks(dataclasses.replace(config, cosegmented_images="web"), 2, devices=CPU, overwrite=True)
    assert (priors[-1] == 1).all()


def test_the_log_says_how_many_masks_show_each_label(untrained, sample, caplog):
    create_dataset(untrained, 1)
    layout, classes = untrained.layout, untrained.classes
    labels = read_labels(layout.train_labels, read_list(layout.train_list), untrained)
    labelled = collections.Counter(label for values in labels.values() for label in values)
    first = {name: values[0] for name, values in labels.items() if values[0] != min(labelled)}
    shown = collections.Counter(first.values())
    estimate_train_masks(untrained, 2, devices=CPU)
    for name in labels:  # in masks of an earlier run, which this one takes as they are
        write_mask(mask_path(layout.train_masks, name), np.full((2, 2), first.get(name, 0), np.uint8))
    with caplog.at_level("INFO"):
        estimate_train_masks(untrained, 2, devices=CPU)
    counts = ", ".join(f"{classes[label]} {shown[label]} of {labelled[label]}" for label in sorted(labelled))
    assert "masks that show a label of their image: " + counts in caplog.messages
    lost = ", ".join(classes[label] for label in sorted(labelled) if not shown[label])
    assert lost and f"no mask shows {lost}, so training on them teaches nothing" in caplog.text
