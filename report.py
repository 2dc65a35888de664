#!/usr/bin/env python3
"""Compare evaluations and epochs: an HTML page with tables and learning curves, and the curves as a PNG file."""
import os

from core.cli import make_parser, parse_config, run
from core.errors import UserError


def main() -> None:
    from core.evaluation.report import find_source, write_comparison
    from core.io.logs import logger, start_log
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="evaluation's folder, or root folder with "
                        "outputs/ and log/; several are compared (default: --root)")
    parser.add_argument("--output", metavar="FILE",
                        help="HTML file to write; the PNG file goes beside it (default: outputs/report.html)")
    args = parser.parse_args()
    config = parse_config(args)
    layout = config.layout
    start_log(layout.log("report"), config)
    folders = args.folders or [config.root]
    names = [os.path.basename(os.path.abspath(folder)) for folder in folders]
    titles = [""] if len(folders) == 1 else names if len(set(names)) == len(names) else folders
    path = args.output or os.path.join(layout.outputs, "report.html")
    if not path.lower().endswith((".html", ".htm")):
        raise UserError(f"--output {path}: the name must end in .html")
    if os.path.isdir(path):
        raise UserError(f"--output {path} is a folder: add a file name")
    png = write_comparison(path, [find_source(*pair) for pair in zip(folders, titles)])
    logger.info("report: %s, curves: %s", path, png)


if __name__ == "__main__":
    run(main)
