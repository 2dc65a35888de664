"""Classes that are not VOC's: the tutorial as it is printed, without val masks, and many classes."""
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY

from core.config import Config
from core.cosegmentation.contact_sheet import write_sheets
from core.cosegmentation.results import Result
from core.engines.chooser import resolve_devices
from core.evaluation.evaluate import evaluate, evaluation_options
from core.inference.media import Medium
from core.inference.options import InferenceOptions, SegmentationOptions
from core.inference.predict_media import segment_media
from core.io.files import write_lines
from core.io.images import read_mask, write_image, write_mask
from core.network.snapshots import load_snapshot
from core.paths import image_path, mask_path
from core.training.train import train

pytestmark = pytest.mark.slow

CLASSES = ("background", "mug", "spoon", "key")
LIGHT = "--config demo/light.yaml --config kitchen/photographs.yaml"
SMALLER = {r"(web_hash_distance: 20)": r"\1\ninit_epoch_size: 2\nbatch_size: 2\nfinal_epoch_size: 2\ncrop_size: 48\n"
                                       "head_channels: 8\nglobal_channels: 8",
           r"(draw_kitchen.py \w+)": r"\1 --web 5 --photos 6 --val 3"}


def tutorial():
    """Commands of docs/own-classes.md, on less data and a smaller network."""
    with open(os.path.join(ROOT, "docs", "own-classes.md"), encoding="utf-8") as file:
        text = "\n".join(re.findall(r"```sh\n(.*?)```", file.read(), re.DOTALL))
    for printed, smaller in SMALLER.items():
        text, count = re.subn(printed, smaller, text)
        assert count, printed
    return text


def shell(folder, text, status=0):
    """Run shell commands in a folder that has the project's scripts; returns stdout + stderr."""
    script = f"set -e\npython() {{ {shlex.quote(sys.executable)} \"$@\"; }}\nlight={shlex.quote(LIGHT)}\n{text}"
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(folder),
                          universal_newlines=True, timeout=600)
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Folder in which the tutorial has run from its first command to the last."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name in os.listdir(ROOT):
        if name.endswith(".py") or name == "demo":
            (folder / name).symlink_to(os.path.abspath(os.path.join(ROOT, name)))
    shell(folder, tutorial())
    return folder


def read(*names):
    with open(os.path.join(*map(str, names)), encoding="utf-8") as file:
        return json.load(file)


def test_the_tutorial_ends_with_a_measured_and_applied_model(kitchen):
    work = kitchen / "kitchen" / "work"
    result = read(work, "outputs", "final_fcn_efficientnet_lite2_epoch3", "result.json")
    assert tuple(result["iou"]) == CLASSES and 0 <= result["mean_iou"] <= 1 and len(result["image_iou"]) == 3
    assert np.sum(result["confusion"]) == sum((read_mask(str(path), 4) != 255).sum()
                                              for path in (kitchen / "kitchen" / "val" / "masks").iterdir())
    found = read(work, "outputs", "predictions", "predictions.json")["files"]
    assert sorted(found) == ["000", "001", "002"] and {name for row in found.values() for name in row["shares"]
                                                       } <= set(CLASSES)
    assert [row["epoch"] for row in read(work, "outputs", "init_ranking.json")["ranking"]] != []


def documented():
    """Rows of docs/formats.md: the paths of the first column, and what the second says of them."""
    with open(os.path.join(ROOT, "docs", "formats.md"), encoding="utf-8") as file:
        cells = [line.split(" | ") for line in file if line.startswith("| `")]
    return [(re.findall("`(.+?)`", paths), documentation) for paths, documentation, *_ in cells]


