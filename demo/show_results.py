#!/usr/bin/env python3
"""Show what the chain has reached: a table of mean IoU, and a picture of val images with their masks."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from core.cli import make_parser, parse_config, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.evaluation.results import ResultFolder  # noqa: E402
from core.io.drawing import colour_mask, side_by_side  # noqa: E402
from core.io.files import read_list  # noqa: E402
from core.io.images import read_image, read_mask, write_image  # noqa: E402
from core.paths import Layout, image_path, mask_path  # noqa: E402

ROWS = (("init", "init", 1, False), ("final", "final", 1, False), ("final + ms", "final", 3, False),
        ("final + ms + crf", "final", 3, True))  # title, model, number of scales, CRF


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=6, metavar="N", help="val images shown (default: %(default)s)")
    args = parser.parse_args()
    config = parse_config(args)

    from core.evaluation.evaluate import find_epoch
    from core.inference.segmenter import Segmenter
    from core.network.snapshots import load_snapshot
    from core.runtime.mxnet_backend import resolve_devices  # after the flags: importing mxnet takes seconds
    layout = Layout(config)
    epochs = {model: find_epoch(config, model, "best") for model in ("init", "final")}
    print("\n%-18s %5s  %s" % ("model", "epoch", "mean IoU on %d val images" % len(read_list(layout.val_list))))
    for title, model, scales, crf in ROWS:
        print("%-18s %5d  %.1f" % (title, epochs[model], 100 * mean_iou(layout, model, epochs[model], scales, crf)))

    segmenters = []
    for model, epoch in epochs.items():
        segmenters.append(Segmenter(load_snapshot(config, model, epoch), resolve_devices("cpu")))
    refined = os.path.join(layout.output("final", epochs["final"]), "masks")
    rows = []
    for name in read_list(layout.val_list)[:args.images]:
        image = read_image(image_path(layout.val_images, name))
        masks = [read_mask(mask_path(layout.val_masks, name), config.num_classes)]
        masks += [segmenter.scores(image).argmax(0).astype("uint8") for segmenter in segmenters]
        masks.append(read_mask(mask_path(refined, name), config.num_classes))
        rows.append([image] + [colour_mask(mask) for mask in masks])
    path = config.path("outputs", "results.png")
    write_image(path, side_by_side(rows, ("image", "truth", "init", "final", "final + ms + crf")))
    print("\nimage, truth, init and final side by side: %s" % path)


def mean_iou(layout, model, epoch, scales, crf):
    """Mean IoU of the stored evaluation with these settings."""
    for result in ResultFolder(layout.output(model, epoch)).stored():
        settings = result["settings"]
        if (len(settings["scales"]), bool(settings["crf"]), "flip" in settings) == (scales, crf, False):
            return result["mean_iou"]
    raise UserError("%s has no evaluation with %d scales%s: run demo/run.sh"
                    % (layout.output(model, epoch), scales, " and CRF" if crf else ""))


if __name__ == "__main__":
    run(main)
