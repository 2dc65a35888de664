"""The networks written a second time, in numpy, layer by layer from the paper: slow, plain, in float64."""
import numpy as np


def convolve(data, weight, bias=None, stride=1, dilation=1):
    """Convolution that keeps the size (up to the stride). data (b, c, h, w), weight (out, c, k, k)."""
    size = weight.shape[2]
    pad = dilation * (size // 2)
    data = np.pad(data, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height = (data.shape[2] - dilation * (size - 1) - 1) // stride + 1
    width = (data.shape[3] - dilation * (size - 1) - 1) // stride + 1
    result = np.zeros((len(data), len(weight), height, width))
    for y in range(size):
        for x in range(size):
            part = data[:, :, y * dilation:, x * dilation:][:, :, :stride * height:stride, :stride * width:stride]
            result += np.einsum("bchw,oc->bohw", part[:, :, :height, :width], weight[:, :, y, x])
    return result if bias is None else result + bias[:, None, None]


def max_pool(data):
    """3 x 3, stride 2, padding 1."""
    data = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = (data.shape[2] - 3) // 2 + 1, (data.shape[3] - 3) // 2 + 1
    return np.max([data[:, :, y:y + 2 * height:2, x:x + 2 * width:2][:, :, :height, :width]
                   for y in range(3) for x in range(3)], axis=0)


def relu(data):
    return np.maximum(data, 0)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


class Network:
    """Both models. Parameters are dicts from the published names to arrays."""

    def __init__(self, args, aux, units=(1, 1, 1, 1), head_dilation=12, stride_on="1x1"):
        self.values = {name: np.asarray(value, np.float64) for name, value in {**args, **aux}.items()}
        self.units = units
        self.head_dilation = head_dilation
        self.stride_on = stride_on

    def conv(self, data, name, **kwargs):
        return convolve(data, self.values[name + "_weight"], self.values.get(name + "_bias"), **kwargs)

    def norm(self, data, name):
        gamma, beta, mean, var = (self.values["%s_%s" % (name, part)][:, None, None]
                                  for part in ("gamma", "beta", "moving_mean", "moving_var"))
        return gamma * (data - mean) / np.sqrt(var + 1.001e-5) + beta

    def stage(self, data, number, stride, dilation, suffix=""):
        for unit in "abcdef"[:self.units[number - 2]]:
            def layer(inputs, branch, **kwargs):
                name = "%d%s_branch%s%s" % (number, unit, branch, suffix)
                return self.norm(self.conv(inputs, "res" + name, **kwargs), "bn" + name)

            first = stride if unit == "a" else 1
            on_1x1, on_3x3 = (first, 1) if self.stride_on == "1x1" else (1, first)
            inner = relu(layer(data, "2a", stride=on_1x1))
            inner = layer(relu(layer(inner, "2b", stride=on_3x3, dilation=dilation)), "2c")
            data = relu((layer(data, "1", stride=first) if unit == "a" else data) + inner)
        return data

    def logits(self, data, model):
        """(logits of the cells, image-level logits or None)."""
        data = max_pool(relu(self.norm(self.conv(data, "conv1", stride=2), "bn_conv1")))
        shared = self.stage(self.stage(data, 2, 1, 1), 3, 2, 1)
        dense = self.stage(self.stage(shared, 4, 1, 2), 5, 1, 4)
        dense = relu(self.conv(relu(self.conv(dense, "new_conv1", dilation=self.head_dilation)), "fc"))
        logits = self.conv(dense, "score")
        if model == "init":
            return logits, None
        whole = self.stage(self.stage(shared, 4, 2, 1, "_g"), 5, 2, 1, "_g").max((2, 3), keepdims=True)
        whole = self.conv(relu(self.conv(relu(self.conv(whole, "g_multi_fc1")), "g_multi_fc2")), "g_score")
        return logits + whole, whole

    def probabilities(self, data, model):
        return softmax(self.logits(data, model)[0])

    def loss(self, data, labels, image_labels, model):
        """Mean cross-entropy of the valid cells; final: plus the mean logistic loss of images and classes."""
        logits, whole = self.logits(data, model)
        flat = np.log(softmax(logits)).transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
        labels = labels.ravel().astype(int)
        total = -flat[np.arange(len(flat)), np.where(labels == 255, 0, labels)][labels != 255].mean()
        if whole is not None:
            sign = np.where(image_labels > 0, 1, -1)
            total += np.log1p(np.exp(-sign * whole)).mean()
        return total
