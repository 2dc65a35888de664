#!/usr/bin/env python3
"""Export masks to annotation tools and trainers (COCO, YOLO, labelme, PNG), and import corrected web masks.

With corrected masks, training is no longer weakly supervised: see docs/people.md.
"""
import os

from core.cli import make_parser, parse_config, run
from core.errors import UserError


def main() -> None:
    from core.annotation.export import SOURCES, export_masks, find_pairs, import_masks
    from core.annotation.formats import FORMATS
    from core.io.logs import start_log
    parser = make_parser(__doc__)
    parser.add_argument("--format", choices=FORMATS, required=True, help="coco: annotations and images; yolo: "
                        "Ultralytics' segmentation data set; labelme: a JSON file for each image; png: class "
                        "indices with VOC's palette")
    parser.add_argument("--masks", choices=SOURCES, default="web", help="masks of the web images, pseudo masks of the "
                        "training images, ground truth of the val images, or results of predict.py (default: "
                        "%(default)s)")
    parser.add_argument("--all", action="store_true", help="with --masks web: also images that the noise filter "
                        "left out")
    parser.add_argument("--output", metavar="FOLDER", help="folder to write (default: outputs/<masks>_<format>)")
    parser.add_argument("--polygons", action="store_true", help="with --format coco: polygons instead of run lengths, "
                        "for tools that cannot read these; holes are joined to the outline by a cut")
    parser.add_argument("--ignore-label", metavar="NAME", help="class for uncertain pixels, 255 (default: exported as "
                        "background, in png as 255)")
    parser.add_argument("--import", dest="source", metavar="PATH", help="read corrected masks of web images from "
                        "what a tool saved, instead of writing; create_web_masks.py then keeps them")
    args = parser.parse_args()
    config = parse_config(args)
    layout = config.layout
    start_log(layout.log("export_masks"), config)
    if args.polygons and args.format != "coco":
        raise UserError("--polygons is for --format coco; yolo and labelme always have polygons")
    if args.source:
        if args.masks != "web":
            raise UserError(f"--import is for web masks; leave out --masks {args.masks}")
        import_masks(config, args.format, args.source, ignore=args.ignore_label)
        return
    output = args.output or os.path.join(layout.outputs, f"{args.masks}_{args.format}")
    export_masks(config, args.format, find_pairs(config, args.masks, args.all), output, ignore=args.ignore_label,
                 polygons=args.polygons)


if __name__ == "__main__":
    run(main)
