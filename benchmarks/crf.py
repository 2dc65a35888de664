#!/usr/bin/env python3
"""Compare the dense CRF of core/inference/crf.py with the plain one, which has all labels in the mean field."""
import dataclasses
import glob
import importlib.util
import os

import numpy as np
from measure import alternate, draw, draw_scores, make_parser

from core.classes import BACKGROUND, IGNORE_LABEL
from core.config import Config
from core.inference.crf import refine
from core.io.images import read_image, read_mask
from core.runtime.parallel import process_pool


def plain(scores, image, config):
    """Marginals of pydensecrf, with all labels in the mean field: the published steps."""
    return refine(scores, image, dataclasses.replace(config, crf_engine="pydensecrf"))


def plain_is_installed():
    """Whether `plain` can run; says so where it can't."""
    found = importlib.util.find_spec("pydensecrf") is not None
    if not found:
        print("plain: skipped, as pydensecrf2 is not installed")
    return found


def scene(size, classes, plausible, seed=0):
    rng = np.random.default_rng(seed)
    image, mask = draw(rng, size, classes)
    return draw_scores(rng, mask, classes, plausible), image


def real_scene(path, plausible):
    """Scores drawn from the mask of a photograph, and the photograph."""
    name = os.path.splitext(os.path.basename(path))[0]
    mask = read_mask(os.path.join(os.path.dirname(path), "..", "masks", name + ".png"), 21)
    mask[mask == IGNORE_LABEL] = BACKGROUND
    return draw_scores(np.random.default_rng(0), mask, 21, plausible), read_image(path)


def main():
    parser = make_parser(__doc__, repeats=7)
    parser.add_argument("--images", metavar="FOLDER",
                        help="photographs (images/*.jpg) and masks (masks/*.png) to use instead of drawn scenes")
    args = parser.parse_args()
    config = Config()
    if args.growth:
        for factor in (0.5, 1, 1.5, 2):
            size = int(args.size[0] * factor), int(args.size[1] * factor)
            case = scene(size, 21, 2)
            alternate({f"{size[0]} x {size[1]} pixels": lambda: refine(*case, config)}, args.repeats, "an image")
        for classes in (2, 5, 11, 21, 41):
            case = scene(args.size, classes, 2)
            alternate({f"{classes} classes": lambda: refine(*case, config)}, args.repeats, "an image")
        case = scene(args.size, 21, 2)
        for jobs in (1, 2):
            with process_pool(jobs) as pool:
                alternate({f"{jobs} processes": lambda: list(pool.map(refine, *zip(*[case + (config,)] * 8)))},
                          args.repeats, "an image", 8)
        return
    paths = sorted(glob.glob(os.path.join(args.images, "images", "*.jpg"))) if args.images else []
    if args.images and not paths:
        parser.error(f"{os.path.join(args.images, 'images')} holds no .jpg")
    compared = plain_is_installed()
    for plausible in (0, 2, 4):
        if args.images:
            cases = [real_scene(path, plausible) for path in paths]
            print(f"{len(cases)} photographs; {plausible} more classes are plausible")
        else:
            cases = [scene(args.size, 21, plausible, seed) for seed in range(3)]
            print(f"3 objects and the background; {plausible} more classes are plausible")
        ways = {"plain": lambda: [plain(*case, config) for case in cases]} if compared else {}
        ways["core/inference/crf.py"] = lambda: [refine(*case, config) for case in cases]
        alternate(ways, args.repeats, "an image", len(cases))
        if not compared:
            continue
        equal = [(plain(*case, config).argmax(0) == refine(*case, config).argmax(0)).mean() for case in cases]
        print(f"pixels unchanged: {100 * np.mean(equal):.4f} %, in the image with most changes "
              f"{100 * min(equal):.4f} %")


if __name__ == "__main__":
    main()
