"""The method from end to end, on a few drawn pictures and networks of a few thousand parameters: a test for each of its
claims. `chain` runs the stages in their order; each reads only what those before it have written."""
import dataclasses
import os

import make_sample
import numpy as np
import pytest
from conftest import CPUS, TINY

from core.config import Config
from core.cosegmentation.cosegment import cosegment
from core.cosegmentation.evaluate_masks import evaluate_web_masks
from core.dataset.create import create_dataset
from core.dataset.samples import read_labels, train_images, web_samples
from core.evaluation.evaluate import evaluate, evaluation_options
from core.inference.estimate_masks import estimate_train_masks
from core.inference.options import InferenceOptions
from core.inference.segmenter import Segmenter, scored_images
from core.io.files import read_lines
from core.io.images import read_mask
from core.network.snapshots import load_snapshot
from core.paths import mask_path, stems
from core.training.train import train

pytestmark = pytest.mark.slow
CPU = CPUS[:1]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Config of a folder in which the whole chain has run."""
    folder = tmp_path_factory.mktemp("method")
    config = Config(root=str(folder), web_min_likeness=0.0, logit_adjustment=1.0,
                    **TINY)
    make_sample.make_web(str(folder / "dataset"), 0, 3, str(folder / "truth"), noise=0, empty=0)
    make_sample.make_voc(str(folder / "dataset"), 0, 3, 3, 3)

    cosegment(config, lambda _: CPU)
    create_dataset(config, 1)
    for path in masks_of(config, read_lines(config.layout.train_list)):
        os.remove(path)  # before anything is trained
    train(config, "init", devices=CPU)
    estimate_train_masks(config, 2, devices=CPU)
    train(config, "final", devices=CPU)
    return config


def masks_of(config, names):
    """Files below dataset/ that hold a mask of one of the images."""
    return [os.path.join(folder, file) for folder, _, files in os.walk(config.path("dataset")) for file in files
            if os.path.splitext(file)[0] in names and file.endswith((".png", ".mat"))]


def read_masks(config, folder, names):
    return [read_mask(mask_path(folder, name), config.num_classes) for name in names]


def test_co_segmentation_finds_the_objects_of_web_images_from_the_images_alone(chain):
    names = sorted(stems(chain.path("truth"), ".png"))
    found = evaluate_web_masks(chain, chain.path("truth"))["mean"][1]
    everything = np.mean([(mask > 0).mean() for mask in read_masks(chain, chain.path("truth"), names)])
    assert found > everything + 0.1  # the Jaccard index of masks that call every pixel foreground


def test_the_init_model_learns_from_web_images_and_their_masks_only(chain):
    samples = web_samples(chain)
    assert [sample.name for sample in samples] == read_lines(chain.layout.web_list)
    assert {os.path.dirname(sample.image) for sample in samples} == {chain.layout.web_images}
    for sample in samples:
        assert set(np.unique(read_mask(sample.mask, chain.num_classes))) <= {0, sample.label, 255}


def test_of_the_training_masks_only_the_labels_of_the_images_stay(chain):
    names = read_lines(chain.layout.train_list)
    labels = read_labels(chain.layout.train_labels, names, chain)
    assert len(names) == 6 and all(labels[name] for name in names)
    assert not masks_of(chain, names)


def test_pseudo_masks_show_the_labels_of_their_image_alone(chain):
    images = train_images(chain)
    labels = read_labels(chain.layout.train_labels, images.names, chain)
    masks = read_masks(chain, images.masks, images.names)
    assert all(set(np.unique(mask)) <= {0, *labels[name]} for name, mask in zip(images.names, masks))
    assert any(mask.any() for mask in masks)


def test_what_the_global_branch_says_of_the_image_holds_for_every_pixel(chain):
    snapshot = load_snapshot(chain, "final", 2)
    names = read_lines(chain.layout.val_list)[:1]
    args, aux = snapshot.parameters
    bias = args["g_score_bias"] - 50 * (np.arange(chain.num_classes) == 3)  # the image shows no bird, it is sure
    without = dataclasses.replace(snapshot, parameters=({**args, "g_score_bias": bias}, aux))
    before, after = (next(scored_images(Segmenter(network, CPU), names, folder=chain.layout.val_images,
                                        options=InferenceOptions((1.0,)))).scores for network in (snapshot, without))
    expected = before * (np.arange(chain.num_classes) != 3)[:, None, None]
    expected *= before.sum(0) / expected.sum(0)
    np.testing.assert_allclose(after, expected, atol=1e-3)  # upsampling comes after the softmax


def test_the_final_model_is_evaluated_at_several_scales_and_with_a_dense_crf(chain):
    plain, refined = (evaluate(chain, "final", epoch=2, devices=CPU, options=evaluation_options(
        chain, "final", epoch=2, ms=flag, crf=flag, save_masks=True, output=chain.path(f"outputs/{flag}")))
        for flag in (False, True))
    assert 0 < refined["mean_iou"] < 1 and plain["confusion"] != refined["confusion"]
