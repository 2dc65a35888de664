"""From an image to the scores of the classes at its pixels: for evaluation, mask estimation and the demo alike."""
import collections
import itertools
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

import cv2
import numpy as np

from core.config import STRIDE
from core.dataset.preprocessing import subtract_mean
from core.engines.chooser import resolve_dtype
from core.engines.devices import Device
from core.engines.network import Network
from core.errors import UserError
from core.inference.options import InferenceOptions
from core.inference.postprocess import Scored
from core.inference.upsampling import combine_scales
from core.io.images import read_image
from core.network import fcn
from core.network.snapshots import Snapshot
from core.paths import image_path
from core.runtime.hardware import free_memory

_TOGETHER, _PIXELS_TOGETHER = 8, 1 << 22  # images for each device, and their pixels, scored shape by shape
_BYTES_PER_CHANNEL = 20  # of memory, for each pixel and channel of conv1: measured, 1300 bytes with 64 channels
_SCORE_COPIES = 4  # of the scores at the image's size, alive at once


def settled_dtype(snapshot: Snapshot, devices: Sequence[Device], pictures: Sequence[str], fastest: bool = False) -> str:
    """As `engines.resolve_dtype` for the setting dtype; for int8 the network is quantised, see `quantized.quantise`."""
    dtype = resolve_dtype(snapshot.config.dtype, list(devices), fastest, snapshot.config.backbone)
    if dtype == "int8":
        from core.inference import quantized
        return quantized.quantise(snapshot, pictures)
    return dtype


class Segmenter:
    """A trained network on one or more devices."""

    def __init__(self, snapshot: Snapshot, devices: Sequence[Device], dtype: str = "float32"):
        """
        Args:
            snapshot: `snapshots.Snapshot`.
            devices: list of Device; images go to them in turn.
            dtype: what `resolve_dtype` or `settled_dtype` gives; scores are float32 in any case.
        """
        self._config = snapshot.config
        self._on_cpu = any(device.type == "cpu" for device in devices)
        if dtype.startswith("int8"):
            from core.inference import quantized  # which needs more packages
            self._networks: List[Any] = [quantized.Network(snapshot) for _ in devices]
            return
        args = fcn.fold_batch_norms(*snapshot.parameters)
        self._networks = [Network(lambda ops: [fcn.probabilities(ops, snapshot.model, snapshot.config)], args,
                                  device, dtype) for device in devices]

    def _scaled(self, size, scale):
        """(h, w) at which the network sees an image of (h, w) pixels."""
        if self._config.inference_side:
            scale *= self._config.inference_side / max(size)
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))

    def check_memory(self, path: str, size: Tuple[int, ...], scales: Sequence[float]) -> None:
        """Raise UserError, naming `path`, if the scores of an image of (h, w) pixels exceed the free memory.

        Without this the system would end the process, and maybe others, without a word. GPUs are not checked.
        """
        free = free_memory()
        height, width = self._scaled(size, max(scales))
        needed = (height * width * _BYTES_PER_CHANNEL * self._config.width
                  + size[0] * size[1] * _SCORE_COPIES * 4 * self._config.num_classes)
        if self._on_cpu and free is not None and needed > free:
            raise UserError(f"{path} is {size[1]} x {size[0]} pixels: at scale {max(scales):g} that takes about "
                            f"{needed / 2 ** 30:.1f} GiB of memory, and {free / 2 ** 30:.1f} GiB are free: shrink it "
                            "(in predict.py with --max-side, elsewhere together with its mask), or give lower --scales")

    def scores(self, image: np.ndarray, scales: Sequence[float] = (1.0,)) -> np.ndarray:
        """Scores of one image; see `scores_of`."""
        return next(self.scores_of([image], scales))

    def scores_of(self, images: Iterable[np.ndarray], scales: Sequence[float] = (1.0,)) -> Iterator[np.ndarray]:
        """Scores of images, in order.

        Args:
            images: iterable of (h, w, 3) uint8 RGB.
            scales: factors by which each image is resized, after `inference_side`; the scores add up over them.

        Yields:
            (classes, h, w) float32, class probabilities summed over the scales.
        """
        started = []
        for group, error in _groups(images, len(self._networks)):
            # Networks run on while results are fetched.
            finished, started = started, self._start(group, scales)
            yield from itertools.starmap(self._finish, finished)
        yield from itertools.starmap(self._finish, started)
        if error is not None:
            raise error

    def _start(self, images, scales):
        """Start the networks on a few images, shape by shape, as each change of shape costs time."""
        sizes = [[self._scaled(image.shape[:2], scale) for scale in scales] for image in images]
        outputs = {}
        for scaled, number in sorted({(scaled, number) for number, row in enumerate(sizes) for scaled in row}):
            network = self._networks[number % len(self._networks)]
            outputs[number, scaled] = network.forward(prepare(images[number], scaled, self._config.mean_rgb))
        return [([outputs[number, scaled] for scaled in row], row, images[number].shape[:2])
                for number, row in enumerate(sizes)]

    @staticmethod
    def _finish(outputs, scaled_sizes, size):
        return combine_scales([output()[0] for output in outputs], scaled_sizes, size)


