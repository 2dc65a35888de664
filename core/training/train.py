"""Train the init or the final model, data-parallel over the devices."""
import contextlib
import hashlib
import json
import os
from typing import Any, Dict, List, Optional

import numpy as np

from core.config import Config
from core.dataset.samples import class_prior, samples_record, training_samples
from core.engines.devices import Device, explaining_engine_errors
from core.errors import UserError
from core.io.locks import locked
from core.io.logs import logger
from core.network.snapshots import load_snapshot
from core.training.batches import BatchLoader
from core.training.checkpoint import Checkpoint, find_checkpoint, run_record, save_checkpoint
from core.training.initialization import from_base_model, from_scratch
from core.training.metrics_log import MetricsLog
from core.training.trainer import Trainer


def train(config: Config, model: str, *, devices: List[Device], start_epoch: Optional[int] = None, resume: bool = False,
          keep: Optional[int] = None, group: Any = None) -> None:
    """Train `model` up to `config.max_epoch`, with a snapshot after every epoch.

    Args:
        model: "init" (on web images) or "final" (on training images with estimated masks).
        devices: they share every batch.
        start_epoch: epoch whose snapshot to start from, with fresh momentum; 0 or None starts from the base model.
        resume: continue the interrupted run of this start (of any start, if it is None), exactly as if it had not been
            interrupted; without such a run, start one.
        keep: number of the run's last snapshots that stay, beside the best one of eval_loop.py's ranking; None: all.
        group: what `workers.joined_workers` gives for the processes that share every batch; only the one of rank 0
            logs and saves.

    Raises:
        UserError: samples, base model or snapshot are missing or wrong, the run to resume had other settings, another
            process trains the model here, the memory ran out, or the loss is no longer finite.
    """
    if group and group.rank:
        _train(config, model, devices, start_epoch, resume, keep, group)
        return
    layout = config.layout
    with locked(layout.training_lock(model), f"training of the {model} model in {layout.snapshots}"):
        for path in layout.unfinished(model):
            os.remove(path)
        _train(config, model, devices, start_epoch, resume, keep, group)


@explaining_engine_errors("training", "lower --batch-size or --crop-size")
def _train(config, model, devices, start_epoch, resume, keep, group):
    rank, processes = (group.rank, group.size) if group else (0, 1)
    count = len(devices) * processes
    if config.batch_size % (count * config.accumulate):
        raise UserError(f"a batch of {config.batch_size} images can't be shared evenly by {count} devices"
                        + (f" in {config.accumulate} parts" if config.accumulate > 1 else "")
                        + ": change --batch-size, --accumulate or the devices")
    samples = training_samples(model, config)
    logger.info("%d training images for the %s model", len(samples), model)
    checkpoint = _checkpoint(config, model, devices, count, samples, start_epoch, resume)
    config = checkpoint.config
    if checkpoint.epoch + 1 >= config.max_epoch:
        logger.info("epoch %d, the last before max_epoch %d, is trained already", checkpoint.epoch, config.max_epoch)
        return
    if group:
        check_agreement(group, checkpoint)

    metrics = None if rank else MetricsLog(config.layout.metrics(model), checkpoint.epoch)
    trainer = Trainer(config, model, devices=devices, parameters=checkpoint.parameters, start_epoch=checkpoint.epoch,
                      momentum=checkpoint.momentum, group=group, metrics=metrics)
    loader = BatchLoader(samples, config, part=rank, parts=processes)
    with contextlib.closing(loader.batches(checkpoint.epoch * trainer.epoch_size)) as batches:
        for epoch in range(checkpoint.epoch + 1, config.max_epoch):
            trainer.train_epoch(epoch, batches)
            if not rank:
                reached = Checkpoint(config, epoch, trainer.parameters(), trainer.momentum(), checkpoint.record)
                path = save_checkpoint(model, trainer.symbol, reached, keep)
                logger.info("[epoch: %d] saved %s", epoch, path)


def check_agreement(group: Any, checkpoint: Checkpoint) -> None:
    """Raise UserError if this process starts from other files or settings than the one of rank 0."""
    text = json.dumps([checkpoint.epoch, checkpoint.record], sort_keys=True)
    mine = np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest(), np.uint8).astype(np.float32)
    if (group.of_first(mine) != mine).any():
        raise UserError(f"process {group.rank} starts from another epoch, list, base model or number of devices, or "
                        "with other images, masks or settings, than process 0: all hosts need the same files, as in a "
                        "shared folder")


def _checkpoint(config, model, devices, count, samples, start_epoch, resume):
    """Where training begins: at the Checkpoint of an interrupted run, or at that of a new one."""
    run: Dict[str, Any] = {"data": samples_record(samples), "devices": count, "engine": devices[0].engine}
    if resume:
        checkpoint = find_checkpoint(model, config, start_epoch=start_epoch, **run)
        logger.info(f"resuming after epoch {checkpoint.epoch}" if checkpoint else "there is no run to resume")
        if checkpoint:
            return checkpoint
    start = _start(config, model, devices[0], samples, start_epoch or 0)
    if model == "init":
        run["data"] = {**run["data"], "class_prior": class_prior(samples, config).tolist()}
    return start._replace(record=run_record(model, start.config, start_epoch=start.epoch, **run))


def _start(config, model, device, samples, epoch):
    """Checkpoint of a new run: from a snapshot, the base model, or from scratch; without momentum and record."""
    layout = config.layout
    snapshot = load_snapshot(config, model, epoch) if epoch else None
    if epoch + 1 >= config.max_epoch:
        reason = f"epoch {epoch} is trained already," if epoch else "the first epoch is 1,"
        raise UserError(f"{reason} max_epoch is {config.max_epoch}, and training ends before it: give a higher "
                        "--max-epoch")
    later = [other for other in layout.epochs(model) if other > epoch]
    if later:
        logger.warning("%s has epochs of an earlier run, %s: until this run has replaced them, --epoch newest and "
                       "eval_loop.py use them too; move them away", layout.snapshots, ", ".join(map(str, later)))
    if snapshot:
        config, parameters = snapshot.config, snapshot.parameters
    elif os.path.exists(layout.base_model) or config.backbone != "resnet50" or config.is_set("base_model"):
        config, parameters = from_base_model(config, model)
    else:
        logger.warning("%s is missing: training starts from scratch", layout.base_model)
        with contextlib.closing(BatchLoader(samples, config).batches(0)) as batches:
            parameters = from_scratch(config, model, device, next(batches).images)
    return Checkpoint(config, epoch, parameters, {}, {})
