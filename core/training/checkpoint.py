"""What lets a training run resume as if it had never stopped: <model>_fcn_resnet50-<epoch>.states beside the snapshot.

A state holds the momentum of every parameter and, as the name of one more array, "record:" and a JSON object: the
settings of the run, digests of its list, images and masks and of its start, and the digest of the parameters that it
belongs to. The rest needs no file: the random choices depend on the seed, the epoch and the position in the run alone.

It is written before its snapshot, so that a snapshot of a run that was killed between the two never lacks its state.
MXNet's own optimizer states are pickles, which execute what a file says, and are not read.
"""
import contextlib
import json
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from core.config import TRAINING_SETTINGS, Config, network_settings
from core.errors import UserError
from core.io.files import file_digest, remove
from core.io.logs import logger
from core.network.params_files import read_params, write_params
from core.network.snapshots import (
    Parts,
    adopt_recorded,
    load_snapshot,
    parameters_digest,
    ranked_epochs,
    read_record,
    save_snapshot,
)
from core.paths import Layout
from core.training.initialization import base_file

_STATES_KEPT = 2  # the last one, and one more in case its snapshot gets damaged


class Checkpoint(NamedTuple):
    """Where a run stands.

    Attributes:
        epoch: the last finished one.
        parameters: (args, aux), dicts from name to float32 array.
        momentum: dict from parameter name to float32 array; empty without momentum.
        record: dict, as `run_record` makes it.
    """
    epoch: int
    parameters: Parts
    momentum: Dict[str, np.ndarray]
    record: Dict[str, Any]


def run_record(model: str, config: Config, *, data: Dict[str, str], start_epoch: int,
               start_file: Optional[str], devices: int) -> Dict[str, Any]:
    """What a run was started with, as JSON keeps it.

    Args:
        data: digests of the training samples, as `samples.samples_record` gives them.
        start_epoch, start_file: epoch and path of the parameters that it started from; None or a
            missing file has no digest.
        devices: number of devices, of all machines.
    """
    settings = [*TRAINING_SETTINGS, model + "_epoch_size"]
    if config.learning_rate_decay != "none":
        settings.append("max_epoch")  # it decides the learning rate
    return {"settings": network_settings(config, settings), "start_epoch": start_epoch,
            "start_sha256": file_digest(start_file) if start_file and os.path.exists(start_file) else None,
            **data, "devices": devices}


def save_checkpoint(layout: Layout, model: str, config: Config, symbol: Optional[str], checkpoint: Checkpoint,
                    keep: Optional[int] = None) -> str:
    """Write state and snapshot, then remove what is no longer needed.

    Args:
        symbol: JSON of the network, as MXNet's users load it; None keeps the file that is there.
        checkpoint: Checkpoint.
        keep: number of the run's last snapshots that stay, beside the best one of eval_loop.py's ranking; None: all.

    Returns:
        path of the snapshot.

    Raises:
        UserError: a parameter is not finite, which ReLUs and poolings can hide from the loss; nothing is written.
    """
    epoch, (args, aux) = checkpoint.epoch, checkpoint.parameters
    diverged = next((name for name, values in {**args, **aux}.items() if not np.isfinite(values).all()), None)
    if diverged:
        raise UserError(f"training diverged in epoch {epoch}, {diverged} is no longer finite: lower --lr")
    for later in layout.epochs(model, "states"):
        if later > epoch:  # of an earlier run, which this one replaces
            remove(layout.state(model, later), missing_ok=True)
    record = dict(checkpoint.record, parameters_sha256=parameters_digest(args, aux))
    values = {"momentum:" + name: value for name, value in checkpoint.momentum.items()}
    values["record:" + json.dumps(record)] = np.zeros(1, np.float32)  # an empty array can't be saved
    write_params(layout.state(model, epoch), values)
    path = save_snapshot(layout, model, epoch, config, symbol, args, aux)

    for earlier in layout.epochs(model, "states"):
        if earlier <= epoch - min(_STATES_KEPT, keep or _STATES_KEPT):
            remove(layout.state(model, earlier), missing_ok=True)
    if keep:
        best = ranked_epochs(layout, model)[:1]
        for earlier in layout.epochs(model):
            if record["start_epoch"] < earlier <= epoch - keep and earlier not in best:
                remove(layout.snapshot(model, earlier), missing_ok=True)
    return path


