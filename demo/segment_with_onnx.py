#!/usr/bin/env python3
"""Segment a picture with a model of export_onnx.py. Needs only onnxruntime, numpy and Pillow."""
import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path):
    """(h, w, 3) uint8 RGB of a picture as an image viewer shows it. predict.py reads some more kinds."""
    try:
        picture = Image.open(path, formats=("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"))
        wide = picture.mode.startswith("I;16") or (picture.format, picture.mode) == ("PNG", "I")
        picture = ImageOps.exif_transpose(picture)
        if wide:  # Pillow would clip 16 bits to white
            picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
        if picture.mode in ("I", "F", "LAB"):
            raise OSError(f"pixels of mode {picture.mode} are not read here: save it with 8 bits")
        picture = picture.convert("RGBA")
    except OSError as error:
        raise SystemExit(f"{path}: {error}") from error
    return np.array(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", metavar="MODEL.onnx")
parser.add_argument("picture", metavar="PICTURE")
parser.add_argument("mask", metavar="MASK.png")
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

picture = Image.fromarray(read(args.picture))
size = picture.size
picture.thumbnail((500, 500))  # the network knows objects in pictures of about the size of VOC's
mask = session.run(["mask"], {"image": np.asarray(picture)})[0]  # (h, w) uint8 class indices

Image.fromarray(mask).resize(size, Image.Resampling.NEAREST).save(args.mask)
for label in np.unique(mask):
    print(f"{classes[label]} {100 * (mask == label).mean():.1f} %")
