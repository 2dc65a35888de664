"""Training steps by MXNet, data-parallel over the devices."""
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import POLY_POWER, STRIDE, Config
from core.dataset.preprocessing import batch_input
from core.engines.devices import Device
from core.engines.mxnet.backend import context, mx
from core.engines.mxnet.operations import SymbolOperations
from core.network import fcn
from core.network.snapshots import Parts

Inputs = List[Tuple[str, Tuple[int, ...]]]  # names and shapes


def training_symbol(model: str, config: Config, device_batch: int, stored_statistics: bool = True,
                    frozen: Optional[List[mx.sym.Symbol]] = None) -> mx.sym.Symbol:
    """Network with its losses.

    Inputs: data (b, 3, h, w) float32, RGB minus the mean; softmax_label (b, h/8 * w/8), class indices or 255; for the
    final model also g_logistic_label (b, classes, 1, 1), 1 where the class is in the image. Outputs: class
    probabilities (b, classes, h/8, w/8); final: also those of the image-level labels (b, classes, 1, 1).

    The softmax loss is averaged over the valid cells of a device's batch; the logistic loss over its images and, as the
    setting `label_loss` says, over the classes. With rescale_grad = 1 / devices the update is then the same for any
    number of devices.

    Args:
        device_batch: images of a batch on one device.
        stored_statistics: False normalises by the statistics of the batch.
        frozen: inputs in place of data, see `fcn.logits`.
    """
    with mx.name.NameManager():  # layers without a name are counted from 0, however many networks were made before
        logits, image_logits = fcn.logits(SymbolOperations("stored" if stored_statistics else "batch"), model, config,
                                          config.dropout, frozen)
    outputs = [mx.sym.SoftmaxOutput(logits, name="softmax", multi_output=True, use_ignore=True,
                                    ignore_label=IGNORE_LABEL, normalization="valid")]
    if image_logits is not None:
        # LogisticRegressionOutput itself divides by the number of classes.
        outputs.append(mx.sym.LogisticRegressionOutput(image_logits, name="g_logistic",
                                                       grad_scale=fcn.label_loss_weight(config) / device_batch))
    symbol = mx.sym.Group(outputs)
    variables = symbol.get_internals()
    for name in symbol.list_arguments():
        # MXNet's optimizers read these attributes. By default they let only names in _weight and _gamma decay.
        for attribute, value in zip(("__lr_mult__", "__wd_mult__"), fcn.multipliers(model, name, config)):
            if value != 1:
                variables[name]._set_attr(**{attribute: str(value)})
    return symbol


