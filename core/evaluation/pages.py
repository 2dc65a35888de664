"""HTML reports from the templates of this folder: self-contained pages for light and dark, narrow and wide screens."""
import os
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import jinja2
import numpy as np
from markupsafe import Markup

from core.errors import printable
from core.evaluation.metrics import row_shares
from core.io.images import data_uri, encode_image
from core.io.resize import shrink

_NUMBERED_CLASSES = 30  # in a larger matrix the numbers no longer fit the cells
_MOST_OPAQUE = 0.6  # colour of the matrix's cells, so that the page's text stands out on it


class Picture(NamedTuple):
    """A picture inside a page: data URI, width and height in pixels."""
    uri: str
    width: int
    height: int


def render(template: str, **values: Any) -> str:
    """A whole page from a template of this folder; all values except Markup are escaped, control characters too."""
    return _ENVIRONMENT.get_template(template).render(values)


def percent(value: Optional[float], digits: int = 1) -> str:
    """A share in [0, 1] as percentage; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def keys(rows: Sequence[Tuple[str, Any]]) -> Markup:
    """HTML list of names with their values; dicts and lists become text."""
    return _parts().keys(rows)


def bars(iou: Mapping[str, Optional[float]], mean: float) -> Markup:
    """HTML bars of the IoU of every class that has one, the highest first, and a mark at their mean."""
    rows = sorted(((name, value) for name, value in iou.items() if value is not None), key=lambda row: -row[1])
    return _parts().bars(rows, [name for name, value in iou.items() if value is None], mean)


def matrix(confusion: Any, classes: Sequence[str]) -> Markup:
    """HTML confusion matrix, from (classes, classes) pixels, of the classes that occur; each row, a true class, in
    shares of its pixels.

    If the window is too narrow for it, it scrolls, and the names of the rows stay in sight.
    """
    confusion = np.asarray(confusion)
    shown = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    shares = row_shares(confusion)
    numbered = len(shown) <= _NUMBERED_CLASSES
    cells = [[_cell(shares[row, column], classes[row], classes[column], numbered) for column in shown] for row in shown]
    return _parts().matrix([classes[index] for index in shown], cells, numbered)


def _cell(share: float, true: str, predicted: str, numbered: bool) -> Dict[str, Any]:
    return {"hue": "good" if true == predicted else "bad", "alpha": _MOST_OPAQUE * (0.06 + 0.94 * share), "true": true,
            "predicted": predicted, "share": share,
            "number": f"{round(100 * share)}" if numbered and share >= 0.005 else ""}


def confusions(confusion: Any, classes: Sequence[str], count: int = 10) -> Markup:
    """HTML table of the pairs of classes that are confused most often, from (classes, classes) pixels."""
    confusion = np.asarray(confusion)
    shares = row_shares(confusion)
    wrong = [(true, predicted) for true, predicted in np.argwhere(confusion).tolist() if true != predicted]
    wrong.sort(key=lambda pair: (-confusion[pair], pair))
    rows = [(classes[pair[0]], classes[pair[1]], percent(shares[pair]), f"{int(confusion[pair]):,}")
            for pair in wrong[:count]]
    return _parts().table(("true", "predicted", "of the true pixels", "pixels"), rows, (2, 3))


def picture(image: np.ndarray, max_side: int = 360) -> Picture:
    """An (h, w, 3) uint8 RGB image for a page, scaled down to `max_side` pixels."""
    image = shrink(image, max_side)
    return Picture(data_uri(encode_image(image, ".jpg", 85), "image/jpeg"), image.shape[1], image.shape[0])


def _plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, dict):
        return "; ".join(f"{key}={_plain(item)}" for key, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _parts() -> Any:
    """The macros of parts.html."""
    return _ENVIRONMENT.get_template("parts.html").module


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")),
    autoescape=True, undefined=jinja2.StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters.update(percent=percent, plain=_plain)
