"""The scripts as users call them, stage by stage, with good and bad command lines."""
import json
import os
import shutil

import numpy as np
import pytest
from conftest import CPUS, draw_sample, run_script
from PIL import Image

from core.config import make_config
from core.inference.crf import refine
from core.inference.segmenter import Segmenter
from core.io.images import read_image, read_mask, write_mask
from core.network.snapshots import load_snapshot, read_parameters, write_parameters
from core.paths import image_path, mask_path
from core.runtime.hardware import cpu_flags

pytestmark = pytest.mark.slow

@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folder in which every stage has run, with the published command lines."""
    folder = draw_sample(tmp_path_factory.mktemp("chain"))
    run_script(folder, "create_dataset.py")
    run_script(folder, "train_seg_model.py", "--model", "init", "--gpus", "0,1,2,3")
    run_script(folder, "eval_loop.py", "--model", "init", "--gpu", "0", "--once")
    run_script(folder, "est_voc_train_masks.py", "--gpu", "0", "--epoch", "2")
    run_script(folder, "train_seg_model.py", "--model", "final", "--gpus", "0,1,2,3")
    run_script(folder, "eval_seg_model.py", "--model", "final", "--gpu", "0", "--epoch", "2", "--crf", "--ms",
               "--savemask", "--savescoremap")
    return folder


@pytest.fixture
def copy(chain, tmp_path):
    """A copy of the chain's folder that a test may change."""
    shutil.copytree(str(chain), str(tmp_path / "copy"), symlinks=True)
    return tmp_path / "copy"


def read(folder, *names):
    return json.loads(folder.joinpath(*names).read_text())


def visible(folder):
    return sorted(name for name in os.listdir(str(folder)) if not name.startswith("."))


def test_the_chain_leaves_the_published_files(chain):
    assert visible(chain / "snapshots") == sorted(
        "%s_fcn_resnet50-%s" % (model, part) for model in ("init", "final")
        for part in ("1.params", "1.states", "2.params", "2.states", "symbol.json"))
    assert sorted(os.listdir(str(chain / "outputs"))) == [
        "final_fcn_resnet50_epoch2", "init_fcn_resnet50_epoch1", "init_fcn_resnet50_epoch2", "init_ranking.json"]
    assert len(os.listdir(str(chain / "cache" / "final_voc_masks"))) == 8
    for name in ("create_dataset", "train_init_model", "train_final_model", "eval_model", "est_voc_train_masks"):
        assert "versions: Python" in (chain / "log" / (name + ".log")).read_text()


def test_a_machine_without_gpu_is_reported_once(chain):
    assert (chain / "log" / "train_init_model.log").read_text().count("using the CPU") == 1


def test_predictions_score_maps_and_result(chain):
    output = chain / "outputs" / "final_fcn_resnet50_epoch2"
    result = read(output, "result.json")
    assert 0 <= result["mean_iou"] <= 1 and result["settings"]["scales"] == [0.7, 1.0, 1.3]
    assert result["settings"]["crf"]["crf_iterations"] == 10
    for name in (chain / "dataset" / "val_list.txt").read_text().split():
        scores = np.load(str(output / "scoremaps" / (name + ".npy")))
        mask = read_mask(str(output / "masks" / (name + ".png")), 21)
        truth = read_mask(str(chain / "dataset" / "val_masks" / (name + ".png")), 21)
        assert scores.shape == (21,) + truth.shape and scores.dtype == np.float32
        assert (scores.argmax(0) == mask).all()
        np.testing.assert_allclose(scores.sum(0), 1, atol=1e-3)
    log = (chain / "log" / "eval_model.log").read_text()
    assert "[overall] [iou: %.4f]" % result["mean_iou"] in log and "[perclass] [bk: " in log and "[cow: -]" in log


def test_confusion_counts_every_pixel_of_the_masks(chain):
    confusion = np.array(read(chain, "outputs", "final_fcn_resnet50_epoch2", "result.json")["confusion"])
    expected = np.zeros((21, 21), int)
    for name in (chain / "dataset" / "val_list.txt").read_text().split():
        truth = read_mask(str(chain / "dataset" / "val_masks" / (name + ".png")), 21)
        mask = read_mask(str(chain / "outputs" / "final_fcn_resnet50_epoch2" / "masks" / (name + ".png")), 21)
        for pair in zip(truth[truth != 255], mask[truth != 255]):
            expected[pair] += 1
    assert (confusion == expected).all()


