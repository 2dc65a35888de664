#!/usr/bin/env python3
"""Check the images of PASCAL VOC 2012 and SBD, or your own, and arrange them for training and evaluation."""
from core.cli import add_jobs, make_parser, parse_config, positive, run


def main() -> None:
    from core.dataset.create import create_dataset
    from core.dataset.own_images import OwnImages
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("voc_dir", "sbd_dir"))
    add_jobs(parser)
    parser.add_argument("--copy", action="store_true", help="copy images and masks instead of linking to them")
    images = parser.add_argument_group("images of your own", "They replace VOC and SBD.")
    images.add_argument("--train-images", metavar="FOLDER", help="training images: FOLDER/<class name>/*, or any "
                        "folder with --train-labels")
    images.add_argument("--train-labels", metavar="FILE", help="classes in each training image: a CSV file of lines "
                        'such as photo.jpg,cat;dog, or JSON, {"image": ["class", ...]}; names are as below '
                        "--train-images (default: the file's folder)")
    images.add_argument("--val-images", metavar="FOLDER", help="images with masks, for evaluation (optional)")
    images.add_argument("--val-masks", metavar="FOLDER", help="masks of the val images, PNG files of the same names")
    images.add_argument("--max-side", type=positive, metavar="PIXELS", default=500, help="images with a longer side "
                        "are stored scaled down to this length, val masks with them (default: %(default)s, as in VOC)")
    args = parser.parse_args()
    config = parse_config(args)
    own = OwnImages(args.train_images, args.train_labels, args.val_images, args.val_masks, args.max_side)
    start_log(config.layout.log("create_dataset"), config)
    create_dataset(config, args.jobs, copy=args.copy, own=own if any(own[:4]) else None)


if __name__ == "__main__":
    run(main)
