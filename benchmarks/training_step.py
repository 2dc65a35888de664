#!/usr/bin/env python3
"""Compare a float32 training step with one with bfloat16 convolutions, or with one of the light network."""
import numpy as np
from inference import random_parameters
from measure import alternate, make_parser

from core.config import MODELS, Config
from core.engines.chooser import resolve_devices


def main():
    parser = make_parser(__doc__, repeats=5, size="320x320")
    parser.add_argument("--model", choices=MODELS, default="init", help="network (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="INT", help="images (default: %(default)s)")
    parser.add_argument("--engine", choices=("mxnet", "torch"), default="mxnet", help="default: %(default)s")
    parser.add_argument("--gpu", default="cpu", metavar="DEVICE", help="GPU number, or cpu (default: %(default)s)")
    parser.add_argument("--backbones", action="store_true", help="ResNet-50 against the light network, and that with "
                        "five and with all seven stages frozen")
    args = parser.parse_args()
    if args.backbones:
        return time_backbones(args)
    if args.engine == "torch":
        return time_torch(args)
    from core.engines.mxnet.backend import amp, mx
    from core.engines.mxnet.steps import training_symbol
    rng, config = np.random.default_rng(0), Config()
    parameters = random_parameters(args.model, config)
    batches = (1, 2, 4, 8, 16) if args.growth else (args.batch_size,)
    for count in batches:
        labels = [mx.nd.array(rng.integers(0, 21, (count, args.size[0] // 8 * (args.size[1] // 8))))]
        if args.model == "final":
            labels.append(mx.nd.array(rng.integers(0, 2, (count, 21, 1, 1))))
        batch = mx.io.DataBatch([mx.nd.array(rng.normal(0, 50, (count, 3) + args.size))], labels)
        symbol = training_symbol(args.model, config, count)
        ways = {f"float32, batch {count}": _step(symbol, args.model, parameters, batch)}
        if not args.growth:
            low = amp.convert_symbol(symbol, target_dtype="bfloat16")
            for variable in low.get_internals():
                if variable.name in parameters[0] or variable.name in parameters[1]:
                    variable._set_attr(__dtype__="0")  # master weights stay float32
            ways[f"bfloat16, batch {count}"] = _step(low, args.model, parameters, batch)
        alternate(ways, args.repeats, "an image", count)


def time_torch(args):
    for count in (1, 2, 4, 8, 16) if args.growth else (args.batch_size,):
        ways = {f"torch, {dtype}, batch {count}": _engine_step(args, "torch", count, dtype=dtype)
                for dtype in ("float32", "bfloat16")}
        alternate(ways, args.repeats, "an image", count)


def time_backbones(args):
    variants = {"resnet50": {}, **{f"efficientnet_lite2, {frozen} stages frozen": {
        "backbone": "efficientnet_lite2", "frozen_stages": frozen} for frozen in (0, 5, 7)}}
    ways = {name: _engine_step(args, args.engine, args.batch_size, **settings) for name, settings in variants.items()}
    alternate(ways, args.repeats, "an image", args.batch_size)


def _engine_step(args, engine, count, **settings):
    from core.engines.chooser import load
    from core.training.batches import Batch
    devices, rng = resolve_devices(args.gpu, engine), np.random.default_rng(0)
    config = Config(learning_rate=1e-6, batch_size=count, crop_size=args.size[0], **settings)
    batch = Batch([], rng.integers(0, 256, (count, *args.size, 3)).astype(np.uint8),
                  rng.integers(0, 21, (count, args.size[0] // 8 * (args.size[1] // 8))).astype(np.float32),
                  rng.integers(0, 2, (count, 21, 1, 1)).astype(np.float32))
    steps = load(devices[0].engine, "steps").Steps(config, args.model, devices=devices, momentum={}, first=0, last=1,
                                       parameters=random_parameters(args.model, config))
    return lambda: steps.step(batch.images, batch.labels, batch.image_labels)()


def _step(symbol, model, parameters, batch):
    from core.engines.mxnet.backend import mx
    names = ["softmax_label"] + ["g_logistic_label"] * (model == "final")
    module = mx.mod.Module(symbol, ["data"], names, context=mx.cpu())
    module.bind([("data", batch.data[0].shape)], [(name, value.shape) for name, value in zip(names, batch.label)])
    args, aux = ({name: mx.nd.array(value) for name, value in part.items()} for part in parameters)
    module.init_params(arg_params=args, aux_params=aux)
    module.init_optimizer("local", "sgd", {"learning_rate": 1e-6, "momentum": 0.9, "wd": 5e-4})

    def step():
        module.forward_backward(batch)
        module.update()
        module.get_outputs()[0].wait_to_read()
        mx.nd.waitall()
    return step


if __name__ == "__main__":
    main()
