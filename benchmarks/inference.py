#!/usr/bin/env python3
"""Compare scoring by core/inference/segmenter.py with the plain way.

The plain way is Module.reshape for every image and scale, batch norms as layers, upsampling in the network and resizing
class by class. Weights are random, and MXNet uses the same threads in both. --engine torch is timed by itself.
--int8 compares int8 with float32 instead, in CPU time, from files of pictures to files of masks. --light compares the
engines on the light network: scores, and the maps by which co-segmentation compares images.
"""
import dataclasses
import os
import tempfile
import time

import cv2
import numpy as np
from measure import alternate, draw, make_parser

from core.config import MODELS, Config
from core.cosegmentation.feature_maps import Describer, imagenet_network
from core.engines.chooser import resolve_devices
from core.inference.options import InferenceOptions
from core.inference.postprocess import predict
from core.inference.segmenter import Segmenter, prepare, score_pairs
from core.io.images import read_image, write_image, write_mask
from core.network.fcn import parameter_shapes
from core.network.snapshots import Snapshot, identify_snapshot, load_snapshot
from core.runtime.hardware import cpu_flags


class PlainSegmenter:
    """One image and one scale at a time."""

    def __init__(self, config, model, parameters):
        from core.engines.mxnet.backend import mx
        from core.engines.mxnet.network import inference_symbol
        self._mx = mx
        self._config = config
        symbol = inference_symbol(model, config)
        args, aux = ({name: mx.nd.array(value) for name, value in part.items()} for part in parameters)
        classes = config.num_classes
        for name in ("up1", "up2", "up3"):
            symbol = mx.sym.Deconvolution(symbol, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=classes,
                                          num_group=classes, no_bias=True, name=name)
            kernel = np.outer(*[[0.25, 0.75, 0.75, 0.25]] * 2)
            args[name + "_weight"] = mx.nd.array(np.tile(kernel, (classes, 1, 1, 1)))
        self._module = mx.mod.Module(symbol, ["data"], None, context=mx.cpu())
        self._module.bind([("data", (1, 3, 64, 64))], for_training=False)
        self._module.set_params(args, aux)

    def scores(self, image, scales):
        size, total = image.shape[:2], 0
        for scale in scales:
            scaled = int(size[0] * scale), int(size[1] * scale)
            data = prepare(image, scaled, self._config.mean_rgb)[None]
            self._module.reshape([("data", data.shape)])
            self._module.forward(self._mx.io.DataBatch([self._mx.nd.array(data)]), is_train=False)
            output = self._module.get_outputs()[0].asnumpy()[0, :, :scaled[0], :scaled[1]]
            total = total + np.stack([cv2.resize(part, size[::-1]) for part in output])
        return total


def random_parameters(model, config):
    """(args, aux) that keep the activations of all layers in range."""
    rng = np.random.default_rng(0)

    def value(name, shape):
        if name.endswith("weight"):
            return rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
        return rng.normal(0, 0.1, shape) + name.endswith(("gamma", "var"))
    return tuple({name: value(name, shape).astype(np.float32) for name, shape in part.items()}
                 for part in parameter_shapes(model, config))


def four_images(args):
    """Three of one shape and one of another."""
    rng = np.random.default_rng(0)
    return [draw(rng, size)[0] for size in [args.size] * 3 + [args.size[::-1]]]


