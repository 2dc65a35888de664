"""Reports: the page of an evaluation, and the page that compares them."""
import base64
import io
import json
import os
import re
import xml.etree.ElementTree
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from conftest import run_script
from PIL import Image

from core.errors import UserError, printable
from core.evaluation.learning_curves import LINES, Curve, draw, training_curves
from core.evaluation.metrics import image_iou, summarise
from core.evaluation.pages import bars, confusions, keys, matrix, render
from core.evaluation.report import Example, Source, best_and_worst, find_source, write_comparison, write_report
from core.evaluation.results import ResultFolder

HEAD = "epoch,batch,loss,accuracy,label_loss,lr,images_per_second\n"


class Page(HTMLParser):
    """The elements of a page; fails on tags that are not closed in their order."""

    def __init__(self, content):
        super().__init__()
        self.open, self.links, self.pictures, self.words, self.alternatives = [], [], [], [], []
        self.wide = 0  # tables and matrices, which may be wider than the window
        self.style, self.kinds = "", []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
            self.kinds.append(attributes.get("class", "").split())
        if tag == "table" or "matrix" in attributes.get("class", ""):
            assert ["scroll"] in self.kinds  # so that it scrolls by itself, and not the page
            self.wide += 1
        assert tag not in ("script", "link", "iframe")
        self.links += [attributes[name] for name in ("href", "src", "srcset") if name in attributes]
        if tag == "img":
            assert attributes["alt"]
            self.pictures.append(attributes["src"])
            self.alternatives.append(attributes["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.kinds.pop()

    def handle_data(self, data):
        if "style" in self.open:
            self.style += data
        else:
            self.words.append(data)


def result(mean_iou=0.5, epoch=2, model="final", masks="masks", scales=(1.0,), crf=None):
    confusion = np.array([[30, 10], [0, 10]])
    return dict(summarise(confusion, ("bk", "<mug>")), mean_iou=mean_iou, model=model, epoch=epoch, saved=[],
                settings={"scales": list(scales), "crf": crf, "masks": masks, "data_sha256": str(masks),
                          "classes": ["bk", "<mug>"]})


def test_image_iou_is_the_mean_over_the_classes_of_the_image():
    assert image_iou(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])) == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert image_iou(np.zeros((3, 3), int)) is None


def test_best_and_worst_images_are_apart():
    values = {f"i{number:02d}": number / 20 for number in range(20)}
    assert best_and_worst(dict(values, none=None)) == (["i19", "i18", "i17", "i16"], ["i00", "i01", "i02", "i03"])
    assert best_and_worst({"a": 0.5, "b": 0.7, "c": 0.1}) == (["b"], ["c", "a"])
    assert best_and_worst({"a": 0.5}) == ([], ["a"]) and best_and_worst({}) == ([], [])


def test_bars_are_as_long_as_the_iou_and_absent_classes_are_named():
    content = bars({"bk": 0.25, "<mug>": 0.5, "spoon": None}, 0.375)
    assert re.findall(r"fill\" style=\"width:([0-9.]+)%", content) == ["50.00", "25.00"]
    assert set(re.findall(r"mark\" style=\"left:([0-9.]+)%", content)) == {"37.50"}
    assert "prediction: spoon." in content and "&lt;mug&gt;" in content and "<mug>" not in content


def test_the_matrix_shows_shares_of_the_true_class_and_no_absent_class():
    content = matrix([[30, 0, 10], [0, 0, 0], [4, 0, 12]], ("bk", "mug", "spoon"))
    found = re.findall(r"title=\"([a-z]+) seen as ([a-z]+): ([0-9.]+) %\">([0-9]*)<", content)
    assert found == [("bk", "bk", "75.0", "75"), ("bk", "spoon", "25.0", "25"),
                     ("spoon", "bk", "25.0", "25"), ("spoon", "spoon", "75.0", "75")]
    assert "mug" not in content
    rows = re.findall(r"<td>([a-z]+)</td><td>([a-z]+)</td>", confusions([[30, 0, 10], [0, 0, 0], [4, 0, 12]],
                                                                        ("bk", "mug", "spoon")))
    assert rows == [("bk", "spoon"), ("spoon", "bk")]


