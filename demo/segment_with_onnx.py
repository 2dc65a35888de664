#!/usr/bin/env python3
"""Segment a picture with a model of export_onnx.py. Needs only onnxruntime, numpy and Pillow."""
import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model", metavar="MODEL.onnx")
parser.add_argument("picture", metavar="PICTURE")
parser.add_argument("mask", metavar="MASK.png")
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

image = np.array(ImageOps.exif_transpose(Image.open(args.picture)).convert("RGB"))  # (h, w, 3) uint8
mask = session.run(["mask"], {"image": image})[0]                                  # (h, w) uint8 class indices

Image.fromarray(mask).save(args.mask)
for label in np.unique(mask):
    print(f"{classes[label]} {100 * (mask == label).mean():.1f} %")
