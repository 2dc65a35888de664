#!/usr/bin/env python3
"""Export a trained model as ONNX: pictures of any size in, masks out, without this code."""
from core.cli import add_snapshot, make_parser, parse_config, run
from core.errors import UserError

_DIFFERENT = 1e-3  # share of pixels: rounding may turn a tie, no more


def main() -> None:
    from core.io.logs import logger, start_log
    parser = make_parser(__doc__)
    parser.add_argument("output", metavar="OUT.onnx", help="file to write")
    add_snapshot(parser, "final", "newest")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32",
                        help="int8: quantised on the training images, or where there are none on the pictures of "
                        "--check (default: %(default)s)")
    parser.add_argument("--check", nargs="+", default=(), metavar="PICTURE",
                        help="pictures for which ONNX Runtime must give the same masks as the network here (in int8 it "
                        "need not; the share is told)")
    args = parser.parse_args()
    if not args.output.lower().endswith(".onnx"):
        raise UserError(f"{args.output}: the name must end in .onnx")
    config = parse_config(args)
    layout = config.layout
    start_log(layout.log("export_onnx"), config)

    from core.engines.chooser import resolve_devices
    from core.evaluation.ranking import choose_snapshot
    from core.inference.onnx_export import agreement, export, open_session
    from core.inference.segmenter import Segmenter
    from core.io.files import read_bytes, write_bytes
    from core.io.images import read_image
    from core.network.snapshots import load_snapshot
    snapshot = load_snapshot(config, *choose_snapshot(config, args, "final", "newest"))
    pictures = {path: read_image(path) for path in args.check}  # so that errors in them come first
    if args.dtype == "int8":
        from core.inference.quantized import quantise, quantised_path
        quantise(snapshot, args.check)
        write_bytes(args.output, read_bytes(quantised_path(snapshot)))
        logger.info("%s: in int8, for ONNX Runtime or OpenVINO", args.output)
    else:
        export(snapshot, args.output)
    if pictures:
        session = open_session(args.output)
        segmenter = Segmenter(snapshot, resolve_devices("cpu"))
    for path, picture in pictures.items():
        same, difference = agreement(session, segmenter, picture)
        logger.info("%s: %.4f %% of the pixels agree, scores differ by %.1e at most", path, 100 * same, difference)
        if args.dtype == "float32" and same < 1 - _DIFFERENT:
            raise UserError(f"{path}: ONNX Runtime and the network give different masks; please report this")


if __name__ == "__main__":
    run(main)
