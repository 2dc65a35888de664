#!/usr/bin/env python3
"""Draw the README's figure of the method, docs/method.png, from a finished run of demo/run.sh.

  python docs/draw_figures.py --config demo/sample.yaml
"""
import os
import sys
from typing import List, Sequence, Tuple

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
sys.path[:0] = [ROOT, os.path.join(ROOT, "demo")]
from show_results import picture_rows  # noqa: E402

from core.cli import make_parser, parse_config, run  # noqa: E402
from core.config import Config  # noqa: E402
from core.dataset.samples import read_labels  # noqa: E402
from core.io.drawing import colour_mask  # noqa: E402
from core.io.files import read_list, replacing  # noqa: E402
from core.io.images import read_image, read_mask  # noqa: E402
from core.paths import image_path, mask_path  # noqa: E402

SIDE = 120  # pixels of a thumbnail
SIZE = (1044, 372)  # pixels of the figure of the method
TEXT, LINE, FILL = "#1b1f24", "#57606a", "#eaf1fb"


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The square in the middle of an (h, w, 3) uint8 RGB picture, (SIDE, SIDE, 3)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(picture[top:top + side, left:left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def pairs(names: Sequence[str], images: str, masks: str, classes: int) -> Tuple[List[np.ndarray], List[np.ndarray]]:
    """Thumbnails of images, and of their masks in colours."""
    shown = [thumbnail(read_image(image_path(images, name))) for name in names]
    return shown, [thumbnail(colour_mask(read_mask(mask_path(masks, name), classes))) for name in names]


def block(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Four thumbnails as a square with white lines between them."""
    sheet = np.full((2 * SIDE + 6, 2 * SIDE + 6, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = (SIDE + 6) * (place // 2), (SIDE + 6) * (place % 2)
        sheet[top:top + SIDE, left:left + SIDE] = picture
    return sheet


class Drawing:
    """A figure whose unit is a pixel, with the origin at the top left."""

    def __init__(self):
        self.figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set_xlim(0, SIZE[0])
        self.axes.set_ylim(SIZE[1], 0)

    def picture(self, picture: np.ndarray, left: float, top: float, side: float, title: str):
        self.axes.imshow(picture, extent=(left, left + side, top + side, top), aspect="auto",
                         interpolation="antialiased")
        self.text(left + side / 2, top + side + 14, title)

    def box(self, left: float, top: float, width: float, height: float, title: str):
        self.axes.add_patch(FancyBboxPatch((left, top), width, height, boxstyle="round,pad=0,rounding_size=8",
                                           facecolor=FILL, edgecolor=LINE))
        self.text(left + width / 2, top + height / 2, title)

    def arrow(self, start: Tuple[float, float], end: Tuple[float, float], title: str = "", above: float = 12):
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=LINE, shrinkA=0,
                                            shrinkB=0))
        self.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - above, title)

    def text(self, x: float, y: float, text: str):
        self.axes.text(x, y, text, ha="center", va="center", fontsize=9, color=TEXT, linespacing=1.3)

    def save(self, path: str):
        self.axes.set_xlim(0, SIZE[0])  # pictures have changed them
        self.axes.set_ylim(SIZE[1], 0)
        with replacing(path) as temporary:
            self.figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_method(config: Config, path: str):
    """The stages from web images to the final model, with pictures of the run."""
    layout = config.layout
    by_class = {}
    for name in read_list(layout.web_list):
        by_class.setdefault(name.split("_")[0], name)
    web, web_masks = pairs(list(by_class.values())[:4], layout.web_images, layout.web_masks, config.num_classes)
    names = read_list(layout.train_list)[:4]
    train, train_masks = pairs(names, layout.train_images, layout.train_masks, config.num_classes)
    labels = read_labels(layout.train_labels, names[:1], config)[names[0]]
    rows = picture_rows(config, 1)

    side, top, bottom = 130, 14, 206
    left, middle, boxes, right = 30, 346, 590, 884
    drawing = Drawing()
    drawing.picture(block(web), left, top, side, "web images of each class")
    drawing.arrow((168, top + 65), (336, top + 65), "co-segmentation,\nnoise filter", 20)
    drawing.picture(block(web_masks), middle, top, side, "web masks")
    drawing.arrow((486, top + 65), (580, top + 65), "train")
    drawing.box(boxes, top + 30, 150, 70, "init model\n(FCN, ResNet-50)")
    drawing.arrow((665, top + 104), (411, bottom - 6))
    drawing.text(650, top + 152, "segment the training images")
    drawing.picture(block(train), left, bottom, side, "training images")
    drawing.arrow((168, bottom + 65), (336, bottom + 65), "limited to their\nimage-level labels", 20)
    shown = "\n".join(config.classes[label] for label in labels)
    drawing.text(252, bottom + 84 + 6 * len(labels), f"first image:\n{shown}")
    drawing.picture(block(train_masks), middle, bottom, side, "pseudo masks")
    drawing.arrow((486, bottom + 65), (580, bottom + 65), "train")
    drawing.box(boxes, bottom + 25, 150, 80, "final model\n(+ global branch for\nimage-level labels)")
    drawing.picture(thumbnail(rows[0][0]), right, top, side, "new image")
    drawing.arrow((right - 6, top + 128), (745, bottom + 40))
    drawing.arrow((745, bottom + 65), (right - 8, bottom + 65), "multi-scale,\ndense CRF", 20)
    drawing.picture(thumbnail(rows[0][-1]), right, bottom, side, "segmentation")
    drawing.save(path)


def main():
    args = make_parser(__doc__).parse_args()
    config = parse_config(args)
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    path = os.path.join(FOLDER, "method.png")
    draw_method(config, path)
    print(f"{path}: {os.path.getsize(path) / 1000:.0f} KB")


if __name__ == "__main__":
    run(main)
