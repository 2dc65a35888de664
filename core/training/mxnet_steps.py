"""Training steps by MXNet, data-parallel over the devices."""
from typing import Any, Callable, Dict, List

import numpy as np

from core.config import POLY_POWER, Config
from core.network.fcn import frozen_parameters
from core.network.snapshots import Parts
from core.network.symbols import training_inputs, training_symbol
from core.runtime.devices import Device
from core.runtime.mxnet_backend import context, mx
from core.training.batches import Batch


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
        self._has_labels = model == "final"
        self._contexts = [context(device) for device in devices]
        symbol = training_symbol(model, config, config.batch_size // len(devices))
        self.symbol = symbol.tojson()
        inputs, labels = training_inputs(model, config, config.batch_size)
        self._module = mx.mod.Module(symbol, [name for name, _ in inputs], [name for name, _ in labels],
                                     context=self._contexts, fixed_param_names=frozen_parameters(model, config))
        self._module.bind(inputs, labels)
        self._module.init_params(arg_params=_arrays(parameters[0]), aux_params=_arrays(parameters[1]))
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

    def step(self, batch: Batch) -> Callable[[], List[np.ndarray]]:
        """Start a step.

        Returns:
            function that waits for it, and gives class probabilities (b, classes, h, w) and, final model, image-level
            ones (b, classes, 1, 1), both before the update.
        """
        labels = [mx.nd.array(batch.labels)]
        if self._has_labels:
            labels.append(mx.nd.array(batch.image_labels))
        self._module.forward_backward(mx.io.DataBatch([mx.nd.array(batch.data)], labels))
        self._module.update()
        # Copies, for the next step writes over the outputs.
        outputs = [output.copy() for output in self._module.get_outputs()]
        return lambda: [output.asnumpy() for output in outputs]

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return self._module._optimizer.learning_rate

    def parameters(self) -> Parts:
        """(args, aux) after the last step."""
        # Those of the first device: the mean over equal devices, which get_params returns, may differ in the last bit.
        group = self._module._exec_group
        args, aux = ({name: arrays[0].asnumpy() for name, arrays in zip(*part)}
                     for part in ((group.param_names, group.param_arrays), (group.aux_names, group.aux_arrays)))
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


def batch_statistics(config: Config, model: str, device: Device, args: Dict[str, np.ndarray], batch: Batch
                     ) -> Dict[str, np.ndarray]:
    """Mean and variance of every batch norm's input over a batch, as auxiliary states of the network."""
    inputs, labels = training_inputs(model, config, config.batch_size)
    symbol = training_symbol(model, config, config.batch_size, stored_statistics=False)
    mx.random.seed(config.seed)
    executor = symbol.simple_bind(context(device), grad_req="write", **dict(inputs + labels))
    executor.copy_params_from(_arrays(args))
    executor.forward(is_train=True, data=mx.nd.array(batch.data))
    executor.backward()  # it is this that stores the statistics, which MXNet's engine does not know of
    mx.nd.waitall()
    return {name: value.asnumpy() for name, value in executor.aux_dict.items()}


def _arrays(values):
    return {name: mx.nd.array(value) for name, value in values.items()}
