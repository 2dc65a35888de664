#!/usr/bin/env python3
"""Review web images and their masks in a browser on this machine: keep, reject, or move them to another class.

Decisions are stored at once in dataset/web_decisions.csv; create_web_masks.py and training obey them.
"""
from core.cli import make_parser, parse_config, run


def main() -> None:
    from core.io.logs import start_log
    parser = make_parser(__doc__)
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)")
    args = parser.parse_args()
    config = parse_config(args)
    start_log(config.layout.log("review_web_masks"), config)
    from core.annotation.review import serve
    serve(config, args.port)


if __name__ == "__main__":
    run(main)
