#!/usr/bin/env python3
"""Write a snapshot with weights of 8 bits, a third to a quarter of its size, to hand it around.

Every script that takes a snapshot reads such a file; networks compute with float32 as before. Vectors, such as those of
batch norms, stay float32.
"""
import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from core.cli import run  # noqa: E402
from core.network.params_files import read_params, write_params  # noqa: E402


def shrink(arrays):
    """Named arrays of a .params file with the weights as int8, and beside each "scale:" with its step.

    Args:
        arrays: dict from name to array. A weight has one step for each of its output channels, its first axis.
    """
    small = {}
    for key, value in arrays.items():
        if key.startswith("arg:") and value.ndim > 1:
            steps = np.abs(value).reshape(len(value), -1).max(1) / 127
            steps[steps == 0] = 1  # a channel of zeros
            small["scale:" + key[len("arg:"):]] = steps.astype(np.float32)
            value = np.rint(value / steps.reshape((-1,) + (1,) * (value.ndim - 1))).astype(np.int8)
        small[key] = value
    return small


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot", help="file to read")
    parser.add_argument("output", help="file to write")
    args = parser.parse_args()
    write_params(args.output, shrink(read_params(args.snapshot)))
    print(f"{args.output}: {os.path.getsize(args.output) / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
