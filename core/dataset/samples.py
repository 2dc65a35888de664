"""Training samples: decoded, augmented and put into batches by threads, without mxnet.

Every random choice depends on the seed and on the sample's position in the run alone. So the batches are the same for
any number of threads, and a run can go on from any batch.
"""
import collections
import concurrent.futures
import hashlib
import os
from typing import Dict, List

import cv2
import numpy as np

from core.classes import IGNORE_LABEL
from core.config import STRIDE, Config
from core.errors import UserError
from core.io.files import read_json, read_list
from core.io.images import read_image, read_mask
from core.io.logs import logger
from core.io.provenance import StageRecord, check_classes, content_digests
from core.paths import Layout, check_pairs, image_path, mask_path, web_class
from core.runtime.hardware import available_cpus

Sample = collections.namedtuple("Sample", "name image mask")  # id, path of the image, path of its mask

Batch = collections.namedtuple("Batch", "names data labels image_labels")
Batch.__doc__ = """Samples of one training step.

names: list of b ids.
data: (b, 3, crop, crop) float32, RGB minus the mean.
labels: (b, (crop / 8)^2) float32 class indices, 255 = ignore.
image_labels: (b, classes, 1, 1) float32, 1 where the class stands anywhere in the whole mask, background included.
"""


def web_samples(layout: Layout, config: Config) -> List[Sample]:
    """Samples of the init model: web images with their co-segmentation masks.

    Raises:
        UserError: the list or a file is missing, a name has no valid class index, or its class had another one, or its
            image another content, when the masks were made.
    """
    names = read_list(layout.web_list, "run create_web_masks.py, or create_dataset.py where there are masks")
    indices = {name: web_class(name, config.num_classes) for name in names}
    check_classes(layout.classes, config.classes, indices.values())
    record = StageRecord(layout.web_record, f"the masks in {layout.web_masks}", earlier_key="settings")
    if record.earlier:
        raise UserError(f"{layout.web_record} was written by another version of this program: run create_web_masks.py "
                        "--overwrite, or remove the file if the masks are your own")
    then = dict(enumerate((record.origin or {}).get("settings", {}).get("classes", config.classes)))
    for name, index in indices.items():
        if then.get(index) != config.classes[index]:
            raise UserError(f"{image_path(layout.web_images, name)} was of class {then.get(index, 'none')} when its "
                            f"mask was made, and class {index} is {config.classes[index]} now: bring back the order "
                            "of the classes, or fetch and co-segment into another --root")
    check_pairs(names, (image_path, layout.web_images, "see dataset/README.md for what belongs there"),
                (mask_path, layout.web_masks, "see dataset/README.md for what belongs there"))
    samples = _samples(names, layout.web_images, layout.web_masks)
    _check_images(samples, record.items, layout, "create_web_masks.py")
    return samples


def voc_samples(layout: Layout, config: Config) -> List[Sample]:
    """Samples of the final model: training images with estimated masks.

    Raises:
        UserError: the list or a file is missing, or classes, labels or images have changed since the masks were
            estimated.
    """
    names = read_list(layout.train_list, "run create_dataset.py")
    check_classes(layout.classes, config.classes)
    images = _check_estimation(layout, config, names)
    check_pairs(names, (image_path, layout.train_images, "run create_dataset.py"),
                (mask_path, layout.train_masks, "run est_voc_train_masks.py"))
    samples = _samples(names, layout.train_images, layout.train_masks)
    _check_images(samples, images, layout, "est_voc_train_masks.py")
    return samples


def _samples(names, images, masks):
    return [Sample(name, image_path(images, name), mask_path(masks, name)) for name in names]


def estimation_record(folder: str) -> StageRecord:
    """Record of the masks that est_voc_train_masks.py wrote into a folder.

    Its origin names the snapshot, the settings and, as "network", what the network is like; its items are
    {"image": SHA-256, "labels": class indices}.
    """
    return StageRecord(folder + ".json", f"the masks in {folder}", earlier_key="snapshot_sha256")


