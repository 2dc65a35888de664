"""What people decided on web images, and the masks that they corrected.

Decisions lie in dataset/web_decisions.csv, one appended line each; the last one on an image counts. Corrected masks lie
in dataset/web_corrected/. Neither is ever written by another stage, so they survive `create_web_masks.py --overwrite`.
"""
import csv
import io
import os
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from core.classes import IGNORE_LABEL
from core.errors import UserError
from core.io.files import read_text, remove
from core.io.images import read_mask, write_mask
from core.io.journal import append_whole
from core.io.locks import locked
from core.io.logs import logger
from core.paths import Layout, image_path, mask_path, stems, web_class

KEEP, REJECT, MOVE, AUTOMATIC = "keep", "reject", "move", "automatic"
DECISIONS = (KEEP, REJECT, MOVE, AUTOMATIC)
_HEADER = "name,decision,new_name\n"


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
    """The last decision on each image.

    A last line that a power failure cut short is passed over.

    Raises:
        UserError: the file is not a decisions file, or a line is not a decision; its number is given.
    """
    path = layout.web_decisions
    if not os.path.exists(path):
        return {}
    text = read_text(path)
    found: Dict[str, Decision] = {}
    for number, row in enumerate(csv.reader(text[:len(text) - len(_half_line(text))].splitlines()), 1):
        if number == 1 and ",".join(row) + "\n" == _HEADER:
            continue
        if number == 1 or not _is_decision(row):
            raise UserError(f"{path}, line {number}: {_HEADER.strip()} is expected, with a decision of "
                            f"{', '.join(DECISIONS)}; correct the line or remove it")
        for name in filter(None, (row[0], row[2])):
            web_class(name, num_classes)
        found[row[0]] = Decision(*row)
    return {name: decision for name, decision in found.items() if decision.decision != AUTOMATIC}


def add_decision(layout: Layout, name: str, decision: str, class_index: Optional[int] = None) -> Decision:
    """Append a decision; it is on the disk when this returns.

    Args:
        class_index: the class that the image moves to.
    """
    path = layout.web_decisions
    with locked(path + ".lock", "a decision", wait=True):
        new_name = _free_name(layout, class_index) if decision == MOVE else ""
        made = Decision(name, decision, new_name)
        text = read_text(path) if os.path.exists(path) else ""
        half = _half_line(text)
        start = _HEADER if text == half else "\n" if not half and not text.endswith("\n") else ""
        try:
            with open(path, "ab") as file:
                file.truncate(file.tell() - len(half.encode("utf-8")))
                append_whole(file.fileno(), (start + _line(made)).encode("utf-8"))
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror}") from error
    return made


def apply_moves(layout: Layout, decisions: Dict[str, Decision]) -> List[Decision]:
    """Rename the images that moved to another class, and remove their masks; those renamed before are passed over.

    Returns:
        the moves that this call made.
    """
    made = []
    for decision in decisions.values():
        if decision.decision == MOVE:
            source, target = (image_path(layout.web_images, name) for name in (decision.name, decision.new_name))
            if os.path.exists(source) and os.path.exists(target):
                logger.warning("%s can't be moved to %s, which is another image: decide on it again in "
                               "review_web_masks.py", source, target)
            elif os.path.exists(source):
                _move_correction(layout, decision)
                os.rename(source, target)
                for folder in (layout.web_masks, layout.web_corrected):
                    remove(mask_path(folder, decision.name), missing_ok=True)
                made.append(decision)
    return made


def _move_correction(layout: Layout, decision: Decision) -> None:
    """Give the moved image the corrected mask of the old one, with the new class in place of the old."""
    path = mask_path(layout.web_corrected, decision.name)
    if os.path.exists(path):
        old, new = (web_class(name, IGNORE_LABEL) for name in (decision.name, decision.new_name))
        mask = read_mask(path, IGNORE_LABEL)
        write_mask(mask_path(layout.web_corrected, decision.new_name), np.where(mask == old, new, mask))


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


def _line(decision: Decision) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(decision)
    return buffer.getvalue()


def _half_line(text: str) -> str:
    """The last line where it is cut short; a whole one may lack its line break, which some editors leave out."""
    end = text[text.rfind("\n") + 1:]
    return "" if _is_decision(next(csv.reader([end]), [])) else end


def _is_decision(row: List[str]) -> bool:
    return len(row) == 3 and row[1] in DECISIONS and (row[1] == MOVE) == bool(row[2])


def _free_name(layout: Layout, class_index: Optional[int]) -> str:
    """A name of the class that no image has and no other move has taken."""
    taken = stems(layout.web_images, ".jpg")
    if os.path.exists(layout.web_decisions):
        taken.update(row[2] for row in csv.reader(read_text(layout.web_decisions).splitlines()) if len(row) == 3)
    own = [int(name.split("_")[1]) for name in taken
           if name.startswith(f"{class_index}_") and name.split("_")[1].isdigit()]
    return f"{class_index}_{max(own, default=0) + 1:06d}"
