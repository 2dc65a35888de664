"""What people decided on web images, the masks that they corrected, and the names that web images get.

Decisions lie in dataset/web_decisions.csv, a line each; the last one on an image counts. Corrected masks lie in
dataset/web_corrected/. Neither is ever written by another stage, so they survive `create_web_masks.py --overwrite`.
"""
import collections
import contextlib
import csv
import os
import re
from typing import ContextManager, Counter, Dict, List, NamedTuple, Optional

import numpy as np

from core.classes import IGNORE_LABEL
from core.errors import UserError
from core.io.files import list_folder, naming_errors, read_text, remove, replacing
from core.io.images import read_mask, write_mask
from core.io.locks import locked
from core.io.logs import logger
from core.io.tables import read_table
from core.paths import Layout, folder_lock, image_path, mask_path, stems, web_class

KEEP, REJECT, MOVE, AUTOMATIC = "keep", "reject", "move", "automatic"
DECISIONS = (KEEP, REJECT, MOVE, AUTOMATIC)


class Decision(NamedTuple):
    """What is to become of a web image.

    decision: one of DECISIONS; AUTOMATIC leaves it to the noise filter.
    new_name: the new name of a moved image, with the index of its class in front; else "".
    """
    name: str
    decision: str
    new_name: str = ""


_NONE = Decision("", AUTOMATIC)


def read_decisions(layout: Layout, num_classes: int) -> Dict[str, Decision]:
    """The last decision on each image."""
    last: Dict[str, Decision] = {}
    for decision in _all_decisions(layout):
        for name in filter(None, (decision.name, decision.new_name)):
            web_class(name, num_classes)
        last[decision.name] = decision
    return {name: decision for name, decision in last.items() if decision.decision != AUTOMATIC}


def _all_decisions(layout: Layout) -> List[Decision]:
    path = layout.web_decisions
    rows = read_table(path) if os.path.exists(path) else []
    for line, cells in rows:
        if not (tuple(cells) == Decision._fields if line == rows[0].line else _is_decision(cells)):
            raise UserError(f"{path}, line {line}: {','.join(Decision._fields)} is expected, with a decision of "
                            f"{', '.join(DECISIONS)} and, for {MOVE}, a new name such as 7_000123; correct the line or "
                            "remove it")
    return [Decision(*cells) for _, cells in rows[1:]]


def _is_decision(cells: List[str]) -> bool:
    """Whether a line is a decision, and not the first half of one: a new name has at least six digits."""
    return len(cells) == 3 and cells[1] in DECISIONS and bool(
        re.fullmatch("[0-9]+_[0-9]{6,}" if cells[1] == MOVE else "", cells[2]))


def add_decision(layout: Layout, name: str, decision: str, class_index: Optional[int] = None) -> Decision:
    """Add a decision, of a moved image with the index of its new class; it is on the disk when this returns.

    Raises:
        UserError: the file is damaged or can't be written, or an image is to move while others are fetched.
    """
    path = layout.web_decisions
    with locked(path + ".lock", "a decision", wait=True), \
            naming(layout) if decision == MOVE else contextlib.nullcontext():
        new_name = f"{class_index}_{last_numbers(layout)[class_index or 0] + 1:06d}" if decision == MOVE else ""
        made = Decision(name, decision, new_name)
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([Decision._fields, *_all_decisions(layout), made])
            file.flush()
            os.fsync(file.fileno())
    return made


def naming(layout: Layout) -> ContextManager[None]:
    """Lock of those that give names to web images, or rename them: one process at a time."""
    return locked(folder_lock(layout.web_images), f"fetching or moving images of {layout.web_images}")


def last_numbers(layout: Layout) -> Counter[int]:
    """Highest number of each class among all names <class>_<number> that web images have or had.

    What is recorded of an image that is gone, a decision or a corrected mask for example, must not pass to another one:
    so no name is given twice, and only the numbers above these are free.
    """
    texts = ["\n".join(name for decision in _all_decisions(layout) for name in (decision.name, decision.new_name))]
    for folder in (layout.web_images, layout.web_masks, layout.web_corrected, layout.web_estimated):
        texts.append("\n".join(list_folder(folder)))
    for path in (layout.web_manifest, layout.web_list, layout.web_report, layout.web_record, layout.web_estimated_list,
                 layout.web_estimated + ".json"):
        texts.append(read_text(path) if os.path.exists(path) else "")
    last: Counter[int] = collections.Counter()
    for text in texts:
        for match in re.finditer(r'(?<![^\s",;])([0-9]+)_([0-9]+)(?![^\s",;.])', text):
            class_index, number = map(int, match.groups())
            last[class_index] = max(last[class_index], number)
    return last


def apply_moves(layout: Layout, decisions: Dict[str, Decision]) -> List[Decision]:
    """Rename the images that moved to another class, with their corrected masks, and remove their automatic masks.

    What an earlier call was killed amid is finished.

    Returns:
        the moves of the images that this call renamed.

    Raises:
        UserError: images are fetched or moved by another process, or a file can't be renamed or removed.
    """
    moves = [decision for decision in decisions.values() if decision.decision == MOVE]
    made = []
    with naming(layout) if moves else contextlib.nullcontext():
        for move in moves:
            source, target = (image_path(layout.web_images, name) for name in (move.name, move.new_name))
            if os.path.exists(source) and os.path.exists(target):
                logger.warning("%s can't be moved to %s, which is another image: decide on it again in "
                               "review_web_masks.py", source, target)
                continue
            if os.path.exists(source):
                _copy_correction(layout, move)
                with naming_errors(source, f"can't be renamed to {target}"):
                    os.rename(source, target)
                made.append(move)
            for folder in (layout.web_masks, layout.web_corrected):
                remove(mask_path(folder, move.name), missing_ok=True)
    return made


def _copy_correction(layout: Layout, move: Decision) -> None:
    """Give the new name the corrected mask of the old one, with the new class in place of the old."""
    path = mask_path(layout.web_corrected, move.name)
    if os.path.exists(path):
        old, new = (web_class(name, IGNORE_LABEL) for name in (move.name, move.new_name))
        mask = read_mask(path, IGNORE_LABEL)
        write_mask(mask_path(layout.web_corrected, move.new_name), np.where(mask == old, new, mask))


def reviewed_list(layout: Layout, names: List[str], decisions: Dict[str, Decision]) -> List[str]:
    """The list of web images with those that were rejected or moved left out, and those that were kept added.

    Moved images come back below their new name when create_web_masks.py has made a mask of the new class.
    """
    listed = set(names)
    added = [name for name, made in decisions.items() if made.decision == KEEP and name not in listed
             and os.path.exists(image_path(layout.web_images, name)) and os.path.exists(layout.web_mask(name))]
    return [name for name in names if decisions.get(name, _NONE).decision not in (REJECT, MOVE)] + added


def corrected_names(layout: Layout) -> List[str]:
    """Names of the web images with a corrected mask."""
    return sorted(stems(layout.web_corrected, ".png"))
