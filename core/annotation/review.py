"""A page on this machine to look at web masks and decide which images are kept, left out, or of another class."""
import hashlib
import logging
import os
import secrets
import threading
from typing import Any, Dict, List, Optional

import cv2
import numpy as np
from flask import Flask, abort, jsonify, request, send_file, send_from_directory
from werkzeug.serving import make_server

from core.config import Config
from core.cosegmentation.contact_sheet import outlined
from core.errors import UserError
from core.io.images import encode_image, read_image, read_mask, write_image
from core.io.logs import logger
from core.io.provenance import check_classes, file_state
from core.io.resize import shrink
from core.io.tables import read_records
from core.paths import image_path, stems, web_class
from core.web.corrections import DECISIONS, MOVE, Decision, add_decision, corrected_names, read_decisions

_THUMBNAIL = 180  # longest side, pixels
_STATIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")


def serve(config: Config, port: int = 0) -> None:
    """Serve the page on the loopback address until Ctrl-C; its address, with a token of this run, is printed.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: as `Review`, or the port is out of range or taken.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: a number from 0 to 65535 is expected")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each thumbnail
    token = secrets.token_urlsafe(16)
    app = make_app(config, token)
    try:
        server = make_server("127.0.0.1", port, app, threaded=True)
    except (OSError, SystemExit) as error:
        raise UserError(f"--port {port} can't be used: {getattr(error, 'strerror', None) or 'it is taken'}") from error
    logger.info("open http://127.0.0.1:%d/%s/ in a browser on this machine; Ctrl-C ends", server.server_port, token)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        logger.info("decisions are in %s; create_web_masks.py and training obey them", config.layout.web_decisions)
    finally:
        server.server_close()


def make_app(config: Config, token: str) -> Flask:
    """The web application, below /<token>/; any other address is not found."""
    review = Review(config)
    app = Flask(__name__, static_folder=None)
    base = f"/{token}/"

    @app.get(base)
    def page():
        return send_from_directory(_STATIC, "review.html")

    @app.get(base + "static/<path:name>")
    def static_file(name):
        return send_from_directory(_STATIC, name)

    @app.get(base + "images")
    def images():
        return jsonify(review.overview())

    @app.get(base + "changes")
    def changes():
        return jsonify(review.changes())

    @app.get(base + "thumbnail/<name>")
    def thumbnail(name):
        return send_file(review.thumbnail(_known(name)), max_age=0, etag=True)

    @app.get(base + "view/<name>")
    def view(name):
        return review.view(_known(name), request.args.get("outline") != "0"), {"Content-Type": "image/jpeg"}

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

    @app.after_request
    def no_referrer(response):
        response.headers["Referrer-Policy"] = "no-referrer"  # the address holds the token
        response.headers["Cache-Control"] = "no-cache"
        return response

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
        indices = {web_class(name, config.num_classes) for name in self._names}
        check_classes(self._layout.classes, config.classes, indices)
        self._present = set(self._names)
        self._report = _read_report(self._layout.web_report)
        self._one_at_a_time = threading.Lock()

    def has(self, name: Any) -> bool:
        return isinstance(name, str) and name in self._present

    def overview(self) -> Dict[str, Any]:
        """Classes, and a row for each image; what the page starts with."""
        corrected = set(corrected_names(self._layout))
        return {"classes": list(self._config.classes), "decisions": self.changes(),
                "images": [self._row(name, name in corrected) for name in self._names]}

    def _row(self, name: str, corrected: bool) -> Dict[str, Any]:
        row = self._report.get(name, {})
        return {"name": name, "class": web_class(name, self._config.num_classes), "corrected": corrected,
                "kept": row.get("kept") == "1", "score": _number(row.get("score")),
                "foreground": _number(row.get("foreground")), "reason": row.get("reason", "no mask yet")}

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

    def thumbnail(self, name: str) -> str:
        """Path of a small JPEG with the outline of the mask; made once for each content of image and mask."""
        key = repr([(path, *file_state(path)) for path in self._files(name) if os.path.exists(path)])
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        path = os.path.join(self._layout.web_review, digest[:24] + ".jpg")
        with self._one_at_a_time:
            if not os.path.exists(path):
                write_image(path, self._picture(name, True, _THUMBNAIL), 85)
        return path

    def view(self, name: str, outline: bool) -> bytes:
        """The whole image as JPEG, with the outline of its mask or without."""
        return encode_image(self._picture(name, outline), ".jpg", 90)

    def _files(self, name: str) -> List[str]:
        mask = self._layout.web_mask(name)
        return [image_path(self._layout.web_images, name)] + ([mask] if os.path.exists(mask) else [])

    def _picture(self, name: str, outline: bool, longest: Optional[int] = None) -> np.ndarray:
        files = self._files(name)
        try:
            image = read_image(files[0])
            mask = read_mask(files[1], self._config.num_classes, image.shape[:2]) if files[1:] else None
        except UserError:
            return np.full((_THUMBNAIL, _THUMBNAIL, 3), 235, np.uint8)
        if longest:
            image = shrink(image, longest)
            mask = mask if mask is None else shrink(mask, longest, cv2.INTER_NEAREST)
        return outlined(image, mask) if outline and mask is not None else image


def _read_report(path: str) -> Dict[str, Dict[str, str]]:
    if not os.path.exists(path):
        return {}
    return {row["name"]: row for row in read_records(path) if row.get("name")}


def _number(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text else None
    except ValueError:
        return None
