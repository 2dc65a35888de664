#!/usr/bin/env python3
"""Show the results of the chain: a table of mean IoU, and a picture of val images with their masks."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from core.cli import make_parser, parse_config, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.evaluation.results import ResultFolder  # noqa: E402
from core.io.drawing import colour_mask  # noqa: E402
from core.io.files import read_list  # noqa: E402
from core.io.images import read_image, read_mask, write_image  # noqa: E402
from core.paths import image_path, mask_path  # noqa: E402
from demo.pictures_table import side_by_side  # noqa: E402

ROWS = (("init", "init", 1, False), ("final", "final", 1, False), ("final + ms", "final", 3, False),
        ("final + ms + crf", "final", 3, True))  # title, model, number of scales, CRF
TITLES = ("image", "ground truth", "init", "final", "final + ms + crf")  # of the pictures


def picture_rows(config, count, epoch="best"):
    """Pictures of the first val images, their ground truth and the masks of both models.

    Args:
        count: number of images.
        epoch: of both models, as --epoch takes it.

    Returns:
        list of lists of (h, w, 3) uint8 RGB, in the order of TITLES.

    Raises:
        UserError: a file is missing.
    """
    from core.engines.chooser import resolve_devices
    from core.evaluation.ranking import find_epoch
    from core.inference.segmenter import Segmenter
    from core.network.snapshots import load_snapshot
    layout = config.layout
    segmenters = [Segmenter(load_snapshot(config, model, find_epoch(config, model, epoch)), resolve_devices("cpu"))
                  for model in ("init", "final")]
    refined = os.path.join(layout.output("final", find_epoch(config, "final", epoch)), "masks")
    rows = []
    for name in read_list(layout.val_list)[:count]:
        image = read_image(image_path(layout.val_images, name))
        masks = [read_mask(mask_path(layout.val_masks, name), config.num_classes)]
        masks += [segmenter.scores(image).argmax(0).astype("uint8") for segmenter in segmenters]
        masks.append(read_mask(mask_path(refined, name), config.num_classes))
        rows.append([image] + [colour_mask(mask) for mask in masks])
    return rows


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=6, metavar="N", help="val images shown (default: %(default)s)")
    parser.add_argument("--epoch", default="best", metavar="X", help="epoch of both models; or newest; or best, the "
                        "first in eval_loop.py's ranking (default: %(default)s)")
    args = parser.parse_args()
    config = parse_config(args)
    from core.evaluation.ranking import find_epoch  # after the flags: importing mxnet takes seconds
    layout = config.layout
    print(f"\n{'model':<18s} {'epoch':>5s}  mean IoU on {len(read_list(layout.val_list))} val images")
    for title, model, scales, crf in ROWS:
        epoch = find_epoch(config, model, args.epoch)
        print(f"{title:<18s} {epoch:5d}  {100 * mean_iou(layout, model, epoch, scales, crf):.1f}")

    path = config.path("outputs", "results.png")
    write_image(path, side_by_side(picture_rows(config, args.images, args.epoch), TITLES))
    print(f"\nimage, ground truth, init and final model side by side: {path}")


def mean_iou(layout, model, epoch, scales, crf):
    """Mean IoU of the stored evaluation with these settings."""
    for result in ResultFolder(layout.output(model, epoch)).stored():
        settings = result["settings"]
        if (len(settings["scales"]), bool(settings["crf"])) == (scales, crf):
            return result["mean_iou"]
    raise UserError(f"{layout.output(model, epoch)} has no evaluation with {scales} scales{' and CRF' if crf else ''}: "
                    "run demo/run.sh")


if __name__ == "__main__":
    run(main)
