#!/usr/bin/env python3
"""Evaluate every snapshot without a result, wait for new ones, and rank them when no more come."""
from core.cli import add_flip, add_jobs, check_scales, hours, make_parser, parse_config, run
from core.config import MODELS
from core.io.logs import start_log
from core.paths import Layout


def main():
    parser = make_parser(__doc__, ("scales", "dtype", "crf_engine"))
    parser.add_argument("--model", choices=MODELS, required=True, help="model to evaluate")
    parser.add_argument("--gpu", default="0", metavar="DEVICES",
                        help="GPU number, several such as 0,1 to share the images, or cpu (default: %(default)s)")
    parser.add_argument("--ms", action="store_true", help="sum the scores over --scales")
    add_flip(parser)
    parser.add_argument("--crf", action="store_true", help="refine the scores with a dense CRF")
    parser.add_argument("--wait", type=hours, default=0.3, metavar="HOURS",
                        help="time to wait before looking for new snapshots (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="do not wait for new snapshots")
    add_jobs(parser)
    args = parser.parse_args()
    check_scales(args)
    config = parse_config(args)
    start_log(Layout(config).log("eval_model"), config)

    from core.evaluation.evaluate import evaluate_all
    from core.runtime.mxnet_backend import resolve_devices  # after the flags: importing mxnet takes seconds
    evaluate_all(config, args.model, devices=resolve_devices(args.gpu), ms=args.ms, crf=args.crf,
                 wait_hours=None if args.once else args.wait, jobs=args.jobs, flip=args.flip)


if __name__ == "__main__":
    run(main)
