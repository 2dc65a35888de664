"""Masks of the Semantic Boundaries Dataset: field Segmentation of the struct GTcls of a MATLAB file."""
import io
from typing import Tuple

import numpy as np
import scipy.io

from core.errors import UserError
from core.io.files import read_bytes
from core.io.images import check_mask


def read_sbd_mask(path: str, num_classes: int, size: Tuple[int, int]) -> np.ndarray:
    """Class indices, (h, w) uint8, of an SBD file; see `images.read_mask`."""
    content = io.BytesIO(read_bytes(path))
    try:
        mask = scipy.io.loadmat(content, variable_names=["GTcls"])["GTcls"]["Segmentation"].item()
        if mask.ndim != 2 or mask.dtype.kind not in "ui":
            raise ValueError("it is not an integer matrix")
    except Exception as error:  # scipy raises whatever a damaged file leads to
        raise UserError(f"{path} is damaged, or not an SBD mask: GTcls.Segmentation: {error}") from error
    check_mask(path, mask, num_classes, size)
    return mask.astype(np.uint8)
