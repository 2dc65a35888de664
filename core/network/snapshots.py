"""Snapshots of a network: <model>_fcn_resnet50-<epoch>.params, in MXNet's format.

The settings that the parameters fit travel inside the file, as the name of one more array: "settings:" and a JSON
object. MXNet and the published implementation take names that start with "arg:" and "aux:" only. A file without that
record, as the published ones are, fits the settings that it is used with. Likewise "class_prior:", which mask
estimation needs for logit adjustment.
"""
import dataclasses
import hashlib
import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from core.config import Config, adopt_settings, network_settings
from core.errors import UserError
from core.io.files import file_digest, read_json, write_text
from core.io.logs import logger
from core.io.provenance import file_state
from core.network.fcn import parameter_shapes
from core.network.params_files import read_params, write_params
from core.paths import Layout

Parts = Tuple[Dict[str, np.ndarray], Dict[str, np.ndarray]]  # (args, aux): float32 arrays by the parameters' names


class Parameters(NamedTuple):
    """Content of a .params file.

    Attributes:
        args, aux: dicts from parameter name to float32 array.
        settings: dict from the name of a setting to its value, as the file records them; empty where it records none.
        class_prior: (classes,) share of each class among the pixels that it was trained on, or None.
    """
    args: Dict[str, np.ndarray]
    aux: Dict[str, np.ndarray]
    settings: Dict[str, Any]
    class_prior: Optional[np.ndarray] = None


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A trained network.

    Attributes:
        config: with the settings that the snapshot records.
        model: "init" or "final".
        parameters: (args, aux), dicts from parameter name to float32 array; just those of the network.
        digest: SHA-256 of its file, as hexadecimal text.
        path: of its file.
        class_prior: as in `Parameters`.
    """
    config: Config
    model: str
    epoch: int
    parameters: Parts
    digest: str
    path: str = ""
    class_prior: Optional[np.ndarray] = None


def save_snapshot(layout: Layout, model: str, epoch: int, config: Config, symbol: Optional[str],
                  args: Dict[str, np.ndarray], aux: Dict[str, np.ndarray],
                  class_prior: Optional[np.ndarray] = None) -> str:
    """Write the parameters after `epoch`, and the network beside them; returns the path of the parameters.

    Args:
        symbol: JSON of the network, as MXNet's users load it; None keeps the file that is there.
        args, aux, class_prior: as in `Parameters`.
    """
    if symbol:
        write_text(layout.symbol(model), symbol)
    path = layout.snapshot(model, epoch)
    write_parameters(path, Parameters(args, aux, network_settings(config), class_prior))
    return path


def write_parameters(path: str, parameters: Parameters) -> None:
    """Write `Parameters` as a .params file."""
    values = {"arg:" + name: value for name, value in parameters.args.items()}
    values.update(("aux:" + name, value) for name, value in parameters.aux.items())
    values["settings:" + json.dumps(parameters.settings)] = np.zeros(1, np.float32)  # an empty array can't be saved
    if parameters.class_prior is not None:
        values["class_prior:"] = parameters.class_prior.astype(np.float32)
    write_params(path, values)


def read_parameters(path: str) -> Parameters:
    """`Parameters` of a .params file.

    Raises:
        UserError: the file is missing, damaged, holds no named parameters, or some that are not finite, which a ReLU
            turns into zeros that nobody notices.
    """
    values = read_params(path)
    parameters: Dict[str, Dict[str, np.ndarray]] = {"arg": {}, "aux": {}}
    settings, class_prior = {}, None
    for key, value in values.items():
        prefix, _, name = key.partition(":")
        if prefix in parameters:
            if not np.isfinite(value).all():
                raise UserError(f"{path}: {name} holds numbers that are not finite: the file is damaged, or its "
                                "training had diverged")
            parameters[prefix][name] = _float32(value, values.get("scale:" + name))
        elif prefix == "settings":
            settings = read_record(name, path)
        elif prefix == "class_prior":
            class_prior = value
    return Parameters(parameters["arg"], parameters["aux"], settings, class_prior)


def _float32(value: np.ndarray, steps: Optional[np.ndarray]) -> np.ndarray:
    """A parameter in half precision, or in 8 bits with the step of each output channel, as float32."""
    if value.dtype == np.int8 and steps is not None and steps.shape == value.shape[:1]:
        return value * steps.astype(np.float32).reshape((-1,) + (1,) * (value.ndim - 1))
    return value.astype(np.float32) if value.dtype == np.float16 else value


def read_record(text: str, path: str) -> Dict[str, Any]:
    """The JSON object that the name of an array holds, as a dict."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: its record of settings is not a JSON object")
    return record


