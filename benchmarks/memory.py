#!/usr/bin/env python3
"""Compare resident memory of core/inference/segmenter.py and of the plain way, scoring images of many sizes.

Each runs in its own process. The plain way is that of inference.py: one Module, reshaped for every image.
"""
import argparse
import multiprocessing
import resource

import numpy as np
from measure import draw, positive


def run(way, args, pipe):
    """Score the images one way; sends (images so far, resident MiB) now and then, then (None, peak MiB)."""
    from inference import PlainSegmenter, random_parameters

    from core.config import Config
    from core.engines.devices import Device
    from core.inference.segmenter import Segmenter
    from core.network.snapshots import Snapshot
    config = Config(width=args.width)
    parameters = random_parameters("final", config)
    rng = np.random.default_rng(0)
    sizes = [tuple(int(side) for side in rng.integers(args.side // 2, args.side + 1, 2))
             for _ in range(args.sizes)]
    pictures = [draw(rng, size)[0] for size in sizes]
    images = (pictures[rng.integers(len(pictures))] for _ in range(args.images))
    scales = config.scales if args.ms else (1.0,)
    if way == "plain":
        segmenter = PlainSegmenter(config, "final", parameters)
        scored = (segmenter.scores(image, scales) for image in images)
    else:
        snapshot = Snapshot(config, "final", 0, parameters, "")
        scored = Segmenter(snapshot, [Device("mxnet")], args.dtype).scores_of(images, scales)
    for number, _ in enumerate(scored, 1):
        if number % max(1, args.images // 10) == 0:
            pipe.send((number, _resident()))
    pipe.send((None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def _resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=positive, default=1000, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--sizes", type=positive, default=50, metavar="N",
                        help="different sizes (default: %(default)s)")
    parser.add_argument("--side", type=positive, default=500, metavar="PIXELS",
                        help="longest side of an image; the shortest is half of it (default: %(default)s)")
    parser.add_argument("--width", type=positive, default=16, metavar="N",
                        help="channels of conv1; 64 is the full network (default: %(default)s)")
    parser.add_argument("--ms", action="store_true", help="three scales")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="of core/inference/segmenter.py (default: %(default)s)")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for way in ("plain", "core/inference/segmenter.py"):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(way, args, sender))
        process.start()
        sender.close()
        while way not in peaks:
            number, memory = receiver.recv()
            if number is None:
                peaks[way] = memory
            else:
                print(f"{way:<18} after {number:5} images: {memory:6.0f} MiB", flush=True)
        process.join()
    for way, peak in peaks.items():
        print(f"{way:<18} peak: {peak:6.0f} MiB, {peak / peaks['plain']:.2f} of the plain way's")


if __name__ == "__main__":
    main()
