"""Parts of the HTML reports: pages that open from disk, hold all they show, and suit light, dark, narrow and wide."""
import base64
import html

import cv2
import numpy as np

from core.metrics import row_shares

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --faint: #57606a; --line: #d0d7de;
  --soft: #f3f5f8; --good: 31, 100, 200; --bad: 190, 70, 0; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1318; --text: #e6edf3; --faint: #a0abb6; --line: #333b45;
  --soft: #1a2028; --good: 80, 150, 255; --bad: 240, 130, 50; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1080px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 18px; margin: 36px 0 8px; padding-top: 8px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 16px 0 4px; }
p { margin: 4px 0 12px; max-width: 70ch; }
a { color: rgb(var(--good)); }
.faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 8px; }
.tile { background: var(--soft); border-radius: 6px; padding: 8px 12px; }
.tile b { display: block; font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 3px 8px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-weight: normal; }
thead th { color: var(--faint); font-size: 13px; }
td:first-child { min-width: 7em; }
.keys { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; }
.keys dt { color: var(--faint); }
.keys dd { margin: 0; min-width: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars { display: grid; grid-template-columns: max-content 1fr 4em; gap: 3px 8px; align-items: center; }
.track { position: relative; height: 16px; background: var(--soft); }
.fill { height: 100%; background: rgb(var(--good)); }
.mark { position: absolute; top: -2px; bottom: -2px; width: 2px; background: rgb(var(--bad)); }
.ticks { display: flex; justify-content: space-between; font-size: 12px; color: var(--faint); }
.matrix { display: grid; gap: 1px; font-size: 11px; line-height: 1; font-variant-numeric: tabular-nums; }
.matrix > * { min-width: 0; overflow: hidden; display: flex; align-items: center; justify-content: center; }
.matrix .row { justify-content: flex-end; padding-right: 4px; white-space: nowrap; font-size: 12px; }
.matrix .column { writing-mode: vertical-rl; transform: rotate(180deg); justify-content: flex-start;
  padding-top: 4px; white-space: nowrap; font-size: 12px; }
.matrix .cell { height: 24px; }
.matrix .strong { color: #ffffff; }
.axis { font-size: 13px; color: var(--faint); margin: 4px 0; }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
figure { margin: 0; }
figcaption { font-size: 13px; color: var(--faint); }
.three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; align-items: start; }
img { max-width: 100%; height: auto; display: block; }
.three img { width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; vertical-align: -1px;
  border: 1px solid var(--line); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }
.charts img { width: 100%; max-width: 480px; }
@media (max-width: 700px) { body { padding: 10px; } .matrix { font-size: 0; gap: 0; }
  .matrix .row, .matrix .column { font-size: 10px; } .matrix .cell { height: 14px; } th, td { padding-right: 5px; }
  .keys { grid-template-columns: 1fr; } .keys dt { margin-top: 4px; } }
"""
_NUMBERED_CLASSES = 30  # in a larger matrix the numbers no longer fit the cells


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
        kinds = [" class=\"number\"" if column in numbers else "" for column in range(len(cells))]
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

    Args:
        confusion: (classes, classes) pixels, rows are true classes.
    """
    confusion = np.asarray(confusion)
    shown = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    shares = row_shares(confusion)
    cells = ["<div></div>"] + ["<div class=\"column\">%s</div>" % text(classes[column]) for column in shown]
    for row in shown:
        cells.append("<div class=\"row\">%s</div>" % text(classes[row]))
        cells += [_cell(shares[row, column], classes[row], classes[column], len(shown) <= _NUMBERED_CLASSES)
                  for column in shown]
    return ("<div class=\"axis\">Rows: true class. Columns: predicted class. Shares of the true class's pixels, %."
            "</div><div class=\"matrix\" style=\"grid-template-columns: max-content repeat({0}, minmax(0, 44px))\">"
            "{1}</div>".format(len(shown), "".join(cells)))


def _cell(share, true, predicted, numbered):
    number = "%d" % round(100 * share) if numbered and share >= 0.005 else ""
    return ("<div class=\"cell%s\" style=\"background:rgba(var(--%s),%.3f)\" title=\"%s seen as %s: %s\">%s</div>"
            % (" strong" if share > 0.6 else "", "good" if true == predicted else "bad", 0.04 + 0.96 * share,
               text(true), text(predicted), percent(share), number))


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