def _check_estimation(layout, config, names):
    """Dict from id to the SHA-256 of the image that its mask was estimated from, for those that are recorded.

    Raises UserError if the masks were made for other classes, or for other labels of an image, than there are now.
    """
    record = estimation_record(layout.train_masks)
    if record.earlier:
        raise UserError(f"{record.path} was written by another version of this program: run est_voc_train_masks.py "
                        "with --overwrite")
    if record.origin is None:
        logger.warning("%s is missing: nothing says what the masks beside it were estimated with", record.path)
        return {}
    if record.origin.get("network", {}).get("classes", list(config.classes)) != list(config.classes):
        raise UserError(f"{record.path} names other classes than the setting classes has now: run "
                        "est_voc_train_masks.py with --overwrite")
    then = {name: item["labels"] for name, item in record.items.items()}
    now = read_labels(layout.train_labels, names, config) if os.path.exists(layout.train_labels) else then
    for name in names:
        if name in then and then[name] != now[name]:
            raise UserError(f"{mask_path(layout.train_masks, name)} was estimated with other labels than "
                            f"{layout.train_labels} has now: run est_voc_train_masks.py again")
    return {name: item["image"] for name, item in record.items.items()}


def _check_images(samples, then, layout, script):
    """Raise UserError if an image has changed since `script` made its mask; `then`: dict from id to SHA-256."""
    samples = [sample for sample in samples if sample.name in then]
    for sample, digest in zip(samples, content_digests([sample.image for sample in samples], layout.digests)):
        if digest != then[sample.name]:
            raise UserError(f"{sample.image} has changed since {script} made its mask: run {script} again")


def samples_record(samples: List[Sample], layout: Layout) -> Dict[str, str]:
    """Digests that stand for the content that training reads: ids in their order, images, and masks with the labels."""
    def combined(values):
        return hashlib.sha256("\n".join(values).encode("utf-8")).hexdigest()

    digests = content_digests([path for sample in samples for path in (sample.image, sample.mask)], layout.digests)
    return {"list_sha256": combined(sample.name for sample in samples), "images_sha256": combined(digests[::2]),
            "masks_sha256": combined(digests[1::2])}


def read_labels(path, names, config):
    """Image-level labels.

    Args:
        path: JSON file, from id to a list of class indices.
        names: ids that must be in it.

    Returns:
        dict from id to list of int.

    Raises:
        UserError: the file is missing or wrong, lacks an id, or has a label out of range.
    """
    labels = read_json(path)
    if not isinstance(labels, dict):
        raise UserError("%s: a JSON object from image ids to lists of class indices is expected" % path)
    for name in names:
        if name not in labels:
            raise UserError("%s has no labels for %s: run create_dataset.py" % (path, name))
        values = labels[name]
        if not isinstance(values, list) or not all(
                type(value) is int and 1 <= value < config.num_classes for value in values):
            raise UserError("%s: the labels of %s are %s; a list of class indices 1..%d is expected"
                            % (path, name, values, config.num_classes - 1))
    return {name: labels[name] for name in names}


def training_samples(model, layout, config):
    """Samples that train `model`, in the order of its list."""
    return (web_samples if model == "init" else voc_samples)(layout, config)


def augment(rng, image, mask, config):
    """Random scale, place and mirroring.

    A square of crop_size / s pixels, s drawn from scale_range, is cut from a uniform place and resized to crop_size.
    Where the image is smaller, the mean colour fills it up on the right and at the bottom, labelled 255.

    Args:
        rng: numpy Generator.
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) uint8 class indices or 255.

    Returns:
        (crop, crop, 3) uint8 RGB and (crop / 8, crop / 8) uint8 labels.
    """
    side = int(config.crop_size / rng.uniform(*config.scale_range))
    height, width = mask.shape
    top = int(rng.integers(max(height - side, 0) + 1))
    left = int(rng.integers(max(width - side, 0) + 1))
    image, mask = image[top:top + side, left:left + side], mask[top:top + side, left:left + side]
    below, right = side - mask.shape[0], side - mask.shape[1]
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=config.mean_rgb)
        mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=IGNORE_LABEL)
    if rng.random() < config.flip_probability:
        image, mask = cv2.flip(image, 1), cv2.flip(mask, 1)
    cells = config.crop_size // STRIDE
    nearest = cv2.INTER_NEAREST if config.label_sampling == "corner" else cv2.INTER_NEAREST_EXACT
    return (cv2.resize(image, (config.crop_size, config.crop_size), interpolation=cv2.INTER_LINEAR),
            cv2.resize(mask, (cells, cells), interpolation=nearest))