def scored_images(segmenter: Segmenter, names: Iterable[str], *, folder: str, options: InferenceOptions
                  ) -> Iterator[Scored]:
    """Yield a `postprocess.Scored` for each name, in order; images are read when they are needed.

    Args:
        folder: of the images, <name>.jpg.
        options: `options.InferenceOptions`.
    """
    def pairs():
        for name in names:
            path = image_path(folder, name)
            image = read_image(path)
            segmenter.check_memory(path, image.shape[:2], options.scales)
            yield name, image

    return score_pairs(segmenter, pairs(), options)


def score_pairs(segmenter: Segmenter, pairs: Iterable[Tuple[Any, np.ndarray]], options: InferenceOptions
                ) -> Iterator[Scored]:
    """Yield a `postprocess.Scored` for each (name, image) pair, in order; pairs are taken when they are needed."""
    under_way = collections.deque()

    def images():
        for name, image in pairs:
            under_way.append((name, image))
            yield image

    for scores in segmenter.scores_of(images(), options.scales):
        name, image = under_way.popleft()
        yield Scored(name, image, scores)


def branch_scores(snapshot: Snapshot, image: np.ndarray, device: Device) -> Tuple[np.ndarray, np.ndarray]:
    """What the two branches of the final model say about an image, each by itself.

    Args:
        snapshot: `snapshots.Snapshot` of the final model.
        image: (h, w, 3) uint8 RGB.
        device: Device.

    Returns:
        (classes, h, w) float32 class probabilities of the pixels without the image-level logits, and (classes,) float32
        probabilities that the image shows each class.
    """
    size = image.shape[:2]
    network = Network(lambda ops: fcn.branch_probabilities(ops, snapshot.config),
                      fcn.fold_batch_norms(*snapshot.parameters), device)
    cells, image_level = network.forward(prepare(image, size, snapshot.config.mean_rgb))()
    return combine_scales([cells], [size], size), image_level.ravel()


def prepare(image: np.ndarray, size: Tuple[int, ...], mean_rgb: Sequence[float]) -> np.ndarray:
    """Network input of an image.

    Args:
        image: (h, w, 3) uint8 RGB.
        size: (h, w) to resize it to.

    Returns:
        (3, H, W) float32 minus the mean; H and W are the next multiples of 8, zeros fill the right and the bottom.
    """
    if image.shape[:2] != size:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    padded = np.zeros((3, -(-size[0] // STRIDE) * STRIDE, -(-size[1] // STRIDE) * STRIDE), np.float32)
    subtract_mean(image, mean_rgb, padded)
    return padded


def _groups(images, devices):
    """Yield (list of consecutive images, None), and at last (list, error in reading the next image, or None)."""
    group, error = [], None
    try:
        for image in images:
            group.append(image)
            pixels = sum(image.shape[0] * image.shape[1] for image in group)
            if len(group) == _TOGETHER * devices or pixels > _PIXELS_TOGETHER * devices:
                yield group, None
                group = []
    except Exception as caught:  # the images before it have their results first
        error = caught
    yield group, error
