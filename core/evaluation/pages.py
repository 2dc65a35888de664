"""Parts of the HTML reports: pages that open from disk, hold all they show, and suit light, dark, narrow and wide."""
import base64
import html

import cv2
import numpy as np

from core.evaluation.metrics import row_shares

COLOURS = {  # of light and of dark pages; good and bad differ for colour-blind eyes too
    "light": {"back": (255, 255, 255), "text": (27, 31, 36), "faint": (87, 96, 106), "line": (208, 215, 222),
              "soft": (243, 245, 248), "good": (31, 100, 200), "bad": (190, 70, 0)},
    "dark": {"back": (15, 19, 24), "text": (230, 237, 243), "faint": (160, 171, 182), "line": (51, 59, 69),
             "soft": (26, 32, 40), "good": (80, 150, 255), "bad": (240, 130, 50)}}
_SCHEMES = """
:root { color-scheme: light dark; %s }
@media (prefers-color-scheme: dark) { :root { %s } }
""" % tuple(" ".join("--%s: %d, %d, %d;" % ((name,) + colour) for name, colour in COLOURS[scheme].items())
            for scheme in ("light", "dark"))
_STYLE = _SCHEMES + """
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1080px; background: rgb(var(--back)); color: rgb(var(--text));
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 18px; margin: 36px 0 8px; padding-top: 8px; border-top: 1px solid rgb(var(--line)); }
h3 { font-size: 15px; margin: 16px 0 4px; }
p { margin: 4px 0 12px; max-width: 70ch; }
a { color: rgb(var(--good)); }
.faint { color: rgb(var(--faint)); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 8px; }
.tile { background: rgb(var(--soft)); border-radius: 6px; padding: 8px 12px; display: flex; flex-direction: column;
  justify-content: space-between; }
.tile b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 3px 8px 3px 0; border-bottom: 1px solid rgb(var(--line)); vertical-align: top;
  font-weight: normal; }
thead th { color: rgb(var(--faint)); font-size: 13px; }
th:first-child, td:first-child { min-width: 7em; position: sticky; left: 0; background: rgb(var(--back)); }
th.number { white-space: normal; }
ol { margin: 4px 0 12px; padding-left: 2em; }
.keys { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; }
.keys dt { color: rgb(var(--faint)); }
.keys dd { margin: 0; min-width: 0; }
th, td { overflow-wrap: break-word; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars { display: grid; grid-template-columns: max-content 1fr 4em; gap: 3px 8px; align-items: center; }
.track { position: relative; height: 16px; background: rgb(var(--soft)); }
.fill { height: 100%; background: rgb(var(--good)); }
.mark { position: absolute; top: -2px; bottom: -2px; width: 2px; background: rgb(var(--bad)); }
.ticks { display: flex; justify-content: space-between; font-size: 12px; color: rgb(var(--faint)); }
.matrix { display: grid; gap: 1px; font-size: 11px; line-height: 1; font-variant-numeric: tabular-nums;
  grid-template-columns: max-content repeat(var(--classes), minmax(22px, 44px)); }
.matrix.many { grid-template-columns: max-content repeat(var(--classes), minmax(12px, 44px)); }
.matrix > div { min-width: 0; overflow: hidden; display: flex; align-items: center; justify-content: center; }
.matrix .row, .matrix .corner { position: sticky; left: 0; background: rgb(var(--back)); }
.matrix .row { justify-content: flex-end; padding-right: 4px; white-space: nowrap; font-size: 12px; }
.matrix .column { writing-mode: vertical-rl; transform: rotate(180deg); justify-content: flex-start;
  padding-top: 4px; white-space: nowrap; font-size: 12px; }
.matrix .cell { height: 24px; color: #000000; }
.matrix .deep { color: #ffffff; }
.many .cell { height: 14px; }
.many .row, .many .column { font-size: 11px; }
@media (prefers-color-scheme: dark) { .matrix .cell { color: #ffffff; } .matrix .glow { color: #000000; } }
.axis { font-size: 13px; color: rgb(var(--faint)); margin: 4px 0; }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
figure { margin: 0; }
figcaption { font-size: 13px; color: rgb(var(--faint)); }
.three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; align-items: start; }
img { max-width: 100%; height: auto; display: block; }
.three img { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; vertical-align: -1px;
  border: 1px solid rgb(var(--line)); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }
.charts img { width: 100%; max-width: 480px; }
@media (max-width: 700px) { body { padding: 10px; } th, td { padding-right: 8px; } .matrix .cell { height: 18px; }
  .matrix .row, .matrix .column { font-size: 10px; } .many .cell { height: 12px; }
  .keys { grid-template-columns: 1fr; } .keys dt { margin-top: 4px; } }
"""
_NUMBERED_CLASSES = 30  # in a larger matrix the numbers no longer fit the cells
_LONGEST_LABEL = 18  # characters beside the matrix; the rest of a name is told by its cells


