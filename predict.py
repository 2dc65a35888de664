#!/usr/bin/env python3
"""Segment your own pictures and videos with a trained model: masks, overlays, and the share of each class."""
import dataclasses

from core.cli import (
    add_crf,
    add_devices,
    add_jobs,
    add_ms,
    add_snapshot,
    check_scales,
    make_parser,
    parse_config,
    positive,
    run,
)

_SIDE = 500  # pixels, as in VOC and create_dataset.py: on larger pictures a network does not know the objects again


def main() -> None:
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("scales", "inference_side", "engine", "dtype", "crf_engine"))
    parser.add_argument("paths", nargs="*", metavar="PATH", help="picture, video, folder that is searched for "
                        "both, or quoted pattern such as 'holiday/**/*.jpg'")
    add_snapshot(parser, "final", "newest; without a snapshot the one that comes with the code")
    add_devices(parser)
    add_ms(parser)
    add_crf(parser)
    parser.add_argument("--labels", metavar="CLASS,...",
                        help="classes known to occur; only these and the background are predicted")
    parser.add_argument("--savescoremap", action="store_true",
                        help="save log scores, or the CRF's marginals with --crf, as scoremaps/<name>.npy")
    parser.add_argument("--max-side", type=positive, default=1500, metavar="PIXELS", help="pictures with a longer side "
                        "are scaled down to this length before all else; masks keep the picture's size "
                        "(default: %(default)s)")
    parser.add_argument("--output", metavar="FOLDER", help="folder for the results (default: outputs/predictions)")
    parser.add_argument("--serve", action="store_true", help="serve a page to drop pictures on, for a browser on this "
                        "machine, instead of segmenting files")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of --serve on 127.0.0.1 (default: a free "
                        "one)")
    add_jobs(parser)
    args = parser.parse_args()
    if bool(args.paths) == args.serve:
        parser.error("either --serve or the pictures and videos to segment are expected")
    if not args.serve:
        check_scales(args)
    config = parse_config(args)
    if not config.is_set("inference_side"):
        config = dataclasses.replace(config, inference_side=_SIDE)
    layout = config.layout
    start_log(layout.log("predict"), config)

    # After the flags, as these take seconds.
    from core.engines.chooser import resolve_devices
    from core.evaluation.ranking import choose_snapshot
    from core.inference.media import find_media, is_video
    from core.inference.options import InferenceOptions, SegmentationOptions
    from core.inference.predict_media import allowed_classes, segment_media
    from core.inference.segmenter import settled_dtype
    from core.network.snapshots import load_snapshot
    output = args.output or layout.predictions
    media = [] if args.serve else find_media(args.paths, leave_out=[output])
    snapshot = load_snapshot(config, *choose_snapshot(config, args, "final", "newest", shipped=True))
    devices = resolve_devices(args.gpu, config.engine)
    pictures = [medium.path for medium in media if not is_video(medium.path)]
    dtype = settled_dtype(snapshot, devices, pictures, fastest=True)
    if args.serve:
        from core.inference.try_page import make_app
        from core.runtime.local_server import serve
        serve(lambda token: make_app(snapshot, devices, dtype, args.max_side, token), args.port, "the page has ended")
        return
    inference = InferenceOptions(config.scales if args.ms else (1.0,), crf=args.crf, dtype=dtype)
    allowed = allowed_classes(snapshot.config, args.labels) if args.labels else None
    options = SegmentationOptions(inference, output, save_scores=args.savescoremap, allowed=allowed,
                                  max_side=args.max_side)
    segment_media(snapshot, devices=devices, media=media, options=options, jobs=args.jobs)


if __name__ == "__main__":
    run(main)