def test_finished_work_is_not_done_again(chain):
    before = {path: path.stat().st_mtime_ns for folder in ("cache", "outputs") for path in (chain / folder).rglob("*.*")
              if path.name not in ("init_ranking.json", "final_voc_masks.json", ".final_voc_masks.lock")}
    assert "holds this evaluation already" in run_script(chain, "eval_loop.py", "--model", "init", "--once")
    assert "0 masks to estimate, 8 there already" in run_script(chain, "est_voc_train_masks.py", "--epoch", "2")
    run_script(chain, "eval_seg_model.py", "--model", "final", "--epoch", "2", "--crf", "--ms")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_loop_ranks_waits_and_survives_a_bad_snapshot(copy):
    (copy / "snapshots" / "init_fcn_resnet50-3.params").write_bytes(b"half")
    (copy / "snapshots" / ".init_fcn_resnet50-4.params.1.tmp").write_bytes(b"being written")
    text = run_script(copy, "eval_loop.py", "--model", "init", "--gpu", "cpu", "--wait", "0.0001", "--ms")
    assert "waiting 0.00 h for new snapshots" in text
    assert "left out: epoch 3" in text and "init_fcn_resnet50-3.params is damaged" in text
    ranking = read(copy, "outputs", "init_ranking.json")
    assert sorted(row["epoch"] for row in ranking["ranking"]) == [1, 2]
    assert ranking["ranking"][0]["mean_iou"] >= ranking["ranking"][1]["mean_iou"]
    assert "best epoch of the init model: %d" % ranking["ranking"][0]["epoch"] in text
    result = read(copy, "outputs", "init_fcn_resnet50_epoch1", "result.json")
    assert result["settings"]["scales"] == [0.7, 1.0, 1.3] and result["earlier"][0]["settings"]["scales"] == [1.0]


def sharpen(copy, model):
    """Make a snapshot decide: after a few steps of training it would call all pixels background."""
    path = str(copy / "snapshots" / ("%s_fcn_resnet50-2.params" % model))
    parameters = read_parameters(path)
    weight = parameters.args["score_weight"]
    values = np.random.default_rng(0).normal(0, 1, weight.shape)
    features = [parameters.args[name] for name in ("new_conv1_weight", "fc_weight")]
    for name, value in zip(("new_conv1_weight", "fc_weight"), features):
        parameters.args[name] = value / value.std()
    parameters.args["score_weight"], parameters.args["score_bias"] = values.astype(np.float32), np.zeros(21, np.float32)
    write_parameters(path, parameters)


def test_another_round_estimates_with_the_final_model_and_trains_it_again(copy):
    """In place, where masks of the first round are refused, and beside it."""
    sharpen(copy, "final")
    flags = ("est_voc_train_masks.py", "--model", "final", "--epoch", "2", "--gpu", "cpu")
    assert "pass --overwrite" in run_script(copy, *flags, status=2)
    shutil.copytree(str(copy / "cache"), str(copy / "cache1"))
    assert "8 masks to estimate" in run_script(copy, *flags, "--overwrite")
    assert read(copy, "cache", "final_voc_masks.json")["origin"]["model"] == "final"
    output = copy / "round2" / "cache" / "final_voc_masks"
    run_script(copy, *flags, "--output", str(output) + "/")
    pairs = [(read_mask(str(copy / "cache" / "final_voc_masks" / name), 21), read_mask(str(output / name), 21),
              read_mask(str(copy / "cache1" / "final_voc_masks" / name), 21)) for name in os.listdir(str(output))]
    assert len(pairs) == 8 and all((here == there).all() for here, there, _ in pairs)
    assert any((here != first).any() for here, _, first in pairs)
    assert read(copy, "round2", "cache", "final_voc_masks.json") == read(copy, "cache", "final_voc_masks.json")
    os.symlink("../dataset", str(copy / "round2" / "dataset"))
    before = (copy / "snapshots" / "final_fcn_resnet50-1.params").read_bytes()
    run_script(copy, "train_seg_model.py", "--model", "final", "--gpus", "cpu", "--max-epoch", "2", "--root", "round2")
    after = (copy / "round2" / "snapshots" / "final_fcn_resnet50-1.params").read_bytes()
    assert after != before == (copy / "snapshots" / "final_fcn_resnet50-1.params").read_bytes()


def test_masks_with_crf_are_those_of_the_refined_scores(copy):
    """Estimated from a snapshot whose scores are worth refining, against the CRF called here."""
    config = make_config(str(copy / "tiny.yaml"), root=str(copy))
    layout = config.layout
    sharpen(copy, "init")
    run_script(copy, "est_voc_train_masks.py", "--epoch", "2", "--gpu", "cpu", "--crf", "--output", "refined")
    segmenter, changed = Segmenter(load_snapshot(config, "init", 2), CPUS[:1]), 0
    for name, labels in read(copy, "dataset", "train_labels.json").items():
        image = read_image(image_path(layout.train_images, name))
        scores = segmenter.scores(image, config.scales)[[0] + labels]
        expected = np.array([0] + labels)[refine(scores, image, config).argmax(0)]
        found = read_mask(mask_path(str(copy / "refined"), name), 21)
        assert (found == expected).mean() > 0.999
        changed += (found != np.array([0] + labels)[scores.argmax(0)]).sum()
    assert changed


