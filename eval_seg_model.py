#!/usr/bin/env python3
"""Evaluate a snapshot: mean IoU on VOC val or on your own images and masks, or predictions for VOC test."""
import os

from core.cli import (
    add_crf,
    add_devices,
    add_jobs,
    add_ms,
    add_snapshot,
    check_scales,
    make_parser,
    parse_config,
    run,
)
from core.errors import UserError


def main() -> None:
    from core.evaluation.submission import check_submission, pack_submission
    from core.inference.postprocess import masks_folder
    from core.io.files import read_list
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("scales", "inference_side", "engine", "dtype", "crf_engine", "voc_dir"))
    add_snapshot(parser)
    add_devices(parser)
    add_ms(parser)
    add_crf(parser)
    parser.add_argument("--savemask", action="store_true", help="save the predictions as masks/<id>.png")
    parser.add_argument("--savescoremap", action="store_true",
                        help="save log scores, or the CRF's marginals with --crf, as scoremaps/<id>.npy")
    parser.add_argument("--submission", metavar="FILE", help="pack the predictions into this .tar.gz file for the "
                        "VOC evaluation server; implies --savemask")
    places = parser.add_argument_group("images")
    places.add_argument("--voc-test", action="store_true", help="predict VOC test, which has no public masks: the "
                        "ids of ImageSets/Segmentation/test.txt and the images in JPEGImages, both below --voc-dir")
    places.add_argument("--list", metavar="FILE", help="ids to evaluate (default: dataset/val_list.txt)")
    places.add_argument("--images", metavar="FOLDER", help="folder of <id>.jpg (default: dataset/val_images)")
    places.add_argument("--masks", metavar="FOLDER", help="folder of <id>.png (default: dataset/val_masks), or none "
                        "to predict only")
    places.add_argument("--output", metavar="FOLDER", help="folder for result.json, masks and score maps "
                        "(default: outputs/<model>_fcn_resnet50_epoch<X>, with --voc-test ..._test)")
    add_jobs(parser)
    args = parser.parse_args()
    check_scales(args)
    config = parse_config(args)
    layout = config.layout
    start_log(layout.log("eval_model"), config)
    if args.submission:
        check_submission(args.submission, config)
    if args.voc_test and not os.path.exists(layout.voc_test_list):
        raise UserError(f"{layout.voc_test_list} is missing: unpack VOC2012test.tar, from the VOC evaluation server, "
                        "over VOC 2012")

    from core.engines.chooser import resolve_devices
    from core.evaluation.evaluate import NO_MASKS, evaluate, evaluation_options
    from core.evaluation.ranking import choose_snapshot
    from core.network.snapshots import load_snapshot
    model, epoch, path = choose_snapshot(config, args)
    output = layout.output(model, epoch) if path is None else os.path.join(
        layout.outputs, os.path.splitext(os.path.basename(path))[0])
    chosen = {"list": args.list, "images": args.images, "masks": args.masks,
              "output": args.output or output + "_test" * args.voc_test}
    if args.voc_test:
        defaults = {"list": layout.voc_test_list, "images": layout.voc_images, "masks": NO_MASKS}
        chosen.update({name: chosen[name] or default for name, default in defaults.items()})
    options = evaluation_options(config, model, epoch=epoch, ms=args.ms, crf=args.crf,
                                 save_masks=args.savemask or bool(args.submission), save_scores=args.savescoremap,
                                 **chosen)
    if args.submission:
        check_submission(args.submission, load_snapshot(config, model, epoch, path).config)  # with its classes
    devices = resolve_devices(args.gpu, config.engine, config.backbone)
    evaluate(config, model, epoch=epoch, path=path, devices=devices, options=options, jobs=args.jobs)
    if args.submission:
        pack_submission(args.submission, read_list(options.list), masks_folder(options.output), options.images)


if __name__ == "__main__":
    run(main)
