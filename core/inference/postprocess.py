"""What becomes of the scores of an image: CRF, mask, files, comparison. Does not import mxnet: it runs in workers."""
import os
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config, network_settings, side_settings
from core.inference.confusion import confusion_matrix
from core.inference.crf import SMALLEST_SCORE, crf_settings, refine
from core.inference.options import EvaluationOptions, InferenceOptions, SegmentationOptions
from core.io.drawing import legend, overlay
from core.io.files import write_array
from core.io.images import read_image, read_mask, write_image, write_mask
from core.paths import mask_path

if TYPE_CHECKING:
    from core.network.snapshots import Snapshot


class Scored(NamedTuple):
    """An image and its scores.

    Attributes:
        name: its id; of the user's own pictures a `Picture`.
        image: (h, w, 3) uint8 RGB.
        scores: (classes, h, w) float32.
    """
    name: Any
    image: np.ndarray
    scores: np.ndarray


class Picture(NamedTuple):
    """A picture of the user's own: name of its results; file, or None for a frame of a video; (h, w)."""
    name: str
    path: Optional[str]
    size: Tuple[int, ...]


def predict(scored: Scored, config: Config, crf: bool, allowed: Optional[Sequence[int]] = None
            ) -> Tuple[np.ndarray, np.ndarray]:
    """Mask of an image from its scores.

    Args:
        crf: whether the dense CRF refines the scores.
        allowed: indices of the classes that may occur, besides the background; None allows all.

    Returns:
        (h, w) uint8 class indices, and (allowed classes, h, w) float32: the CRF's marginals, else the logarithm of the
        scores.
    """
    scores = scored.scores
    if allowed is not None:
        allowed = sorted({BACKGROUND, *allowed})
        scores = scores[allowed]
    if crf:
        values = refine(scores, scored.image, config)
    else:
        values = np.log(np.maximum(scores, SMALLEST_SCORE))
    mask = values.argmax(0).astype(np.uint8)
    return (mask if allowed is None else np.array(allowed, np.uint8)[mask]), values


def compare(scored: Scored, config: Config, options: EvaluationOptions) -> np.ndarray:
    """Predict an image, keep what the options ask for, and give its confusion matrix, of zeros without masks."""
    mask, values = predict(scored, config, options.inference.crf)
    truth = np.full(mask.shape, IGNORE_LABEL, np.uint8)
    if options.masks is not None:
        truth = read_mask(mask_path(options.masks, scored.name), config.num_classes, mask.shape)
    if options.save_scores:
        write_array(scores_path(options.output, scored.name), values)
    if options.save_masks:
        write_mask(mask_path(masks_folder(options.output), scored.name), mask)
    return confusion_matrix(truth, mask, config.num_classes)


def segment(scored: Scored, config: Config, options: SegmentationOptions) -> Tuple[Dict[int, float], np.ndarray]:
    """Predict a picture of the user's own, in its own size, and keep what the options ask for.

    Args:
        scored: Scored; its name is a `Picture`, its image the picture scaled down to what the network is given.

    Returns:
        dict from class index to its share of the pixels, for those there are, and the (h, w) uint8 mask.
    """
    name, path, size = scored.name
    mask, values = predict(scored, config, options.inference.crf, options.allowed)
    if options.save_scores:
        write_array(scores_path(options.output, name), values)
    if mask.shape != size:
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    write_mask(mask_path(masks_folder(options.output), name), mask)
    if path is not None:
        image = scored.image if scored.image.shape[:2] == size else read_image(path)
        picture = np.concatenate([overlay(image, mask), legend(mask, config.classes, size[1])])
        write_image(overlay_path(options.output, name), picture)
    indices, pixels = np.unique(mask, return_counts=True)
    return {int(index): count / mask.size for index, count in zip(indices, pixels.tolist())}, mask


def overlay_path(output: str, name: str) -> str:
    """Where the overlay of a picture goes."""
    return os.path.join(output, "overlays", name + ".jpg")


def masks_folder(output: str) -> str:
    return os.path.join(output, "masks")


def scores_path(output: str, name: str) -> str:
    return os.path.join(output, "scoremaps", name + ".npy")


def scoring_settings(snapshot: "Snapshot", options: InferenceOptions) -> Dict[str, Any]:
    """What decides the prediction of an image, as JSON keeps it; float32 goes without saying."""
    return {**({} if options.dtype == "float32" else {"dtype": options.dtype}), **side_settings(snapshot.config),
            "snapshot_sha256": snapshot.digest, "scales": list(options.scales),
            "crf": crf_settings(snapshot.config) if options.crf else None,
            **network_settings(snapshot.config)}
