"""Shared by the benchmarks: drawn data, and timing of two implementations in alternation."""
import argparse
import os
import statistics
import sys
import time

import cv2
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from core.cli import positive  # noqa: E402


def make_parser(description, repeats, size="375x500"):
    """Parser with --repeats, --size and --growth."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--repeats", type=positive, default=repeats, help="turns of each way (default: %(default)s)")
    parser.add_argument("--size", type=_size, default=_size(size), metavar="HxW",
                        help=f"size of the images, pixels (default: {size})")
    parser.add_argument("--growth", action="store_true", help="print how the cost grows instead")
    return parser


def _size(text):
    height, width = map(positive, text.split("x"))
    return height, width


def smooth_noise(rng, shape, sigma):
    """(h, w) float32 of unit variance that varies over about `sigma` pixels."""
    coarse = rng.normal(0, 1, [max(2, round(side / (2 * sigma))) for side in shape]).astype(np.float32)
    noise = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return noise / noise.std()


def draw(rng, size, classes=21, objects=3):
    """A scene of blobs in textures of their own.

    Returns:
        (h, w, 3) uint8 RGB and (h, w) uint8 class indices, of which `objects` and the background occur.
    """
    mask = np.zeros(size, np.uint8)
    image = _texture(rng, size)
    for label in rng.choice(np.arange(1, classes), min(objects, classes - 1), replace=False):
        blob = smooth_noise(rng, size, max(size) / 12) > 1.2
        mask[blob] = label
        image[blob] = _texture(rng, size)[blob]
    return image, mask


def _texture(rng, size):
    colour, contrast = rng.uniform(40, 215, 3), rng.uniform(-25, 25, 3)
    texture = colour + contrast * smooth_noise(rng, size, 4)[..., None] + rng.normal(0, 3, size + (3,))
    return np.clip(texture, 0, 255).astype(np.uint8)


def draw_scores(rng, mask, classes, plausible=2):
    """Scores like those of a trained network: blurred, unsure, and wrong in places, most classes near zero.

    Args:
        plausible: classes that do not occur and get shares of some tenths in places.

    Returns:
        (classes, h, w) float32 that add up to 1 at each pixel.
    """
    level = np.full(classes, -5.0)
    level[0] = 0.5
    level[rng.choice(np.arange(1, classes), min(plausible, classes - 1), replace=False)] = -2
    logits = np.stack([level[k] + smooth_noise(rng, mask.shape, 16)
                       + 6 * cv2.GaussianBlur((mask == k).astype(np.float32), (0, 0), 6) for k in range(classes)])
    exponentials = np.exp(logits - logits.max(0))
    return (exponentials / exponentials.sum(0)).astype(np.float32)


def alternate(ways, repeats, unit, items=1, clock=time.perf_counter):
    """Time functions in turns, so that whatever else the machine does meets all of them; print medians and ratios.

    Args:
        ways: dict from name to a function without arguments, the plain way first. Each runs once before the clock
            starts.
        unit, items: what a call does that many of, for the text.
        clock: gives seconds.

    Returns:
        dict from name to the list of seconds an item.
    """
    for function in ways.values():
        function()
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            start = clock()
            function()
            seconds[name].append((clock() - start) / items)
    plain = next(iter(ways))
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[plain], values))
        median = statistics.median(values)
        print(f"{name:<28} median {median:9.4f} s, best {min(values):9.4f} s {unit}, {ratio:.2f}x "
              f"({1 / median:.1f} a second)", flush=True)
    return seconds
