#!/usr/bin/env python3
"""Make the file beside this one with PyTorch and Keras: pip install torch tensorflow-cpu, then run this once.

The networks are ResNets of width 2 with (2, 1, 1, 1) units, their weights drawn from `draw`; features.npz holds what
stages 2 to 5 put out for `picture`.
"""
import os
import zlib

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, UNITS = 2, (2, 1, 1, 1)


def draw(name, shape, part):
    """Weights of one array, by its name alone. part: kernel, bias, gamma, beta, mean or var."""
    rng = np.random.RandomState(zlib.crc32(("%s %s" % (name, part)).encode()))
    values = {"kernel": lambda: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape),  # (out, in, height, width)
              "gamma": lambda: rng.uniform(0.5, 1.5, shape), "var": lambda: rng.uniform(0.3, 2, shape)}
    return values.get(part, lambda: rng.normal(0, 0.3, shape))().astype(np.float32)


def picture():
    """(28, 36, 3) uint8 RGB."""
    return np.random.RandomState(1).randint(0, 256, (28, 36, 3)).astype(np.uint8)


def main():
    features = {"torch_%d" % stage: values for stage, values in torch_features()}
    features.update(("keras_%d" % stage, values) for stage, values in keras_features())
    np.savez_compressed(os.path.join(HERE, "features.npz"), **features)


def torch_features():
    """ResNet "v1.5" with torchvision's names: yields (stage, (channels, h, w))."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs, channels, stride, project):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(4 * channels)
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * channels, 1, stride, bias=False),
                                            nn.BatchNorm2d(4 * channels)) if project else nn.Identity()

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
            return torch.relu(self.downsample(x) + y)

    network = nn.Module()
    network.conv1, network.bn1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTH)
    inputs = WIDTH
    for stage, units in enumerate(UNITS, 1):
        channels = WIDTH * 2 ** (stage - 1)
        layer = []
        for unit in range(units):
            layer.append(Bottleneck(inputs, channels, 2 if stage > 1 and unit == 0 else 1, unit == 0))
            inputs = 4 * channels
        network.add_module("layer%d" % stage, nn.Sequential(*layer))
    parts = {"running_mean": "mean", "running_var": "var"}
    for name, module in network.named_modules():
        for key, value in module.state_dict().items():
            if "." not in key and value.ndim:
                parts.update({"weight": "gamma", "bias": "beta"} if isinstance(module, nn.BatchNorm2d)
                             else {"weight": "kernel"})
                drawn = draw(name, tuple(value.shape), parts[key])
                getattr(module, key).data.copy_(torch.from_numpy(drawn))

    network.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        x = ((torch.from_numpy(picture()).permute(2, 0, 1) / 255.0 - mean) / std)[None]
        x = nn.functional.max_pool2d(torch.relu(network.bn1(network.conv1(x))), 3, 2, 1)
        for stage in (2, 3, 4, 5):
            x = getattr(network, "layer%d" % (stage - 1))(x)
            yield stage, x[0].numpy()


def keras_features():
    """keras.applications' ResNet with fewer channels and units: yields (stage, (channels, h, w))."""
    import keras
    from keras.src.applications import resnet

    def stack(x):
        for stage, units in enumerate(UNITS, 2):
            x = resnet.stack_residual_blocks_v1(x, 2 ** (stage + 4), units, stride1=1 if stage == 2 else 2,
                                                name="conv%d" % stage)
        return x

    settings = resnet.ResNet(stack, False, True, weights=None, include_top=False).get_config()
    for layer in settings["layers"]:
        if "filters" in layer["config"]:
            layer["config"]["filters"] //= 64 // WIDTH
        layer.pop("build_config", None)
    network = keras.Model.from_config(settings)
    for layer in network.layers:
        shapes = [weights.shape for weights in layer.get_weights()]
        if len(shapes) == 2:
            kernel = draw(layer.name, tuple(shapes[0][axis] for axis in (3, 2, 0, 1)), "kernel").transpose(2, 3, 1, 0)
            if layer.name == "conv1_conv":
                kernel = kernel / 60  # about the input's deviation
            layer.set_weights([kernel, draw(layer.name, shapes[1], "bias")])
        elif shapes:
            layer.set_weights([draw(layer.name, shapes[0], part) for part in ("gamma", "beta", "mean", "var")])
    outputs = [network.get_layer("conv%d_block%d_out" % (stage, units)).output for stage, units in enumerate(UNITS, 2)]
    data = resnet.preprocess_input(picture()[None].astype(np.float32))
    for stage, values in enumerate(keras.Model(network.input, outputs)(data, training=False), 2):
        yield stage, np.moveaxis(np.array(values)[0], -1, 0)


if __name__ == "__main__":
    main()