def subtract_mean(image, mean_rgb, out):
    """Write (h, w, 3) uint8 RGB, minus the mean, into `out`, (3, H, W) float32 with H >= h and W >= w."""
    height, width = image.shape[:2]
    for channel, plane in enumerate(cv2.split(image)):  # numpy is twice as fast on planes that lie apart
        np.subtract(plane, np.float32(mean_rgb[channel]), out=out[channel, :height, :width])


class BatchLoader:
    """Endless batches of samples in a seeded order: every round passes each sample once, in an order of its own.

    A round goes over the ends of batches and epochs, as the published epochs are shorter than the web list. With
    `balanced`, the classes of web images take turns, in an order drawn anew for each turn; then every class makes its
    own rounds, and those of a class with few images come round more often.

    Args:
        samples: list of Sample.
        part, parts: of each batch give only the part of that number, counted from 0, of so many equal ones.
        balanced: give each class the same share; the samples' names start with their class indices.
    """

    def __init__(self, samples, config, part=0, parts=1, balanced=False):
        self._samples = samples
        self._groups = _classes_of(samples, config) if balanced else [range(len(samples))]
        self._config = config
        self._size = config.batch_size // parts
        self._part = part
        self._workers = config.workers or available_cpus()
        self._ahead = 2 + self._workers // self._size  # batches made in advance
        self._orders = {}

    def batches(self, first):
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
                batch, parts = pending.popleft()
                for part in parts:
                    part.result()
                yield batch
        finally:
            for _, parts in pending:
                for part in parts:
                    part.cancel()
            pool.shutdown()

    def _start(self, pool, number):
        """A batch, and the futures that fill it."""
        size, crop, config = self._size, self._config.crop_size, self._config
        start = number * config.batch_size + self._part * size
        positions = range(start, start + size)
        samples = [self._samples[self._index(position)] for position in positions]
        batch = Batch([sample.name for sample in samples], np.empty((size, 3, crop, crop), np.float32),
                      np.empty((size, (crop // STRIDE) ** 2), np.float32),
                      np.zeros((size, config.num_classes, 1, 1), np.float32))
        return batch, [pool.submit(self._fill, batch, row, sample, position)
                       for row, (sample, position) in enumerate(zip(samples, positions))]

    def _index(self, position):
        """Place in the list of the sample at a position of the run."""
        turn, place = divmod(position, len(self._groups))
        group = self._order((3, turn), len(self._groups))[place]
        turn, place = divmod(turn, len(self._groups[group]))
        return self._groups[group][self._order((0, turn, group), len(self._groups[group]))[place]]

    def _order(self, key, length):
        """Order of the turn key[1], drawn from the seed and the key; that of the last turn is at hand.

        A seed's zeros at the end change nothing, so group 0 goes by what was the seed before there were groups.
        """
        kind = key[:1] + key[2:]
        turn, order = self._orders.get(kind, (None, None))
        if turn != key[1]:
            order = np.random.default_rng((self._config.seed,) + key).permutation(length)
            self._orders[kind] = key[1], order
        return order

    def _fill(self, batch, row, sample, position):
        image = read_image(sample.image)
        mask = read_mask(sample.mask, self._config.num_classes, image.shape[:2])
        counts = cv2.calcHist([mask], [0], None, [IGNORE_LABEL + 1], [0, IGNORE_LABEL + 1])
        # (256, 1), and from OpenCV 5 on (256,)
        batch.image_labels[row, counts.ravel()[:self._config.num_classes] > 0] = 1
        image, mask = augment(np.random.default_rng((self._config.seed, 1, position)), image, mask, self._config)
        subtract_mean(image, self._config.mean_rgb, batch.data[row])
        batch.labels[row] = mask.ravel()


def _classes_of(samples, config):
    """For each class that has samples, their places in the list."""
    groups = collections.defaultdict(list)
    for place, sample in enumerate(samples):
        groups[web_class(sample.name, config.num_classes)].append(place)
    return [groups[label] for label in sorted(groups)]