def test_a_matrix_of_many_classes_leaves_out_the_numbers():
    names = [f"class {number}" for number in range(41)]
    content = matrix(10 * np.eye(41, dtype=int), names)
    assert ">100<" not in content and "matrix many" in content and "class 39 seen as class 39: 100.0 %" in content
    assert ">100<" in matrix(10 * np.eye(30, dtype=int), names) and "matrix many" not in matrix(np.eye(30), names)


@pytest.mark.parametrize("scheme", [0, 1])
def test_the_numbers_of_the_matrix_stand_out_on_light_and_on_dark_pages(scheme):
    root = re.findall(r":root {([^}]*)}", render("page.html", title=""))[scheme]
    colours = {name: np.array(values.split(","), int) for name, values in re.findall(r"--([a-z]+): ([0-9, ]+);", root)}
    text, back = colours["text"], colours["back"]
    for hits in range(0, 101, 4):
        content = matrix([[hits, 100 - hits], [0, 100]], ("bk", "mug"))
        for hue, alpha in re.findall(r"class=\"cell\" style=\"background:rgba\(var\(--([a-z]+)\),([0-9.]+)", content):
            mixed = float(alpha) * colours[hue] + (1 - float(alpha)) * back
            lights = sorted(relative_luminance(rgb) for rgb in (mixed, text))
            assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5  # WCAG 2.1, 1.4.3


def relative_luminance(rgb):
    values = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.divide(rgb, 255)]
    return 0.2126 * values[0] + 0.7152 * values[1] + 0.0722 * values[2]


# What eyes without red and without green cones see, in linear RGB: Machado et al., IEEE TVCG 2009, severity 1
BLINDNESS = {"none": np.eye(3),
             "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]],
             "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]}


@pytest.mark.parametrize("eyes", BLINDNESS)
def test_colour_blind_eyes_tell_the_lines_apart(eyes):
    colours = np.array([[int(line[at:at + 2], 16) for at in (1, 3, 5)] for line in LINES]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLINDNESS[eyes]), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(np.float32(seen)[None], cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=2)[np.triu_indices(len(lab), 1)]
    assert distances.min() > 10  # 2.3 is just noticeable


def test_settings_are_shown_as_text():
    content = keys([("crf", {"a": 1, "b": [2, 3]}), ("none", None)])
    assert "<dd>a=1; b=2, 3</dd>" in content and "<dd>–</dd>" in content


def test_curves_hold_the_last_row_of_every_epoch():
    metrics = HEAD + "".join(f"{epoch},{batch},{epoch + batch / 10},0.5,,0.01,9\n"
                             for epoch in (1, 2) for batch in (2, 4))
    assert training_curves(metrics, "init") == [
        Curve("loss", "init", [(1, 1.4), (2, 2.4)]),
        Curve("accuracy of training cells, %", "init", [(1, 50.0), (2, 50.0)])]
    assert training_curves(HEAD + "1,4,0.7,0.8,0.25,0.01,9\n", "final")[2] == Curve(
        "loss of image-level labels", "final", [(1, 0.25)])
    assert training_curves(HEAD, "init") == [] == training_curves("", "init")


def test_rows_that_a_killed_run_did_not_finish_are_left_out_of_the_curves():
    for part in ("2", "2,4", "2,4,", "\n", "2,4,1.", "2,4,0.6,0.8,,0.01,9", "2,4,x\n"):
        assert training_curves(HEAD + "1,4,0.7,0.8,,0.01,9\n" + part, "init")[0].points == [(1, 0.7)]


def test_charts_are_the_same_for_the_same_curves():
    curves = [Curve("loss", name, [(1, 2.0), (2, value)]) for name, value in (("init", 1.0), ("final", 0.5))]
    assert draw(curves, "svg") == draw(curves, "svg") != draw(curves[:1], "svg")
    more = curves + [Curve("x", "init", [(1, 1)])]
    one, two = (Image.open(io.BytesIO(draw(lines, "png"))) for lines in (curves, more))
    assert two.height > one.height and np.asarray(one.convert("L")).std() > 5


def test_the_legend_takes_no_room_from_the_chart():
    def height(count):
        curves = [Curve("loss", f"run {number}", [(1, 2.0), (2, 1.0)]) for number in range(count)]
        return float(re.search(rb"<svg[^>]* height=\"([0-9.]+)pt", draw(curves, "svg")).group(1))
    assert height(12) > height(1) + 11 * 9  # points: a line of the legend has 8


def test_evaluations_of_other_images_are_compared_apart(tmp_path):
    for number, stored in enumerate((result(0.5), result(0.75, 3), result(0.6, 3, masks="other"))):
        ResultFolder(str(tmp_path / "outputs" / str(number))).write(stored)
    write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])
    words = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    first, second = words.split("data set 2", 1)
    assert first.index("75.00 %") < first.index("50.00 %") and "60.00 %" not in first and "60.00 %" in second
    assert "<mug>" in words and (tmp_path / "report.png").exists()


