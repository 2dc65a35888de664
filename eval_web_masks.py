#!/usr/bin/env python3
"""Compare masks of web images with ground truth: share of correct pixels (P) and Jaccard index (J) per class."""
from core.cli import make_parser, parse_config, run


def main() -> None:
    from core.cosegmentation.evaluate_masks import evaluate_web_masks
    from core.io.logs import start_log
    parser = make_parser(__doc__)
    parser.add_argument("--truth", required=True, metavar="FOLDER",
                        help="ground truth, <class>_<id>.png, with the class index where foreground")
    parser.add_argument("--masks", metavar="FOLDER", help="masks to compare (default: dataset/web_labels)")
    args = parser.parse_args()
    config = parse_config(args)
    start_log(config.layout.log("eval_web_masks"), config)
    evaluate_web_masks(config, args.truth, args.masks)


if __name__ == "__main__":
    run(main)
