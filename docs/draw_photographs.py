#!/usr/bin/env python3
"""Draw docs/photographs.jpg: photographs of demo/pictures, segmented by the network that comes with the code."""
import os
import sys

import numpy as np

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
sys.path.insert(0, ROOT)
from core.cli import run  # noqa: E402
from core.config import Config  # noqa: E402
from core.io.drawing import legend, overlay  # noqa: E402
from core.io.images import read_image, write_image  # noqa: E402
from core.paths import SHIPPED_SNAPSHOT  # noqa: E402
from demo.pictures_table import HEADER, side_by_side  # noqa: E402

SHOWN = ("cat", "astronaut", "admiral", "coffee")  # the last one shows no class of the network


def main() -> None:
    from core.engines.chooser import resolve_devices
    from core.inference.crf import refine
    from core.inference.segmenter import Segmenter
    from core.network.snapshots import identify_snapshot, load_snapshot
    config = Config(inference_side=500)  # as predict.py has it
    snapshot = load_snapshot(config, *identify_snapshot(SHIPPED_SNAPSHOT), SHIPPED_SNAPSHOT)
    config, segmenter = snapshot.config, Segmenter(snapshot, resolve_devices("cpu"))
    images = [read_image(os.path.join(ROOT, "demo", "pictures", name + ".jpg")) for name in SHOWN]
    masks = [refine(segmenter.scores(image, config.scales), image, config).argmax(0).astype(np.uint8)
             for image in images]
    sheet = side_by_side([images, list(map(overlay, images, masks))], [""] * len(SHOWN), 230)[HEADER:]
    present = np.unique(np.concatenate([mask.ravel() for mask in masks]))
    write_image(os.path.join(FOLDER, "photographs.jpg"),
                np.concatenate([sheet, legend(present, config.classes, sheet.shape[1])]), 85)


if __name__ == "__main__":
    run(main)
