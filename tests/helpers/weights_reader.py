"""Reads damaged weight files in a process of its own; native code might end it: weights_reader.py EXAMPLES FILE..."""
import os
import random
import resource
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
import numpy as np  # noqa: E402

from core.errors import UserError  # noqa: E402
from core.network.weight_files import READ_ERRORS, file_kind, read_keras, read_state_dict  # noqa: E402
from tests.helpers.params_reader import damage  # noqa: E402


def read(path):
    """Read every array that is no larger than the file was, as `convert_base_model` reads those of the right shape."""
    arrays = read_keras(path) if file_kind(path) == "keras" else read_state_dict(path)
    for array in arrays.values():
        if np.prod(array.shape, dtype=float) < 1e6:
            try:
                np.asarray(array)
            except READ_ERRORS:
                pass


def main():
    examples, paths = int(sys.argv[1]), sys.argv[2:]
    contents = [open(path, "rb").read() for path in paths]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = []
    for path, content in zip(paths, contents):
        for seed in range(examples):
            if examples > 1:
                with open(path, "wb") as file:
                    file.write(damage(content, random.Random(seed)))
            try:
                read(path)
            except UserError as error:
                assert os.path.basename(path) in str(error)
                refused.append(os.path.basename(path))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024, *refused)


if __name__ == "__main__":
    main()