def test_evaluations_that_differ_in_one_setting_are_curves_of_their_own(tmp_path):
    kinds = ({}, {"dtype": "bfloat16"}, {"crf": {"crf_iterations": 10}}, {"scales": [0.7, 1.0]})
    for number, kind in enumerate(kinds):
        stored = result(0.5 + number / 100)
        stored["settings"].update(kind)
        ResultFolder(str(tmp_path / "outputs" / str(number))).write(stored)
    write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])
    written, = Page((tmp_path / "report.html").read_text(encoding="utf-8")).alternatives
    assert written == ("mean IoU, % over epochs: final, scales 0.7, 1: 53 at epoch 2; "
                    "final, one scale, CRF: 52 at epoch 2; final, one scale, bfloat16: 51 at epoch 2; "
                    "final, one scale: 50 at epoch 2")


@pytest.mark.parametrize("first, last", [(0.25, 0.5), (0.5, 0.25)])
def test_curves_show_the_last_result_of_a_snapshot_that_was_trained_again(tmp_path, first, last):
    folder = ResultFolder(str(tmp_path / "outputs" / "x"))
    for value in (first, last):
        stored = result(value)
        stored["settings"]["snapshot_sha256"] = str(value)
        folder.write(stored)
    write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])
    written, = Page((tmp_path / "report.html").read_text(encoding="utf-8")).alternatives
    assert written == f"mean IoU, % over epochs: final, one scale: {100 * last:g} at epoch 2"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for folder, epoch in (("a/exp", 1), ("b/exp", 2)):
        ResultFolder(str(tmp_path / folder / "outputs" / "x")).write(result(epoch / 4, epoch))
    run_script(tmp_path, "report.py", "a/exp", "b/exp")
    written, = Page((tmp_path / "outputs" / "report.html").read_text(encoding="utf-8")).alternatives
    assert written == ("mean IoU, % over epochs: b/exp: final, one scale: 50 at epoch 2; "
                    "a/exp: final, one scale: 25 at epoch 1")


@pytest.mark.parametrize("output, message", [("page.png", "the name must end in .html"), ("log.html", "is a folder")])
def test_the_page_does_not_take_the_place_of_its_curves_or_of_a_folder(tmp_path, output, message):
    ResultFolder(str(tmp_path / "outputs" / "x")).write(result())
    (tmp_path / "log.html").mkdir()
    assert message in run_script(tmp_path, "report.py", "--output", output, status=2)
    assert sorted(os.listdir(str(tmp_path))) == ["log", "log.html", "outputs", "tiny.yaml"]


def test_predictions_without_masks_are_no_evaluation(tmp_path):
    ResultFolder(str(tmp_path / "outputs" / "test")).write(result(None, masks=None))
    with pytest.raises(UserError, match="nothing to report"):
        write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])


