#!/usr/bin/env python3
"""The training loader of core/training/batches.py against the plain iterator: one thread, float32 from the start."""
import os
import tempfile

import cv2
import joblib
import numpy as np
from measure import alternate, draw, make_parser
from PIL import Image

from core.config import Config
from core.dataset.samples import Sample
from core.io.images import write_image, write_mask
from core.training.batches import BatchLoader


class PlainIterator:
    """Decode, pad, crop, flip, resize, take off the mean: image by image, in the thread that trains."""

    def __init__(self, samples, config):
        self._samples, self._config = samples, config
        self._rng = np.random.default_rng(config.seed)
        self._place = 0

    def next(self):
        rows = []
        for _ in range(self._config.batch_size):
            rows.append(self._sample(self._samples[self._place % len(self._samples)]))
            self._place += 1
        return [np.stack(part) for part in zip(*rows)]

    def _sample(self, sample):
        config, rng = self._config, self._rng
        mean = np.array(config.mean_rgb, np.float32)
        image = cv2.cvtColor(cv2.imread(sample.image), cv2.COLOR_BGR2RGB).astype(np.float32)
        mask = np.array(Image.open(sample.mask)).astype(np.float32)
        present = np.zeros(config.num_classes, np.float32)
        present[[int(label) for label in np.unique(mask) if label != 255]] = 1
        side = int(config.crop_size / rng.uniform(*config.scale_range))
        height, width = max(mask.shape[0], side), max(mask.shape[1], side)
        padded = np.tile(mean, (height, width, 1))
        padded[:image.shape[0], :image.shape[1]] = image
        labels = np.full((height, width), 255, np.float32)
        labels[:mask.shape[0], :mask.shape[1]] = mask
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        image, mask = padded[top:top + side, left:left + side], labels[top:top + side, left:left + side]
        if rng.random() < config.flip_probability:
            image, mask = image[:, ::-1], mask[:, ::-1]
        image = cv2.resize(image, (config.crop_size,) * 2, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask, (config.crop_size // 8,) * 2, interpolation=cv2.INTER_NEAREST)
        return (image - mean).transpose(2, 0, 1), mask.ravel(), present


def main():
    args = make_parser(__doc__, repeats=9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for number in range(32):
            image, mask = draw(np.random.default_rng(number), args.size)
            samples.append(Sample(str(number), os.path.join(folder, f"{number}.jpg"),
                                  os.path.join(folder, f"{number}.png")))
            write_image(samples[-1].image, image, quality=90)
            write_mask(samples[-1].mask, mask)
        workers = (1, 2, 4, 8) if args.growth else (joblib.cpu_count(),)
        configs = [Config(workers=count) for count in workers]
        feeds = [BatchLoader(samples, config).batches(0) for config in configs]
        plain = PlainIterator(samples, configs[0])
        ways = {"plain": lambda: [plain.next() for _ in range(4)]}
        for count, feed in zip(workers, feeds):
            ways[f"core/training/batches.py, {count} threads"] = lambda feed=feed: [next(feed) for _ in range(4)]
        alternate(ways, args.repeats, "an image", 4 * configs[0].batch_size)
        for feed in feeds:
            feed.close()


if __name__ == "__main__":
    main()
