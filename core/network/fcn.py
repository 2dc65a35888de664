"""The ResNet-50 FCN of both models, as MXNet symbols.

init model:  stages 1-5 (output stride 8) -> head -> softmax over classes at every cell of 8 x 8 pixels.
final model: the same, and from stage 3 on a global branch that scores the whole image's classes; its scores are added
             to those of every cell (Shen et al., BMVC 2017, section 3.3).

Layers carry the names of He et al.'s Caffe model, so snapshots interchange with the published ones. Batch norm uses
the stored statistics in training too.
"""
import numpy as np

from core.classes import IGNORE_LABEL
from core.config import MODELS, STRIDE
from core.errors import UserError
from core.runtime.mxnet_backend import mx

BN_EPSILON = 1.001e-5
_GLOBAL = "_g"  # suffix of the global branch's copies of stages 4 and 5


def training_symbol(model, config, device_batch, stored_statistics=True):
    """Network with its losses.

    Inputs: data (b, 3, h, w) float32, RGB minus the mean; softmax_label (b, h/8 * w/8), class indices or 255; for the
    final model also g_logistic_label (b, classes, 1, 1), 1 where the class is in the image. Outputs: class
    probabilities (b, classes, h/8, w/8); final: also those of the image-level labels (b, classes, 1, 1).

    The softmax loss is averaged over the valid cells of a device's batch; the logistic loss over its images and the
    classes. With rescale_grad = 1 / devices the update is then the same for any number of devices.

    Args:
        device_batch: images of a batch on one device.
        stored_statistics: False normalises by the statistics of the batch.
    """
    with mx.name.NameManager():  # layers without a name are counted from 0, however many networks were made before
        scores, global_scores = _scores(model, config, config.dropout, "stored" if stored_statistics else "batch")
    outputs = [mx.sym.SoftmaxOutput(scores, name="softmax", multi_output=True, use_ignore=True,
                                    ignore_label=IGNORE_LABEL, normalization="valid")]
    if global_scores is not None:
        # LogisticRegressionOutput itself divides by the number of classes.
        outputs.append(mx.sym.LogisticRegressionOutput(global_scores, name="g_logistic",
                                                       grad_scale=1.0 / device_batch))
    symbol = mx.sym.Group(outputs)
    if model == "final":
        _set_shift_multipliers(symbol)
    return symbol