def compare_int8(args, scales, snapshot, devices):
    """File to result, with pictures that are drawn unless a folder of them is given."""
    from core.inference.quantized import IMAGES, quantise
    with tempfile.TemporaryDirectory() as root:
        rng = np.random.default_rng(0)
        paths = [os.path.join(root, f"{number}.jpg") for number in range(IMAGES)]
        for number, path in enumerate(paths):
            write_image(path, draw(rng, args.size[::-1] if number % 4 == 3 else args.size)[0])
        if args.images:
            paths = sorted(os.path.join(args.images, name) for name in os.listdir(args.images))
            paths = paths[::-(-len(paths) // IMAGES)]
        snapshot = dataclasses.replace(snapshot, config=dataclasses.replace(snapshot.config, root=root))
        dtypes = "float32", quantise(snapshot, paths)
        masks = {}

        def run(dtype, segmenter):
            pairs = ((path, read_image(path)) for path in paths[:10])
            for scored in score_pairs(segmenter, pairs, InferenceOptions(scales)):
                masks[dtype, scored.name] = mask = predict(scored, snapshot.config, False)[0]
                write_mask(os.path.join(root, "mask.png"), mask)

        ways = {dtype: lambda dtype=dtype, one=Segmenter(snapshot, devices, dtype): run(dtype, one)
                for dtype in dtypes}
        alternate(ways, args.repeats, "of CPU an image", 10, time.process_time)
        same = np.mean([np.mean(masks[dtypes[0], path] == masks[dtypes[1], path]) for path in paths[:10]])
        print(f"{100 * same:.2f} % of the pixels agree")


def compare_engines(args, scales):
    config = Config(backbone="efficientnet_lite2", head_channels=256, global_channels=256)
    snapshot = Snapshot(config, args.model, 0, random_parameters(args.model, config), "")
    images = four_images(args)
    devices = {engine: resolve_devices(args.gpu, engine) for engine in ("mxnet", "torch")}
    ways = {engine: lambda one=Segmenter(snapshot, on): list(one.scores_of(images, scales))
            for engine, on in devices.items()}
    alternate(ways, args.repeats, "an image, scores", len(images))
    ways = {engine: lambda one=Describer(imagenet_network(), config, on): [maps() for maps in one.start(images)]
            for engine, on in devices.items()}
    alternate(ways, args.repeats, "an image, maps", len(images))


def main():
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--model", choices=MODELS, default="final", help="network (default: %(default)s)")
    parser.add_argument("--engine", choices=("mxnet", "torch"), default="mxnet", help="default: %(default)s")
    parser.add_argument("--gpu", default="cpu", metavar="DEVICE", help="GPU number, or cpu (default: %(default)s)")
    parser.add_argument("--ms", action="store_true", help="three scales")
    parser.add_argument("--int8", action="store_true", help="compare int8 with float32")
    parser.add_argument("--light", action="store_true", help="compare the engines on the light network")
    parser.add_argument("--snapshot", metavar="FILE",
                        help="of --int8, in place of a full-size network of random weights")
    parser.add_argument("--images", metavar="FOLDER", help="of --int8, pictures in place of drawn ones")
    args = parser.parse_args()
    config = Config()
    scales = config.scales if args.ms else (1.0,)
    if args.light:
        compare_engines(args, scales)
        return
    parameters = random_parameters(args.model, config)
    devices = resolve_devices(args.gpu, args.engine)
    if args.int8:
        snapshot = (load_snapshot(config, *identify_snapshot(args.snapshot), path=args.snapshot) if args.snapshot
                    else Snapshot(config, args.model, 0, parameters, ""))
        compare_int8(args, scales, snapshot, devices)
        return
    dtypes = ["float32"] + ["bfloat16"] * (args.engine == "torch" or "avx512bw" in cpu_flags())
    snapshot = Snapshot(config, args.model, 0, parameters, "")
    ours = {dtype: Segmenter(snapshot, devices, dtype) for dtype in dtypes}
    if args.growth:
        rng = np.random.default_rng(0)
        for factor in (0.5, 1, 1.5):
            image = draw(rng, tuple(int(side * factor) for side in args.size))[0]
            height, width = image.shape[:2]
            alternate({f"{height} x {width}, {dtype}": lambda one=one: one.scores(image, scales)
                       for dtype, one in ours.items()}, args.repeats, "an image")
        image = draw(rng, args.size)[0]
        for count in (1, 4, 16):
            alternate({f"{count} images": lambda: list(ours["float32"].scores_of([image] * count, scales))},
                      args.repeats, "an image", count)
        return
    images = four_images(args)
    ways = {}
    if args.engine == "mxnet":
        plain = PlainSegmenter(config, args.model, parameters)
        ways["plain"] = lambda: [plain.scores(image, scales) for image in images]
    ways.update((f"core/inference/segmenter.py, {dtype}", lambda one=one: list(one.scores_of(images, scales)))
                for dtype, one in ours.items())
    alternate(ways, args.repeats, "an image", len(images))
    expected = ways.pop(min(ways, key=lambda name: name != "plain"))()
    for name, function in ways.items():
        same = np.mean([np.mean(a.argmax(0) == b.argmax(0)) for a, b in zip(expected, function())])
        print(f"{name}: {100 * same:.4f} % of the pixels as the first way")


if __name__ == "__main__":
    main()
