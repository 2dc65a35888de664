"""Parameters that a run starts from: those of a base model, or random ones."""
from typing import Optional, Tuple

import numpy as np

from core.classes import BACKGROUND
from core.config import Config
from core.engines.chooser import load
from core.engines.devices import Device
from core.errors import UserError
from core.io.logs import logger
from core.network import efficientnet_lite, imagenet_weights
from core.network.fcn import BACKBONES, base_layer_name, is_base_parameter, parameter_shapes
from core.network.snapshots import Parameters, Parts, adopt_recorded, read_parameters


def base_file(config: Config) -> Optional[str]:
    """Path of the parameters that the backbone starts from: the setting `base_model`; unless that is set,
    EfficientNet-Lite2 starts from the file of the package with its ImageNet weights, None where it is not installed."""
    if config.backbone == "efficientnet_lite2" and not config.is_set("base_model"):
        return imagenet_weights.weights_path()
    return config.layout.base_model


def from_base_model(config: Config, model: str) -> Tuple[Config, Parts]:
    """The parameters of `base_file` for the backbone, in the global branch too, and random ones for new layers.

    A layer of the head that the file has in the right shape is taken too, so any snapshot can be a base model.

    Returns:
        (config, (args, aux)): config with the stride placement and the mean that the base model records; dicts from
        parameter name to float32 array.

    Raises:
        UserError: the base model is damaged, lacks a parameter of the stages, has one of another shape, or records
            another value of a setting than a flag or the --config file gave; the package with the weights is missing.
    """
    rng = np.random.default_rng((config.seed, 2))
    path = base_file(config)
    stored = (_imagenet_parameters() if path is None or path == imagenet_weights.weights_path()
              else read_parameters(path))
    config = adopt_recorded(config, str(path), {name: stored.settings[name] for name in ("stride_on", "mean_rgb")
                                                if name in stored.settings})
    parts = {}, {}
    for part, base, shapes in zip(parts, (stored.args, stored.aux), parameter_shapes(model, config)):
        for name, shape in shapes.items():
            source = name if name in base else base_layer_name(name)
            if source in base and base[source].shape == shape:
                part[name] = base[source]
            elif not is_base_parameter(name):
                part[name] = _random(rng, name, shape, config)
            elif source not in base:
                raise UserError(f"{path} lacks the parameter {source}: it is no base model with the backbone "
                                f"{BACKBONES[config.backbone].NAME}")
            else:
                raise UserError(f"{path}: {source} has shape {base[source].shape}, the network wants {shape}")
    if model == "final" and config.label_loss == "sum" and "g_score_bias" not in stored.args:
        _expect_few_classes(parts[0], config)
    logger.info("%s starts from %s", BACKBONES[config.backbone].NAME, path)
    return config, parts


def from_scratch(config: Config, model: str, device: Device, images: np.ndarray) -> Parts:
    """Random parameters, and batch norms that store the statistics of a batch's images.

    Returns:
        (args, aux), dicts from parameter name to float32 array.
    """
    rng = np.random.default_rng((config.seed, 2))
    arg_shapes, aux_shapes = parameter_shapes(model, config)
    args = {name: _random(rng, name, shape, config) for name, shape in arg_shapes.items()}
    aux = load(device.engine, "steps").batch_statistics(config, model, device, args, images)
    return args, {name: aux[name] for name in aux_shapes}


def _imagenet_parameters():
    """ImageNet's EfficientNet-Lite2 for an input that is not scaled, RGB - 127."""
    args, aux = efficientnet_lite.read_imagenet_weights()
    args["stem_weight"] = args["stem_weight"] / np.float32(efficientnet_lite.SCALE)
    return Parameters(args, aux, {"mean_rgb": 3 * [efficientnet_lite.MEAN]})


def _expect_few_classes(args, config):
    """Let the image-level logits start from an image that shows the background and one class (Lin et al., "Focal Loss
    for Dense Object Detection", ICCV 2017, section 4.1): else the first steps teach them nothing but that. The cells'
    logits make up for it."""
    odds = np.full(config.num_classes, -np.log(max(config.num_classes - 2, 1)), np.float32)
    odds[BACKGROUND] *= -1
    args["g_score_bias"] = odds
    args["score_bias"] = args["score_bias"] - odds


def _random(rng, name, shape, config):
    """Start value of a parameter.

    Ones for gammas, zeros for betas and biases. Weights draw from Normal(0, d): d = sqrt(2 / fan-in) in the ResNet
    stages (He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10), new_layer_deviation in new layers.
    """
    if name.endswith(("_gamma", "_moving_var")):
        return np.ones(shape, np.float32)
    if name.endswith(("_beta", "_bias", "_moving_mean")):
        return np.zeros(shape, np.float32)
    deviation = 0 if is_base_parameter(name) else config.new_layer_deviation
    if name in ("score_weight", "g_score_weight"):
        deviation = 0.01  # the first softmax is nearly uniform, however wide the layers are
    return rng.normal(0, deviation or np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
