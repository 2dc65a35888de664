"""Both models, as a list of operations that an engine carries out.

init model:  backbone, dilated -> head -> softmax over classes at every cell of 8 x 8 pixels.
final model: the same, and from a middle stage of the backbone on a global branch for the classes of the whole image;
             its logits are added to those of every cell (Shen et al., BMVC 2017, section 3.3).

Batch norm uses the stored statistics in training too. Layers of ResNet-50 carry the names of He et al.'s Caffe model,
so snapshots interchange with the published ones.

A new backbone is a module as `resnet` and `efficientnet_lite`, and a line in BACKBONES. What carries the operations out
is an object of a class as `core.engines.mxnet.operations.SymbolOperations`, ops below.
"""
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from core.config import MODELS, STRIDE, Config
from core.errors import UserError
from core.network import efficientnet_lite, resnet
from core.network.shapes import ShapeRecorder, Shapes

BACKBONES = {"resnet50": resnet, "efficientnet_lite2": efficientnet_lite}
_GLOBAL = "_g"  # suffix of the global branch's copies of the backbone's layers


def logits(ops: Any, model: str, config: Config, dropout: float = 0.0, frozen: Optional[List[Any]] = None
           ) -> Tuple[Any, Any]:
    """The network, up to the losses or the softmax.

    Args:
        ops: the engine's operations.
        dropout: share of the head's activations dropped.
        frozen: what `frozen_maps` gives, where it is there already; the network then has no other input.

    Returns:
        (per-cell logits (b, classes, h/8, w/8), image-level logits (b, classes, 1, 1); of the init model None).
    """
    cells, whole = branches(ops, model, config, dropout, frozen)
    return (cells, None) if whole is None else (ops.broadcast_add(cells, whole), whole)


