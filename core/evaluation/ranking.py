"""Evaluation of all epochs, and which of them is the best."""
import argparse
import os
import re
import time
from typing import Any, Dict, List, Optional, Tuple

from core.config import Config, network_settings, side_settings
from core.errors import UserError
from core.evaluation.evaluate import check_list, evaluate, evaluation_options
from core.io.files import file_digest, read_json, write_json
from core.io.logs import logger
from core.io.provenance import file_state
from core.network.snapshots import identify_snapshot
from core.paths import SHIPPED_SNAPSHOT


def evaluate_all(config: Config, model: str, *, devices: list, ms: bool = False, crf: bool = False,
                 wait_hours: Optional[float] = None, jobs: int = 1) -> List[Tuple[int, float]]:
    """Evaluate every snapshot of `model` that has no result with these settings yet, then rank them.

    A snapshot that can't be evaluated is reported and left out; the others are evaluated. One that changes, such as one
    that was still being copied, or that is replaced, is evaluated again.

    Args:
        wait_hours: hours to wait before looking for new snapshots; None looks once. The loop ends when no snapshot came
            or changed in that time.

    Returns:
        list of (epoch, mean IoU), the best first. It is also written to outputs/<model>_ranking.json.

    Raises:
        UserError: there are no val images, or no snapshot could be evaluated.
    """
    layout = config.layout
    check_list(layout.val_list, layout)
    seen: Dict[int, Any] = {}
    results: Dict[int, Dict[str, Any]] = {}
    how = {"scales": list(config.scales) if ms else [1.0], "crf": crf, **side_settings(config)}
    while True:
        new = [epoch for epoch in layout.epochs(model) if seen.get(epoch) != _state(layout.snapshot(model, epoch))]
        for epoch in new:
            seen[epoch] = _state(layout.snapshot(model, epoch))  # before it is read, so that no change is missed
            results.pop(epoch, None)
            try:
                options = evaluation_options(config, model, epoch=epoch, ms=ms, crf=crf)
                results[epoch] = evaluate(config, model, epoch=epoch, devices=devices, options=options, jobs=jobs)
            except UserError as error:
                logger.error("left out: epoch %d: %s", epoch, error)
        if wait_hours is None or not new:
            break
        _rank(layout, model, results, how)  # training with --keep goes by it
        logger.info("waiting %.2f h for new snapshots", wait_hours)
        time.sleep(wait_hours * 3600)

    ranking = _rank(layout, model, results, how)
    if not ranking:
        raise UserError(f"no snapshot of the {model} model in {layout.snapshots} could be evaluated")
    for rank, (epoch, mean_iou) in enumerate(ranking, 1):
        logger.info("%3d. epoch %3d  mean IoU %.2f %%", rank, epoch, 100 * mean_iou)
    logger.info("best epoch of the %s model: %d", model, ranking[0][0])
    return ranking


def _state(path):
    """Changes when the file does; None where it has just been removed."""
    try:
        return file_state(path)
    except UserError:
        return None


def _rank(layout, model, results, how):
    """Write the ranking of the epochs whose snapshots are still there, and return it; see `evaluate_all`."""
    there = set(layout.epochs(model))
    ranking = sorted(((epoch, result["mean_iou"] or 0.0) for epoch, result in results.items() if epoch in there),
                     key=lambda row: (-row[1], row[0]))
    rows = [{"epoch": epoch, "mean_iou": iou, "snapshot_sha256": results[epoch]["settings"]["snapshot_sha256"]}
            for epoch, iou in ranking]
    if rows:
        write_json(layout.ranking(model), {**how, "ranking": rows})
    return ranking


def choose_snapshot(config: Config, flags: argparse.Namespace, model: Optional[str] = None,
                    epoch: Optional[str] = None, *, shipped: bool = False) -> Tuple[str, int, Optional[str]]:
    """What --model, --epoch and --snapshot name, as the arguments of `snapshots.load_snapshot`.

    Args:
        flags: the parsed flags of `cli.add_snapshot`.
        model, epoch: the flags' defaults; without one the flag is needed.
        shipped: take the network that comes with the code where there is no snapshot and no flag asks for one.

    Returns:
        (model, epoch, path of the file; None for the one that training writes).

    Raises:
        UserError: flags are missing or exclude one another; or as `find_epoch`.
    """
    if flags.snapshot:
        if flags.model or flags.epoch:
            raise UserError("--snapshot takes the place of --model and --epoch: leave these out")
        return (*identify_snapshot(flags.snapshot), flags.snapshot)
    model, text = flags.model or model, flags.epoch or epoch
    if not model or not text:
        raise UserError("--model and --epoch are needed, or --snapshot FILE")
    if (shipped and not flags.model and not flags.epoch and not config.layout.epochs(model)
            and os.path.exists(SHIPPED_SNAPSHOT) and not any(map(config.is_set, network_settings(config)))):
        logger.info("no snapshot in %s: using %s, which comes with the code", config.layout.snapshots,
                    SHIPPED_SNAPSHOT)
        return (*identify_snapshot(SHIPPED_SNAPSHOT), SHIPPED_SNAPSHOT)
    return model, find_epoch(config, model, text), None


def find_epoch(config: Config, model: str, text: str) -> int:
    """Epoch that a flag names: a number, "newest", or "best" for the first of eval_loop.py's ranking."""
    layout = config.layout
    if text == "newest":
        epochs = layout.epochs(model)
        if not epochs:
            raise UserError(f"{layout.snapshot_prefix(model)}-<epoch>.params is missing: there is no snapshot of the "
                            f"{model} model")
        return epochs[-1]
    if text != "best":
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise UserError(f"epoch {text!r}: a number is expected, newest, or best")
        return int(text)
    path = layout.ranking(model)
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: eval_loop.py --model {model} finds the best epoch where there are val "
                        "images with masks; else give a number, or newest")
    try:
        best = read_json(path)["ranking"][0]
        epoch, ranked = int(best["epoch"]), best["snapshot_sha256"]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        raise UserError(f"{path} is not a ranking by eval_loop.py") from None
    snapshot = layout.snapshot(model, epoch)
    if os.path.exists(snapshot) and file_digest(snapshot) != ranked:
        raise UserError(f"{snapshot} has changed since {path} was made: run eval_loop.py --model {model} --once again, "
                        "or give a number")
    return epoch
