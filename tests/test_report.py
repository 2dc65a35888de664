"""Reports: the page of an evaluation, and the page that compares them."""
import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from conftest import run_script
from core.curves import draw, draw_all, training_curves
from core.errors import UserError
from core.metrics import image_iou, summarise
from core.pages import bars, confusions, keys, matrix
from core.reports import Curve, best_and_worst, find_source, write_comparison
from core.results import ResultFolder

LINE = "2026-01-01 00:00:00,000 [epoch: %d] [batch: %d/4] [loss: %.4f] [accuracy: %.4f]%s [images/s: 9.0]\n"


class Page(HTMLParser):
    """The elements of a page; fails on tags that are not closed in their order."""

    def __init__(self, content):
        super().__init__()
        self.open, self.links, self.pictures, self.words = [], [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.links += [attributes[name] for name in ("href", "src", "srcset") if name in attributes]
        if tag == "img":
            assert attributes["alt"]
            self.pictures.append(attributes["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def result(mean_iou=0.5, epoch=2, model="final", masks="masks", scales=(1.0,), crf=None, names="a"):
    confusion = np.array([[30, 10], [0, 10]])
    return dict(summarise(confusion, ("bk", "<mug>")), mean_iou=mean_iou, model=model, epoch=epoch, saved=[],
                settings={"scales": list(scales), "crf": crf, "masks": masks, "names_sha256": names,
                          "classes": ["bk", "<mug>"]})


def test_image_iou_is_the_mean_over_the_classes_of_the_image():
    assert image_iou(np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])) == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert image_iou(np.zeros((3, 3), int)) is None


def test_best_and_worst_images_are_apart():
    values = {"i%02d" % number: number / 20 for number in range(20)}
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


def test_settings_are_shown_as_text():
    content = keys([("crf", {"a": 1, "b": [2, 3]}), ("none", None)])
    assert "<dd>a=1; b=2, 3</dd>" in content and "<dd>–</dd>" in content


def test_curves_hold_the_finished_epochs_of_the_last_runs():
    log = "".join(LINE % (epoch, batch, epoch + batch / 10, 0.5, "") for epoch in (1, 2, 3) for batch in (2, 4))
    assert training_curves(log, "init") == [
        Curve("loss", "init", [(1, 1.4), (2, 2.4), (3, 3.4)]),
        Curve("accuracy of training cells, %", "init", [(1, 50.0), (2, 50.0), (3, 50.0)])]
    log += LINE % (2, 2, 7, 0.5, "") + LINE % (2, 4, 8, 0.5, " [label loss: 0.25]") + LINE % (3, 2, 9, 0.5, "")
    log += "2026-01-01 00:00:00,000 [epoch: 3] [batch: 4/4] [loss: 1."  # killed
    curves = training_curves(log, "init")
    assert curves[0].points == [(1, 1.4), (2, 8.0)]  # epoch 3 is of an older run, and not finished in the last
    assert curves[2] == Curve("loss of image-level labels", "init", [(2, 0.25)])
    assert training_curves("nothing\n[epoch: 3] saved x\n", "init") == []


def test_charts_are_the_same_for_the_same_curves_and_follow_the_theme():
    curves = [Curve("loss", name, [(1, 2.0), (2, value)]) for name, value in (("init", 1.0), ("final", 0.5))]
    assert draw(curves, "loss", False) == draw(curves, "loss", False) != draw(curves, "loss", True)
    assert draw(curves[:1], "loss", False) != draw(curves, "loss", False)
    assert b"#0f1318" in draw(curves, "loss", True) and b"#ffffff" in draw(curves, "loss", False)
    one, two = (Image.open(io.BytesIO(draw_all(part))) for part in (curves, curves + [Curve("x", "init", [(1, 1)])]))
    assert two.height > one.height and np.asarray(one.convert("L")).std() > 5


def test_evaluations_of_other_images_are_compared_apart(tmp_path):
    for number, stored in enumerate((result(0.5), result(0.75, 3), result(0.6, 3, masks="other"))):
        ResultFolder(str(tmp_path / "outputs" / str(number))).write(stored)
    write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])
    words = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    first, second = words.split("data set 2", 1)
    assert first.index("75.00 %") < first.index("50.00 %") and "60.00 %" not in first and "60.00 %" in second
    assert "<mug>" in words and (tmp_path / "report.png").exists()


def test_predictions_without_masks_are_no_evaluation(tmp_path):
    ResultFolder(str(tmp_path / "outputs" / "test")).write(result(None, masks=None))
    with pytest.raises(UserError, match="nothing to report"):
        write_comparison(str(tmp_path / "report.html"), [find_source(str(tmp_path))])


def test_evaluation_and_comparison_pages_are_whole_and_need_no_other_file(untrained, tmp_path, sample):
    run_script(tmp_path, "create_dataset.py")
    (tmp_path / "log" / "train_final_model.log").write_text(LINE % (1, 4, 0.7, 0.8, " [label loss: 0.25]"))
    run_script(tmp_path, "eval_loop.py", "--model", "final", "--gpu", "cpu", "--once")
    folder = tmp_path / "outputs" / "final_fcn_resnet50_epoch2"
    stored = json.loads((folder / "result.json").read_text())
    names = (tmp_path / "dataset" / "val_list.txt").read_text().split()
    assert sorted(stored["image_iou"]) == sorted(names) and stored["config"]["width"] == 4
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 3 * len(names) and all(link.startswith("data:") for link in page.links)
    sizes = {Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))).size for link in page.pictures}
    assert all(48 < max(size) <= 360 for size in sizes)
    words = " ".join(page.words)
    assert "%.2f %%" % (100 * stored["mean_iou"]) in words and "mxnet 1.9.1" in words and "width=4" in words
    assert all(name + ": mean IoU of its classes" in words for name in names)

    assert "report.html" in run_script(tmp_path, "report.py")
    page = Page((tmp_path / "outputs" / "report.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 4  # loss, accuracy, label loss, mean IoU
    assert [link for link in page.links if not link.startswith("data:")] == ["final_fcn_resnet50_epoch2/report.html"]
    assert Image.open(str(tmp_path / "outputs" / "report.png")).size[0] > 500
    assert "nowhere is no folder" in run_script(tmp_path, "report.py", "nowhere", status=2)
