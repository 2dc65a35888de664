#!/usr/bin/env python3
"""Draw a small data set in the layouts of the real ones, from a seed.

Ten of the VOC classes are drawn as textured silhouettes. A class is a shape with a texture. The two colours of the
texture, the background, the light and the pose are random for every object, so colour says nothing about the class.
Web images show one centred object in a simple scene. VOC and SBD images show one to four objects of other sizes, in
clutter and partly hidden by one another.
"""
import os
import sys

import cv2
import numpy as np
import scipy.io

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from core.classes import IGNORE_LABEL, VOC_CLASSES  # noqa: E402
from core.cli import make_parser, non_negative, parse_config, run  # noqa: E402
from core.io.files import replacing, write_lines  # noqa: E402
from core.io.images import write_image, write_mask  # noqa: E402

WEB_SIZES = ((128, 96), (136, 104), (120, 120), (104, 128))  # (width, height) in pixels
NOISE = 0.05  # share of the web images that show a random class, as search results do
EMPTY = 0.0  # share of the web images that show no object at all
VOC_SIZES = ((176, 132), (192, 144), (160, 160), (144, 176))


# Textures: (u, v) are coordinates on the object in pixels, as float arrays of one shape; values lie in [0, 1].

def stripes(u, v):
    return 0.5 + 0.5 * np.sin(2 * np.pi * v / 7)


def checks(u, v):
    return ((np.floor(u / 6) + np.floor(v / 6)) % 2).astype(float)


def dots(u, v):
    row = np.round(v / 8)
    return (np.hypot((u / 8 + 0.5 * row + 0.5) % 1 - 0.5, v / 8 - row) < 0.3).astype(float)


def rings(u, v):
    return 0.5 + 0.5 * np.sin(2 * np.pi * np.hypot(u, v) / 9)


def grid(u, v):
    return ((u % 9 < 2.2) | (v % 9 < 2.2)).astype(float)


def waves(u, v):
    return 0.5 + 0.5 * np.sin(2 * np.pi * (v + 3.5 * np.sin(2 * np.pi * u / 18)) / 10)


def bricks(u, v):
    row = np.floor(v / 6)
    return ((v % 6 < 1.6) | ((u + 6 * (row % 2)) % 12 < 1.6)).astype(float)


def bars(u, v):
    return (u % 14 < 7).astype(float)


def patches(u, v):
    return (np.sin(u / 3.1) + np.sin(v / 3.7 + 1) + np.sin((u + v) / 4.3 + 2) > 0.4).astype(float)


def crosses(u, v):
    a, b = np.abs(u % 11 - 5.5), np.abs(v % 11 - 5.5)
    return ((np.abs(a - b) < 1.4) & (a < 4)).astype(float)


# Shapes: unions of polygons in [-1, 1] x [-1, 1], y pointing down.

