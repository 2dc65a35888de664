#!/usr/bin/env python3
"""Draw example pictures of mugs, spoons and keys, arranged as users arrange their own pictures.

FOLDER/web/<class>/*.jpg       web images, one folder for each class
FOLDER/train/images/*.jpg      training images
FOLDER/train/labels.csv        the classes in each of them
FOLDER/val/images/, val/masks/ images with masks, for evaluation
"""
import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from make_sample import box, checks, disc, rings, stripes, voc_picture, web_picture  # noqa: E402

from core.classes import BACKGROUND, IGNORE_LABEL  # noqa: E402
from core.cli import positive, run  # noqa: E402
from core.io.files import write_lines  # noqa: E402
from core.io.images import write_image, write_mask  # noqa: E402

CLASSES = ("background", "mug", "spoon", "key")
FIGURES = {
    "mug": ([box(-0.8, -0.75, 0.4, 0.8), disc(0.55, 0, 0.45, 0.4)], stripes),
    "spoon": ([disc(-0.6, 0, 0.42, 0.3), box(-0.3, -0.13, 1, 0.13)], rings),
    "key": ([disc(-0.55, 0, 0.45, 0.45), box(-0.2, -0.14, 1, 0.14), box(0.45, 0, 0.6, 0.5), box(0.8, 0, 0.95, 0.5)],
            checks)}


def draw(folder, web, photos, val, seed=0):
    """Write `web` pictures of each class, and `photos` and `val` pictures of several objects."""
    for index, name in enumerate(FIGURES, 1):
        for number in range(web):
            image, _ = web_picture(np.random.default_rng((seed, 0, index, number)), name, FIGURES)
            write_image(os.path.join(folder, "web", name, f"{number:03d}.jpg"), image)
    lines = []
    for number in range(photos):
        image, mask = voc_picture(np.random.default_rng((seed, 1, number)), FIGURES, CLASSES)
        write_image(os.path.join(folder, "train", "images", f"{number:03d}.jpg"), image)
        present = np.setdiff1d(mask, (BACKGROUND, IGNORE_LABEL))
        lines.append(f"{number:03d}.jpg,{';'.join(CLASSES[index] for index in present)}")
    write_lines(os.path.join(folder, "train", "labels.csv"), lines)
    for number in range(val):
        image, mask = voc_picture(np.random.default_rng((seed, 2, number)), FIGURES, CLASSES)
        write_image(os.path.join(folder, "val", "images", f"{number:03d}.jpg"), image)
        write_mask(os.path.join(folder, "val", "masks", f"{number:03d}.png"), mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--web", type=positive, default=30, metavar="N", help="web images per class "
                        "(default: %(default)s)")
    parser.add_argument("--photos", type=positive, default=120, metavar="N", help="training images "
                        "(default: %(default)s)")
    parser.add_argument("--val", type=positive, default=30, metavar="N", help="val images (default: %(default)s)")
    args = parser.parse_args()
    draw(args.folder, args.web, args.photos, args.val)


if __name__ == "__main__":
    run(main)