def parameters_digest(args: Mapping[str, np.ndarray], aux: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of parameters, whatever file they are in, as hexadecimal text."""
    digest = hashlib.sha256()
    for parameters in (args, aux):
        for name in sorted(parameters):
            digest.update(name.encode("utf-8"))
            digest.update(parameters[name].tobytes())
    return digest.hexdigest()


def adopt_recorded(config: Config, path: str, recorded: Dict[str, Any]) -> Config:
    """Config with the settings that the parameter file `path` records; those that change are logged."""
    adopted = adopt_settings(config, recorded, path)
    changes = [f"{name}={getattr(adopted, name)}" for name in recorded
               if getattr(adopted, name) != getattr(config, name)]
    if changes:
        logger.info("settings from %s: %s", path, "; ".join(changes))
    return adopted


def identify_snapshot(path: str) -> Tuple[str, int]:
    """Model that a snapshot's parameters are those of, and the epoch in its file's name; 0 where there is none."""
    epoch = re.search(r"-([0-9]{1,9})\.params$", path)
    return "final" if "g_score_weight" in read_parameters(path).args else "init", int(epoch.group(1)) if epoch else 0


def load_snapshot(config: Config, model: str, epoch: int, path: Optional[str] = None) -> Snapshot:
    """Read a snapshot and check it against the network that it was trained for.

    Args:
        path: of its file; by default where training writes it.

    Its digest is that of the file that was read, even if another one takes its place meanwhile. A published snapshot's
    fixed upsampling weights and other extras are left out.

    Raises:
        UserError: the snapshot is missing or damaged, lacks a parameter, has one of another shape, or records another
            value of a setting than a flag or the --config file gave.
    """
    layout = config.layout
    epochs = layout.epochs(model)
    if path is None:
        path = layout.snapshot(model, epoch)
        if epoch not in epochs:
            hint = (f"epochs there: {', '.join(map(str, epochs))}" if epochs
                    else f"train it with: train_seg_model.py --model {model}")
            raise UserError(f"{path} is missing; {hint}")
    state: List[int] = []
    while state != file_state(path):  # until it was not replaced meanwhile
        state = file_state(path)
        parameters, digest = read_parameters(path), file_digest(path)
    config = adopt_recorded(config, path, parameters.settings)
    args, aux = (
        {name: matching(path, values, name, shape, f"the {model} model") for name, shape in shapes.items()}
        for values, shapes in zip((parameters.args, parameters.aux), parameter_shapes(model, config)))
    return Snapshot(config, model, epoch, (args, aux), digest, path, parameters.class_prior)


def ranked_epochs(layout: Layout, model: str) -> List[int]:
    """Epochs in the order of eval_loop.py's ranking, the best first; empty where there is no readable one."""
    try:
        return [row["epoch"] for row in read_json(layout.ranking(model))["ranking"]]
    except (UserError, KeyError, TypeError):
        return []


def matching(path: str, values: Dict[str, np.ndarray], name: str, shape: Tuple[int, ...], network: str
             ) -> np.ndarray:
    """The parameter `name` of a file, checked.

    Raises:
        UserError: it is missing, of another shape, or not float32.
    """
    if name not in values:
        raise UserError(f"{path} lacks the parameter {name}: it does not fit {network}")
    value = values[name]
    if value.shape != shape:
        raise UserError(f"{path}: {name} has shape {value.shape}, {network} wants {shape}; use the --config it was "
                        "trained with")
    if value.dtype != np.float32:
        raise UserError(f"{path}: {name} has type {np.dtype(value.dtype).name}; float32 is expected")
    return value