def box(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def disc(x, y, rx, ry):
    angle = np.linspace(0, 2 * np.pi, 40)
    return list(zip(x + rx * np.cos(angle), y + ry * np.sin(angle)))


CLASSES = {  # name: (polygons, texture)
    "aeroplane": ([disc(0, 0, 1, 0.26), [(-0.25, 0), (0.2, 0), (0.6, -0.95), (0.3, -0.95)],
                   [(-0.25, 0), (0.2, 0), (0.6, 0.95), (0.3, 0.95)], [(-1, -0.5), (-0.6, 0), (-1, 0.5)]], stripes),
    "bird": ([disc(0.1, 0.15, 0.75, 0.5), disc(-0.6, -0.4, 0.34, 0.34), [(0.6, 0), (1, -0.6), (1, 0.5)]], patches),
    "boat": ([[(-1, 0.3), (1, 0.3), (0.6, 1), (-0.6, 1)], [(-0.1, 0.35), (-0.1, -1), (0.75, 0.35)],
              [(-0.18, 0.35), (-0.18, -0.8), (-0.7, 0.35)]], waves),
    "bottle": ([box(-0.48, -0.25, 0.48, 1), box(-0.2, -1, 0.2, -0.2), disc(0, -0.25, 0.48, 0.3)], dots),
    "bus": ([box(-1, -0.62, 1, 0.55), disc(-0.55, 0.55, 0.22, 0.25), disc(0.55, 0.55, 0.22, 0.25)], checks),
    "car": ([box(-1, -0.1, 1, 0.5), [(-0.6, -0.1), (-0.35, -0.65), (0.35, -0.65), (0.7, -0.1)],
             disc(-0.55, 0.5, 0.25, 0.25), disc(0.55, 0.5, 0.25, 0.25)], bars),
    "cat": ([disc(0, 0.4, 0.62, 0.6), disc(0, -0.35, 0.5, 0.45), [(-0.5, -0.4), (-0.42, -1), (-0.1, -0.65)],
             [(0.5, -0.4), (0.42, -1), (0.1, -0.65)]], rings),
    "chair": ([box(-0.65, -1, -0.3, 1), box(-0.65, -0.1, 0.65, 0.28), box(0.35, 0.1, 0.65, 1),
               box(-0.5, -1, 0.1, 0)], bricks),
    "sheep": ([disc(-0.5, 0, 0.45, 0.42), disc(0, -0.12, 0.5, 0.48), disc(0.5, 0, 0.42, 0.42), disc(0, 0.2, 0.75, 0.4),
               disc(0.85, -0.3, 0.22, 0.25), box(-0.6, 0.3, -0.4, 0.9), box(0.35, 0.3, 0.55, 0.9)], crosses),
    "tvmonitor": ([box(-0.95, -0.8, 0.95, 0.5), box(-0.15, 0.4, 0.15, 0.8), box(-0.5, 0.72, 0.5, 0.95)], grid),
}


def noise(rng, height, width, cell):
    """Smooth noise with blobs of about `cell` pixels: (height, width) in about [-1, 1]."""
    coarse = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    return cv2.resize(coarse, (width + 2 * cell, height + 2 * cell), interpolation=cv2.INTER_CUBIC)[
        cell:cell + height, cell:cell + width]


def background(rng, width, height, clutter):
    """Scene without an object: (height, width, 3) float32 RGB.

    Args:
        clutter: number of plain shapes and lines scattered over it.
    """
    tones = rng.uniform(40, 215, (2, 3))
    blend = 0.5 + 0.35 * noise(rng, height, width, 40) + 0.15 * noise(rng, height, width, int(rng.integers(5, 12)))
    scene = (tones[0] + blend[..., None] * (tones[1] - tones[0]) * rng.uniform(0.3, 0.8)).astype(np.float32)
    for _ in range(clutter):
        colour = tuple(float(c) for c in rng.uniform(20, 235, 3))
        centre = rng.uniform(0, 1, 2) * (width, height)
        if rng.random() < 0.4:
            end = centre + rng.uniform(-60, 60, 2)
            cv2.line(scene, tuple(int(c) for c in centre), tuple(int(c) for c in end), colour,
                     int(rng.integers(1, 5)), cv2.LINE_AA)
        else:
            corners = centre + rng.uniform(-26, 26, (int(rng.integers(3, 7)), 2))
            hull = cv2.convexHull(corners.astype(np.int32))
            cv2.fillPoly(scene, [hull], colour, cv2.LINE_AA)
    return scene


def place(rng, scene, figure, centre, size):
    """Draw one object into `scene`.

    Args:
        scene: (h, w, 3) float32 RGB, changed.
        figure: (polygons, texture), as in CLASSES.
        centre: (x, y) in pixels.
        size: longest half axis in pixels.

    Returns:
        (h, w) float32 coverage of the object, 0..1.
    """
    height, width = scene.shape[:2]
    polygons, texture = figure
    angle = np.deg2rad(rng.uniform(-22, 22))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = size * np.array([rng.uniform(0.8, 1), rng.uniform(0.8, 1)]) * (rng.choice([-1, 1]), 1)
    mask = np.zeros((height, width), np.float32)
    for polygon in polygons:
        layer = np.zeros((height, width), np.uint8)
        points = (np.asarray(polygon) * stretch) @ rotation.T + centre
        cv2.fillPoly(layer, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        mask = np.maximum(mask, layer / np.float32(255))

    y, x = np.mgrid[:height, :width].astype(np.float32)
    local = np.stack([x - centre[0], y - centre[1]], -1) @ rotation
    local = local / rng.uniform(0.85, 1.2) + rng.uniform(-6, 6, 2)
    pattern = texture(local[..., 0], local[..., 1])[..., None]
    while True:
        colours = rng.uniform(10, 245, (2, 3))
        if abs(np.dot(colours[0] - colours[1], (0.3, 0.6, 0.1))) > 55:
            break
    light = 1 + 0.2 * noise(rng, height, width, 50)[..., None]
    surface = (colours[0] + pattern * (colours[1] - colours[0])) * light
    scene += mask[..., None] * (surface - scene)
    return mask


def photograph(rng, scene):
    """Blur, sensor noise and rounding: (h, w, 3) uint8 RGB."""
    scene = cv2.GaussianBlur(scene, (0, 0), rng.uniform(0.4, 0.8))
    return np.clip(scene + rng.normal(0, rng.uniform(2, 7), scene.shape), 0, 255).astype(np.uint8)


def web_picture(rng, name, figures=CLASSES):
    """One centred object in a simple scene, or a cluttered scene without one.

    Args:
        name: class of the object, or None.
        figures: dict from class name to (polygons, texture).

    Returns:
        image (h, w, 3) uint8 RGB, and the object's exact mask (h, w) bool.
    """
    width, height = WEB_SIZES[rng.integers(len(WEB_SIZES))]
    if name is None:
        scene = background(rng, width, height, int(rng.integers(6, 14)))
        return photograph(rng, scene), np.zeros((height, width), bool)
    scene = background(rng, width, height, int(rng.integers(0, 3)))
    centre = np.array([width, height]) * rng.uniform(0.44, 0.56, 2)
    mask = place(rng, scene, figures[name], centre, rng.uniform(0.36, 0.47) * min(width, height) * 1.1)
    return photograph(rng, scene), mask > 0.5


def voc_picture(rng, figures=CLASSES, classes=VOC_CLASSES):
    """One to four objects of any class in clutter, partly hidden by one another.

    Args:
        figures: dict from class name to (polygons, texture).
        classes: class names in the order of their indices.

    Returns:
        image (h, w, 3) uint8 RGB, and its mask (h, w) uint8 of class indices with 255 along the outlines.
    """
    width, height = VOC_SIZES[rng.integers(len(VOC_SIZES))]
    scene = background(rng, width, height, int(rng.integers(4, 12)))
    label = np.zeros((height, width), np.uint8)
    names = list(figures)
    present = rng.choice(names, size=rng.integers(1, 4), replace=False)
    for _ in range(int(rng.integers(len(present), 5))):
        name = rng.choice(present)
        size = rng.uniform(24, 56)
        centre = rng.uniform(0.12, 0.88, 2) * (width, height)
        mask = place(rng, scene, figures[name], centre, size)
        label[mask > 0.5] = classes.index(name)
    image = photograph(rng, scene)
    inner, outer = cv2.erode(label, np.ones((3, 3))), cv2.dilate(label, np.ones((3, 3)))
    label[inner != outer] = IGNORE_LABEL
    return image, label


def save_sbd_mask(path, mask):
    segmentation = np.where(mask == IGNORE_LABEL, 0, mask)  # SBD has no pixels to ignore
    present = np.setdiff1d(segmentation, [0])
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            scipy.io.savemat(file, {"GTcls": {"Segmentation": segmentation, "CategoriesPresent": present}},
                             do_compression=True)


def make_web(folder, seed, per_class, masks="web_truth", noise=NOISE, empty=EMPTY):
    """Web images, some of which do not show their class, and their exact masks.

    Images with the same number are equal, whatever `per_class`.

    Args:
        masks: folder for the exact masks; the demo evaluates co-segmentation with them and trains on none.
        noise: share of the images that show a random class.
        empty: share of the images that show no object.
    """
    for name in CLASSES:
        index = VOC_CLASSES.index(name)
        for number in range(per_class):
            rng = np.random.default_rng((seed, 0, index, number))
            draw = rng.random()
            shown = rng.choice(list(CLASSES)) if draw < noise else None if draw < noise + empty else name
            image, mask = web_picture(rng, shown)
            stem = f"{index}_{number:06d}"
            write_image(os.path.join(folder, "web_images", stem + ".jpg"), image)
            write_mask(os.path.join(folder, masks, stem + ".png"), (mask & (shown == name)) * index)


def make_voc(folder, seed, sbd, train, val):
    """VOC and SBD: SBD pictures numbered from 0, then the train and val pictures of VOC."""
    voc = os.path.join(folder, "VOCdevkit", "VOC2012")
    benchmark = os.path.join(folder, "benchmark_RELEASE", "dataset")
    names = [f"2012_{number:06d}" for number in range(sbd + train + val)]
    for number, name in enumerate(names):
        of_val = number - sbd - train  # val stays the same, however many images there are to train on
        image, mask = voc_picture(np.random.default_rng((seed, 1, number) if of_val < 0 else (seed, 2, of_val)))
        if number < sbd:
            write_image(os.path.join(benchmark, "img", name + ".jpg"), image)
            save_sbd_mask(os.path.join(benchmark, "cls", name + ".mat"), mask)
        else:
            write_image(os.path.join(voc, "JPEGImages", name + ".jpg"), image)
            write_mask(os.path.join(voc, "SegmentationClass", name + ".png"), mask)
    write_lines(os.path.join(benchmark, "train.txt"), names[:sbd // 2])
    write_lines(os.path.join(benchmark, "val.txt"), names[sbd // 2:sbd])
    write_lines(os.path.join(voc, "ImageSets", "Segmentation", "train.txt"), names[sbd:sbd + train])
    write_lines(os.path.join(voc, "ImageSets", "Segmentation", "val.txt"), names[sbd + train:])


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--web", type=int, default=40, metavar="N", help="web images per class (default: %(default)s)")
    parser.add_argument("--noise", type=non_negative, default=NOISE, metavar="SHARE",
                        help="share of the web images that show a random class (default: %(default)s)")
    parser.add_argument("--empty", type=non_negative, default=EMPTY, metavar="SHARE",
                        help="share of the web images that show no object (default: %(default)s)")
    parser.add_argument("--sbd", type=int, default=600, metavar="N", help="SBD images (default: %(default)s)")
    parser.add_argument("--train", type=int, default=200, metavar="N", help="VOC train images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=200, metavar="N", help="VOC val images (default: %(default)s)")
    args = parser.parse_args()
    config = parse_config(args)
    make_web(config.path("dataset"), config.seed, args.web, noise=args.noise, empty=args.empty)
    make_voc(config.path("dataset"), config.seed, args.sbd, args.train, args.val)
    print(f"drew {args.web * len(CLASSES)} web, {args.sbd} SBD and {args.train + args.val} VOC images in "
          f"{config.path('dataset')}")


if __name__ == "__main__":
    run(main)
