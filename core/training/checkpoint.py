"""What lets a training run resume as if it had never stopped: <model>_fcn_resnet50-<epoch>.states beside the snapshot.

A state holds the momentum of every parameter and, as the name of one more array, "record:" and a JSON object: the
settings of the run, digests of its list, images and masks and of its start, and the digest of the parameters that it
belongs to. The rest needs no file: the random choices depend on the seed, the epoch and the position in the run alone.

It is written before its snapshot, so that a snapshot of a run that was killed between the two never lacks its state.
MXNet's optimizer states are pickles, which execute what a file says, and are not read.
"""
import contextlib
import json
import os
from typing import Any, Dict, NamedTuple, Optional

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
from core.training.initialization import base_file

_STATES_KEPT = 2  # the last one, and one more in case its snapshot gets damaged


class Checkpoint(NamedTuple):
    """Where a run stands.

    Attributes:
        config: with the settings of the run.
        epoch: the last finished one.
        parameters: (args, aux), dicts from name to float32 array.
        momentum: dict from parameter name to float32 array; empty without momentum.
        record: dict, as `run_record` makes it.
    """
    config: Config
    epoch: int
    parameters: Parts
    momentum: Dict[str, np.ndarray]
    record: Dict[str, Any]


def run_record(model: str, config: Config, *, data: Dict[str, Any], start_epoch: int, devices: int, engine: str
               ) -> Dict[str, Any]:
    """What a run was started with, as JSON keeps it. Parameters to start from that are missing have no digest.

    Args:
        data: digests of the training samples, as `samples.samples_record` gives them, and their "class_prior", if
            snapshots are to record it.
        start_epoch: epoch of the parameters that it started from, 0 for the base model.
        devices: number of devices, of all machines.
    """
    settings = [*TRAINING_SETTINGS, model + "_epoch_size"]
    if config.learning_rate_decay != "none":
        settings.append("max_epoch")  # it decides the learning rate
    start = _start_file(config, model, start_epoch)
    return {"settings": network_settings(config, settings), "start_epoch": start_epoch,
            "start_sha256": file_digest(start) if start and os.path.exists(start) else None,
            **data, "devices": devices, "engine": engine}


def save_checkpoint(model: str, symbol: Optional[str], checkpoint: Checkpoint, keep: Optional[int] = None) -> str:
    """Write state and snapshot, then remove what is no longer needed.

    Args:
        symbol: JSON of the network, as MXNet's users load it; None keeps the file that is there.
        keep: number of the run's last snapshots that stay, beside the best one of eval_loop.py's ranking; None: all.

    Returns:
        path of the snapshot.

    Raises:
        UserError: a parameter is not finite, which ReLUs and poolings can hide from the loss; nothing is written.
    """
    layout = checkpoint.config.layout
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
    prior = record.get("class_prior")
    path = save_snapshot(layout, model, epoch, checkpoint.config, symbol, args, aux, prior and np.array(prior))

    for earlier in layout.epochs(model, "states"):
        if earlier <= epoch - min(_STATES_KEPT, keep or _STATES_KEPT):
            remove(layout.state(model, earlier), missing_ok=True)
    if keep:
        best = ranked_epochs(layout, model)[:1]
        for earlier in layout.epochs(model):
            if record["start_epoch"] < earlier <= epoch - keep and earlier not in best:
                remove(layout.snapshot(model, earlier), missing_ok=True)
    return path


