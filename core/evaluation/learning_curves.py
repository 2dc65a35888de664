"""Learning curves from the metrics of training, drawn with matplotlib."""
import contextlib
import csv
import io
import textwrap
from typing import Dict, List, NamedTuple, Sequence, Tuple

from core.errors import printable


class Curve(NamedTuple):
    """A line of a chart: quantity on the vertical axis, name of the line, and (epoch, value) of its points."""
    quantity: str
    name: str
    points: List[Tuple[int, float]]


_QUANTITIES = {"loss": ("loss", 1), "accuracy": ("accuracy of training cells, %", 100),
               "label_loss": ("loss of image-level labels", 1)}
LINES = ("#0066cc", "#d55e00", "#008f68", "#93278f", "#222222", "#8c8c8c")  # differ for colour-blind eyes too
_MARKERS = "osD^vX"
_NAME_LENGTH = 56  # characters of a line of the legend


def training_curves(metrics: str, name: str) -> List[Curve]:
    """Curves of a model's training, from the text of log/<model>_metrics.csv: of every epoch the last row, which holds
    the means over its batches so far. Rows that a killed run did not finish are left out."""
    points: Dict[str, Dict[int, float]] = {column: {} for column in _QUANTITIES}
    for row in csv.DictReader(line for line in io.StringIO(metrics) if line.endswith("\n")):
        for column, (_, factor) in _QUANTITIES.items():
            with contextlib.suppress(KeyError, TypeError, ValueError):  # an empty field
                points[column][int(row["epoch"])] = factor * float(row[column])
    return [Curve(_QUANTITIES[column][0], name, sorted(values.items())) for column, values in points.items() if values]


def draw(curves: Sequence[Curve], file_format: str) -> bytes:
    """Charts of all quantities below one another, black on white; the same bytes for the same curves.

    Args:
        curves: a name has the same colour in every chart.
        file_format: "svg" or "png".
    """
    import matplotlib  # takes a second
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    quantities = list(dict.fromkeys(curve.quantity for curve in curves))
    names = list(dict.fromkeys(curve.name for curve in curves))
    lines = {}
    with matplotlib.rc_context({"svg.hashsalt": "curves"}):
        figure = Figure(figsize=(6, 2.8 * len(quantities)), dpi=120, layout="constrained")
        for axes, quantity in zip(figure.subplots(len(quantities), squeeze=False)[:, 0], quantities):
            for curve in curves:
                if curve.quantity == quantity:
                    turn, style = divmod(names.index(curve.name), len(LINES))
                    lines[curve.name], = axes.plot(*zip(*curve.points), "--" if turn % 2 else "-", color=LINES[style],
                                                   marker=_MARKERS[style], markersize=4, linewidth=1.6)
            axes.set(xlabel="epoch", ylabel=quantity)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(True, color="#d0d7de", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0.04, y=0.12)
        _add_legend(figure, lines)
        content = io.BytesIO()
        figure.savefig(content, format=file_format, metadata={"Date" if file_format == "svg" else "Software": None})
    return content.getvalue()


def _add_legend(figure, lines):
    """Write the names of all lines below the charts, where they hide none; the figure grows by as much."""
    names = ["\n".join(textwrap.wrap(printable(name), _NAME_LENGTH)) for name in lines]
    figure.set_figheight(figure.get_figheight() + 0.16 * sum(name.count("\n") + 1 for name in names))
    legend = figure.legend(list(lines.values()), [str(number) for number in range(len(names))],
                           loc="outside lower center", fontsize=8, frameon=False, handlelength=3.5)
    for text, name in zip(legend.get_texts(), names):  # a label given above would vanish if it starts with _
        text.set_text(name)
        text.set_parse_math(False)  # no formula between two $ of a folder's name