def test_docs_formats_names_every_file(kitchen):
    patterns = [re.escape(re.sub("<.+?>", "*", path)).replace(r"\*", "[^/]+") + ("" if path.endswith("/") else "$")
                for paths, _ in documented() for path in paths]
    work = kitchen / "kitchen" / "work"
    files = [str(path.relative_to(work)) for folder in ("dataset", "cache", "snapshots", "outputs", "log")
             for path in (work / folder).rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(files) > 50
    assert [path for path in files if not any(re.match(pattern, path) for pattern in patterns)] == []


@pytest.mark.parametrize("name", ["web_manifest.jsonl", "web_report.csv", "result.json", "ranking.json",
                                  "outputs/predictions/"])
def test_docs_formats_names_every_key(kitchen, name):
    work = kitchen / "kitchen" / "work"
    found = {"web_manifest.jsonl": lambda: {key for line in open(str(work / "dataset" / "web_manifest.jsonl"))
                                            for key in json.loads(line)},
             "web_report.csv": lambda: (work / "dataset" / "web_report.csv").read_text().splitlines()[0].split(","),
             "result.json": lambda: read(work, "outputs", "final_fcn_efficientnet_lite2_epoch3", "result.json"),
             "ranking.json": lambda: {*read(work, "outputs", "init_ranking.json"),
                                      *read(work, "outputs", "init_ranking.json")["ranking"][0]},
             "outputs/predictions/": lambda: {
                 *read(work, "outputs", "predictions", "predictions.json"),
                 *read(work, "outputs", "predictions", "predictions.json")["files"]["000"]}}[name]()
    text = next(documentation for paths, documentation in documented() if any(name in path for path in paths))
    documentation = set(re.findall(r"\w+", " ".join(re.findall("`(.+?)`", text))))
    assert sorted(set(found) - documentation) == []


def test_the_labels_of_the_list_limit_the_estimated_masks(kitchen):
    work = kitchen / "kitchen" / "work"
    with open(str(kitchen / "kitchen" / "train" / "labels.csv"), encoding="utf-8") as file:
        listed = {image[:-4]: sorted(CLASSES.index(name) for name in labels.split(";"))
                  for image, labels in csv.reader(file)}
    assert len(listed) == 6 and read(work, "dataset", "train_labels.json") == listed
    shown = set()
    for name, allowed in listed.items():
        mask = read_mask(str(work / "cache" / "final_voc_masks" / (name + ".png")), 4)
        assert set(np.unique(mask).tolist()) <= {0, *allowed, 255}
        shown |= set(np.unique(mask).tolist()) & {*allowed}
    assert shown, "no mask shows any of its classes"


def test_web_images_are_named_by_the_index_of_their_class(kitchen):
    names = os.listdir(str(kitchen / "kitchen" / "work" / "dataset" / "web_images"))
    assert sorted({name.split("_")[0] for name in names}) == ["1", "2", "3"]
    with open(str(kitchen / "kitchen" / "work" / "dataset" / "web_manifest.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    assert {(row["class"], row["name"][0]) for row in rows if row["status"] == "kept"} == {
        ("mug", "1"), ("spoon", "2"), ("key", "3")}


def test_val_images_among_the_web_images_are_left_out(kitchen):
    shell(kitchen, "mkdir -p more/mug && cp kitchen/val/images/001.jpg more/mug/copy.jpg\n"
                   "python fetch_web_images.py $light --folder more")
    with open(str(kitchen / "kitchen" / "work" / "dataset" / "web_manifest.jsonl")) as file:
        last = json.loads(file.read().splitlines()[-1])
    assert last["status"] == "rejected" and last["reason"] == "near duplicate of val 001"


def test_without_val_masks_epochs_are_chosen_by_number(kitchen):
    text = shell(kitchen, "python create_dataset.py $light --root bare "
                          "--train-images kitchen/train/images --train-labels kitchen/train/labels.csv\n"
                          "cp -r kitchen/work/snapshots bare/")
    assert "there are no val images: choose epochs by number" in text
    text = shell(kitchen, "python eval_loop.py $light --root bare --model init --gpu cpu --once", 2)
    assert "val_list.txt is missing: create_dataset.py writes it" in text and "--epoch newest" in text
    text = shell(kitchen, "python eval_seg_model.py $light --root bare --model init --epoch 3", 2)
    assert "val_list.txt is missing: create_dataset.py writes it" in text
    text = shell(kitchen, "python est_voc_train_masks.py $light --root bare --gpu cpu --epoch best", 2)
    assert "else give a number, or newest" in text
    (kitchen / "alone.yaml").write_text("cosegmented_images: web\nfinal_web_share: 0\n")  # without web images
    shell(kitchen, "python est_voc_train_masks.py $light --config alone.yaml --root bare --gpu cpu --epoch 3\n"
                   "python train_seg_model.py $light --config alone.yaml --root bare --model final --gpus cpu "
                   "--max-epoch 2")
    assert (kitchen / "bare" / "snapshots" / "final_fcn_efficientnet_lite2-1.params").exists()


def test_forty_classes_train_and_are_evaluated(tmp_path):
    names = ("background",) + tuple("thing %d" % number for number in range(1, 41))
    config = Config(root=str(tmp_path), classes=names, **dict(TINY, max_epoch=2))
    layout, rng = config.layout, np.random.default_rng(0)
    ids = ["a", "b"]
    for name, label in zip(ids, (40, 21)):
        image, mask = rng.integers(0, 255, (40, 48, 3), np.uint8), np.zeros((40, 48), np.uint8)
        mask[8:30, 10:40] = label
        for folder, masks in ((layout.train_images, layout.train_masks), (layout.val_images, layout.val_masks)):
            write_image(image_path(folder, name), image)
            write_mask(mask_path(masks, name), mask)
    write_lines(layout.train_list, ids)
    write_lines(layout.val_list, ids)
    cpu = resolve_devices("cpu")
    train(config, "final", devices=cpu)
    options = evaluation_options(config, "final", epoch=1, crf=True, save_scores=True, save_masks=True)
    result = evaluate(config, "final", epoch=1, devices=cpu, options=options)
    assert np.shape(result["confusion"]) == (41, 41) and tuple(result["iou"]) == names
    assert np.sum(result["confusion"], 1)[[21, 40]].tolist() == [660, 660]
    output = layout.output("final", 1)
    assert np.load(os.path.join(output, "scoremaps", "a.npy")).shape == (41, 40, 48)
    with open(os.path.join(output, "report.html"), encoding="utf-8") as file:
        assert "thing 40" in file.read()
    options = SegmentationOptions(InferenceOptions(crf=True), str(tmp_path / "out"), allowed=[40], max_side=100)
    media = [Medium("a", image_path(layout.val_images, "a"))]
    knows_classes = load_snapshot(Config(root=str(tmp_path)), "final", 1)
    segment_media(knows_classes, devices=cpu, media=media, options=options)
    mask = read_mask(str(tmp_path / "out" / "masks" / "a.png"), 41)
    assert set(np.unique(mask).tolist()) <= {0, 40}


def test_web_images_of_the_fortieth_class_have_a_contact_sheet(tmp_path):
    config = Config(root=str(tmp_path), classes=("background",) + tuple("thing %d" % index for index in range(1, 41)))
    layout = config.layout
    write_image(image_path(layout.web_images, "40_000001"), np.full((40, 48, 3), 90, np.uint8))
    write_mask(mask_path(layout.web_masks, "40_000001"), np.full((40, 48), 40, np.uint8))
    write_sheets(layout, config, [Result("40_000001", True, 0.9, 1.0, "")])
    assert os.listdir(layout.web_sheets) == ["thing 40.jpg"]


SMALL_RUN = ("classes: [background, mug, spoon, key]\nweb_shortest_side: 90\nweb_hash_distance: 20\n"
             "init_epoch_size: 1\nfinal_epoch_size: 1\nbatch_size: 2\ncrop_size: 64\nhead_channels: 8\n"
             "global_channels: 8\nmax_epoch: 3\n")


@pytest.mark.parametrize("masks", [True, False])
def test_the_script_for_photographs_runs_the_chain_on_a_folder(tmp_path, masks):
    for name in os.listdir(ROOT):
        if name.endswith(".py") or name in ("core", "demo"):
            (tmp_path / name).symlink_to(os.path.abspath(os.path.join(ROOT, name)))
    (tmp_path / "environment.sh").write_text("make_environment() { :; }\nDEPENDENCIES=\n")
    own = tmp_path / "own photos"
    shell(tmp_path, "python demo/draw_kitchen.py 'own photos' --web 5 --photos 4 --val 2")
    if not masks:
        shutil.rmtree(str(own / "val"))
    (own / "photographs.yaml").write_text(SMALL_RUN)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    text = shell(tmp_path, "PATH=$PWD/bin:$PATH\nbash demo/photographs.sh 'own photos'")
    assert (own / "work" / "snapshots" / "final_fcn_efficientnet_lite2-2.params").exists()
    if masks:
        assert re.search(r"final \+ ms \+ crf +2 +\d", text) and (own / "work" / "outputs" / "results.png").exists()
    else:
        assert len(os.listdir(str(own / "work" / "outputs" / "predictions" / "overlays"))) == 4
        again = shell(tmp_path, "PATH=$PWD/bin:$PATH\nbash demo/photographs.sh 'own photos'")
        assert again.count("epoch 2, the last before max_epoch 3, is trained already") == 2


def test_the_steps_of_the_script_for_photographs_add_up_to_what_is_left_at_its_start():
    with open(os.path.join(ROOT, "demo", "photographs.sh"), encoding="utf-8") as file:
        text = file.read()
    both, masks, none = (sum(map(int, re.findall(f"(?m)^{indent}step ([0-9]+)", part))) for indent, part in (
        ("", text), ("    ", text.rpartition("else")[0]), ("    ", text.rpartition("else")[2])))
    assert [str(both + masks), str(both + none)] == re.findall("left=([0-9]+)", text)


def test_the_script_for_photographs_names_what_it_lacks(tmp_path):
    text = shell(tmp_path, f"bash {os.path.abspath(os.path.join(ROOT, 'demo', 'photographs.sh'))} nowhere", 2)
    assert "FOLDER/photographs.yaml lists the classes" in text