def training_inputs(model, config, batch_size):
    """(name, shape) pairs of the inputs of `training_symbol`, and of its labels."""
    crop, cells = config.crop_size, (config.crop_size // STRIDE) ** 2
    labels = [("softmax_label", (batch_size, cells))]
    if model == "final":
        labels.append(("g_logistic_label", (batch_size, config.num_classes, 1, 1)))
    return [("data", (batch_size, 3, crop, crop))], labels


def inference_symbol(model, config, folded=False):
    """Network that maps data (b, 3, h, w) to class probabilities (b, classes, h/8, w/8).

    Args:
        folded: the network of `fold_batch_norms`, with biases in place of batch norms.
    """
    scores, _ = _scores(model, config, 0.0, "folded" if folded else "stored")
    return mx.sym.softmax(scores, axis=1, name="softmax")


def branches_symbol(config, folded=False):
    """The final model's branches apart, for data (b, 3, h, w).

    Outputs: class probabilities (b, classes, h/8, w/8) of the cells by themselves, without the image-level scores; and
    the image-level probabilities (b, classes, 1, 1), each class by itself.

    Args:
        folded: as in `inference_symbol`.
    """
    layers = inference_symbol("final", config, folded).get_internals()
    return mx.sym.Group([mx.sym.softmax(layers["score_output"], axis=1, name="cells"),
                         mx.sym.sigmoid(layers["g_score_output"], name="image_level")])


def backbone_symbol(config, folded=False):
    """Network that maps data (b, 3, h, w) to the activations of stages 3 and 4: (b, 24 * width, h/8, w/8).

    Args:
        folded: as in `inference_symbol`.
    """
    net = _Builder(config, "folded" if folded else "stored")
    third = net.stages_1_to_3(mx.sym.Variable("data"))
    return mx.sym.concat(third, net.stage(third, 4, stride=1, dilation=2), dim=1, name="activations")


def parameter_shapes(model, config):
    """Names and shapes of all parameters.

    Returns:
        (dict of arguments, dict of auxiliary states), each from name to tuple.
    """
    symbol = inference_symbol(model, config)
    args, _, aux = symbol.infer_shape(data=(1, 3, 64, 64))
    arg_shapes = dict(zip(symbol.list_arguments(), args))
    del arg_shapes["data"]
    return arg_shapes, dict(zip(symbol.list_auxiliary_states(), aux))


def fold_batch_norms(args, aux):
    """Parameters of the network that scales and shifts in the convolutions what its batch norms scaled and shifted.

    A batch norm g (x - m) / sqrt(v + e) + b after a convolution is the convolution with weights times
    s = g / sqrt(v + e) and bias s (bias - m) + b. It is computed in float64.

    Args:
        args, aux: dicts from name to mxnet.nd.NDArray, as a `snapshots.Snapshot` holds them.

    Returns:
        dict from name to mxnet.nd.NDArray: arguments of `inference_symbol(..., folded=True)`, which has no auxiliary
        states.
    """
    def value(part, name):
        return part[name].asnumpy().astype(np.float64)

    folded = {name: array for name, array in args.items() if not name.endswith(("_gamma", "_beta"))}
    for gamma in (name for name in args if name.endswith("_gamma")):
        norm = gamma[:-len("_gamma")]
        conv = "conv1" if norm == "bn_conv1" else "res" + norm[len("bn"):]
        slope = value(args, gamma) / np.sqrt(value(aux, norm + "_moving_var") + BN_EPSILON)
        bias = value(args, conv + "_bias") if conv + "_bias" in args else 0.0
        folded[conv + "_weight"] = mx.nd.array(value(args, conv + "_weight") * slope[:, None, None, None])
        folded[conv + "_bias"] = mx.nd.array(slope * (bias - value(aux, norm + "_moving_mean"))
                                             + value(args, norm + "_beta"))
    return folded


def base_layer_name(name):
    """Name of the parameter that a parameter of the global branch starts from; other names stay."""
    return name.replace(_GLOBAL + "_", "_") if name.startswith(("res", "bn")) else name


def is_base_parameter(name):
    """Whether a parameter belongs to the ResNet stages rather than to the head or the global layers."""
    return name.startswith(("conv1_", "res", "bn"))


def _set_shift_multipliers(symbol):
    """Let biases and betas of the ResNet stages learn twice as fast and not decay, as published for the final model.

    MXNet's optimizers read these attributes. On their own they let only names in _weight and _gamma decay.
    """
    variables = symbol.get_internals()
    for name in symbol.list_arguments():
        if is_base_parameter(name) and name.endswith(("_bias", "_beta")):
            variables[name]._set_attr(__lr_mult__="2.0", __wd_mult__="0.0")


def _scores(model, config, dropout, norm):
    """(per-cell scores before the softmax, image-level scores or None).

    Args:
        norm: statistics of the batch norms, "stored" or "batch"; "folded": there are none, see `fold_batch_norms`.
    """
    if model not in MODELS:
        raise UserError("there is no model %r; it is one of: %s" % (model, ", ".join(MODELS)))
    net = _Builder(config, norm)
    shared = net.stages_1_to_3(mx.sym.Variable("data"))

    dense = net.stage(shared, 4, stride=1, dilation=2)
    dense = net.stage(dense, 5, stride=1, dilation=4)
    dense = _relu(_conv(dense, "new_conv1", config.head_channels, kernel=3, dilation=config.head_dilation))
    dense = _dropout(dense, dropout)
    dense = _relu(_conv(dense, "fc", config.head_channels))
    scores = _conv(dense, "score", config.num_classes)
    if model == "init":
        return scores, None

    whole = net.stage(shared, 4, stride=2, dilation=1, suffix=_GLOBAL)
    whole = net.stage(whole, 5, stride=2, dilation=1, suffix=_GLOBAL)
    whole = mx.sym.Pooling(whole, kernel=(1, 1), global_pool=True, pool_type="max", name="g_pool")
    for name in ("g_multi_fc1", "g_multi_fc2"):
        whole = _dropout(_relu(_conv(whole, name, config.global_channels)), dropout)
    global_scores = _conv(whole, "g_score", config.num_classes)
    return mx.sym.broadcast_add(scores, global_scores), global_scores


class _Builder:
    """Residual stages of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), 50 layers.

    With stride_on "3x3" their later variant "v1.5", of the same parameters.
    """

    def __init__(self, config, norm):
        self._config = config
        self._norm = norm

    def stages_1_to_3(self, data):
        stem = _relu(self._batch_norm(_conv(data, "conv1", self._config.width, kernel=7, stride=2), "bn_conv1"))
        stem = mx.sym.Pooling(stem, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="pool1")
        return self.stage(self.stage(stem, 2, stride=1, dilation=1), 3, stride=2, dilation=1)

    def stage(self, data, number, stride, dilation, suffix=""):
        channels = self._config.width * 2 ** (number - 2)
        for index in range(self._config.units[number - 2]):
            name = "%d%s_branch" % (number, "abcdefghijklmnopqrstuvwxyz"[index])
            data = self._bottleneck(data, name, suffix, channels, stride if index == 0 else 1, dilation,
                                    project=index == 0)
        return data

    def _bottleneck(self, data, name, suffix, channels, stride, dilation, project):
        def conv_bn(inputs, branch, count, **kwargs):
            convolved = _conv(inputs, "res" + name + branch + suffix, count, bias=self._norm == "folded", **kwargs)
            return self._batch_norm(convolved, "bn" + name + branch + suffix)

        shortcut = conv_bn(data, "1", 4 * channels, stride=stride) if project else data
        strides = (stride, 1) if self._config.stride_on == "1x1" else (1, stride)
        residual = _relu(conv_bn(data, "2a", channels, stride=strides[0]))
        residual = _relu(conv_bn(residual, "2b", channels, kernel=3, stride=strides[1], dilation=dilation))
        residual = conv_bn(residual, "2c", 4 * channels)
        return _relu(shortcut + residual)

    def _batch_norm(self, data, name):
        if self._norm == "folded":
            return data
        return mx.sym.BatchNorm(data, name=name, fix_gamma=False, eps=BN_EPSILON,
                                use_global_stats=self._norm == "stored",
                                momentum=0.9 if self._norm == "stored" else 0.0)


def _conv(data, name, channels, kernel=1, stride=1, dilation=1, bias=True):
    pad = dilation * (kernel // 2)
    return mx.sym.Convolution(data, name=name, num_filter=channels, kernel=(kernel, kernel), stride=(stride, stride),
                              dilate=(dilation, dilation), pad=(pad, pad), no_bias=not bias)


def _relu(data):
    return mx.sym.Activation(data, act_type="relu")


def _dropout(data, share):
    return mx.sym.Dropout(data, p=share) if share else data
