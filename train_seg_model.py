#!/usr/bin/env python3
"""Train the init model on web images, or the final model on training images with pseudo masks."""
import os

from core.cli import make_parser, parse_config, positive, run
from core.errors import UserError


def main() -> None:
    from core.config import MODELS
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("batch_size", "crop_size", "max_epoch", "workers", "web_sampling",
                                   "web_masks", "learning_rate_decay", "engine", "dtype", "accumulate"))
    parser.add_argument("--model", choices=MODELS, required=True, help="init: on dataset/web_train_list.txt; final: "
                        "on dataset/train_list.txt with the masks of est_voc_train_masks.py")
    parser.add_argument("--gpus", default="0", metavar="DEVICES", help="devices that share every batch: GPU numbers "
                        "such as 0 or 0,1,2,3, or cpu (default: %(default)s)")
    parser.add_argument("--epoch", type=int, metavar="X",
                        help="start from the snapshot of epoch X, with fresh momentum (default: from --base-model)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run (the one from --epoch X, if "
                        "given) as if it had never stopped; start one if there is none")
    parser.add_argument("--keep", type=positive, metavar="N", help="keep the last N snapshots, and the best one in "
                        "eval_loop.py's ranking (default: keep all)")
    parser.add_argument("--lr", type=float, dest="learning_rate", metavar="FLOAT",
                        help="learning rate (published: 16e-4, and 16e-5 to fine-tune)")
    parser.add_argument("--base-model", type=os.path.abspath, metavar="FILE", help="parameters to start from: a "
                        "ResNet-50 or any snapshot (default: models/resnet50.params; without it, random weights)")
    parser.add_argument("--epoch-size", type=int, metavar="INT",
                        help="batches in an epoch (published: 200 for init, 700 for final)")
    args = parser.parse_args()
    config = parse_config(args, **{f"{args.model}_epoch_size": args.epoch_size})

    from core.engines.chooser import resolve_devices
    from core.training.train import train
    from core.training.workers import joined_workers
    with joined_workers(config, args.gpus) as group:
        if group is None or group.rank == 0:
            start_log(config.layout.log(f"train_{args.model}_model"), config)
        devices = resolve_devices(args.gpus, config.engine, config.backbone)
        if config.dtype == "int8":
            raise UserError("--dtype int8 is for trained networks: leave it out")
        if devices[0].engine == "mxnet":
            if args.dtype not in (None, "auto", "float32"):
                raise UserError(f"--dtype {args.dtype} is for --engine torch: MXNet trains in float32")
            if config.accumulate > 1:
                raise UserError(f"--accumulate {config.accumulate} is for --engine torch")
        train(config, args.model, devices=devices, start_epoch=args.epoch, resume=args.resume, keep=args.keep,
              group=group)


if __name__ == "__main__":
    run(main, "the same command with --resume continues after the last snapshot")