def test_training_resumes_from_an_epoch(copy):
    text = run_script(copy, "train_seg_model.py", "--model", "init", "--gpus", "cpu:2", "--epoch", "2", "--lr", "16e-5",
                      "--max-epoch", "4", "--epoch-size", "2", "--batch-size", "2", "--crop-size", "24")
    assert "[epoch: 3] [batch: 2/2]" in text and "learning_rate=0.00016" in text
    assert (copy / "snapshots" / "init_fcn_resnet50-3.params").exists()


def test_the_stride_placement_and_mean_of_a_base_model_travel_down_the_chain(copy):
    """From a base model as of torchvision to the final model, without a word about them."""
    source = str(copy / "snapshots" / "init_fcn_resnet50-2.params")
    parameters = read_parameters(source)
    write_parameters(str(copy / "models" / "resnet50.params"), parameters._replace(
        settings={"stride_on": "3x3", "mean_rgb": [130, 120, 110]}))
    text = run_script(copy, "train_seg_model.py", "--model", "init", "--gpus", "cpu", "--max-epoch", "2")
    assert "resnet50.params: stride_on=3x3; mean_rgb=(130.0, 120.0, 110.0)" in text
    assert "settings from" in run_script(copy, "est_voc_train_masks.py", "--epoch", "1", "--gpu", "cpu", "--overwrite")
    run_script(copy, "train_seg_model.py", "--model", "final", "--gpus", "cpu", "--max-epoch", "2")
    for settings in (read(copy, "cache", "final_voc_masks.json")["origin"]["network"],
                     read_parameters(str(copy / "snapshots" / "final_fcn_resnet50-1.params")).settings):
        assert settings["stride_on"] == "3x3" and settings["mean_rgb"] == [130, 120, 110]
    symbol = (copy / "snapshots" / "final_fcn_resnet50-symbol.json").read_text()
    strides = {node["name"]: node["attrs"]["stride"] for node in json.loads(symbol)["nodes"]
               if node["op"] == "Convolution"}
    assert strides["res3a_branch2a"] == "(1, 1)" and strides["res3a_branch2b"] == "(2, 2)"
    assert strides["res4a_branch2b_g"] == "(2, 2)" and strides["res4a_branch2b"] == "(1, 1)"


def test_another_list_and_other_folders_are_evaluated(copy):
    (copy / "ids.txt").write_text("2012_000009\r\n\r\n")
    run_script(copy, "eval_seg_model.py", "--model", "init", "--epoch", "best", "--gpu", "cpu", "--list", "ids.txt",
               "--images", "dataset/val_images", "--masks", "dataset/val_masks", "--output", "mine")
    truth = read_mask(str(copy / "dataset" / "val_masks" / "2012_000009.png"), 21)
    assert np.sum(read(copy, "mine", "result.json")["confusion"]) == (truth != 255).sum()


def test_an_evaluation_counts_for_its_data_and_as_long_as_its_files_are_there(copy):
    command = EVAL[:-1] + ("--savemask", "--output", "mine")
    said = "holds this evaluation already"
    run_script(copy, *command)
    assert said in run_script(copy, *command)
    mask = copy / "mine" / "masks" / "2012_000008.png"
    content = mask.read_bytes()
    mask.unlink()
    assert said not in run_script(copy, *command) and mask.read_bytes() == content
    first = read(copy, "mine", "result.json")["confusion"]
    (copy / "elsewhere").mkdir()
    for name in ("dataset", "snapshots", "mine"):
        shutil.move(str(copy / name), str(copy / "elsewhere" / name))
    assert said in run_script(copy / "elsewhere", *command, "--config", str(copy / "tiny.yaml")), "moved, not changed"
    truth = copy / "elsewhere" / "dataset" / "val_masks" / "2012_000008.png"
    values = np.array(Image.open(str(truth)))
    truth.unlink()
    write_mask(str(truth), np.where(values == 0, 1, values).astype(np.uint8))
    assert said not in run_script(copy / "elsewhere", *command, "--config", str(copy / "tiny.yaml"))
    assert read(copy / "elsewhere", "mine", "result.json")["confusion"] != first


def test_masks_of_images_that_changed_are_made_again(copy):
    command = ("est_voc_train_masks.py", "--gpu", "cpu", "--epoch", "2")
    assert "0 masks to estimate, 8 there" in run_script(copy, *command)
    path = copy / "dataset" / "train_images" / "2012_000003.jpg"
    image = Image.open(str(path)).transpose(Image.FLIP_LEFT_RIGHT)
    path.unlink()
    image.save(str(path))
    assert "1 masks to estimate, 7 there" in run_script(copy, *command)


