"""A table of pictures under titles, for the demonstrations and the documentation."""
from typing import Sequence

import cv2
import numpy as np

from core.io.drawing import write_title

HEADER = 22  # pixels above a column


def side_by_side(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], height: int = 150) -> np.ndarray:
    """Table of pictures.

    Args:
        rows: list of lists of (h, w, 3) uint8 RGB; the pictures of a row have one shape.
        titles: text above each column.
        height: of a row, pixels.

    Returns:
        (H, W, 3) uint8 RGB on white.
    """
    rows = [[cv2.resize(picture, (max(1, round(height * picture.shape[1] / picture.shape[0])), height),
                        interpolation=cv2.INTER_AREA) for picture in row] for row in rows]
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    gap = 6
    sheet = np.full((HEADER + len(rows) * (height + gap), sum(widths) + gap * (len(widths) - 1), 3), 255, np.uint8)
    left = 0
    for column, (title, width) in enumerate(zip(titles, widths)):
        write_title(sheet, title, left + 2, HEADER - 7)
        for number, row in enumerate(rows):
            picture, top = row[column], HEADER + number * (height + gap)
            sheet[top:top + height, left:left + picture.shape[1]] = picture
        left += width + gap
    return sheet
