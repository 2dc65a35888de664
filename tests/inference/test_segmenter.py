import dataclasses
import re

import cv2
import numpy as np
import pytest
import reference
from conftest import CPUS
from networks import SMALL, random_parameters

from core.config import Config
from core.engines.chooser import resolve_dtype
from core.engines.devices import Device
from core.engines.mxnet import backend
from core.engines.mxnet.backend import mx
from core.engines.mxnet.network import Network, inference_symbol, unsafe_convolutions
from core.errors import UserError
from core.inference.segmenter import Segmenter, branch_scores, prepare
from core.inference.upsampling import combine_scales
from core.network.snapshots import Snapshot
from core.runtime import hardware
from core.runtime.hardware import cpu_flags


def snapshot(model, rng, **settings):
    config = Config(**{**SMALL, "units": (1, 1, 1, 1), **settings})
    parts = random_parameters(model, config, rng)
    parts[0]["conv1_weight"] /= 50  # pixels are not of unit size
    return Snapshot(config, model, 0, tuple({name: value.astype(np.float32) for name, value in part.items()}
                                            for part in parts), "")


def picture(rng):
    """A smooth one, of 45 x 61 pixels: no multiples of 8."""
    return cv2.resize(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8), (61, 45), interpolation=cv2.INTER_CUBIC)


def deconvolve(data):
    """Upsampling by 2 with the bilinear kernel of size 4, stride 2, padding 1, for (channels, h, w)."""
    kernel = np.array([0.25, 0.75, 0.75, 0.25])
    channels, height, width = data.shape
    result = np.zeros((channels, 2 * height + 2, 2 * width + 2))
    for y in range(height):
        for x in range(width):
            result[:, 2 * y:2 * y + 4, 2 * x:2 * x + 4] += data[:, y, x, None, None] * np.outer(kernel, kernel)
    return result[:, 1:-1, 1:-1]


def upsample(data, scaled, size):
    """The published steps, one by one."""
    data = deconvolve(deconvolve(deconvolve(data)))[:, :scaled[0], :scaled[1]]
    return np.stack([cv2.resize(channel, (size[1], size[0]), interpolation=cv2.INTER_LINEAR) for channel in data])


