"""Reads damaged .params files in a process of its own, for native code might end it: params_reader.py FILE EXAMPLES"""
import os
import random
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from core.errors import UserError  # noqa: E402
from core.network.snapshots import read_parameters  # noqa: E402


def damage(content, rng):
    """A few bytes or lengths of `content` changed, or its end cut off."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(damaged))
        kind = rng.randrange(4)
        if kind == 0:
            damaged[place] = rng.randrange(256)
        elif kind == 1:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            damaged[place:place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\x00\x00\x00\x10"])
        else:
            del damaged[place + 1:]
    return bytes(damaged)


def main():
    path, examples = sys.argv[1], int(sys.argv[2])
    with open(path, "rb") as file:
        content = file.read()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, slowest = 0, 0.0
    for seed in range(examples):
        with open(path, "wb") as file:
            file.write(damage(content, random.Random(seed)))
        start = time.process_time()
        try:
            for part in read_parameters(path)[:2]:
                for value in part.values():
                    value.sum()
        except UserError as error:
            assert os.path.basename(path) in str(error)
            refused += 1
        slowest = max(slowest, time.process_time() - start)
    print(refused, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) // 1024)


if __name__ == "__main__":
    main()
