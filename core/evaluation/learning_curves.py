"""Learning curves from the metrics of training, drawn with matplotlib."""
import contextlib
import csv
import io
import textwrap
from typing import Dict, List, NamedTuple, Sequence, Tuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.errors import printable


class Curve(NamedTuple):
    """A line of a chart: quantity on the vertical axis, name of the line, and (epoch, value) of its points."""
    quantity: str
    name: str
    points: List[Tuple[int, float]]


_QUANTITIES = {"loss": ("loss", 1), "accuracy": ("accuracy of training cells, %", 100),
               "label_loss": ("loss of image-level labels", 1)}
LINES = {False: ("#0066cc", "#d55e00", "#008f68", "#93278f", "#222222", "#8c8c8c"),  # differ for colour-blind eyes too
         True: ("#4aa8ff", "#e68600", "#2bd4a4", "#e77fd0", "#ffffff", "#8c8c8c")}
_MARKERS = "osD^vX"
_FACE = {False: ("#ffffff", "#1b1f24", "#d0d7de"), True: ("#0f1318", "#e6edf3", "#333b45")}  # back, text, grid
_NAME_LENGTH = 56  # characters of a line of the legend


def training_curves(metrics: str, name: str) -> List[Curve]:
    """Curves of a model's training: of every epoch the last row, which holds the means over its batches so far.

    Args:
        metrics: text of log/<model>_metrics.csv. Rows that a killed run did not finish are left out.
        name: of the lines.

    Returns:
        empty without a row.
    """
    points: Dict[str, Dict[int, float]] = {column: {} for column in _QUANTITIES}
    for row in csv.DictReader(line for line in io.StringIO(metrics) if line.endswith("\n")):
        for column, (_, factor) in _QUANTITIES.items():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # an empty field
                points[column][int(row["epoch"])] = factor * float(row[column])
    return [Curve(_QUANTITIES[column][0], name, sorted(values.items())) for column, values in points.items() if values]


def draw(curves: Sequence[Curve], quantity: str, dark: bool) -> bytes:
    """Chart of the curves of one quantity, as SVG.

    Args:
        curves: those of all quantities: a name has the same colour in every chart.

    Returns:
        the same bytes for the same curves.
    """
    with matplotlib.rc_context({"svg.hashsalt": "curves"}):
        figure = Figure(figsize=(4.6, 3.1), facecolor=_FACE[dark][0], layout="constrained")
        FigureCanvasSVG(figure)
        lines = _plot(figure.add_subplot(), curves, quantity, dark)
        _add_legend(figure, lines, dark)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def draw_all(curves: Sequence[Curve]) -> bytes:
    """Charts of all quantities below one another, as PNG."""
    quantities = list(dict.fromkeys(curve.quantity for curve in curves))
    figure = Figure(figsize=(7, 3 * len(quantities)), dpi=120, facecolor=_FACE[False][0], layout="constrained")
    FigureCanvasAgg(figure)
    lines: Dict[str, Line2D] = {}
    for place, quantity in enumerate(quantities, 1):
        axes = figure.add_subplot(len(quantities), 1, place)
        lines = {**_plot(axes, curves, quantity, dark=False), **lines}
    _add_legend(figure, lines, dark=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _plot(axes: Axes, curves: Sequence[Curve], quantity: str, dark: bool) -> Dict[str, Line2D]:
    """Draw the curves of one quantity; returns their lines by name."""
    back, front, grid = _FACE[dark]
    names = list(dict.fromkeys(curve.name for curve in curves))
    lines = {}
    for curve in curves:
        if curve.quantity == quantity:
            round_, number = divmod(names.index(curve.name), len(_MARKERS))
            lines[curve.name], = axes.plot(*zip(*curve.points), "--" if round_ % 2 else "-", color=LINES[dark][number],
                                           marker=_MARKERS[number], markersize=4, linewidth=1.6)
    axes.set_facecolor(back)
    axes.set_xlabel("epoch", color=front)
    axes.set_ylabel(quantity, color=front)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(colors=front)
    axes.grid(True, color=grid, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set_color(grid)
        spine.set_visible(side in ("left", "bottom"))
    axes.margins(x=0.04, y=0.12)
    return lines


def _add_legend(figure: Figure, lines: Dict[str, Line2D], dark: bool) -> None:
    """Write the names of all lines below the charts, where they hide none; the figure grows by as much."""
    names = ["\n".join(textwrap.wrap(printable(name), _NAME_LENGTH)) for name in lines]
    figure.set_figheight(figure.get_figheight() + 0.16 * sum(name.count("\n") + 1 for name in names))
    legend = figure.legend(list(lines.values()), [str(number) for number in range(len(names))],
                           loc="outside lower center", fontsize=8, frameon=False, handlelength=3.5,
                           labelcolor=_FACE[dark][1])
    for text, name in zip(legend.get_texts(), names):  # a label given above would vanish if it starts with _
        text.set_text(name)
        text.set_parse_math(False)  # no formula between two $ of a folder's name
