#!/usr/bin/env python3
"""Segment a picture with a file of export_onnx.py; needs onnxruntime, numpy and Pillow only."""
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 4:
    sys.exit("usage: segment_with_onnx.py MODEL.onnx PICTURE MASK.png")
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

image = np.array(ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB"))  # (h, w, 3) uint8
mask = session.run(["mask"], {"image": image})[0]                                  # (h, w) uint8 class indices

Image.fromarray(mask).save(sys.argv[3])
for label in np.unique(mask):
    print("%s %.1f %%" % (classes[label], 100 * (mask == label).mean()))
