import numpy as np
import pytest

from core.config import Config
from core.dataset.samples import Sample, class_prior, training_samples
from core.errors import UserError
from core.io.files import write_json, write_lines
from core.io.images import write_image, write_mask
from core.paths import image_path, mask_path


def config(**changes):
    return Config(**dict({"classes": ("bk", "a", "b", "c"), "crop_size": 64, "batch_size": 4, "workers": 1}, **changes))


def test_missing_files_and_names_without_class_are_named(tmp_path):
    tiny = config(root=str(tmp_path))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "web_train_list.txt").write_text("1_000001\n")
    with pytest.raises(UserError, match="web_images.1_000001.jpg is missing"):
        training_samples("init", tiny)
    for name in ("9_000001", "cat_1", "0_000001"):
        (tmp_path / "dataset" / "web_train_list.txt").write_text(name + "\n")
        with pytest.raises(UserError, match=name):
            training_samples("init", tiny)
    (tmp_path / "dataset" / "train_images").mkdir()
    (tmp_path / "dataset" / "train_images" / "a.jpg").write_bytes(b"")
    (tmp_path / "dataset" / "train_list.txt").write_text("a\n")
    with pytest.raises(UserError, match="a.png is missing: run est_voc_train_masks.py"):
        training_samples("final", tiny)


def test_masks_of_the_users_own_need_no_labels_and_estimated_ones_do(tmp_path):
    tiny = config(root=str(tmp_path))
    layout = tiny.layout
    write_image(image_path(layout.train_images, "a"), np.zeros((9, 9, 3), np.uint8))
    write_mask(mask_path(layout.train_masks, "a"), np.ones((9, 9), np.uint8))
    write_lines(layout.train_list, ["a"])
    assert [sample.name for sample in training_samples("final", tiny)] == ["a"]
    write_json(layout.train_masks + ".json", {})
    with pytest.raises(UserError, match="train_labels.json is missing: run create_dataset.py"):
        training_samples("final", tiny)


def test_the_final_model_gets_web_images_only_where_they_have_a_share(tmp_path):
    layout = config(root=str(tmp_path)).layout
    for images, masks, names in ((layout.web_images, layout.web_masks, layout.web_list),
                                 (layout.train_images, layout.train_masks, layout.train_list)):
        write_image(image_path(images, "2_a"), np.zeros((9, 9, 3), np.uint8))
        write_mask(mask_path(masks, "2_a"), np.ones((9, 9), np.uint8))
        write_lines(names, ["2_a"])
    write_json(layout.train_labels, {"2_a": [2]})
    for share, labels in ((0.0, [None]), (0.25, [None, 2])):
        samples = training_samples("final", config(root=str(tmp_path), final_web_share=share))
        assert [sample.label for sample in samples] == labels


@pytest.mark.parametrize("sampling, weights", [("uniform", [3, 1]), ("balanced", [1, 1])])
def test_the_prior_of_the_classes_is_the_mean_over_what_training_draws(tmp_path, sampling, weights):
    """Three images of class 1 with half of their labelled pixels, and one of class 2 with a quarter."""
    samples = []
    for name, row in {"1_a": [0, 1], "1_b": [1, 0, 255, 255], "1_c": [0, 0, 1, 1], "2_d": [0, 0, 2, 0]}.items():
        write_mask(str(tmp_path / (name + ".png")), np.array([row], np.uint8))
        samples.append(Sample(name, "", str(tmp_path / (name + ".png")), int(name[0])))
    prior = class_prior(samples, config(classes=("bk", "a", "b", "c"), web_sampling=sampling))
    np.testing.assert_allclose(prior, np.average([[0.5, 0.5, 0, 0], [0.75, 0, 0.25, 0]], 0, weights))
