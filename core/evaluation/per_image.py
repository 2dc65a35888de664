"""What an evaluation knows of a single image: what its numbers depend on, its counts, and what is kept of it."""
import os
from typing import Dict, Iterable, List, Sequence

import numpy as np

from core.config import Config
from core.evaluation.report import Example
from core.inference.options import EvaluationOptions
from core.inference.postprocess import masks_folder, predict, scores_path
from core.inference.segmenter import Segmenter, scored_images
from core.io.images import read_mask
from core.io.provenance import content_digests
from core.paths import image_path, mask_path


def image_inputs(options: EvaluationOptions, names: Sequence[str]) -> Dict[str, str]:
    """Dict from id to a text that changes with the content of the image or of its mask."""
    folders = [(image_path, options.images)] + ([] if options.masks is None else [(mask_path, options.masks)])
    digests = [content_digests([path(folder, name) for name in names]) for path, folder in folders]
    return {row[0]: " ".join(row) for row in zip(names, *digests)}


def is_saved(name: str, folders: Iterable[str], output: str) -> bool:
    """Whether an image's files of the folders, "masks" and "scoremaps", are all below an output folder."""
    paths = {"masks": mask_path(masks_folder(output), name), "scoremaps": scores_path(output, name)}
    return all(os.path.exists(paths[folder]) for folder in folders)


def pack_counts(confusion: np.ndarray) -> List[List[int]]:
    """A confusion matrix, (classes, classes) int64, as JSON keeps it: [cell, pixels] of the cells that are not 0."""
    counts = confusion.ravel()
    return [[int(cell), int(counts[cell])] for cell in np.flatnonzero(counts)]


def unpack_counts(packed: List[List[int]], num_classes: int) -> np.ndarray:
    """The confusion matrix that `pack_counts` packed."""
    counts = np.zeros(num_classes ** 2, np.int64)
    for cell, pixels in packed:
        counts[cell] = pixels
    return counts.reshape(num_classes, num_classes)


def examples(config: Config, options: EvaluationOptions, segmenter: Segmenter,
             names: Sequence[str]) -> Dict[str, Example]:
    """Dict from id to `report.Example`, of the images that a report shows."""
    shown = {}
    for scored in scored_images(segmenter, names, folder=options.images, options=options.inference):
        mask, _ = predict(scored, config, options.inference.crf)
        path = mask_path(options.masks, scored.name)  # type: ignore[arg-type]  # reports are of evaluations with masks
        truth = read_mask(path, config.num_classes, mask.shape)
        shown[scored.name] = Example(scored.name, scored.image, truth, mask)
    return shown
