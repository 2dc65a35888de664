"""demo/Demo.ipynb, executed as Jupyter does."""
import base64
import io
import os
import shutil

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, draw_sample, run_script
from core.files import read_mask


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Folder with core/ and demo/, and below demo/work a data set with a snapshot of a tiny final model."""
    folder = tmp_path_factory.mktemp("project")
    os.symlink(os.path.join(ROOT, "core"), str(folder / "core"))
    work = folder / "demo" / "work"
    work.mkdir(parents=True)
    shutil.copy(os.path.join(ROOT, "demo", "Demo.ipynb"), str(folder / "demo"))
    draw_sample(work)
    run_script(work, "create_dataset.py")
    masks = work / "cache" / "final_voc_masks"
    masks.mkdir(parents=True)
    for path in (work / "dataset" / "VOCdevkit" / "VOC2012" / "SegmentationClass").iterdir():
        shutil.copy(str(path), str(masks))
    (work / "dataset" / "train_list.txt").write_text("2012_000004\n2012_000005\n")
    run_script(work, "train_seg_model.py", "--model", "final", "--gpus", "cpu")
    settings = (work / "tiny.yaml").read_text()
    (folder / "demo" / "sample.yaml").write_text(settings + "root: demo/work\n")
    return folder


def execute(project):
    notebook = nbformat.read(str(project / "demo" / "Demo.ipynb"), 4)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                                     resources={"metadata": {"path": str(project / "demo")}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    pictures = [Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
                for output in outputs if "image/png" in output.get("data", {})]
    return text, pictures


def test_it_shows_image_scores_and_masks_of_the_sample(project):
    text, pictures = execute(project)
    assert "demo/work/snapshots/final_fcn_resnet50-2.params" in text
    assert "2012_000008.jpg, %d x %d pixels" % pictures[0].size in text
    assert len(pictures) == 3 and "of the pixels, highest probability" in text and "the CRF changes" in text
    truth = read_mask(str(project / "demo" / "work" / "dataset" / "val_masks" / "2012_000008.png"), 21)
    assert pictures[0].size == truth.shape[::-1]
    assert all(np.asarray(picture.convert("RGB")).std() > 5 for picture in pictures)


def test_it_names_what_is_missing(project):
    os.rename(str(project / "demo" / "work" / "snapshots"), str(project / "hidden"))
    try:
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="run demo/run.sh"):
            execute(project)
    finally:
        os.rename(str(project / "hidden"), str(project / "demo" / "work" / "snapshots"))


def test_a_snapshot_of_ones_own_comes_first(project):
    for name in ("dataset", "snapshots"):
        os.symlink(str(project / "demo" / "work" / name), str(project / name))
    assert "model: snapshots/final_fcn_resnet50-2.params" in execute(project)[0]


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(os.path.join(ROOT, "demo", "Demo.ipynb"), 4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
