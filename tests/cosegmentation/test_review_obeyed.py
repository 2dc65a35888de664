"""Decisions of people and corrected masks go before the noise filter, in co-segmentation and in training."""
import csv
import os

import make_sample
import numpy as np
import pytest
from conftest import CPUS

from core.config import Config
from core.cosegmentation.cosegment import cosegment
from core.dataset.samples import web_samples
from core.errors import UserError
from core.io.files import read_list
from core.io.images import read_mask, write_image, write_mask
from core.paths import image_path, mask_path
from core.web.corrections import add_decision

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Config of co-segmented web images: 3 of each of two classes."""
    config = Config(root=str(tmp_path_factory.mktemp("reviewed")), classes=("background", "bus", "cat"), web_side=64)
    layout = config.layout
    for label in (1, 2):
        for number in range(1, 4):
            image, _ = make_sample.web_picture(np.random.default_rng((label, number)), config.classes[label])
            write_image(image_path(layout.web_images, f"{label}_{number:06d}"), image)
    cosegment(config, lambda _: CPUS[:1])
    return config


def rows(layout):
    with open(layout.web_report, newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_people_have_the_last_word(made):
    layout = made.layout
    corrected = np.full(read_mask(mask_path(layout.web_masks, "1_000002"), 3).shape, 1, np.uint8)
    write_mask(mask_path(layout.web_corrected, "1_000002"), corrected)
    write_mask(mask_path(layout.web_corrected, "1_000003"), corrected)
    add_decision(layout, "1_000001", "reject")
    add_decision(layout, "1_000003", "move", 2)
    add_decision(layout, "2_000001", "keep")

    names = [sample.name for sample in web_samples(made)]  # before the masks are made again
    assert "1_000001" not in names and "1_000003" not in names and "2_000001" in names
    assert [sample.mask for sample in web_samples(made) if sample.name == "1_000002"] == [
        mask_path(layout.web_corrected, "1_000002")]

    for overwrite in (False, True):
        cosegment(made, lambda _: CPUS[:1], overwrite=overwrite)
        found = rows(layout)
        assert set(found) == {"1_000001", "1_000002", "2_000001", "2_000002", "2_000003", "2_000004"}
        assert (found["1_000001"]["kept"], found["1_000001"]["reason"]) == ("0", "left out in the review")
        assert (found["1_000002"]["kept"], found["1_000002"]["mask"]) == ("1", "corrected")
        assert (found["2_000001"]["kept"], found["2_000001"]["mask"]) == ("1", "automatic")
        assert not os.path.exists(image_path(layout.web_images, "1_000003"))
        assert (read_mask(layout.web_mask("2_000004"), 3) == 2).all(), "the correction moves with its image"
        listed = read_list(layout.web_list)
        assert {"1_000002", "2_000001", "2_000004"} <= set(listed) and "1_000001" not in listed


def test_rejecting_all_leaves_nothing_to_train_on(made):
    layout = made.layout
    for name in rows(layout):
        add_decision(layout, name, "reject")
    with pytest.raises(UserError, match="web_decisions.csv leaves no image"):
        web_samples(made)
