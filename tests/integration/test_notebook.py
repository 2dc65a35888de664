"""demo/Demo.ipynb, executed as Jupyter does."""
import base64
import io
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

from core.config import Config
from core.errors import UserError
from core.evaluation.results import ResultFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Folder with core/, demo/ and a tiny network in place of the one that comes with the code."""
    folder = tmp_path_factory.mktemp("project")
    os.symlink(os.path.join(ROOT, "core"), str(folder / "core"))
    (folder / "demo").mkdir()
    for name in ("Demo.ipynb", "tour.py", "pictures_table.py"):
        shutil.copy(os.path.join(ROOT, "demo", name), str(folder / "demo"))
    shutil.copytree(os.path.join(ROOT, "demo", "pictures"), str(folder / "demo" / "pictures"))
    save_untrained(Config(root=str(folder / "elsewhere"), **TINY))
    (folder / "models").mkdir()
    shutil.copy(Config(root=str(folder / "elsewhere"), **TINY).layout.snapshot("final", 2),
                str(folder / "models" / "voc20_light.params"))
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
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3",
                                     resources={"metadata": {"path": str(project / "demo")}})
    client.execute()
    texts, tables, pictures = [], [], []
    for cell in cells:
        texts.append("".join(output["text"] for output in cell.outputs if output["output_type"] == "stream"))
        data = [output.get("data", {}) for output in cell.outputs]
        tables.append("".join(part["text/markdown"] for part in data if "text/markdown" in part))
        pictures.append([Image.open(io.BytesIO(base64.b64decode(part["image/jpeg"])))
                         for part in data if "image/jpeg" in part])
    return texts, tables, pictures


def test_the_tour_of_the_photographs_needs_no_run(project):
    texts, tables, pictures = execute(project)
    assert texts[0] == "model: models/voc20_light.params, 20 classes\n"
    assert not any("is skipped" in text for text in texts[:-1]) and "nothing has been evaluated" in texts[-1]
    assert [len(shown) for shown in pictures] == [0, 1, 1, 1, 1, 1, 2, 0]
    assert all(np.asarray(picture.convert("RGB")).std() > 5 for shown in pictures for picture in shown)
    assert "4 of 4 web images are kept" in texts[1] and texts[1].count("% of the pixels are the object's") == 4
    lines = re.findall(r"(\w+) shows (.*); predicted: (.*); limited to these: (.*)", texts[2])
    assert len(lines) == 3
    for name, classes, _, limited in lines:
        assert classes == "; ".join(tour.PHOTOGRAPHS[name]) and limited in (classes, "")
    assert len(re.findall(r"\| [01]\.[0-9]{2} \|", tables[3])) == 8
    assert "coffee.jpg" in texts[6] and "rocket.jpg" in texts[6]


def test_a_run_of_ones_own_is_shown_instead(project):
    work = project / "demo" / "work"
    make_sample.make_web(str(work / "dataset"), 0, 1)
    make_sample.make_voc(str(work / "dataset"), 0, 4, 4, 3)
    (work / "dataset" / "web_images" / "17_000000.jpg").write_bytes(b"no picture")
    run_script(work, "create_web_masks.py")
    run_script(work, "create_dataset.py")
    save_untrained(Config(root=str(work), **TINY))
    run_script(work, "eval_seg_model.py", "--model", "final", "--gpu", "cpu", "--epoch", "2", "--crf", "--ms")
    (project / "demo" / "sample.yaml").write_text((work / "tiny.yaml").read_text() + "root: demo/work\n")
    texts, tables, pictures = execute(project, config_file="demo/sample.yaml", own_picture="demo/pictures/cat.jpg")
    assert texts[0].startswith("model: demo/work/snapshots/final_fcn_resnet50-2.params")
    assert not any("is skipped" in text for text in texts)
    assert [len(shown) for shown in pictures] == [0, 1, 1, 1, 1, 1, 1, 0]
    assert "left out: 17_000000" in texts[1] and texts[5].count("mean IoU of this image") == 2
    assert texts[6].startswith("demo/pictures/cat.jpg\n") and "| final | 2 | 3 | yes | " in tables[7]


def test_without_any_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr("tour.SHIPPED_SNAPSHOT", "nowhere.params")
    with pytest.raises(SystemExit, match="no final model in snapshots: train one"):
        tour.find_run()


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


def test_readers_see_its_outputs_without_running_it():
    path = os.path.join(ROOT, "demo", "Demo.ipynb")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert os.path.getsize(path) < 1.5e6 and all(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs) == 7