def training_inputs(model: str, config: Config, batch_size: int) -> Tuple[Inputs, Inputs]:
    """(name, shape) pairs of the inputs of `training_symbol`, and of its labels."""
    crop, cells = config.crop_size, (config.crop_size // STRIDE) ** 2
    labels: Inputs = [("softmax_label", (batch_size, cells))]
    if model == "final":
        labels.append(("g_logistic_label", (batch_size, config.num_classes, 1, 1)))
    return [("data", (batch_size, 3, crop, crop))], labels


class Steps:
    """A network bound to devices, with its optimizer.

    Attributes:
        symbol: JSON of the network with its losses.
    """

    def __init__(self, config: Config, model: str, *, devices: List[Device], parameters: Parts,
                 momentum: Dict[str, np.ndarray], first: int, last: int, group: Any = None):
        """
        Args:
            parameters: (args, aux) to start from.
            momentum: dict from parameter name to float32 array; parameters that it lacks start at zero.
            first, last: numbers of the steps before this run and at the end of training.
            group: None; of torch, the processes that share every batch.
        """
        self._config = config
        self._has_labels = model == "final"
        self._contexts = [context(device) for device in devices]
        self._start = parameters
        frozen = fcn.frozen_share(model, config, *parameters)
        self._frozen = _FrozenStages(config, model, frozen, self._contexts) if frozen else None
        symbol = training_symbol(model, config, config.batch_size // len(devices))
        self.symbol = symbol.tojson()
        inputs, labels = training_inputs(model, config, config.batch_size)
        if self._frozen:
            inputs = self._frozen.outputs
            symbol = training_symbol(model, config, config.batch_size // len(devices),
                                     frozen=[mx.sym.Variable(name) for name, _ in inputs])
        names = set(symbol.list_arguments())
        self._module = mx.mod.Module(symbol, [name for name, _ in inputs], [name for name, _ in labels],
                                     context=self._contexts, fixed_param_names=[
                                         name for name in fcn.frozen_parameters(model, config) if name in names])
        self._module.bind(inputs, labels)
        self._module.init_params(arg_params=_arrays(parameters[0]), aux_params=_arrays(parameters[1]), allow_extra=True)
        settings = {"learning_rate": config.learning_rate, "momentum": config.momentum, "wd": config.weight_decay,
                    "rescale_grad": 1.0 / len(devices)}
        if config.learning_rate_decay == "poly":
            settings["lr_scheduler"] = mx.lr_scheduler.PolyScheduler(last, config.learning_rate, POLY_POWER)
            settings["begin_num_update"] = first
        self._module.init_optimizer("device", "sgd", settings)
        self._set_momentum(momentum)

    def seed(self, number: int) -> None:
        """Start the random choices of dropout from a number."""
        mx.random.seed(number)

    def step(self, images: np.ndarray, labels: np.ndarray, image_labels: np.ndarray) -> Callable[[], List[float]]:
        """Start a step.

        Args:
            images, labels, image_labels: those of a `batches.Batch`.

        Returns:
            function that waits for it, and gives of the network before the update: sum of the cells' losses; number of
            valid cells; of those that are right; mean of the image-level losses, 0 of the init model.
        """
        data = batch_input(images, self._config.mean_rgb)
        targets = [labels, image_labels] if self._has_labels else [labels]
        inputs = self._frozen.forward(data) if self._frozen else [mx.nd.array(data)]
        self._module.forward_backward(mx.io.DataBatch(inputs, list(map(mx.nd.array, targets))))
        self._module.update()
        # Copies, for the next step writes over the outputs.
        outputs = [output.copy() for output in self._module.get_outputs()]
        return lambda: _sums([output.asnumpy() for output in outputs], labels, image_labels)

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return self._module._optimizer.learning_rate

    def parameters(self) -> Parts:
        """(args, aux) after the last step."""
        # Those of the first device: the mean over equal devices, which get_params returns, may differ in the last bit.
        group = self._module._exec_group
        args, aux = ({**start, **{name: arrays[0].asnumpy() for name, arrays in zip(*part)}}
                     for start, *part in ((self._start[0], group.param_names, group.param_arrays),
                                          (self._start[1], group.aux_names, group.aux_arrays)))
        return args, aux

    def momentum(self) -> Dict[str, np.ndarray]:
        """dict from parameter name to float32 array; empty without momentum."""
        states = self._module._updater.states
        first = {name: states.get(index * len(self._contexts))
                 for index, name in enumerate(self._module._exec_group.param_names)}
        return {name: value.asnumpy() for name, value in first.items() if value is not None}

    def _set_momentum(self, momentum):
        """Start from what `momentum` returned; every device has its own copy."""
        updater, count = self._module._updater, len(self._contexts)
        for index, name in enumerate(self._module._exec_group.param_names):
            for number, device in enumerate(self._contexts if name in momentum else ()):
                updater.states[index * count + number] = mx.nd.array(momentum[name], device)
                updater.states_synced[index * count + number] = True


class _FrozenStages:
    """Stages that don't learn, see `fcn.frozen_maps`: batch norms are folded into the convolutions, once.

    Attributes:
        outputs: names and shapes of their maps.
    """

    def __init__(self, config: Config, model: str, parameters: Dict[str, np.ndarray], contexts: List[mx.Context]):
        symbol = mx.sym.Group(fcn.frozen_maps(SymbolOperations("folded"), model, config))
        shape = (config.batch_size // len(contexts), 3, config.crop_size, config.crop_size)
        self._executors = [symbol.simple_bind(where, grad_req="null", data=shape) for where in contexts]
        for executor in self._executors:
            executor.copy_params_from(_arrays(parameters))
        self.outputs: Inputs = [(f"frozen{number}", (config.batch_size, *output.shape[1:]))
                                for number, output in enumerate(self._executors[0].outputs)]

    def forward(self, data: np.ndarray) -> List[mx.nd.NDArray]:
        """Their maps of a batch."""
        for executor, share in zip(self._executors, np.split(data, len(self._executors))):
            executor.forward(is_train=False, data=mx.nd.array(share))
        return [mx.nd.concat(*(output.as_in_context(mx.cpu()) for output in maps), dim=0)
                for maps in zip(*(executor.outputs for executor in self._executors))]


def batch_statistics(config: Config, model: str, device: Device, args: Dict[str, np.ndarray], images: np.ndarray
                     ) -> Dict[str, np.ndarray]:
    """Mean and variance of every batch norm's input over a batch, as auxiliary states of the network."""
    inputs, labels = training_inputs(model, config, config.batch_size)
    symbol = training_symbol(model, config, config.batch_size, stored_statistics=False)
    mx.random.seed(config.seed)
    executor = symbol.simple_bind(context(device), grad_req="write", **dict(inputs + labels))
    executor.copy_params_from(_arrays(args))
    executor.forward(is_train=True, data=mx.nd.array(batch_input(images, config.mean_rgb)))
    executor.backward()  # it is this that stores the statistics, which MXNet's engine does not know of
    mx.nd.waitall()
    return {name: value.asnumpy() for name, value in executor.aux_dict.items()}


def _sums(outputs, labels, image_labels):
    """What `Steps.step` promises, of the network's outputs."""
    valid = labels != IGNORE_LABEL
    truth = np.where(valid, labels, 0).astype(np.intp)
    probabilities = outputs[0].reshape(len(truth), -1, truth.shape[1])
    loss = _cross_entropy(np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0][valid]).sum()
    correct = np.count_nonzero((probabilities.argmax(1) == truth) & valid)
    label_loss = 0.0
    if len(outputs) > 1:
        label_loss = _cross_entropy(np.where(image_labels > 0, outputs[1], 1 - outputs[1])).mean()
    return [loss, np.count_nonzero(valid), correct, label_loss]


def _cross_entropy(probabilities):
    return -np.log(np.maximum(probabilities, 1e-30, dtype=np.float64))


def _arrays(values):
    return {name: mx.nd.array(value) for name, value in values.items()}
