"""Masks whose colours and indices contradict each other."""
import numpy as np

from core.classes import IGNORE_LABEL, voc_palette
from core.errors import UserError

_VOC = voc_palette()
_TOLERANCE = 8  # of 255; how far a colour may be from VOC's, whose colours are at least 32 apart


def check_palette(path: str, palette: np.ndarray, mask: np.ndarray, num_classes: int) -> None:
    """Check that a mask's palette does not hold the colours of the VOC masks at other indices.

    Programs that reorder palettes, as Pillow's quantize does, leave the picture the same and change the indices. A
    palette of the user's own may hold some of VOC's colours by chance: it is refused only where more of its entries
    are misplaced colours of VOC than are colours of its own.

    palette: (n, 3) uint8 RGB. mask: (h, w) uint8 indices.

    Raises:
        UserError: it does.
    """
    if (palette == _VOC[:len(palette)]).all():
        return
    labels = np.array([*range(num_classes), IGNORE_LABEL])
    used = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:len(palette)])
    entries = np.flatnonzero(palette.any(1) | np.isin(np.arange(len(palette)), used))  # the rest is padding
    distances = np.abs(palette[entries, None].astype(int) - _VOC[labels].astype(int)).max(2)
    known = distances.min(1) <= _TOLERANCE
    meant = labels[distances.argmin(1)]
    own_place = np.abs(palette[entries].astype(int) - _VOC[entries].astype(int)).max(1) <= _TOLERANCE
    at_home = np.isin(meant, entries[own_place])  # a second, similar colour is not a reordered palette
    misplaced = known & ~own_place & ~at_home
    wrong = misplaced & np.isin(entries, used)
    if wrong.any() and misplaced.sum() > (~known & ~own_place).sum():
        first = np.flatnonzero(wrong)[0]
        raise UserError(f"{path}: its palette has the VOC colour of label {meant[first]} at index {entries[first]}: "
                        "the palette was reordered, and the indices are no longer the labels; save the mask with the "
                        "VOC palette, or as a greyscale PNG of class indices")