@pytest.mark.slow
def test_evaluation_and_comparison_pages_are_whole_and_need_no_other_file(untrained, tmp_path, sample):
    run_script(tmp_path, "create_dataset.py")
    (tmp_path / "log" / "final_metrics.csv").write_text(HEAD + "1,4,0.7,0.8,0.25,0.01,9.0\n")
    run_script(tmp_path, "eval_loop.py", "--model", "final", "--gpu", "cpu", "--once")
    folder = tmp_path / "outputs" / "final_fcn_resnet50_epoch2"
    stored = json.loads((folder / "result.json").read_text())
    names = (tmp_path / "dataset" / "val_list.txt").read_text().split()
    assert sorted(stored["image_iou"]) == sorted(names) and stored["config"]["width"] == 4
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 3 * len(names) and all(link.startswith("data:") for link in page.links)
    assert sorted(page.alternatives) == sorted(f"{name}, {what}" for name in names
                                               for what in ("image", "ground truth", "prediction"))
    assert page.wide == 2 and "url(" not in page.style and "@import" not in page.style
    light, dark = re.findall(r":root {([^}]*)}", page.style)
    used = set(re.findall(r"var\((--[a-z]+)\)", page.style)) - {"--classes"}
    assert used and all(used <= set(re.findall(r"(--[a-z]+):", scheme)) for scheme in (light, dark))
    assert "prefers-color-scheme: dark" in page.style and "color-scheme: light dark" in light
    sizes = {Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).size for link in page.pictures}
    assert all(48 < max(size) <= 360 for size in sizes)
    words = " ".join(page.words)
    assert f"{100 * stored['mean_iou']:.2f} %" in words and "mxnet 1.9.1" in words and "width=4" in words
    assert all(name + ": mean IoU of its classes" in words for name in names)

    assert "report.html" in run_script(tmp_path, "report.py")
    page = Page((tmp_path / "outputs" / "report.html").read_text(encoding="utf-8"))
    written, = page.alternatives
    assert written.startswith("loss over epochs: final: 0.7 at epoch 1. accuracy of") and ". mean IoU, %" in written
    assert page.pictures[0].startswith("data:image/svg")
    assert [link for link in page.links if not link.startswith("data:")] == ["final_fcn_resnet50_epoch2/report.html"]
    assert Image.open(str(tmp_path / "outputs" / "report.png")).size[0] > 500
    assert "nowhere is not a folder" in run_script(tmp_path, "report.py", "nowhere", status=2)


ODD_NAMES = ("$x_1$ and $\\alpha$", "_hidden", "one \x1b[31m\x00 two", "<b>&\"'", "caf\udce9", "{{ 7 * 7 }}")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_with_special_characters_are_drawn_as_they_are(name):
    curves = [Curve("loss", name, [(1, 2.0), (2, 1.0)])]
    plain = [Curve("loss", "", [(1, 2.0), (2, 1.0)])]
    svg = draw(curves, "svg")
    xml.etree.ElementTree.fromstring(svg)
    letters = svg.count(b"<use ") - draw(plain, "svg").count(b"<use ")
    assert letters >= len(name.replace(" ", ""))  # fewer if it were typeset as a formula, none if it were hidden
    assert Image.open(io.BytesIO(draw(curves, "png"))).size[0] > 500


@pytest.mark.parametrize("name", ODD_NAMES)
def test_pages_escape_names_and_replace_control_characters(tmp_path, name):
    stored = result(0.5)
    stored["settings"].update(masks="masks of " + name, classes=["bk", name])
    stored.update(iou={"bk": 0.5, name: 0.5}, confusion=[[30, 10], [0, 10]], device="cpu(0)", versions={},
                  config={}, seconds_per_image=1.0, image_iou={"a": 0.1, name: 0.5})
    picture = np.zeros((20, 30, 3), np.uint8)
    write_report(str(tmp_path), stored, {name: Example(name, picture, picture[..., 0], picture[..., 0] + 1)})
    folder = str(tmp_path / "outputs" / "0")
    ResultFolder(folder).write(stored)
    write_comparison(str(tmp_path / "compared.html"), [Source("x", name, [folder], [])])
    for page in ("report.html", "compared.html"):
        content = (tmp_path / page).read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", content)
        parsed = Page(content)
        assert any(printable(name) in word for word in parsed.words)
