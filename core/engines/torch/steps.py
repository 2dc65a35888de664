"""Training steps by torch, on one device of each process."""
import contextlib
import warnings
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import POLY_POWER, Config
from core.engines.chooser import resolve_dtype
from core.engines.devices import Device
from core.engines.torch.backend import memory_format, number_format, torch, torch_device
from core.engines.torch.operations import TorchOperations
from core.network import fcn
from core.network.snapshots import Parts

F = torch.nn.functional


class Steps:
    """A network on a device, with its optimizer. Float16 scales the loss, so that small gradients don't vanish.

    Attributes:
        symbol: None: only MXNet's networks have such a text.
    """

    symbol = None

    def __init__(self, config: Config, model: str, *, devices: List[Device], parameters: Parts,
                 momentum: Dict[str, np.ndarray], first: int, last: int, group: Any = None):
        """As MXNet's, but for the devices: one."""
        device, = devices
        self._config = config
        self._step, self._last = first, last
        self._device = torch_device(device)
        torch.backends.cudnn.benchmark = True  # all crops have one size
        dtype = resolve_dtype(config.dtype, devices, fastest=device.type == "gpu", backbone=config.backbone)
        self._dtype = number_format(dtype)
        self._network = _Network(config, model, self._device, self._dtype, parameters)
        self._wrapped: torch.nn.Module = self._network
        if group:
            warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1 x 1 kernels, where they don't matter
            self._wrapped = torch.nn.parallel.DistributedDataParallel(
                self._network, [self._device] if device.type == "gpu" else None, gradient_as_bucket_view=True)
        self._optimizer = _SGD(self._network, config, model, momentum)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=dtype == "float16")

    def seed(self, number: int) -> None:
        """Start the random choices of dropout from a number."""
        torch.manual_seed(number)

    def step(self, images: np.ndarray, labels: np.ndarray, image_labels: np.ndarray) -> Callable[[], List[float]]:
        """As MXNet's."""
        batch = [self._sent(values) for values in (images, labels, image_labels)]
        cells, sums = (batch[1] != IGNORE_LABEL).sum().clamp(min=1), torch.zeros(4, device=self._device)
        self._step += 1
        self._optimizer.zero_grad()
        count = self._config.accumulate
        for number, part in enumerate(zip(*(values.chunk(count) for values in batch)), 1):
            alone = number < count and self._wrapped is not self._network  # gradients meet once
            with self._wrapped.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast(self._device.type, self._dtype, self._dtype != torch.float32):
                    loss, part_sums = self._wrapped(*part, cells, 1 / count)
                self._scaler.scale(loss).backward()
            sums += part_sums
        self._optimizer.learning_rate = self.learning_rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._device.type != "cuda":
            return sums.tolist
        host, done = sums.to("cpu", non_blocking=True), torch.cuda.Event()
        done.record()

        def wait():  # for this step, not for those that follow
            done.synchronize()
            return host.tolist()
        return wait

    def _sent(self, values):
        """An array on the device; from pinned memory GPUs fetch it beside what they compute."""
        tensor = torch.from_numpy(values)
        return (tensor.pin_memory() if self._device.type == "cuda" else tensor).to(self._device, non_blocking=True)

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        if self._config.learning_rate_decay == "none":
            return self._config.learning_rate
        return self._config.learning_rate * max(0, 1 - self._step / self._last) ** POLY_POWER

    def parameters(self) -> Parts:
        """(args, aux) after the last step."""
        return _arrays(self._network.trained), _arrays(self._network.states)

    def momentum(self) -> Dict[str, np.ndarray]:
        """dict from parameter name to float32 array; empty without momentum."""
        return _arrays(self._optimizer.momentum)


