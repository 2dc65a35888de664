"""demo/Demo.ipynb, executed as Jupyter does."""
import base64
import csv
import io
import json
import os
import re
import shutil

import make_sample
import nbclient
import nbformat
import numpy as np
import pytest
import tour
from conftest import ROOT, TINY, run_script, save_untrained
from PIL import Image

from core.classes import VOC_CLASSES
from core.config import Config
from core.errors import UserError
from core.evaluation.results import ResultFolder
from core.io.files import read_list
from core.io.images import read_mask, write_mask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Folder with core/ and demo/, and below demo/work the data and the snapshots of tiny networks."""
    folder = tmp_path_factory.mktemp("project")
    os.symlink(os.path.join(ROOT, "core"), str(folder / "core"))
    work = folder / "demo" / "work"
    work.mkdir(parents=True)
    for name in ("Demo.ipynb", "tour.py"):
        shutil.copy(os.path.join(ROOT, "demo", name), str(folder / "demo"))
    make_sample.make_web(str(work / "dataset"), 0, 1)
    make_sample.make_voc(str(work / "dataset"), 0, 4, 4, 3)
    (work / "dataset" / "web_images" / "17_000000.jpg").write_bytes(b"no picture")
    run_script(work, "create_web_masks.py")
    run_script(work, "create_dataset.py")
    save_untrained(Config(root=str(work), **TINY))
    run_script(work, "est_voc_train_masks.py", "--gpu", "cpu", "--epoch", "2")
    run_script(work, "eval_seg_model.py", "--model", "final", "--gpu", "cpu", "--epoch", "2", "--crf", "--ms")
    settings = (work / "tiny.yaml").read_text()
    (folder / "demo" / "sample.yaml").write_text(settings + "root: demo/work\n")
    return folder


def execute(project, **variables):
    """Run the notebook, with other values of variables that its first cell sets.

    Returns:
        printed text, tables and texts that are shown, and pictures; each a list with an entry for each code cell.
    """
    notebook = nbformat.read(str(project / "demo" / "Demo.ipynb"), 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for name, value in variables.items():
        cells[0].source, count = re.subn(r"(?m)^%s = \S+" % name, "%s = %r" % (name, value), cells[0].source)
        assert count == 1
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                                     resources={"metadata": {"path": str(project / "demo")}})
    client.execute()
    texts, tables, pictures = [], [], []
    for cell in cells:
        texts.append("".join(output["text"] for output in cell.outputs if output["output_type"] == "stream"))
        data = [output.get("data", {}) for output in cell.outputs]
        tables.append("".join(part["text/markdown"] for part in data if "text/markdown" in part))
        pictures.append([Image.open(io.BytesIO(base64.b64decode(part["image/png"])))
                         for part in data if "image/png" in part])
    return texts, tables, pictures


def test_the_tour_shows_every_step_of_the_sample(project):
    work = project / "demo" / "work"
    texts, tables, pictures = execute(project)
    assert texts[0] == "model: demo/work/snapshots/final_fcn_resnet50-2.params\n"
    assert not any("is skipped" in text for text in texts)
    assert [len(shown) for shown in pictures] == [0, 1, 2, 1, 1, 1, 1, 1, 1, 0]
    assert all(np.asarray(picture.convert("RGB")).std() > 5 for shown in pictures for picture in shown)

    with open(str(work / "dataset" / "web_report.csv"), encoding="utf-8") as file:
        report = list(csv.DictReader(file))
    rejected = [row for row in report if row["kept"] == "0"]
    assert "17_000000" in [row["name"] for row in rejected]
    assert "%d of 10 web images are kept" % (10 - len(rejected)) in texts[2]
    assert all("left out: %(name)s, %(class)s: %(reason)s" % row in texts[2] for row in rejected)

    labels = json.loads((work / "dataset" / "train_labels.json").read_text())
    lines = re.findall(r"(\w+) shows (.*); predicted: (.*); limited to these: (.*)", texts[4])
    assert len(lines) == 3
    for name, classes, _, limited in lines:
        assert classes == ", ".join(VOC_CLASSES[label] for label in labels[name])
        assert set(limited.split(", ")) <= {*classes.split(", "), ""}
    assert any(set(free.split(", ")) - set(classes.split(", ")) for _, classes, free, _ in lines)
    assert len(re.findall(r"\| [01]\.[0-9]{2} \|", tables[5])) == 8

    assert "| final | 2 | 3 | yes | " in tables[9]


def test_a_val_image_without_counted_pixels_and_a_list_without_web_images_stop_no_tour(project):
    dataset = project / "demo" / "work" / "dataset"
    report = dataset / "web_report.csv"
    mask = dataset / "val_masks" / (read_list(str(dataset / "val_list.txt"))[0] + ".png")
    target, before = os.readlink(str(mask)), report.read_text()
    report.write_text(re.sub("(?m)^(.*?,.*?),1,", r"\1,0,", before))
    shape = read_mask(str(mask), 21).shape
    mask.unlink()
    write_mask(str(mask), np.full(shape, 255, np.uint8))
    try:
        texts, _, pictures = execute(project, device="cpu:2")
    finally:
        report.write_text(before)
        mask.unlink()
        os.symlink(target, str(mask))
    assert texts[1] == "This step is skipped: there are no pictures to show\n"
    assert texts[7].count("CRF: \u2013") == 2 and len(pictures[7]) == 1


def test_it_names_what_is_missing(project):
    os.rename(str(project / "demo" / "work" / "snapshots"), str(project / "hidden"))
    try:
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="run demo/run.sh"):
            execute(project)
    finally:
        os.rename(str(project / "hidden"), str(project / "demo" / "work" / "snapshots"))


def test_a_snapshot_alone_comes_first_and_segments_a_picture_of_ones_own(project):
    save_untrained(Config(root=str(project), classes=("nothing", "mug", "spoon"), **TINY))
    os.remove(str(project / "snapshots" / "init_fcn_resnet50-2.params"))
    texts, _, pictures = execute(project, own_picture="demo/work/dataset/val_images/2012_000008.jpg")
    assert texts[0] == "model: snapshots/final_fcn_resnet50-2.params\n"
    assert all(text.startswith("This step is skipped: ") and text.count("\n") == 1
               for text in texts[1:8] + texts[9:])
    assert [len(shown) for shown in pictures] == [0] * 8 + [1, 0]
    assert re.fullmatch(r"((nothing|mug|spoon) +[0-9.]+ % of the pixels\n)+", texts[8])


def test_a_configuration_file_names_the_run(project, monkeypatch):
    monkeypatch.chdir(str(project))
    assert tour.find_run("demo/sample.yaml").root == "demo/work"


def test_the_results_are_those_of_the_best_epochs(tmp_path, monkeypatch):
    for number, (model, epoch, mean_iou, scales) in enumerate((
            ("init", 1, 0.3, [1.0]), ("init", 2, 0.25, [1.0]), ("final", 4, 0.5, [0.7, 1.0]),
            ("final", 5, 0.5, [0.7, 1.0]), ("final", 5, 0.0, [1.0]))):
        measured = dict.fromkeys(("pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"))
        ResultFolder(str(tmp_path / "outputs" / str(number))).write(
            dict(measured, model=model, epoch=epoch, mean_iou=mean_iou, iou={"bk": mean_iou}, saved=[],
                 settings={"scales": scales, "crf": None, "masks": "masks", "names_sha256": "a"}))
    shown = []
    monkeypatch.setattr(tour, "display", lambda table: shown.append(table.data))
    tour.show_results(Config(root=str(tmp_path)))
    assert shown[0].splitlines()[2:] == ["| final | 5 | 1 | no | 0.0 |", "| init | 1 | 1 | no | 30.0 |",
                                         "| final | 4 | 2 | no | 50.0 |"]
    with pytest.raises(UserError, match="nothing has been evaluated"):
        tour.show_results(Config(root=str(tmp_path / "outputs")))


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(os.path.join(ROOT, "demo", "Demo.ipynb"), 4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
