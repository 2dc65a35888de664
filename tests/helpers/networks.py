"""Small networks with parameters that let no layer die out, and training steps of them."""
import dataclasses

import numpy as np

from core.config import Config
from core.network.fcn import parameter_shapes
from core.training.batches import Batch
from core.training.trainer import Trainer

SMALL = {"width": 2, "units": (2, 1, 1, 1), "head_channels": 3, "global_channels": 5, "dropout": 0.0,
         "classes": ("bk", "a", "b", "c")}
TRAINED = dict(SMALL, units=(1, 1, 1, 1), head_dilation=2, crop_size=32, batch_size=4, workers=1)
LIGHT = dict(SMALL, backbone="efficientnet_lite2", head_dilation=2, crop_size=32, batch_size=2, workers=1)


def random_parameters(model, config, rng):
    """(args, aux) of numpy arrays."""
    args, aux = parameter_shapes(model, config)
    args = {name: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])) if name.endswith("weight") else 0.3, shape)
            + name.endswith("gamma") for name, shape in args.items()}
    aux = {name: rng.uniform(0.5, 1.5, shape) if name.endswith("var") else rng.normal(0, 0.3, shape)
           for name, shape in aux.items()}
    return args, aux


def bind(symbol, args, aux, grad_req="write", **inputs):
    """MXNet's executor of a symbol."""
    from core.engines.mxnet.backend import mx
    values = {name: mx.nd.array(value) for name, value in {**args, **inputs}.items()}
    grads = {name: mx.nd.zeros(value.shape) for name, value in values.items()}
    return symbol.bind(mx.cpu(), values, grads, grad_req, {name: mx.nd.array(value) for name, value in aux.items()})


def light_parameters(model, config, rng):
    """As `random_parameters`, of a deep network whose activations stay of one size."""
    args, aux = random_parameters(model, config, rng)
    return {name: value * 0.3 if name.endswith("project_bn_gamma") else value for name, value in args.items()}, aux


def made(backbone, model, rng, **settings):
    """(Config, float32 parameters) of a small network."""
    light = backbone != "resnet50"
    config = Config(**{**(LIGHT if light else TRAINED), **settings})
    args, aux = ({name: value.astype(np.float32) for name, value in part.items()}
                 for part in (light_parameters if light else random_parameters)(model, config, rng))
    if not light:
        args["conv1_weight"] /= 20  # for scores that are not all 0 or 1
    return config, (args, aux)


def images_of(rng, count):
    """(count, 32, 32, 3) uint8 images that have about unit size without the mean."""
    return (np.array(Config().mean_rgb) + rng.integers(-2, 3, (count, 32, 32, 3))).astype(np.uint8)


def batch_of(config, rng):
    """A batch of 4 whose halves have as many valid cells."""
    labels = rng.integers(0, 4, (4, 16)).astype(np.float32)
    labels[:, 3] = 255
    return Batch(["a", "b", "c", "d"], images_of(rng, 4), labels,
                 rng.integers(0, 2, (4, 4, 1, 1)).astype(np.float32))


def step(config, model, parameters, batch, devices, steps=1):
    """Parameters after training steps on one batch, as numpy arrays."""
    config = dataclasses.replace(config, init_epoch_size=steps, final_epoch_size=steps)
    trainer = Trainer(config, model, devices=devices, parameters=parameters)
    trainer.train_epoch(1, iter([batch] * steps))
    return {name: value for part in trainer.parameters() for name, value in part.items()}