def segment(network, image, scales, model):
    """The published inference of one image, by the second implementation of the network."""
    height, width = image.shape[:2]
    total = np.zeros((4, height, width))
    for scale in scales:
        scaled = int(height * scale), int(width * scale)
        resized = cv2.resize(image, (scaled[1], scaled[0]), interpolation=cv2.INTER_LINEAR)
        data = np.zeros((1, 3, -(-scaled[0] // 8) * 8, -(-scaled[1] // 8) * 8))
        data[0, :, :scaled[0], :scaled[1]] = (resized - np.array((123.0, 117, 104))).transpose(2, 0, 1)
        total += upsample(network.probabilities(data, model)[0], scaled, (height, width))
    return total


@pytest.mark.parametrize("size, scale", [((37, 50), 1.0), ((37, 50), 0.7), ((37, 50), 1.3), ((8, 8), 1.0),
                                         ((1, 1), 1.0), ((5, 90), 0.7)])
def test_upsampling_equals_deconvolution_crop_and_resize(rng, size, scale):
    scaled = tuple(max(1, int(side * scale)) for side in size)
    data = rng.random((3, -(-scaled[0] // 8), -(-scaled[1] // 8))).astype(np.float32)
    np.testing.assert_allclose(combine_scales([data], [scaled], size), upsample(data, scaled, size), atol=1e-5)


def test_input_is_rgb_minus_the_mean_and_zero_where_padded(rng):
    image = rng.integers(0, 255, (13, 21, 3), dtype=np.uint8)
    data = prepare(image, (13, 21), (123.0, 117.0, 104.0))
    assert data.shape == (3, 16, 24) and data.dtype == np.float32
    np.testing.assert_array_equal(data[:, :13, :21], image.transpose(2, 0, 1) - np.array([[[123.0]], [[117]], [[104]]]))
    assert not data[:, 13:].any() and not data[:, :, 21:].any()


@pytest.mark.parametrize("model", ["init", "final"])
@pytest.mark.parametrize("scales", [(1.0,), (0.7, 1.0, 1.3), (1.5,)])  # 45 * 1.5 pixels are rounded down
def test_scores_equal_the_published_steps(rng, model, scales):
    trained, image = snapshot(model, rng), picture(rng)
    expected = segment(reference.Network(*trained.parameters), image, scales, model)
    assert expected.std() > 0.05
    np.testing.assert_allclose(Segmenter(trained, CPUS[:1]).scores(image, scales), expected, atol=1e-4)


def test_the_branches_of_the_final_model_together_give_its_scores(rng):
    trained = snapshot("final", rng)
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)  # one cell
    cells, image_level = branch_scores(trained, image, CPUS[0])
    assert cells.shape == (4, 8, 8) and image_level.shape == (4,)
    joint = cells * (image_level / (1 - image_level))[:, None, None]  # exp(cell logit + image-level logit)
    scores = Segmenter(trained, CPUS[:1]).scores(image)
    np.testing.assert_allclose(joint / joint.sum(0), scores / scores.sum(0), rtol=1e-3)  # upsampling fades the border
    assert np.abs(cells / cells.sum(0) - scores / scores.sum(0)).max() > 0.01


@pytest.mark.slow
def test_several_devices_and_shapes_give_scores_in_order(rng):
    trained = snapshot("init", rng)
    images = [rng.integers(0, 255, (20 + 8 * (k % 3), 30 + 7 * k, 3), dtype=np.uint8) for k in range(12)]
    alone = Segmenter(trained, CPUS[:1])
    expected = [alone.scores(image) for image in images]
    found = list(Segmenter(trained, CPUS[:2]).scores_of(images))
    assert len(found) == 12
    for a, b in zip(expected, found):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.skipif("avx512bw" not in cpu_flags(), reason="this CPU computes no bfloat16")
@pytest.mark.parametrize("model", ["init", "final"])
def test_bfloat16_scores_are_those_of_float32_but_for_rounding(rng, model):
    trained, image = snapshot(model, rng, width=16, head_channels=16), cv2.resize(picture(rng), (77, 60))
    assert not unsafe_convolutions(inference_symbol(model, trained.config, folded=True), (1, 3, 64, 80))
    plain, low = (Segmenter(trained, CPUS[:1], dtype).scores(image) for dtype in ("float32", "bfloat16"))
    assert plain.std() > 0.05 and low.dtype == np.float32
    difference = np.abs(plain - low)
    assert 1e-4 < difference.max() and difference.mean() < 0.02
    assert (plain.argmax(0) == low.argmax(0)).mean() > 0.97


def test_types_that_a_device_lacks_are_refused_and_auto_is_float32(monkeypatch):
    cpu, gpu = CPUS[:1], [Device("mxnet", "gpu")]
    assert resolve_dtype("auto", cpu) == resolve_dtype("auto", gpu) == resolve_dtype("float32", cpu) == "float32"
    assert resolve_dtype("float16", gpu) == "float16"
    for dtype, devices in (("float16", cpu), ("bfloat16", gpu), ("tf32", gpu)):
        with pytest.raises(UserError, match="choose float32 or"):
            resolve_dtype(dtype, devices)
    monkeypatch.setattr(backend, "cpu_flags", lambda: {"avx2"})
    with pytest.raises(UserError, match="AVX-512"):
        resolve_dtype("bfloat16", cpu)
    monkeypatch.setattr(backend, "cpu_flags", lambda: {"avx512bw", "avx512_bf16"})
    assert resolve_dtype("bfloat16", cpu) == "bfloat16"
    with pytest.raises(UserError, match="bfloat16 is for ResNet-50"):
        resolve_dtype("bfloat16", cpu, backbone="efficientnet_lite2")


@pytest.mark.parametrize("has_amx, vendor, fast", [(False, "GenuineIntel", False), (True, "GenuineIntel", True),
                                                   (False, "AuthenticAMD", True)])
def test_only_prediction_on_a_cpu_where_it_is_faster_chooses_bfloat16_by_itself(monkeypatch, caplog, has_amx, vendor,
                                                                                fast):
    monkeypatch.setattr(backend.logger, "propagate", True)
    caplog.set_level("INFO", backend.logger.name)
    info = f"vendor_id\t: {vendor}\nflags\t\t: fpu avx512bw avx512_bf16\nflags\t\t: fpu\n"
    monkeypatch.setattr(hardware, "_found", lambda path, pattern: re.findall(pattern, info))
    monkeypatch.setattr(backend, "_HAS_AMX", has_amx)
    cpu = CPUS[:1]
    assert resolve_dtype("auto", cpu) == resolve_dtype("float32", cpu, fastest=True) == "float32"
    assert ("--dtype bfloat16 is about twice as fast" in caplog.text) == fast
    assert resolve_dtype("auto", cpu, fastest=True) == ("bfloat16" if fast else "float32")
    assert resolve_dtype("auto", cpu, fastest=True, backbone="efficientnet_lite2") == "float32"
    assert resolve_dtype("auto", [Device("mxnet", "gpu")], fastest=True) == "float32"
    resolve_dtype("bfloat16", cpu)
    assert ("float32 is faster here" in caplog.text) == (not fast)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
    "avx512bw" not in cpu_flags(), reason="MXNet computes in bfloat16 on CPUs with AVX-512"))])
def test_shapes_that_share_memory_do_not_disturb_one_another(rng, dtype):
    trained = snapshot("final", rng)
    images = [rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
              for height, width in ((40, 56), (90, 30), (16, 16), (64, 120), (33, 47), (40, 56), (90, 30))]
    together = Segmenter(trained, CPUS[:1], dtype)
    for image, scores in zip(images + images, together.scores_of(images + images, (0.7, 1.0))):
        np.testing.assert_array_equal(scores, Segmenter(trained, CPUS[:1], dtype).scores(image, (0.7, 1.0)))


def test_images_of_any_size_are_seen_at_the_same_side(rng):
    trained = snapshot("final", rng)
    image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    expected = Segmenter(trained, CPUS[:1]).scores(image, (0.75, 1.5))
    resized = dataclasses.replace(trained, config=dataclasses.replace(trained.config, inference_side=90))
    np.testing.assert_array_equal(Segmenter(resized, CPUS[:1]).scores(image, (0.5, 1.0)), expected)
    larger = cv2.resize(image, (120, 80))
    assert Segmenter(resized, CPUS[:1]).scores(larger).shape == (trained.config.num_classes, 80, 120)


def test_images_are_read_a_few_ahead(rng):
    segmenter = Segmenter(snapshot("init", rng), CPUS[:1])
    read = []

    def images():
        for number in range(40):
            read.append(number)
            yield np.zeros((24, 32, 3) if number % 2 else (32, 24, 3), np.uint8)
    scores = segmenter.scores_of(images(), (1.0, 0.5))
    next(scores)
    assert len(read) == 16
    scores.close()
    big = segmenter.scores_of((read.append(None) or np.zeros((1100, 2000, 3), np.uint8) for _ in range(9)), (0.02,))
    next(big)
    assert len(read) == 16 + 4


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("text, message", [
    ("Traceback\n  cudaMalloc retry failed: out of memory", "memory of the device ran out: leave out the largest of"),
    ("Traceback\n  could not construct a sub-memory",
     "a forward pass of the network failed: could not construct a sub-memory .*DNNL_MAX_CPU_ISA=AVX2.* leave out the")])
def test_an_engine_that_fails_is_reported_in_one_line(text, message, late, rng, monkeypatch):
    segmenter = Segmenter(snapshot("init", rng), CPUS[:1])

    def fail(*_):
        raise mx.MXNetError(text)
    monkeypatch.setattr(Network, "forward", (lambda *_: fail) if late else fail)
    with pytest.raises(UserError, match=message):
        segmenter.scores(np.zeros((24, 32, 3), np.uint8))
