"""A page on this machine to look at web masks and decide which images are kept, left out, or of another class."""
import contextlib
import os
from typing import Any, Dict, Optional

import cv2
import numpy as np
from flask import Flask, abort, jsonify, request

from core.config import Config
from core.cosegmentation.contact_sheet import outlined
from core.data import check_classes
from core.errors import UserError
from core.io.images import encode_image, read_image, read_mask
from core.io.resize import shrink
from core.io.tables import Row, read_table
from core.paths import image_path, stems, web_class
from core.runtime import local_server
from core.web.corrections import DECISIONS, MOVE, Decision, add_decision, corrected_names, read_decisions

_THUMBNAIL = 180  # longest side, pixels
_LONGEST_REQUEST = 1 << 16  # bytes


def serve(config: Config, port: int = 0) -> None:
    """Serve the page until Ctrl-C; its address, with a token of this run, is printed. Port 0 takes a free one."""
    local_server.serve(lambda token: make_app(config, token), port, "decisions are in "
                       f"{config.layout.web_decisions}; create_web_masks.py and training obey them")


def make_app(config: Config, token: str) -> Flask:
    """The web application, below /<token>/; any other address is not found."""
    review = Review(config)
    app = local_server.local_app(__name__, token, "review.html", _LONGEST_REQUEST)
    base = f"/{token}/"

    @app.get(base + "images")
    def images():
        return jsonify(review.overview())

    @app.get(base + "changes")
    def changes():
        return jsonify(review.changes())

    @app.get(base + "thumbnail/<name>")
    def thumbnail(name):
        return review.picture(_known(name), True, _THUMBNAIL), {"Content-Type": "image/jpeg"}

    @app.get(base + "view/<name>")
    def view(name):
        return review.picture(_known(name), request.args.get("outline") != "0"), {"Content-Type": "image/jpeg"}

    @app.post(base + "decide")
    def decide():
        row = request.get_json(silent=True)
        if not isinstance(row, dict) or row.get("decision") not in DECISIONS:
            abort(400)
        try:
            return jsonify(review.decide(_known(row.get("name")), row["decision"], row.get("class")))
        except UserError as error:
            return jsonify({"error": str(error)}), 409

    def _known(name):
        if not review.has(name):
            abort(404)
        return name

    return app


class Review:
    """What the page shows: web images, their masks, and what was decided on them.

    Raises:
        UserError: there are no web images, or they were collected for other classes than the setting's.
    """

    def __init__(self, config: Config):
        self._config = config
        self._layout = config.layout
        self._names = sorted(stems(self._layout.web_images, ".jpg"))
        if not self._names:
            raise UserError(f"{self._layout.web_images} holds no .jpg: run fetch_web_images.py first")
        check_classes(config, {web_class(name, config.num_classes) for name in self._names})
        self._present = set(self._names)
        self._report = _read_report(self._layout.web_report)

    def has(self, name: Any) -> bool:
        return isinstance(name, str) and name in self._present

    def overview(self) -> Dict[str, Any]:
        """Classes, and a row for each image; what the page starts with."""
        corrected = set(corrected_names(self._layout))
        return {"classes": list(self._config.classes), "decisions": self.changes(),
                "images": [self._row(name, name in corrected) for name in self._names]}

    def _row(self, name: str, corrected: bool) -> Dict[str, Any]:
        judged = self._report.get(name, {"kept": False, "score": None, "foreground": None, "reason": "no mask yet"})
        return {"name": name, "class": web_class(name, self._config.num_classes), "corrected": corrected, **judged}

    def changes(self) -> Dict[str, Dict[str, Any]]:
        """The decisions as they stand, also those of other windows: dict from name to decision and class."""
        decisions = read_decisions(self._layout, self._config.num_classes)
        return {name: self._as_json(decision) for name, decision in decisions.items() if name in self._present}

    def decide(self, name: str, decision: str, class_index: Optional[int] = None) -> Dict[str, Any]:
        """Store a decision.

        Raises:
            UserError: the image moves to no class, to its own, or is gone; or the disk is full.
        """
        if not os.path.exists(image_path(self._layout.web_images, name)):
            raise UserError(f"{name} is gone, or was moved by create_web_masks.py: reload the page")
        if decision == MOVE and (type(class_index) is not int or not 1 <= class_index < self._config.num_classes
                                 or class_index == web_class(name, self._config.num_classes)):
            raise UserError("choose another class to move the image to")
        return self._as_json(add_decision(self._layout, name, decision, class_index))

    def _as_json(self, decision: Decision) -> Dict[str, Any]:
        return {"decision": decision.decision,
                "class": web_class(decision.new_name or decision.name, self._config.num_classes)}

    def picture(self, name: str, outline: bool, longest: Optional[int] = None) -> bytes:
        """An image as JPEG, with the outline of its mask or without; its longest side has at most `longest` pixels."""
        image_file, mask_file = image_path(self._layout.web_images, name), self._layout.web_mask(name)
        image, mask = np.full((_THUMBNAIL, _THUMBNAIL, 3), 235, np.uint8), None
        with contextlib.suppress(UserError):  # what is damaged is shown as empty, or without outline
            image = read_image(image_file)
            if outline and os.path.exists(mask_file):
                mask = read_mask(mask_file, self._config.num_classes, image.shape[:2])
        if longest:
            image = shrink(image, longest)
            mask = mask if mask is None else shrink(mask, longest, cv2.INTER_NEAREST)
        return encode_image(image if mask is None else outlined(image, mask), ".jpg", 90)


def _read_report(path: str) -> Dict[str, Dict[str, Any]]:
    """What became of each image; spreadsheets may have written a comma for the point of a number."""
    header, *lines = (read_table(path) if os.path.exists(path) else []) or [Row(0, [])]
    rows = [dict(zip(header.cells, line.cells)) for line in lines]
    try:
        return {row["name"]: {"kept": row["kept"] == "1", "reason": row["reason"], **{
            column: float(row[column].replace(",", ".")) for column in ("score", "foreground")}} for row in rows}
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not as create_web_masks.py wrote it ({error}): run it again") from None
