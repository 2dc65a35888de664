"""export_onnx.py: the same masks without this code."""
import dataclasses
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from conftest import CPUS, ROOT, run_script, save_untrained
from make_sample import make_voc
from PIL import Image

from core.inference.onnx_export import OPSET, agreement, export, open_session
from core.inference.segmenter import Segmenter
from core.io.images import read_image
from core.network.fcn import BACKBONES
from core.network.snapshots import load_snapshot

SIZES = [(48, 64), (45, 61), (1, 1), (9, 200), (130, 97)]  # (h, w)


def segmenter(config, model):
    return Segmenter(load_snapshot(config, model, 2), CPUS[:1])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("model", ["init", "final"])
def test_any_size_gives_the_scores_and_masks_of_the_network(untrained, tmp_path, rng, model, backbone):
    if backbone != untrained.backbone:
        untrained = dataclasses.replace(untrained, backbone=backbone)
        save_untrained(untrained)
    export(load_snapshot(untrained, model, 2), str(tmp_path / "out.onnx"))
    session = open_session(str(tmp_path / "out.onnx"))
    network = segmenter(untrained, model)
    classes = set()
    for height, width in SIZES:
        image = cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (width, height))
        mask, scores = session.run(["mask", "scores"], {"image": image})
        expected = network.scores(image)
        assert mask.dtype == np.uint8 and scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        assert (mask == expected.argmax(0)).mean() > 0.999
        assert agreement(session, network, image) == ((mask == expected.argmax(0)).mean(),
                                                      np.abs(scores - expected).max())
        classes.update(np.unique(mask).tolist())
    assert len(classes) > 2


def test_the_file_says_what_it_is(untrained, tmp_path):
    path = str(tmp_path / "out.onnx")
    export(load_snapshot(untrained, "final", 2), path)
    content = open(path, "rb").read()
    export(load_snapshot(untrained, "final", 2), path)
    assert open(path, "rb").read() == content  # the same snapshot, the same bytes
    proto = onnx.load(path)
    assert [opset.version for opset in proto.opset_import] == [OPSET]
    properties = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(properties["classes"]) == list(untrained.classes)
    assert (properties["model"], properties["epoch"]) == ("final", "2") and len(properties["snapshot_sha256"]) == 64
    assert [dimension.dim_param for dimension in proto.graph.input[0].type.tensor_type.shape.dim][:2] == ["height",
                                                                                                         "width"]


@pytest.mark.slow
def test_pictures_are_checked_and_the_example_segments_one(untrained, tmp_path):
    make_voc(str(tmp_path), 0, 1, 1, 1)
    folder = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages"
    pictures = [str(folder / name) for name in sorted(os.listdir(str(folder)))[:2]]
    text = run_script(tmp_path, "export_onnx.py", "out.onnx", "--check", *pictures)
    shares = re.findall(r"([0-9.]+) % of the pixels agree", text)
    assert len(shares) == 2 and min(map(float, shares)) > 99.9 and "opset 13" in text  # rounding may decide a tie
    shown = subprocess.run([sys.executable, os.path.join(ROOT, "demo", "segment_with_onnx.py"),
                            str(tmp_path / "out.onnx"), pictures[0], str(tmp_path / "mask.png")],
                           stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    expected = segmenter(untrained, "final").scores(read_image(pictures[0])).argmax(0)
    mask = np.array(Image.open(str(tmp_path / "mask.png")))
    assert (mask == expected).mean() > 0.999
    label = int(mask[0, 0])
    assert f"{untrained.classes[label]} {100 * (mask == label).mean():.1f} %" in shown


@pytest.mark.slow
def test_a_mistake_leaves_no_file(untrained, tmp_path):
    snapshot = os.path.relpath(untrained.layout.snapshot("final", 2), str(tmp_path))
    before = (tmp_path / snapshot).read_bytes()
    for flags, message in ((("out.onnx", "--epoch", "7"), "epochs there: 2"),
                           (("out.onnx", "--check", "nix.jpg"), "nix.jpg can't be read"),
                           ((snapshot,), "the name must end in .onnx")):
        assert message in run_script(tmp_path, "export_onnx.py", *flags, status=2)
    assert not (tmp_path / "out.onnx").exists() and (tmp_path / snapshot).read_bytes() == before
