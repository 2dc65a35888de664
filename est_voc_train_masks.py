#!/usr/bin/env python3
"""Estimate pseudo masks for the training or web images with a trained model, limited to their image-level labels."""
from core.cli import add_crf, add_devices, add_jobs, add_snapshot, make_parser, parse_config, run


def main() -> None:
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("scales", "inference_side", "cosegmented_images", "logit_adjustment",
                                   "min_confidence", "engine", "dtype", "crf_engine"))
    add_snapshot(parser, "init; final is for another round of training")
    add_devices(parser)
    add_crf(parser)
    parser.add_argument("--images", choices=("train", "web"), default="train", help="train: dataset/train_list.txt; "
                        "web: dataset/web_train_list.txt, to train the init model again with --web-masks (default: "
                        "%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="estimate existing masks again, too")
    parser.add_argument("--output", metavar="FOLDER",
                        help="folder for the masks (default: "
                        "cache/final_voc_masks, for web images dataset/web_estimated)")
    add_jobs(parser)
    args = parser.parse_args()
    config = parse_config(args)
    start_log(config.layout.log("est_voc_train_masks"), config)

    from core.engines.chooser import resolve_devices
    from core.evaluation.ranking import choose_snapshot
    from core.inference.estimate_masks import estimate_train_masks
    model, epoch, path = choose_snapshot(config, args, "init")
    estimate_train_masks(config, epoch, devices=resolve_devices(args.gpu, config.engine, config.backbone), crf=args.crf,
                         overwrite=args.overwrite, jobs=args.jobs, model=model, path=path, output=args.output,
                         images=args.images)


if __name__ == "__main__":
    run(main)