def page(title, *parts):
    """A whole HTML page.

    Args:
        title: text.
        parts: HTML.
    """
    return ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            "<title>%s</title>\n<style>%s</style>\n</head>\n<body>\n<h1>%s</h1>\n%s\n</body>\n</html>\n"
            % (text(title), _STYLE, text(title), "\n".join(parts)))


def text(value):
    """The value as text of a page."""
    return html.escape(str(value))


def percent(value, digits=1):
    return "–" if value is None else "%.*f %%" % (digits, 100 * value)


def tiles(rows):
    """Numbers that come first. rows: (label, text) pairs."""
    return "<div class=\"tiles\">%s</div>" % "".join(
        "<div class=\"tile\">%s<b>%s</b></div>" % (text(label), text(value)) for label, value in rows)


def table(heads, rows, numbers=()):
    """Table whose cells are HTML.

    Args:
        heads: texts above the columns.
        numbers: indices of the columns that hold numbers.
    """
    def line(cells, tag):
        kinds = [" class=\"number\"" * (column in numbers) + " scope=\"col\"" * (tag == "th")
                 for column in range(len(cells))]
        return "<tr>%s</tr>" % "".join("<%s%s>%s</%s>" % (tag, kind, cell, tag) for kind, cell in zip(kinds, cells))
    return "<div class=\"scroll\"><table><thead>%s</thead><tbody>%s</tbody></table></div>" % (
        line([text(head) for head in heads], "th"), "".join(line(row, "td") for row in rows))


def keys(rows):
    """List of names with what they stand for. rows: (name, value) pairs; dicts and lists become text."""
    def plain(value):
        if isinstance(value, dict):
            return "; ".join("%s=%s" % (key, plain(item)) for key, item in value.items()) or "–"
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value))
        return "–" if value is None else value
    return "<dl class=\"keys\">%s</dl>" % "".join("<dt>%s</dt><dd>%s</dd>" % (text(name), text(plain(value)))
                                                 for name, value in rows)


def ordered(names):
    """Numbered list of texts."""
    return "<ol>%s</ol>" % "".join("<li>%s</li>" % text(name) for name in names)


def bars(iou, mean):
    """Bars of the IoU of every class that has one, the highest first, and a mark at their mean.

    Args:
        iou: dict from class name to [0, 1] or None.
        mean: mean IoU.
    """
    rows = sorted(((name, value) for name, value in iou.items() if value is not None), key=lambda row: -row[1])
    if not rows:
        return "<p>No class has pixels.</p>"
    lines = ["<div>%s</div><div class=\"track\"><div class=\"fill\" style=\"width:%.2f%%\"></div>"
             "<div class=\"mark\" style=\"left:%.2f%%\"></div></div><div class=\"number\">%s</div>"
             % (text(name), 100 * value, 100 * mean, percent(value)) for name, value in rows]
    lines.append("<div></div><div class=\"ticks\"><span>0</span><span>25</span><span>50</span><span>75</span>"
                 "<span>100</span></div><div class=\"number faint\">IoU, %</div>")
    absent = [name for name, value in iou.items() if value is None]
    note = "In neither truth nor prediction: %s." % ", ".join(map(text, absent)) if absent else ""
    return ("<p class=\"faint\">The upright line is the mean, %s. %s</p><div class=\"bars\">%s</div>"
            % (percent(mean), note, "".join(lines)))