def find_checkpoint(model: str, config: Config, *, data: Dict[str, str], start_epoch: Optional[int], devices: int,
                    engine: str) -> Optional[Checkpoint]:
    """The last Checkpoint of a run, or None where there is nothing to resume.

    Args:
        data: digests of the training samples, as `samples.samples_record` gives them.
        start_epoch: epoch that the run started from, None for any; states of runs with another start are left alone.
        devices: number of devices, of all machines.

    Raises:
        UserError: a file is damaged, or settings, list, images, masks or start differ from those of the run.
    """
    layout = config.layout
    epochs = [epoch for epoch in layout.epochs(model) if epoch > (start_epoch or 0)]
    states = [epoch for epoch in epochs if os.path.exists(layout.state(model, epoch))]
    for epoch, earlier in zip(states[::-1], [*states[-2::-1], None]):
        path = layout.state(model, epoch)
        with _suggesting_an_earlier_epoch(model, epoch, earlier):
            momentum, record = _read_state(path)
            read_params(layout.snapshot(model, epoch))
        if start_epoch not in (None, record["start_epoch"]):
            continue
        snapshot = load_snapshot(adopt_recorded(config, path, record["settings"]), model, epoch)
        if parameters_digest(*snapshot.parameters) == record["parameters_sha256"]:
            _check_record(model, epoch, record=record, config=snapshot.config, data=data, devices=devices,
                          engine=engine)
            return Checkpoint(snapshot.config, epoch, snapshot.parameters, momentum, record)
        logger.warning("%s does not belong to %s: looking at earlier ones", path, layout.snapshot(model, epoch))
    if epochs and start_epoch is None:
        path = layout.state(model, (states or epochs)[-1])
        reason = "does not belong to its snapshot" if states else "is missing"
        raise UserError(f"{path} {reason}, so the run can't be resumed exactly: {_other_ways(epochs[-1])}")
    return None


def _start_file(config, model, start_epoch):
    """Path of the parameters that a run starts from, or None."""
    return config.layout.snapshot(model, start_epoch) if start_epoch else base_file(config)


def _other_ways(epoch):
    return (f"--epoch {epoch} without --resume continues with fresh momentum, and without both flags training starts "
            "from scratch")


def _check_record(model, epoch, *, record, config, data, devices, engine):
    layout = config.layout
    path = layout.state(model, epoch)
    now = run_record(model, config, data=data, start_epoch=record["start_epoch"], devices=devices,
                     engine=engine)
    remedy = f"restore what it was trained with; {_other_ways(epoch)}"
    sources = ((layout.web_list, layout.web_images, layout.web_masks) if model == "init" else
               (layout.train_list, layout.train_images, layout.train_masks))
    for what, path_now in zip(("list", "images", "masks"), sources):
        if now[what + "_sha256"] != record[what + "_sha256"]:
            other = "another list" if what == "list" else f"other {what}"
            raise UserError(f"{path} was trained on {other} than {path_now} holds now: {remedy}")
    if now["start_sha256"] not in (None, record["start_sha256"]):
        raise UserError(f"{path} was trained from other parameters than "
                        f"{_start_file(config, model, record['start_epoch'])} holds now: {remedy}")
    for name, plural in (("devices", " devices"), ("engine", "")):
        if record[name] != now[name]:
            logger.warning("%s was trained on %s%s and continues on %s: the same training, but not to the last bit",
                           path, record[name], plural, now[name])


def _read_state(path):
    """(momentum, record) of a state file."""
    values = read_params(path)
    momentum = {key[len("momentum:"):]: value for key, value in values.items() if key.startswith("momentum:")}
    records = [read_record(key[len("record:"):], path) for key in values if key.startswith("record:")]
    expected: Dict[str, Any] = {"settings": dict, "start_epoch": int, "start_sha256": (str, type(None)), "devices": int,
                                "engine": str, **dict.fromkeys(("list_sha256", "images_sha256", "masks_sha256",
                                                                "parameters_sha256"), str)}
    if not records or not all(isinstance(records[0].get(name), types) for name, types in expected.items()):
        raise UserError(f"{path} is damaged: its record of the run is incomplete")
    return momentum, records[0]


@contextlib.contextmanager
def _suggesting_an_earlier_epoch(model, epoch, earlier):
    """Add to the error of a damaged file what to move away so that the run resumes from the epoch before."""
    try:
        yield
    except UserError as error:
        way = f"continues from epoch {earlier}" if earlier else "starts from the beginning"
        raise UserError(f"{error}; with the files of the {model} model's epoch {epoch} moved away, --resume {way}"
                        ) from error
