"""The epochs of training. What a step does lies in these places:

    crops           batches.BatchLoader and augmentation.augment
    forward pass    core.network.fcn.logits, carried out by core/engines/<engine>/operations.py
    losses          training_symbol of core/engines/mxnet/steps.py, and _Network.forward of core/engines/torch/steps.py
    update          SGD with momentum, core.network.fcn.multipliers: init_optimizer of MXNet's Steps, torch's _SGD
    learning rate   constant, or falling polynomially: Steps.learning_rate
"""
import contextlib
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional

import numpy as np

from core.config import Config
from core.engines.chooser import load
from core.engines.devices import Device
from core.errors import UserError
from core.io.logs import logger, progress
from core.network.snapshots import Parts
from core.training.batches import Batch
from core.training.metrics_log import MetricsLog

_LINES_PER_EPOCH = 4


class Trainer:
    """The epoch loop around an engine's training steps.

    Attributes:
        symbol, parameters, momentum: those of the engine's `steps.Steps`; symbol is None with torch.
        epoch_size: batches in an epoch.
    """

    def __init__(self, config: Config, model: str, *, devices: List[Device], parameters: Parts, start_epoch: int = 0,
                 momentum: Optional[Dict[str, np.ndarray]] = None, group: Any = None,
                 metrics: Optional[MetricsLog] = None):
        """
        Args:
            parameters: (args, aux) to start from.
            start_epoch: the last finished epoch.
            momentum: as `momentum` returns it; None starts from zeros.
            group: what `workers.joined_workers` gives: the processes that share every batch, or None.
            metrics: receives what is logged too.
        """
        self._config = config
        self._model = model
        self._metrics = metrics
        self.epoch_size = config.init_epoch_size if model == "init" else config.final_epoch_size
        self._rank = group.rank if group else 0
        self._steps = load(devices[0].engine, "steps").Steps(
            config, model, devices=devices, parameters=parameters, momentum=momentum or {}, group=group,
            first=start_epoch * self.epoch_size, last=(config.max_epoch - 1) * self.epoch_size)
        self.symbol, self.parameters, self.momentum = self._steps.symbol, self._steps.parameters, self._steps.momentum

    def train_epoch(self, epoch: int, batches: Iterator[Batch]) -> None:
        """Train on the next `epoch_size` batches.

        Raises:
            UserError: the loss of a batch is not finite; its images are named.
        """
        # Dropout is the same in a run that resumes here, and another one in every epoch and worker.
        self._steps.seed(self._config.seed * 100003 + epoch + 1009 * self._rank)
        meter = _Meter(self._config, self._model, epoch, self.epoch_size)
        waiting: Any = None
        steps: Iterable[int] = range(self.epoch_size)
        if not self._rank:
            steps = progress(steps, self.epoch_size, f"{self._model} model, epoch {epoch}")
        for _ in steps:
            with meter.waiting_for_data():
                batch = next(batches)
            sums = self._steps.step(batch.images, batch.labels, batch.image_labels)
            if waiting:  # one step later, so that the devices never wait for Python
                self._count(meter, *waiting)
            waiting = batch, sums
        self._count(meter, *waiting)

    def _count(self, meter, batch, sums):
        meter.add(batch, sums())
        if meter.is_due():
            row = meter.report()
            if self._metrics:
                self._metrics.add(lr=self._steps.learning_rate, **row)


class _Meter:
    """Running loss, accuracy and speed of an epoch, logged a few times."""

    def __init__(self, config: Config, model: str, epoch: int, epoch_size: int):
        self._batch_size = config.batch_size
        self._epoch = epoch
        self._epoch_size = epoch_size
        self._log_every = max(1, epoch_size // _LINES_PER_EPOCH)
        self._start = time.perf_counter()
        self._waited, self._batches = 0.0, 0
        self._sums = np.zeros(4)
        self._has_label_loss = model == "final"

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, batch: Batch, sums: List[float]) -> None:
        """Add what a step gave.

        Raises:
            UserError: a loss is not finite.
        """
        self._batches += 1
        if not np.isfinite(sums).all():
            raise UserError(f"the loss is not finite in epoch {self._epoch}, batch {self._batches}: lower --lr, or "
                            f"look at its images: {' '.join(batch.names)}")
        self._sums += sums

    def is_due(self) -> bool:
        """Whether to report after the last step."""
        return self._batches % self._log_every == 0 or self._batches == self._epoch_size

    def report(self) -> Dict[str, Any]:
        """Log the means since the epoch began, and return them: columns of `MetricsLog`, all but lr."""
        seconds = time.perf_counter() - self._start
        loss, cells, correct, label_loss = self._sums
        row = {"epoch": self._epoch, "batch": self._batches, "loss": loss / max(cells, 1),
               "accuracy": correct / max(cells, 1),
               "label_loss": label_loss / self._batches if self._has_label_loss else None,
               "images_per_second": self._batches * self._batch_size / seconds}
        label_text = f" [label loss: {row['label_loss']:.4f}]" if self._has_label_loss else ""
        logger.info("[epoch: %d] [batch: %d/%d] [loss: %.4f] [accuracy: %.4f]%s [images/s: %.1f] "
                    "[waiting for data: %.1f %%]", self._epoch, self._batches, self._epoch_size, row["loss"],
                    row["accuracy"], label_text, row["images_per_second"], 100 * self._waited / seconds)
        return row
