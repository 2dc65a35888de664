"""A picture per class for a person to look at: images and outlines of their masks, kept and left out."""
import collections
import os
from typing import Iterable

import cv2
import numpy as np

from core.classes import IGNORE_LABEL
from core.config import Config
from core.cosegmentation.results import Result
from core.errors import UserError
from core.io.drawing import write_title
from core.io.images import read_image, read_mask, write_image
from core.io.resize import resize_longest_side
from core.paths import Layout, class_of, image_path

_SIDE, _COLUMNS, _GAP, _HEADER = 120, 10, 4, 20
_KEPT, _LEFT_OUT = 60, 30  # pictures of each sort on a sheet
_GREEN, _RED, _GREY = (0, 200, 0), (220, 0, 0), (150, 150, 150)


def write_sheets(layout: Layout, config: Config, results: Iterable[Result]) -> None:
    """Write web_sheets/<class>.jpg: the kept images spread over the scores from the best down, then the left-out ones.

    At most 90 images of a class are read.
    """
    classes = collections.defaultdict(list)
    for result in results:
        classes[class_of(result.name)].append(result)
    for index, group in classes.items():
        group.sort(key=lambda result: (-result.score, result.name))
        grids = []
        for kept, most in ((True, _KEPT), (False, _LEFT_OUT)):
            sort = [result for result in group if result.kept == kept]
            shown = [sort[int(position)] for position in np.linspace(0, len(sort) - 1, min(most, len(sort)))]
            title = f"{config.classes[index]}: {len(sort)} {'kept' if kept else 'left out'}"
            grids.append(_grid(title, [_thumbnail(layout, config, result) for result in shown]))
        write_image(os.path.join(layout.web_sheets, config.classes[index] + ".jpg"), np.concatenate(grids), 85)


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the outline of its mask: green, and grey around uncertain pixels."""
    picture = image.copy()
    for region, colour in (((mask == IGNORE_LABEL), _GREY), ((mask > 0) & (mask != IGNORE_LABEL), _GREEN)):
        outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 1 if colour == _GREY else 2)
    return picture


def _thumbnail(layout, config, result):
    tile = np.full((_SIDE, _SIDE, 3), 235, np.uint8)
    try:
        image = read_image(image_path(layout.web_images, result.name))
        mask = read_mask(layout.web_mask(result.name), config.num_classes, image.shape[:2])
    except UserError:
        cv2.putText(tile, "unreadable", (20, _SIDE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _RED, 1, cv2.LINE_AA)
        return tile
    picture = outlined(resize_longest_side(image, _SIDE), resize_longest_side(mask, _SIDE, cv2.INTER_NEAREST))
    tile[:picture.shape[0], :picture.shape[1]] = picture
    cv2.putText(tile, f"{result.score:.2f}", (3, _SIDE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.35,
                (0, 0, 0) if result.kept else _RED, 1, cv2.LINE_AA)
    return tile


def _grid(title, tiles):
    rows = -(-len(tiles) // _COLUMNS)
    step = _SIDE + _GAP
    sheet = np.full((_HEADER + rows * step, _COLUMNS * step, 3), 255, np.uint8)
    write_title(sheet, title, 3, _HEADER - 6)
    for number, tile in enumerate(tiles):
        top, left = _HEADER + number // _COLUMNS * step, number % _COLUMNS * step
        sheet[top:top + _SIDE, left:left + _SIDE] = tile
    return sheet
