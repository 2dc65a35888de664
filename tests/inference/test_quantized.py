"""--dtype int8: nearly the scores of float32, on what it is quantised, and what records say of it."""
import dataclasses
import json
import os
import sys

import cv2
import numpy as np
import pytest
from conftest import CPUS, run_script, save_untrained

import core.inference
from core.engines import chooser
from core.engines.devices import Device
from core.errors import UserError
from core.inference.segmenter import Segmenter, settled_dtype
from core.io.files import file_digest
from core.io.images import read_image, write_image
from core.network.fcn import BACKBONES
from core.network.snapshots import load_snapshot


@pytest.fixture
def pictures(tmp_path, rng):
    paths = [str(tmp_path / "pictures" / f"{number}.png") for number in range(12)]
    (tmp_path / "pictures").mkdir()
    for path in paths:
        write_image(path, cv2.resize(rng.integers(0, 255, (5, 7, 3), dtype=np.uint8), (61, 45)))
    return paths


def in_int8(config, model="final"):
    return load_snapshot(dataclasses.replace(config, dtype="int8"), model, 2)


@pytest.mark.parametrize("model, backbone", zip(("init", "final"), BACKBONES))
def test_scores_are_nearly_those_of_float32(untrained, pictures, model, backbone):
    pytest.importorskip("openvino")
    from core.inference.quantized import quantised_path
    if backbone != untrained.backbone:
        untrained = dataclasses.replace(untrained, backbone=backbone)
        save_untrained(untrained)
    snapshot = in_int8(untrained, model)
    dtype = settled_dtype(snapshot, CPUS[:1], pictures)
    assert dtype == f"int8 {file_digest(quantised_path(snapshot))[:8]}"
    assert settled_dtype(snapshot, CPUS[:1], []) == dtype  # it is there already
    plain, low = ([Segmenter(snapshot, CPUS[:1], name).scores(read_image(pictures[0]), scales)
                   for scales in ((1.0,), (0.7, 1.3))] for name in ("float32", dtype))
    for expected, scores in zip(plain, low):
        difference = np.abs(scores - expected)
        assert expected.std() > 0.01 and scores.dtype == np.float32 and 1e-5 < difference.max()
        assert difference.mean() < 0.3 * expected.std()


def test_training_images_are_what_it_is_quantised_on_and_a_few_pictures_do_not_do(untrained, pictures):
    pytest.importorskip("openvino")
    from core.inference import quantized
    snapshot = in_int8(untrained)
    assert quantized.calibration(snapshot, pictures)[0] == pictures
    assert len(set(quantized.calibration(snapshot, list(map(str, range(1000))))[0])) == quantized.IMAGES
    with pytest.raises(UserError, match="name 10 pictures or more"):
        settled_dtype(snapshot, CPUS[:1], pictures[:9])
    layout = untrained.layout
    os.makedirs(os.path.dirname(layout.train_list), exist_ok=True)
    with open(layout.train_list, "w", encoding="utf-8") as file:
        file.writelines(f"t{number}\n" for number in range(11))
    chosen, source = quantized.calibration(snapshot, pictures)
    assert chosen == [os.path.join(layout.train_images, f"t{number}.jpg") for number in range(11)]
    assert layout.train_images in source


def test_a_missing_package_is_named_with_the_command_that_installs_it(untrained, monkeypatch):
    monkeypatch.delitem(sys.modules, "core.inference.quantized", raising=False)
    monkeypatch.delattr(core.inference, "quantized", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino.*pip install -r export-dependencies.txt"):
        settled_dtype(in_int8(untrained), CPUS[:1], [])


@pytest.mark.parametrize("flags, told", [({"avx2"}, True), ({"avx2", "avx_vnni"}, False), ({"avx512_vnni"}, False)])
def test_a_cpu_without_vnni_is_told_that_it_does_not_pay(monkeypatch, caplog, flags, told):
    monkeypatch.setattr(chooser.logger, "propagate", True)
    monkeypatch.setattr(chooser, "cpu_flags", lambda: flags)
    caplog.set_level("INFO", chooser.logger.name)
    assert chooser.resolve_dtype("int8", CPUS[:1]) == "int8"
    assert ("does not pay" in caplog.text) == told
    with pytest.raises(UserError, match="int8 is for CPUs"):
        chooser.resolve_dtype("int8", [Device("mxnet", "gpu")])


@pytest.mark.slow
def test_results_in_int8_are_not_taken_for_those_in_float32(untrained, tmp_path, pictures):
    pytest.importorskip("openvino")

    def predict(*flags):
        text = run_script(tmp_path, "predict.py", "pictures", "--gpu", "cpu", *flags)
        with open(os.path.join(untrained.layout.predictions, "predictions.json"), encoding="utf-8") as file:
            return text, json.load(file)["settings"].get("dtype")

    text, dtype = predict("--dtype", "int8")
    assert "quantising the network on 12 of the pictures at hand" in text and dtype.startswith("int8 ")
    text, dtype = predict("--dtype", "float32")
    assert dtype is None and "there already" not in text
    text = run_script(tmp_path, "export_onnx.py", "out.onnx", "--dtype", "int8", "--check", pictures[0])
    assert "is quantised already" in text and "% of the pixels agree" in text
    assert file_digest(str(tmp_path / "out.onnx")) in [
        file_digest(str(path)) for path in (tmp_path / "cache" / "int8").glob("final_*.onnx")]