def branches(ops: Any, model: str, config: Config, dropout: float = 0.0, frozen: Optional[List[Any]] = None
             ) -> Tuple[Any, Any]:
    """As `logits`, but the image-level ones are not added to the per-cell ones."""
    if model not in MODELS:
        raise UserError(f"there is no model {model!r}; it is one of: {', '.join(MODELS)}")
    backbone = BACKBONES[config.backbone]
    shared = frozen or backbone.shared_stages(ops, config, ops.input())
    ready = frozen and _all_frozen(config)

    cells = _scaled(ops, backbone, shared[0] if ready else backbone.dense_stages(ops, config, shared))
    cells = ops.convolution(cells, "new_conv1", config.head_channels, kernel=3,
                            dilation=-(-config.head_dilation * STRIDE // backbone.OUTPUT_STRIDE))
    cells = ops.dropout(ops.relu(cells), dropout)
    cells = ops.relu(ops.convolution(cells, "fc", config.head_channels))
    cells = ops.convolution(cells, "score", config.num_classes)
    if backbone.OUTPUT_STRIDE > STRIDE:
        cells = ops.upsample(cells, backbone.OUTPUT_STRIDE // STRIDE)
    if model == "init":
        return cells, None

    whole = _scaled(ops, backbone, shared[1] if ready else backbone.global_features(ops, config, shared, _GLOBAL))
    for name in ("g_multi_fc1", "g_multi_fc2"):
        whole = ops.dropout(ops.relu(ops.convolution(whole, name, config.global_channels)), dropout)
    return cells, ops.convolution(whole, "g_score", config.num_classes)


def frozen_maps(ops: Any, model: str, config: Config) -> List[Any]:
    """Outputs of stages that don't learn: those that both branches start from; or, if none of the backbone learns, what
    the head and, in the final model, the global branch's own layers get."""
    backbone = BACKBONES[config.backbone]
    shared = backbone.shared_stages(ops, config, ops.input())
    if not _all_frozen(config):
        return shared
    dense = backbone.dense_stages(ops, config, shared)
    return [dense] if model == "init" else [dense, backbone.global_features(ops, config, shared, _GLOBAL)]


def _all_frozen(config):
    return config.frozen_stages >= BACKBONES[config.backbone].LAST_STAGE


def _scaled(ops, backbone, features):
    """Features of about unit size, which the new layers' start values and learning rates are made for."""
    return features if backbone.FEATURE_SCALE == 1 else ops.scale(features, backbone.FEATURE_SCALE)


def probabilities(ops: Any, model: str, config: Config) -> Any:
    """Class probabilities (b, classes, h/8, w/8)."""
    return ops.softmax(logits(ops, model, config)[0], "softmax")


def branch_probabilities(ops: Any, config: Config) -> List[Any]:
    """The final model's branches apart: class probabilities (b, classes, h/8, w/8) of the cells by themselves, without
    the image-level logits; and the image-level probabilities (b, classes, 1, 1), each class by itself."""
    cells, whole = branches(ops, "final", config)
    return [ops.softmax(cells, "cells"), ops.sigmoid(whole, "image_level")]


def parameter_shapes(model: str, config: Config) -> Tuple[Shapes, Shapes]:
    """Names and shapes of all parameters.

    Returns:
        (dict of arguments, dict of auxiliary states), each from name to tuple.
    """
    recorder = ShapeRecorder()
    logits(recorder, model, config)
    return recorder.args, recorder.aux


def fold_batch_norms(args: Mapping[str, np.ndarray], aux: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """Parameters of the network that scales and shifts in the convolutions what its batch norms scaled and shifted.

    A batch norm g (x - m) / sqrt(v + e) + b after a convolution is the convolution with weights times
    s = g / sqrt(v + e) and bias s (bias - m) + b. It is computed in float64.

    Args:
        args, aux: dicts from name to float32 array, as a `snapshots.Snapshot` holds them.

    Returns:
        dict from name to float32 array: the arguments of a network without batch norms, which has no auxiliary states.
    """
    folded = {name: array for name, array in args.items() if not name.endswith(("_gamma", "_beta"))}
    for gamma in (name for name in args if name.endswith("_gamma")):
        norm = gamma[:-len("_gamma")]
        backbone = efficientnet_lite if norm.endswith("_bn") else resnet
        conv = backbone.convolution_of(norm)
        slope = args[gamma].astype(np.float64) / np.sqrt(aux[norm + "_moving_var"].astype(np.float64)
                                                         + backbone.BN_EPSILON)
        bias = args.get(conv + "_bias", np.float32(0)).astype(np.float64)
        folded[conv + "_weight"] = (args[conv + "_weight"] * slope[:, None, None, None]).astype(np.float32)
        folded[conv + "_bias"] = (slope * (bias - aux[norm + "_moving_mean"]) + args[norm + "_beta"]).astype(np.float32)
    return folded


def base_layer_name(name: str) -> str:
    """Name of the parameter that a parameter of the global branch starts from; other names stay."""
    return name.replace(_GLOBAL + "_", "_") if is_base_parameter(name) else name


def base_stage(name: str) -> Optional[int]:
    """Stage of the backbone that a parameter belongs to; None for those of the head and the global layers."""
    return next(filter(None, (backbone.stage_of(name) for backbone in BACKBONES.values())), None)


def is_base_parameter(name: str) -> bool:
    """Whether a parameter belongs to the backbone rather than to the head or the global layers."""
    return base_stage(name) is not None


def multipliers(model: str, name: str, config: Config) -> Tuple[float, float]:
    """What a parameter's learning rate and weight decay are multiplied by: (2, 0) for biases and betas of the final
    model's backbone, as published.

    With the sum as image-level loss, the stages of the global branch learn at 1 / classes of the rate, as with the
    mean: faster, they lose what they know before the layers after them can read it.
    """
    backbone = model == "final" and is_base_parameter(name)
    rate, decay = (2.0, 0.0) if backbone and name.endswith(("_bias", "_beta")) else (1.0, 1.0)
    if backbone and base_layer_name(name) != name:
        rate /= label_loss_weight(config)
    return rate, decay


def label_loss_weight(config: Config) -> int:
    """What the mean of the image-level loss over the classes is multiplied by."""
    return config.num_classes if config.label_loss == "sum" else 1


def frozen_parameters(model: str, config: Config) -> List[str]:
    """Names of the parameters that training leaves as they are: those of the first `frozen_stages` stages."""
    return [name for name in parameter_shapes(model, config)[0]
            if (base_stage(name) or np.inf) <= config.frozen_stages]


def frozen_share(model: str, config: Config, args: Mapping[str, np.ndarray], aux: Mapping[str, np.ndarray]
                 ) -> Optional[Dict[str, np.ndarray]]:
    """Parameters, as `fold_batch_norms` gives them, of the stages that `frozen_maps` runs; None where one learns."""
    if config.frozen_stages < BACKBONES[config.backbone].SHARED_STAGES:
        return None
    recorder = ShapeRecorder()
    frozen_maps(recorder, model, config)
    return fold_batch_norms({name: args[name] for name in recorder.args}, aux)
