"""Training samples, decoded, augmented and put into batches by threads. Does not import mxnet.

Every random choice depends on the seed and on the sample's position in the run alone. So the batches are the same for
any number of threads, and a run can resume at any batch.
"""
import collections
import concurrent.futures
from typing import Dict, Generator, List, NamedTuple, Tuple

import cv2
import joblib
import numpy as np

from core.classes import IGNORE_LABEL
from core.config import STRIDE, Config
from core.dataset.samples import Sample
from core.io.images import read_image, read_mask
from core.runtime.hardware import processes_here
from core.training.augmentation import augment


class Batch(NamedTuple):
    """Samples of one training step.

    Attributes:
        names: b ids.
        images: (b, crop, crop, 3) uint8 RGB.
        labels: (b, (crop / 8)^2) uint8 class indices, 255 = ignore.
        image_labels: (b, classes, 1, 1) float32, 1 where the class is anywhere in the whole mask, background included.
    """
    names: List[str]
    images: np.ndarray
    labels: np.ndarray
    image_labels: np.ndarray


class BatchLoader:
    """Endless batches of samples in a seeded order.

    Where there are both, web images take `final_web_share` of the positions of the run, evenly spread over it, and
    training images the others.

    Args:
        part, parts: yield only this part of each batch, counted from 0, of so many equal ones.
    """

    def __init__(self, samples: List[Sample], config: Config, *, part: int = 0, parts: int = 1):
        web = [sample for sample in samples if sample.label is not None]
        train = [sample for sample in samples if sample.label is None]
        self._web_share = config.final_web_share if web and train else float(bool(web))
        self._web = _Rounds(_by_class(web) if config.web_sampling == "balanced" else [web], config.seed)
        self._train = _Rounds([train], config.seed)
        self._config = config
        self._size = config.batch_size // parts
        self._part = part
        self._workers = config.workers or max(1, joblib.cpu_count() // processes_here())
        self._ahead = 2 + self._workers // self._size  # batches made in advance

    def batches(self, first: int) -> Generator[Batch, None, None]:
        """Batches from number `first` on, counted from 0; close the generator to end its threads.

        Raises:
            UserError: a file is missing or wrong; it is named.
        """
        pending = collections.deque()
        pool = concurrent.futures.ThreadPoolExecutor(self._workers, "decode")
        try:
            number = first
            while True:
                while len(pending) <= self._ahead:
                    pending.append(self._start(pool, number))
                    number += 1
                batch, futures = pending.popleft()
                for future in futures:
                    future.result()
                yield batch
        finally:
            for _, futures in pending:
                for future in futures:
                    future.cancel()
            pool.shutdown()

    def _start(self, pool, number):
        """A batch, and the futures that fill it."""
        size, crop, config = self._size, self._config.crop_size, self._config
        start = number * config.batch_size + self._part * size
        positions = range(start, start + size)
        samples = [self._sample(position) for position in positions]
        batch = Batch([sample.name for sample in samples], np.empty((size, crop, crop, 3), np.uint8),
                      np.empty((size, (crop // STRIDE) ** 2), np.uint8),
                      np.zeros((size, config.num_classes, 1, 1), np.float32))
        return batch, [pool.submit(self._fill, batch, row, sample, position)
                       for row, (sample, position) in enumerate(zip(samples, positions))]

    def _sample(self, position):
        web_before, web_after = int(position * self._web_share), int((position + 1) * self._web_share)
        return self._web.sample(web_before) if web_after > web_before else self._train.sample(position - web_before)

    def _fill(self, batch, row, sample, position):
        image = read_image(sample.image)
        mask = read_mask(sample.mask, self._config.num_classes, image.shape[:2])
        counts = cv2.calcHist([mask], [0], None, [IGNORE_LABEL + 1], [0, IGNORE_LABEL + 1])
        # (256, 1), and from OpenCV 5 on (256,)
        batch.image_labels[row, counts.ravel()[:self._config.num_classes] > 0] = 1
        rng = np.random.default_rng((self._config.seed, 1, position))
        batch.images[row], mask = augment(rng, image, mask, self._config)
        batch.labels[row] = mask.ravel()


class _Rounds:
    """Samples in an endless seeded order: every round passes each sample once, in an order of its own.

    A round continues over the ends of batches and epochs, as the published epochs are shorter than the web list.
    Several groups take turns, in an order drawn for each turn; every group then makes its own rounds, so that the
    samples of a small group are seen more often.
    """

    def __init__(self, groups: List[List[Sample]], seed: int):
        self._groups = groups
        self._seed = seed
        self._orders: Dict[Tuple[int, ...], Tuple[int, np.ndarray]] = {}

    def sample(self, position: int) -> Sample:
        turn, index = divmod(position, len(self._groups))
        number = self._order((3, turn), len(self._groups))[index]
        group = self._groups[number]
        turn, index = divmod(turn, len(group))
        return group[self._order((0, turn, number), len(group))[index]]

    def _order(self, key, length):
        """Order of the turn key[1], drawn from the seed and the key; that of the last turn is cached.

        Zeros at the end of a seed change nothing: a single group has the order of a run without groups.
        """
        stream = key[:1] + key[2:]
        turn, order = self._orders.get(stream, (None, None))
        if turn != key[1]:
            order = np.random.default_rng((self._seed,) + key).permutation(length)
            self._orders[stream] = key[1], order
        return order


def _by_class(samples):
    groups = collections.defaultdict(list)
    for sample in samples:
        groups[sample.label].append(sample)
    return [groups[label] for label in sorted(groups)]
