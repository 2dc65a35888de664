#!/usr/bin/env python3
"""Evaluate every snapshot without a result, wait for new ones, and rank them when no more come."""
from core.cli import (
    add_crf,
    add_devices,
    add_jobs,
    add_ms,
    check_scales,
    make_parser,
    non_negative,
    parse_config,
    run,
)


def main() -> None:
    from core.config import MODELS
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("scales", "inference_side", "engine", "dtype", "crf_engine"))
    parser.add_argument("--model", choices=MODELS, required=True, help="model to evaluate")
    add_devices(parser)
    add_ms(parser)
    add_crf(parser)
    parser.add_argument("--wait", type=non_negative, default=0.3, metavar="HOURS",
                        help="time to wait before looking for new snapshots (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="do not wait for new snapshots")
    add_jobs(parser)
    args = parser.parse_args()
    check_scales(args)
    config = parse_config(args)
    start_log(config.layout.log("eval_model"), config)

    from core.engines.chooser import resolve_devices
    from core.evaluation.ranking import evaluate_all
    devices = resolve_devices(args.gpu, config.engine, config.backbone)
    evaluate_all(config, args.model, devices=devices, ms=args.ms, crf=args.crf,
                 wait_hours=None if args.once else args.wait, jobs=args.jobs)


if __name__ == "__main__":
    run(main)