def find_checkpoint(layout: Layout, model: str, config: Config, *, data: Dict[str, str], start_epoch: Optional[int],
                    devices: int) -> Tuple[Config, Optional[Checkpoint]]:
    """The last Checkpoint of a run, or None where there is nothing to resume.

    Args:
        data: digests of the training samples, as `samples.samples_record` gives them.
        start_epoch: epoch that the run started from, None for any; states of runs with another start are left alone.
        devices: number of devices, of all machines.

    Returns:
        (config, Checkpoint): config with the settings of the run.

    Raises:
        UserError: a file is damaged, or settings, list, images, masks or start differ from those of the run.
    """
    epochs = [epoch for epoch in layout.epochs(model) if epoch > (start_epoch or 0)]
    states = [epoch for epoch in epochs if os.path.exists(layout.state(model, epoch))]
    for position in reversed(range(len(states))):
        epoch, earlier = states[position], states[position - 1] if position else None
        path = layout.state(model, epoch)
        with _suggesting_an_earlier_epoch(model, epoch, earlier):
            momentum, record = _read_state(path)
            read_params(layout.snapshot(model, epoch))
        if start_epoch is not None and record["start_epoch"] != start_epoch:
            continue
        if not {"images_sha256", "masks_sha256"} <= set(record):
            raise UserError(f"{path} was written by another version of this program, which did not record the images "
                            f"and masks of the run: {_other_ways(epoch)}")
        adopted = adopt_recorded(config, path, record["settings"])
        snapshot = load_snapshot(adopted, model, epoch)
        if parameters_digest(*snapshot.parameters) != record["parameters_sha256"]:
            logger.warning("%s does not belong to %s: looking at earlier ones", path, layout.snapshot(model, epoch))
            continue
        _check_record(layout, model, epoch, record=record, config=snapshot.config, data=data, devices=devices)
        return snapshot.config, Checkpoint(epoch, snapshot.parameters, momentum, record)
    if epochs and start_epoch is None:
        path = layout.state(model, (states or epochs)[-1])
        reason = "does not belong to its snapshot" if states else "is missing"
        raise UserError(f"{path} {reason}, so the run can't be resumed exactly: {_other_ways(epochs[-1])}")
    return config, None


def start_file(config: Config, model: str, start_epoch: Optional[int]) -> Optional[str]:
    """Path of the parameters that a run starts from."""
    return config.layout.snapshot(model, start_epoch) if start_epoch else base_file(config)


def _other_ways(epoch):
    return (f"--epoch {epoch} without --resume continues with fresh momentum, and without both flags training starts "
            "from scratch")


def _check_record(layout, model, epoch, *, record, config, data, devices):
    path = layout.state(model, epoch)
    start = start_file(config, model, record["start_epoch"])
    now = run_record(model, config, data=data, start_epoch=record["start_epoch"], start_file=start, devices=devices)
    remedy = f"restore what it was trained with; {_other_ways(epoch)}"
    folders = (layout.web_images, layout.web_masks) if model == "init" else (layout.train_images, layout.train_masks)
    places = {"list": layout.web_list if model == "init" else layout.train_list, "images": folders[0],
              "masks": folders[1]}
    for what, place in places.items():
        if now[what + "_sha256"] != record[what + "_sha256"]:
            other = "another list" if what == "list" else f"other {what}"
            raise UserError(f"{path} was trained on {other} than {place} holds now: {remedy}")
    if now["start_sha256"] not in (None, record["start_sha256"]):
        raise UserError(f"{path} was trained from other parameters than {start} holds now: {remedy}")
    if now["devices"] != record["devices"]:
        logger.warning("%s was trained on %d devices and continues on %d: the same training, but not to the last bit",
                       path, record["devices"], now["devices"])


def _read_state(path):
    values = read_params(path)
    momentum, record = {}, None
    for key, value in values.items():
        kind, _, name = key.partition(":")
        if kind == "momentum":
            momentum[name] = value
        elif kind == "record":
            record = read_record(name, path)
    expected: Dict[str, Any] = {"settings": dict, "start_epoch": int, "start_sha256": (str, type(None)),
                                "list_sha256": str, "devices": int, "parameters_sha256": str}
    if record is None or not all(isinstance(record.get(name), kind) for name, kind in expected.items()):
        raise UserError(f"{path} is damaged: its record of the run is incomplete")
    return momentum, record


@contextlib.contextmanager
def _suggesting_an_earlier_epoch(model, epoch, earlier):
    """Add to the error of a damaged file what to move away so that the run resumes from the epoch before."""
    try:
        yield
    except UserError as error:
        way = f"continues from epoch {earlier}" if earlier else "starts from the beginning"
        raise UserError(f"{error}; with the files of the {model} model's epoch {epoch} moved away, --resume {way}"
                        ) from error
