#!/usr/bin/env python3
"""Convert ResNet-50 weights of Keras, torchvision, timm or MXNet to models/resnet50.params, where training starts."""
import os

from core.cli import make_parser, non_negative, parse_config, run
from core.errors import UserError


def main() -> None:
    from core.io.logs import start_log
    parser = make_parser(__doc__, ("mean_rgb",))
    parser.add_argument("source", metavar="SOURCE", help="weights to convert: .h5 or .keras of Keras, .safetensors or "
                        ".pth of torchvision and timm (.pth is read by torch), .params of MXNet")
    parser.add_argument("--output", type=os.path.abspath, dest="base_model", metavar="FILE",
                        help="file to write (default: models/resnet50.params)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    parser.add_argument("--epsilon", type=non_negative, metavar="FLOAT", help="value that the source's batch norm "
                        "adds to the variance (default: 1e-5 for PyTorch, 1.001e-5 otherwise)")
    parser.add_argument("--preprocessing", choices=("torch", "caffe", "tf", "unit"),
                        help="input of the source: torch, RGB minus ImageNet's mean, divided by its standard "
                        "deviation; caffe, BGR in 0..255 minus the mean, and strides on the first 1x1 convolutions; "
                        "tf, RGB in -1..1; unit, RGB in 0..1 (default: its framework's)")
    parser.add_argument("--prefix", metavar="NAME", help="network to convert where the file holds several: the "
                        "start of its layers' names, such as module.encoder_q")
    args = parser.parse_args()
    config = parse_config(args)
    output = config.layout.base_model
    if os.path.exists(output) and not args.overwrite:
        raise UserError(f"{output} exists: pass --overwrite to replace it, or choose another --output")
    start_log(config.layout.log("convert_base_model"), config)

    from core.network.base_model import convert_base_model  # after the flags: imports take seconds
    convert_base_model(config, args.source, output, preprocessing=args.preprocessing,
                       epsilon=args.epsilon, prefix=args.prefix)


if __name__ == "__main__":
    run(main)
