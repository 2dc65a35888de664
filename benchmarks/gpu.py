#!/usr/bin/env python3
"""Measure the engine torch: its GPUs against the CPU, training with one and all of them, inference. Prints a table."""
import argparse
import os
import platform
import subprocess
import sys
import time

import numpy as np
from inference import random_parameters

from core.config import Config
from core.engines.network import Network
from core.engines.torch import backend
from core.engines.torch.steps import Steps
from core.network import fcn

torch = backend.torch
GPUS = torch.cuda.device_count()
DTYPES = ("float32", "tf32", "bfloat16") if GPUS else ("float32",)
BACKBONES = {"resnet50": {"batch_size": 16, "crop_size": 320},
             "efficientnet_lite2": {"batch_size": 16, "crop_size": 320, "frozen_stages": 7}}
SMALL = {"width": 4, "head_channels": 8, "global_channels": 8, "batch_size": 2, "crop_size": 64}
STEPS, IMAGES, SIDE = (50, 50, 504) if GPUS else (1, 1, 96)


def settings(backbone, **changes):
    return Config(**{"backbone": backbone, "learning_rate": 1e-4, **BACKBONES[backbone], **({} if GPUS else SMALL),
                     **changes})


def batch(config):
    rng = np.random.default_rng(0)
    count, side = config.batch_size, config.crop_size
    return (rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8),
            rng.integers(0, 21, (count, (side // 8) ** 2)).astype(np.uint8),
            rng.integers(0, 2, (count, 21, 1, 1)).astype(np.float32))


def training_steps(config, device, group=None):
    return Steps(config, "final", devices=[device], parameters=random_parameters("final", config), momentum={}, first=0,
                 last=1000, group=group)


def network(config, device, dtype="float32"):
    args = fcn.fold_batch_norms(*random_parameters("final", config))
    return Network(lambda ops: [fcn.probabilities(ops, "final", config)], args, device, dtype)


def device_of(text):
    return backend.process_devices(*backend.parse_devices(text))[0]


def parity(backbone):
    """Largest differences of probabilities, and of parameters after a step relative to the largest change."""
    config = settings(backbone, dropout=0.0, dtype="float32", batch_size=2)
    image = np.random.default_rng(1).normal(0, 50, (3, 96, 96)).astype(np.float32)
    theirs, mine = (network(config, device_of(text)).forward(image)()[0] for text in ("cpu", "0"))
    before, _ = random_parameters("final", config)
    reached = []
    for text in ("cpu", "0"):
        steps = training_steps(config, device_of(text))
        steps.step(*batch(config))()
        reached.append(steps.parameters()[0])
    change = max(np.abs(value - before[name]).max() for name, value in reached[0].items())
    return np.abs(mine - theirs).max(), max(np.abs(value - reached[1][name]).max()
                                            for name, value in reached[0].items()) / change


def train(backbone, dtype, group=None):
    """Images a second of this process, and its memory in GB."""
    config = settings(backbone, dtype=dtype)
    device = group and device_of("0" if GPUS else "cpu") or device_of("0")
    steps, inputs, waiting = training_steps(config, device, group), batch(config), None
    for number in range(STEPS + 5):
        if number == 5:
            waiting()
            start = time.perf_counter()
        sums = steps.step(*inputs)
        if waiting:
            waiting()
        waiting = sums
    if not np.isfinite(waiting()).all():
        sys.exit("the loss is not finite")
    speed = STEPS * config.batch_size / (time.perf_counter() - start)
    return speed, torch.cuda.max_memory_allocated() / 1e9 if GPUS else 0.0


def infer(backbone, dtype):
    """Images a second at one scale."""
    mine = network(settings(backbone), device_of("0"), dtype)
    image = np.random.default_rng(1).normal(0, 50, (3, SIDE, SIDE)).astype(np.float32)
    for number in range(IMAGES + 5):
        if number == 5:
            start = time.perf_counter()
        mine.forward(image)()
    return IMAGES / (time.perf_counter() - start)


def work(backbone, dtype):
    """Be one of the processes that train; the first one prints what all of them reach."""
    if "RANK" in os.environ:
        with backend.process_group("0" if GPUS else "cpu") as group:
            speed, memory = train(backbone, dtype, group)
            count = group.size if not group.rank else 0
    else:
        (speed, memory), count = train(backbone, dtype), 1
    if count:
        print(f"{speed * count:.1f} {memory:.1f}")


def started(count, *words):
    """What `work` prints in `count` processes of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    done = subprocess.run([sys.executable, *launcher, os.path.abspath(__file__), "--work", *words],
                          stdout=subprocess.PIPE, universal_newlines=True)
    return done.stdout.split()[-2:] if done.returncode == 0 else ["failed", "-"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(*args.work)
    name = "no GPU: small, on the CPU"
    if GPUS:
        name = f"{GPUS} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    print(f"{name}; torch {torch.__version__}; Python {platform.python_version()}; {platform.platform()}\n", flush=True)
    print("| final model | devices | type | training, images/s | memory, GB a device | inference, images/s |\n"
          "|---|---|---|---|---|---|")
    for backbone in BACKBONES:
        for dtype in DTYPES:
            for count in (1, GPUS) if GPUS > 1 else (1,) if GPUS else (1, 2):
                speed, memory = started(count, backbone, dtype)
                images = f"{infer(backbone, dtype):.1f}" if count == 1 else ""
                print(f"| {backbone} | {count} | {dtype} | {speed} | {memory} | {images} |", flush=True)
    for backbone in BACKBONES:
        scores, parameters = parity(backbone)
        print(f"\n{backbone}, float32, {'GPU' if GPUS else 'CPU'} against CPU: probabilities differ by at most "
              f"{scores:.1e}, parameters after a step by {parameters:.1e} of the largest change")


if __name__ == "__main__":
    main()
