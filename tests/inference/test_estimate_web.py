"""A trained model segments the web images again, and the init model trains on these masks."""
import dataclasses
import os

import numpy as np
import pytest
from conftest import CPUS, run_script, save_untrained

from core.dataset.samples import samples_record, web_samples
from core.errors import UserError
from core.inference.estimate_masks import estimate_train_masks
from core.io.files import read_bytes, read_list, write_bytes, write_lines
from core.io.images import read_mask, write_image, write_mask
from core.paths import image_path, mask_path
from core.web.corrections import add_decision

CPU = CPUS[:1]
LISTED = ["1_000000", "1_000001", "2_000000"]


@pytest.fixture
def ready(tiny, rng):
    """Config of four web images of two classes with masks, the last one not listed, and of snapshots of epoch 2."""
    config = dataclasses.replace(tiny, web_min_foreground=0.0, web_max_foreground=1.0, scales=(1.0,))
    layout = config.layout
    for name in LISTED + ["2_000001"]:
        write_image(image_path(layout.web_images, name), rng.integers(0, 256, (32, 40, 3)).astype(np.uint8))
        write_mask(mask_path(layout.web_masks, name), np.full((32, 40), int(name[0]), np.uint8))
    write_lines(layout.web_list, LISTED)
    save_untrained(config)
    return config


def estimate(config, model="init", **options):
    estimate_train_masks(config, 2, devices=CPU, model=model, images="web", **options)


def samples(config, web_masks):
    config = dataclasses.replace(config, web_masks=web_masks)
    return [(sample.name, os.path.basename(os.path.dirname(sample.mask)))
            for sample in web_samples(config)]


def test_listed_web_images_get_masks_of_their_class_beside_those_of_cosegmentation(ready):
    layout = ready.layout
    before = {name: read_bytes(mask_path(layout.web_masks, name)) for name in LISTED}
    estimate(ready)
    assert sorted(os.listdir(layout.web_estimated)) == [name + ".png" for name in LISTED]
    shown = [set(np.unique(read_mask(mask_path(layout.web_estimated, name), ready.num_classes))) for name in LISTED]
    assert all(labels <= {0, int(name[0])} for name, labels in zip(LISTED, shown)) and set.union(*shown) > {0}
    assert {name: read_bytes(mask_path(layout.web_masks, name)) for name in LISTED} == before
    assert not os.path.exists(layout.train_masks)


def test_the_setting_chooses_the_masks_that_train(ready):
    assert samples(ready, "cosegmented") == [(name, "web_labels") for name in LISTED]
    estimate(ready)
    assert samples(ready, "cosegmented") == [(name, "web_labels") for name in LISTED]
    assert samples(ready, "estimated") == [(name, "web_estimated") for name in LISTED]
    digests = set()
    for web_masks in ("cosegmented", "estimated"):
        config = dataclasses.replace(ready, web_masks=web_masks)
        digests.add(samples_record(web_samples(config))["masks_sha256"])
    assert len(digests) == 2, "a run on other masks can't be resumed"


def test_people_decide_on_estimated_masks_too(ready):
    layout = ready.layout
    estimate(ready)
    write_mask(mask_path(layout.web_corrected, "1_000000"), np.ones((32, 40), np.uint8))
    add_decision(layout, "1_000001", "reject")
    assert samples(ready, "estimated") == [("1_000000", "web_corrected"), ("2_000000", "web_estimated")]


def test_masks_without_the_usual_share_of_foreground_do_not_train(ready):
    layout = ready.layout
    estimate(ready)
    shares = [(read_mask(mask_path(layout.web_estimated, name), ready.num_classes) > 0).mean() for name in LISTED]
    for setting, least, most in (("web_min_foreground", max(shares), 1), ("web_max_foreground", 0, min(shares))):
        estimate(dataclasses.replace(ready, **{setting: least or most}))
        kept = [name for name, share in zip(LISTED, shares) if least <= share <= most]
        assert read_list(layout.web_estimated_list) == kept and 0 < len(samples(ready, "estimated")) < 3


def test_other_web_images_than_those_estimated_are_named(ready):
    layout = ready.layout
    with pytest.raises(UserError, match="web_estimated_list.txt is missing: run est_voc_train_masks.py --images web"):
        samples(ready, "estimated")
    estimate(ready)
    write_lines(layout.web_list, LISTED + ["2_000001"])
    with pytest.raises(UserError, match="web_estimated.2_000001.png is missing: run est_voc_train_masks.py --images w"):
        samples(ready, "estimated")
    write_lines(layout.web_list, LISTED)
    path = image_path(layout.web_images, "1_000000")
    write_bytes(path, read_bytes(path) + b"\0")
    with pytest.raises(UserError, match="1_000000.png is out of date: .*; run est_voc_train_masks.py --images web"):
        samples(ready, "estimated")


@pytest.mark.parametrize("folder", ["web_labels", "web_corrected"])
def test_masks_by_cosegmentation_and_corrections_are_not_written_over(ready, folder):
    with pytest.raises(UserError, match=f"{folder} holds .*: choose another --output"):
        estimate(ready, output=ready.path("dataset", folder), overwrite=True)


@pytest.mark.slow
def test_the_two_scripts_do_it(ready, tmp_path):
    flags = ("est_voc_train_masks.py", "--images", "web", "--epoch", "2", "--gpu", "cpu")
    assert "3 masks to estimate, 0 there already" in run_script(tmp_path, *flags)
    assert "0 masks to estimate, 3 there already" in run_script(tmp_path, *flags)
    write_lines(ready.layout.web_estimated_list, LISTED)
    text = run_script(tmp_path, "train_seg_model.py", "--model", "init", "--gpus", "cpu", "--web-masks", "estimated",
                      "--max-epoch", "2", "--epoch-size", "1")
    assert "3 training images for the init model" in text
