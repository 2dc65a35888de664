"""A page on this machine to try a trained network: drop a picture, see what is in it."""
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Sequence

import numpy as np
from flask import Flask, jsonify, request

from core.classes import voc_palette
from core.engines.devices import Device
from core.errors import UserError
from core.inference.postprocess import Scored, predict
from core.inference.segmenter import Segmenter
from core.io.drawing import overlay
from core.io.images import DecodingError, data_uri, decode_image, encode_image
from core.io.resize import shrink
from core.network.snapshots import Snapshot
from core.runtime.local_server import local_app

_LONGEST_PICTURE = 100 << 20  # bytes


def make_app(snapshot: Snapshot, devices: Sequence[Device], dtype: str, max_side: int, token: str) -> Flask:
    """The web application."""
    app = local_app(__name__, token, "try.html", _LONGEST_PICTURE)
    thread = ThreadPoolExecutor(1)  # MXNet works in one thread only, and requests come in many
    segmenter = thread.submit(Segmenter, snapshot, devices, dtype)

    @app.post(f"/{token}/segment")
    def segment():
        try:
            image = shrink(decode_image(request.get_data()).image, max_side)
            refined = request.args.get("refined") == "1"
            return jsonify(thread.submit(_segment, segmenter.result(), snapshot, image, refined).result())
        except (DecodingError, UserError) as error:
            return jsonify({"error": str(error)}), 422

    return app


def _segment(segmenter: Segmenter, snapshot: Snapshot, image: np.ndarray, refined: bool) -> Dict[str, Any]:
    """What the page shows: picture and overlay as addresses that hold them, and the classes with their shares."""
    config = snapshot.config
    scales = config.scales if refined else (1.0,)
    segmenter.check_memory("the picture", image.shape[:2], scales)
    mask, _ = predict(Scored(None, image, segmenter.scores(image, scales)), config, refined)
    shares = np.bincount(mask.ravel(), minlength=config.num_classes) / mask.size
    return {**{name: data_uri(encode_image(pixels, ".jpg", 90), "image/jpeg")
               for name, pixels in (("picture", image), ("overlay", overlay(image, mask)))},
            "classes": [{"name": config.classes[label], "share": shares[label],
                         "colour": "#{:02x}{:02x}{:02x}".format(*voc_palette()[label])}
                        for label in (-shares).argsort(kind="stable").tolist() if shares[label]]}