class _Network(torch.nn.Module):
    """The trained parameters and the losses, in the form that DistributedDataParallel takes."""

    def __init__(self, config: Config, model: str, device: torch.device, dtype: torch.dtype, parameters: Parts):
        super().__init__()
        self._config, self._model = config, model
        self._format = memory_format(device, dtype)
        self._mean = _mean(config, device)
        trained, self.states = ({name: self._tensor(value, device) for name, value in part.items()}
                                for part in parameters)
        self.trained = torch.nn.ParameterDict(list(trained.items()))  # a dict would be sorted
        for name in fcn.frozen_parameters(model, config):
            self.trained[name].requires_grad_(False)
        self._frozen = {name: self._tensor(value, device)
                        for name, value in (fcn.frozen_share(model, config, *parameters) or {}).items()}

    def _tensor(self, value, device):
        """In the order of the maps, so that no step has to lay out weights, gradients or momentum again."""
        tensor = torch.tensor(value, dtype=torch.float32, device=device)
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor

    def forward(self, images: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor, cells: torch.Tensor,
                share: float) -> Tuple[torch.Tensor, torch.Tensor]:
        """(loss, the four numbers that `Steps.step` promises) of a share of this process's images, which have `cells`
        valid cells; the losses are those of MXNet's `training_symbol`."""
        data, frozen = (images.permute(0, 3, 1, 2) - self._mean).contiguous(memory_format=self._format), None
        if self._frozen:
            with torch.no_grad():
                frozen = fcn.frozen_maps(TorchOperations(self._frozen, data), self._model, self._config)
        ops = TorchOperations({**self.trained, **self.states}, data, "stored")
        logits, image_logits = fcn.logits(ops, self._model, self._config, self._config.dropout, frozen)
        logits = logits.float()
        labels = labels.long().view(len(labels), *logits.shape[2:])
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
        loss, label_loss = total / cells, torch.zeros_like(total)
        if image_logits is not None:
            label_loss = share * F.binary_cross_entropy_with_logits(image_logits.float(), image_labels)
            loss = loss + fcn.label_loss_weight(self._config) * label_loss
        sums = total, (labels != IGNORE_LABEL).sum(), (logits.argmax(1) == labels).sum(), label_loss
        return loss, torch.stack([value.detach().float() for value in sums])


class _SGD(torch.optim.Optimizer):
    """MXNet's rule, m = mu m - lr (g + wd w); w += m. Torch's keeps lr out of m: another one where lr changes.

    Attributes:
        learning_rate: of the next step.
        momentum: dict from parameter name to tensor.
    """

    def __init__(self, network: _Network, config: Config, model: str, momentum: Dict[str, np.ndarray]):
        learning = {name: value for name, value in network.trained.items() if value.requires_grad}
        super().__init__(learning.values(), {})
        self.learning_rate = config.learning_rate
        self._mu = config.momentum
        self.momentum = {name: torch.zeros_like(value, requires_grad=False) for name, value in learning.items()
                         if config.momentum}
        for name in self.momentum.keys() & momentum.keys():
            self.momentum[name].copy_(torch.from_numpy(momentum[name]))
        self._rules: Dict[Tuple[float, float], List[str]] = {}  # names by multiple of the learning rate, and decay
        for name in learning:
            rate, decay = fcn.multipliers(model, name, config)
            decays = name.endswith(("_weight", "_gamma"))  # the others never decay in MXNet
            self._rules.setdefault((rate, decay * config.weight_decay * decays), []).append(name)
        self._learning = learning

    @torch.no_grad()
    def step(self, closure=None):
        for (rate, decay), names in self._rules.items():
            values = [self._learning[name] for name in names]
            gradients, rate = [value.grad for value in values], rate * self.learning_rate
            changes = [self.momentum[name] for name in names] if self.momentum else [torch.zeros_like(value)
                                                                                     for value in values]
            torch._foreach_mul_(changes, self._mu)
            torch._foreach_add_(changes, gradients, alpha=-rate)
            if decay:
                torch._foreach_add_(changes, values, alpha=-rate * decay)
            torch._foreach_add_(values, changes)


def batch_statistics(config: Config, model: str, device: Device, args: Dict[str, np.ndarray], images: np.ndarray
                     ) -> Dict[str, np.ndarray]:
    """As MXNet's."""
    with torch.no_grad():
        where = torch_device(device)
        values = {name: torch.from_numpy(value).to(where) for name, value in args.items()}
        data = torch.from_numpy(images).to(where).permute(0, 3, 1, 2) - _mean(config, where)
        ops = TorchOperations(values, data, "batch")
        fcn.logits(ops, model, config)
    return _arrays(ops.statistics)


def _mean(config, device):
    return torch.tensor(config.mean_rgb, device=device)[:, None, None]


def _arrays(values):
    """Copies on the CPU, in C order."""
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in values.items()}
