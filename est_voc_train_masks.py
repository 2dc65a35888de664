#!/usr/bin/env python3
"""Estimate pseudo masks for the training images with a trained model, limited to their image-level labels."""
from core.cli import add_flip, add_jobs, make_parser, parse_config, run
from core.config import MODELS
from core.io.logs import start_log
from core.paths import Layout


def main():
    parser = make_parser(__doc__, ("scales", "dtype", "crf_engine"))
    parser.add_argument("--model", choices=MODELS, default="init", help="model that estimates the masks; final "
                        "is for another round of training (default: %(default)s)")
    parser.add_argument("--gpu", default="0", metavar="DEVICES",
                        help="GPU number, several such as 0,1 to share the images, or cpu (default: %(default)s)")
    parser.add_argument("--epoch", required=True, metavar="X",
                        help="epoch of the snapshot; or newest; or best, the first in eval_loop.py's ranking")
    add_flip(parser)
    parser.add_argument("--crf", action="store_true", help="refine the scores with a dense CRF")
    parser.add_argument("--overwrite", action="store_true", help="estimate existing masks again, too")
    parser.add_argument("--output", metavar="FOLDER",
                        help="folder for the masks (default: cache/final_voc_masks)")
    add_jobs(parser)
    args = parser.parse_args()
    config = parse_config(args)
    start_log(Layout(config).log("est_voc_train_masks"), config)

    from core.evaluation.evaluate import find_epoch
    from core.inference.estimate_masks import estimate_train_masks
    from core.runtime.mxnet_backend import resolve_devices  # after the flags: importing mxnet takes seconds
    epoch = find_epoch(config, args.model, args.epoch)
    estimate_train_masks(config, epoch, devices=resolve_devices(args.gpu), crf=args.crf, overwrite=args.overwrite,
                         jobs=args.jobs, model=args.model, flip=args.flip, output=args.output)


if __name__ == "__main__":
    run(main)
