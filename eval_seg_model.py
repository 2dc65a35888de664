#!/usr/bin/env python3
"""Evaluate a snapshot: mean IoU on VOC val, or on images and masks of your own."""
from core.cli import add_flip, add_jobs, make_parser, parse_config, run
from core.config import MODELS
from core.layout import Layout
from core.logs import start_log


def main():
    parser = make_parser(__doc__, ("scales", "dtype"))
    parser.add_argument("--model", choices=MODELS, required=True, help="model to evaluate")
    parser.add_argument("--gpu", default="0", metavar="DEVICES",
                        help="GPU number, several as 0,1 that share the images, or cpu (default: %(default)s)")
    parser.add_argument("--epoch", required=True, metavar="X",
                        help="epoch of the snapshot, or best: the first of eval_loop.py's ranking")
    parser.add_argument("--ms", action="store_true", help="add up the scores at --scales")
    add_flip(parser)
    parser.add_argument("--crf", action="store_true", help="refine the scores with a dense CRF")
    parser.add_argument("--savemask", action="store_true", help="keep the predictions in masks/<id>.png")
    parser.add_argument("--savescoremap", action="store_true",
                        help="keep log scores, or the CRF's marginals, in scoremaps/<id>.npy")
    places = parser.add_argument_group("images")
    places.add_argument("--list", metavar="FILE", help="ids to evaluate (default: dataset/val_list.txt)")
    places.add_argument("--images", metavar="FOLDER", help="folder of <id>.jpg (default: dataset/val_images)")
    places.add_argument("--masks", metavar="FOLDER", help="folder of <id>.png (default: dataset/val_masks)")
    places.add_argument("--output", metavar="FOLDER", help="folder for result.json, masks and score maps "
                        "(default: outputs/<model>_fcn_resnet50_epoch<X>)")
    add_jobs(parser)
    args = parser.parse_args()
    config = parse_config(args)
    start_log(Layout(config).log("eval_model"), config)

    from core.backend import resolve_devices  # after the flags: importing mxnet takes seconds
    from core.evaluate import evaluate, evaluation_options, find_epoch
    epoch = find_epoch(config, args.model, args.epoch)
    options = evaluation_options(config, args.model, epoch, args.ms, args.crf, args.savemask, args.savescoremap,
                                 args.flip, list=args.list, images=args.images, masks=args.masks, output=args.output)
    evaluate(config, args.model, epoch, resolve_devices(args.gpu), options, args.jobs)


if __name__ == "__main__":
    run(main)