def test_epochs_of_an_earlier_run_are_reported(copy):
    text = run_script(copy, "train_seg_model.py", "--model", "init", "--gpus", "cpu", "--max-epoch", "2")
    assert "has epochs of an earlier run, 1, 2:" in text and "device: cpu(0)" in text


@pytest.mark.skipif("avx512bw" not in cpu_flags(), reason="this CPU computes no bfloat16")
def test_a_result_in_bfloat16_differs_from_one_in_float32(copy):
    flags = ("eval_seg_model.py", "--model", "init", "--epoch", "1", "--gpu", "cpu")
    run_script(copy, *flags)
    assert "computing in bfloat16, as set" in run_script(copy, *flags, "--dtype", "bfloat16")
    result = read(copy, "outputs", "init_fcn_resnet50_epoch1", "result.json")
    assert result["settings"]["dtype"] == "bfloat16" and "dtype" not in result["earlier"][0]["settings"]


def linked(path, target):
    path.parent.mkdir(exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.symlink_to(target)


EVAL = ("eval_seg_model.py", "--gpu", "cpu", "--model", "init", "--epoch", "1", "--ms")
TRAIN = ("train_seg_model.py", "--gpus", "cpu", "--model", "init")
ESTIMATE = ("est_voc_train_masks.py", "--gpu", "cpu", "--epoch", "2", "--overwrite")


@pytest.mark.parametrize("spoil, command, message", [
    (lambda copy: linked(copy / "dataset" / "val_images" / "2012_000008.jpg", "../val_list.txt"), EVAL,
     "2012_000008.jpg can't be decoded"),
    (lambda copy: shutil.copy(str(copy / "snapshots" / "final_fcn_resnet50-1.params"),
                              str(copy / "snapshots" / "init_fcn_resnet50-1.params")),
     EVAL + ("--config", "other.yaml"), "other.yaml"),
    (lambda copy: None, EVAL[:-2] + ("x",), "epoch 'x'"),
    (lambda copy: None, EVAL + ("--gpu", "gpu"), "device 'gpu'"),
    (lambda copy: None, EVAL + ("--dtype", "float16"), "--dtype float16 is for GPUs"),
    (lambda copy: None, EVAL + ("--scales", "1,a"), "--scales"),
    (lambda copy: (copy / "tiny.yaml").write_text("width: 8\n"), EVAL, "setting width is 8, but"),
    (lambda copy: None, TRAIN + ("--base-model", "nowhere.params"), "nowhere.params can't be read"),
    (lambda copy: None, TRAIN + ("--epoch", "8"), "init_fcn_resnet50-8.params is missing; epochs there: 1, 2"),
    (lambda copy: None, TRAIN + ("--epoch", "2", "--max-epoch", "3"), "epoch 2 is trained already, max_epoch is 3"),
    (lambda copy: None, TRAIN + ("--max-epoch", "1"), "the first epoch is 1, max_epoch is 1"),
    (lambda copy: None, EVAL[:-1] + ("--scales", "1,2"), "--scales is used by --ms only"),
    (lambda copy: None, ("eval_loop.py", "--model", "init", "--wait", "inf"), "a finite number of at least 0"),
    (lambda copy: shutil.copytree(str(copy / "dataset" / "val_masks"), str(copy / "mine" / "masks")),
     EVAL + ("--savemask", "--masks", "mine/masks", "--output", "mine"), "is a true mask, and a result would take its"),
    (lambda copy: linked(copy / "mine" / "masks", copy / "dataset" / "VOCdevkit" / "VOC2012" / "SegmentationClass"),
     EVAL + ("--savemask", "--output", "mine"), "is a true mask, and a result would take its place"),
    (lambda copy: linked(copy / "mine", copy / "dataset" / "val_masks"), ESTIMATE + ("--output", "mine"),
     "holds the true masks of the val images"),
    (lambda copy: (copy / "pics").mkdir() or (copy / "pics" / "own.png").write_bytes(b"x"),
     ESTIMATE + ("--output", "pics"), "own.png is not the mask of a training image"),
    (lambda copy: None, TRAIN + ("--keep", "0"), "--keep"),
    (lambda copy: None, TRAIN + ("--model", "other"), "invalid choice"),
    (lambda copy: (copy / "dataset" / "train_list.txt").unlink(), ESTIMATE,
     "train_list.txt is missing: run create_dataset.py"),
    (lambda copy: shutil.rmtree(str(copy / "snapshots")), ("eval_loop.py", "--model", "init", "--once"),
     "no snapshot of the init model"),
])
def test_mistakes_end_in_one_line_and_status_2(copy, spoil, command, message):
    spoil(copy)
    assert message in run_script(copy, *command, status=2)