def matrix(confusion, classes):
    """Confusion matrix of the classes that occur, each row in shares of the pixels of its true class.

    Where the window is too narrow for it, it scrolls, and the names of the rows stay in sight.

    Args:
        confusion: (classes, classes) pixels, rows are true classes.
    """
    confusion = np.asarray(confusion)
    shown = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    shares = row_shares(confusion)
    numbered = len(shown) <= _NUMBERED_CLASSES
    cells = ["<div class=\"corner\"></div>"] + [_label("column", classes[column]) for column in shown]
    for row in shown:
        cells.append(_label("row", classes[row]))
        cells += [_cell(shares[row, column], classes[row], classes[column], numbered) for column in shown]
    return ("<div class=\"axis\">Rows: true class. Columns: predicted class. Shares of the true class's pixels, %%."
            "</div><div class=\"scroll\" tabindex=\"0\" role=\"img\" aria-label=\"Confusion matrix of %d classes\">"
            "<div class=\"matrix%s\" style=\"--classes: %d\">%s</div></div>"
            % (len(shown), "" if numbered else " many", len(shown), "".join(cells)))


def _label(kind, name):
    short = name if len(name) <= _LONGEST_LABEL else name[:_LONGEST_LABEL - 1] + "…"
    return "<div class=\"%s\" title=\"%s\">%s</div>" % (kind, text(name), text(short))


def _cell(share, true, predicted, numbered):
    hue = "good" if true == predicted else "bad"
    alpha = 0.04 + 0.96 * share
    inks = [name for name, scheme, white in (("deep", "light", True), ("glow", "dark", False))
            if wants_white(hue, alpha, scheme) == white]
    number = "%d" % round(100 * share) if numbered and share >= 0.005 else ""
    return ("<div class=\"%s\" style=\"background:rgba(var(--%s),%.3f)\" title=\"%s seen as %s: %s\">%s</div>"
            % (" ".join(["cell"] + inks), hue, alpha, text(true), text(predicted), percent(share), number))


def wants_white(hue, alpha, scheme):
    """Whether white text has more contrast than black on a colour of `COLOURS` over the page's back.

    Args:
        alpha: opacity of the colour, 0..1.
    """
    back, colour = (np.array(COLOURS[scheme][name]) / 255 for name in ("back", hue))
    return luminance(alpha * colour + (1 - alpha) * back) < 0.179  # (1 + 0.05) / (L + 0.05) = (L + 0.05) / 0.05


def luminance(colour):
    """Relative luminance (WCAG 2.1) of an sRGB colour, 3 values in [0, 1]."""
    colour = np.asarray(colour)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def confusions(confusion, classes, count=10):
    """Table of the pairs of classes that are mistaken most often.

    Args:
        confusion: (classes, classes) pixels, rows are true classes.
        count: rows of the table at most.
    """
    confusion = np.asarray(confusion)
    shares = row_shares(confusion)
    wrong = [(true, predicted) for true, predicted in np.argwhere(confusion) if true != predicted]
    wrong.sort(key=lambda pair: (-confusion[pair], pair))
    return table(("true", "seen as", "of the true pixels", "pixels"),
                 [(text(classes[true]), text(classes[predicted]), percent(shares[true, predicted]),
                   "{:,}".format(int(confusion[true, predicted]))) for true, predicted in wrong[:count]], (2, 3))


def picture(image, alternative, max_side=360):
    """An (h, w, 3) uint8 RGB image as an element that holds it, scaled down to `max_side` pixels."""
    height, width = image.shape[:2]
    scale = min(1, max_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "<img src=\"%s\" width=\"%d\" height=\"%d\" alt=\"%s\">" % (
        data_uri("image/jpeg", content.tobytes()), size[0], size[1], text(alternative))


def two_faced(light, dark, alternative):
    """An SVG (bytes) for light pages and one for dark pages, as one element."""
    return ("<picture><source srcset=\"%s\" media=\"(prefers-color-scheme: dark)\">"
            "<img src=\"%s\" alt=\"%s\"></picture>"
            % (data_uri("image/svg+xml", dark), data_uri("image/svg+xml", light), text(alternative)))


def legend(names, colours):
    """Names beside their colours. colours: (n, 3) uint8."""
    return "<div class=\"legend\">%s</div>" % "".join(
        "<span><i style=\"background:rgb(%d,%d,%d)\"></i>%s</span>" % (*colour, text(name))
        for name, colour in zip(names, colours.tolist()))


def data_uri(kind, content):
    return "data:%s;base64,%s" % (kind, base64.b64encode(content).decode("ascii"))
