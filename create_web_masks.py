#!/usr/bin/env python3
"""Make masks for the web images by co-segmentation, and list the images that pass the noise filter."""
import functools

from core.cli import add_devices, add_jobs, make_parser, parse_config, run


def main() -> None:
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("cosegmented_images", "web_min_score", "web_min_likeness", "engine"))
    add_devices(parser)
    add_jobs(parser)
    parser.add_argument("--scheduler", metavar="ADDRESS",
                        help="Dask scheduler, such as tcp://host:8786; its workers replace the --jobs processes")
    parser.add_argument("--features", choices=("auto", "imagenet", "resnet"), default="auto",
                        help="network that compares the images: EfficientNet-Lite2 of ImageNet, or the base model "
                        "(default: the first of these whose weights are there)")
    parser.add_argument("--overwrite", action="store_true", help="make all masks again, replacing existing ones")
    args = parser.parse_args()
    config = parse_config(args)
    start_log(config.layout.log("create_web_masks"), config)

    from core.cosegmentation.cosegment import cosegment  # after the flags: importing scikit-learn takes a second
    cosegment(config, functools.partial(_devices, text=args.gpu, engine=config.engine), args.jobs,
              scheduler=args.scheduler, features=args.features, overwrite=args.overwrite)


def _devices(backbone, text, engine):
    from core.engines.chooser import resolve_devices
    return resolve_devices(text, engine, backbone)


if __name__ == "__main__":
    run(main)
