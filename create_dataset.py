#!/usr/bin/env python3
"""Check PASCAL VOC 2012, SBD and the web images, and lay them out for training and evaluation."""
from core.cli import add_jobs, make_parser, parse_config, run
from core.dataset import create_dataset
from core.layout import Layout
from core.logs import start_log


def main():
    parser = make_parser(__doc__, ("voc_dir", "sbd_dir"))
    add_jobs(parser)
    parser.add_argument("--copy", action="store_true", help="copy images and masks instead of linking to them")
    args = parser.parse_args()
    config = parse_config(args)
    start_log(Layout(config).log("create_dataset"), config)
    create_dataset(config, args.jobs, args.copy)


if __name__ == "__main__":
    run(main)
