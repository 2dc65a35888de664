#!/usr/bin/env python3
"""Compare evaluation (--ms --crf) or mask estimation, from image files to results, with the plain way.

The plain way processes one image after another in one thread, with the plain network of inference.py and the plain
dense CRF of crf.py. This project runs the CRF in --jobs processes while the network continues. The network has random
weights and takes its full time, but its scores are replaced by drawn ones like those of a trained network, because
the time of a CRF depends on them. The plain way has its own process, so that MXNet can use other threads there.
"""
import functools
import os
import tempfile

import numpy as np
from measure import alternate, draw, draw_scores, make_parser

from core.cli import positive
from core.config import Config
from core.inference.confusion import confusion_matrix
from core.inference.options import EvaluationOptions, InferenceOptions
from core.inference.postprocess import compare, scores_path
from core.inference.pseudo_masks import Estimation, estimate
from core.io.files import read_array, write_array
from core.io.images import read_image, read_mask, write_image, write_mask
from core.paths import image_path, mask_path, stems
from core.runtime.parallel import ordered_map, process_pool

LABELS = [1, 2]  # image-level labels of every image, in mask estimation


def main():
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=positive, default=8, metavar="N", help="images a turn (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--estimate", action="store_true",
                        help=f"mask estimation by the init model, limited to {len(LABELS)} labels, without a CRF")
    parser.add_argument("--plain-threads", type=positive, metavar="N", help="MXNet threads in the plain way "
                        "(default: as in this project; MXNet's own choice is half of the cores)")
    args = parser.parse_args()
    from crf import plain_is_installed
    from inference import random_parameters

    from core.engines.devices import Device
    from core.inference.segmenter import Segmenter, scored_images
    from core.network.snapshots import Snapshot
    from core.runtime.hardware import cpu_flags

    config, model = Config(), "init" if args.estimate else "final"
    if args.plain_threads:  # MXNet has read the variable in this process
        os.environ["OMP_NUM_THREADS"] = str(args.plain_threads)
    with tempfile.TemporaryDirectory() as folder, process_pool(args.jobs) as pool, process_pool(2) as other:
        names, scores = draw_data(folder, args, config)
        inference = InferenceOptions(config.scales, crf=True)
        options = EvaluationOptions(inference, None, folder, folder, folder)
        estimation = Estimation(config, False, dict.fromkeys(names, LABELS), None, None, folder)
        work = functools.partial(estimate, estimation=estimation) if args.estimate \
            else functools.partial(compare, config=config, options=options)

        def ours(segmenter):
            scored = (one._replace(scores=scores[one.name])
                      for one in scored_images(segmenter, names, folder=folder, options=inference))
            for _ in ordered_map(work, scored, None if args.estimate else pool, 2 * args.jobs):
                pass

        ways = {}
        if args.estimate or plain_is_installed():
            ways["plain"] = lambda: other.submit(plain, folder, model).result()
        for dtype in ["float32"] + ["bfloat16"] * ("avx512bw" in cpu_flags()):
            snapshot = Snapshot(config, model, 0, random_parameters(model, config), "")
            segmenter = Segmenter(snapshot, [Device("mxnet")], dtype)
            ways[f"core/, {dtype}"] = functools.partial(ours, segmenter)
        alternate(ways, args.repeats, "an image", len(names))


def draw_data(folder, args, config):
    """Write an image, a mask and scores of each name; names, and a dict from them to (classes, h, w) float32 scores."""
    rng = np.random.default_rng(0)
    scores = {}
    for number in range(args.images):
        image, mask = draw(rng, args.size if number % 2 else args.size[::-1], config.num_classes)
        name = f"{number:06d}"
        scores[name] = draw_scores(rng, mask, config.num_classes)
        write_image(image_path(folder, name), image)
        write_mask(mask_path(folder, name), mask)
        write_array(scores_path(folder, name), scores[name])
    return list(scores), scores


def plain(folder, model):
    """Evaluate the final model, or estimate masks with the init model, the published way."""
    from crf import plain as plain_crf
    config, segmenter, scores = Config(), *_plain_parts(folder, model)
    for name in sorted(scores):
        image = read_image(image_path(folder, name))
        segmenter.scores(image, config.scales)
        if model == "init":
            allowed = np.isin(np.arange(config.num_classes), [0] + LABELS)
            mask = np.log(np.maximum(scores[name] * allowed[:, None, None], 1e-20)).argmax(0)
            write_mask(mask_path(folder, name), mask)
        else:
            mask = plain_crf(scores[name], image, config).argmax(0)
            confusion_matrix(read_mask(mask_path(folder, name), config.num_classes), mask, config.num_classes)


@functools.lru_cache(maxsize=1)
def _plain_parts(folder, model):
    from inference import PlainSegmenter, random_parameters
    config = Config()
    scores = {name: read_array(scores_path(folder, name)) for name in stems(folder, ".jpg")}
    return PlainSegmenter(config, model, random_parameters(model, config)), scores


if __name__ == "__main__":
    main()
