import itertools

import cv2
import numpy as np
import pytest

from core.config import Config
from core.dataset.samples import BatchLoader, Sample, augment, training_samples
from core.errors import UserError
from core.io.files import write_bytes
from core.io.images import write_mask
from core.paths import Layout


def config(**changes):
    return Config(**dict({"classes": ("bk", "a", "b", "c"), "crop_size": 64, "batch_size": 4, "workers": 1}, **changes))


@pytest.fixture
def samples(tmp_path, rng):
    """Seven noise images of several sizes with masks."""
    made = []
    for number in range(7):
        height, width = 40 + 10 * number, 90 - 10 * number
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        write_bytes(str(tmp_path / ("%d.jpg" % number)), cv2.imencode(".jpg", image)[1].tobytes())
        mask = np.zeros((height, width), np.uint8)
        mask[:20] = 1 + number % 2
        mask[0, 0] = 255
        write_mask(str(tmp_path / ("%d.png" % number)), mask)
        made.append(Sample(str(number), str(tmp_path / ("%d.jpg" % number)), str(tmp_path / ("%d.png" % number))))
    return made


def take(loader, count, first=0):
    batches = loader.batches(first)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def test_labels_are_sampled_at_the_corner_of_each_cell(rng):
    mask = rng.integers(0, 4, (64, 64), dtype=np.uint8)
    image = np.zeros((64, 64, 3), np.uint8)
    still = config(scale_range=(1, 1), flip_probability=0)
    assert (augment(rng, image, mask, still)[1] == mask[::8, ::8]).all()
    centred = config(scale_range=(1, 1), flip_probability=0, label_sampling="center")
    assert (augment(rng, image, mask, centred)[1] == mask[4::8, 4::8]).all()


def test_image_and_mask_are_mirrored_together(rng):
    mask = np.repeat(np.arange(64, dtype=np.uint8)[None] // 16, 64, 0)
    image = np.repeat(mask[..., None] * 60, 3, 2)
    mirrored = 0
    for _ in range(40):
        crop, label = augment(rng, image, mask, config(scale_range=(1, 1)))
        reference = mask[:, ::-1] if label[0, 0] else mask
        mirrored += int(label[0, 0] > 0)
        assert (crop[..., 0] == reference * 60).all() and (label == reference[::8, ::8]).all()
    assert 10 < mirrored < 30


def test_the_crop_covers_the_drawn_scale_and_any_place(rng):
    """A crop of int(64 / s) pixels, seen in a picture whose colour tells the place."""
    y, x = np.mgrid[:200, :220]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    mask = np.zeros((200, 220), np.uint8)
    corners = []
    for _ in range(60):
        crop, _ = augment(rng, image, mask, config(flip_probability=0, scale_range=(0.5, 0.5)))
        extent = crop[..., 0].astype(int).max() - crop[..., 0].min()
        assert 124 <= extent <= 128
        corners.append((crop[0, 0, 0], crop[0, 0, 1]))
    assert np.min(corners, 0).max() < 12 and np.max(corners, 0).min() > 60


def test_a_small_image_is_filled_with_the_mean_colour_and_label_255(rng):
    image = np.full((24, 40, 3), 9, np.uint8)
    mask = np.ones((24, 40), np.uint8)
    crop, label = augment(rng, image, mask, config(scale_range=(1, 1), flip_probability=0))
    assert (crop[:24, :40] == 9).all()
    assert (crop[24:] == (123, 117, 104)).all() and (crop[:, 40:] == (123, 117, 104)).all()
    assert (label[:3, :5] == 1).all() and (label[3:] == 255).all() and (label[:, 5:] == 255).all()


def test_batches_hold_rgb_minus_the_mean_and_the_labels_of_the_whole_image(samples):
    batch = take(BatchLoader(samples, config(scale_range=(0.1, 0.1), mean_rgb=(10, 20, 30))), 1)[0]
    assert batch.data.shape == (4, 3, 64, 64) and batch.data.dtype == np.float32
    assert batch.labels.shape == (4, 64) and batch.image_labels.shape == (4, 4, 1, 1)
    corner = batch.data[:, :, -1, -1]  # filled with the mean
    np.testing.assert_array_equal(corner, 0)
    for name, present in zip(batch.names, batch.image_labels[:, :, 0, 0]):
        number = 1 + int(name) % 2
        assert present.tolist() == [1, number == 1, number == 2, 0]


def test_batches_do_not_depend_on_the_number_of_threads_or_where_a_run_begins(samples):
    one = take(BatchLoader(samples, config(workers=1)), 6)
    many = take(BatchLoader(samples, config(workers=5)), 6)
    late = take(BatchLoader(samples, config(workers=2)), 3, first=3)
    for batches in (many, one[:3] + late):
        for expected, found in zip(one, batches):
            assert expected.names == found.names
            assert (expected.data == found.data).all() and (expected.labels == found.labels).all()


def test_another_seed_gives_other_batches(samples):
    one, other = (take(BatchLoader(samples, config(seed=seed)), 1)[0] for seed in (0, 1))
    assert not (one.data == other.data).all()


def test_every_round_passes_each_sample_once_in_an_order_of_its_own(samples):
    names = [name for batch in take(BatchLoader(samples, config()), 7) for name in batch.names]
    rounds = [names[start:start + 7] for start in range(0, 28, 7)]
    assert all(sorted(part) == sorted(sample.name for sample in samples) for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1


@pytest.fixture
def web(samples):
    """The seven samples as web images: five of class 1, one of class 2, one of class 3."""
    return [sample._replace(name=f"{label}_{sample.name}") for label, sample in zip((1, 1, 2, 1, 1, 3, 1), samples)]


def names_of(loader, count, first=0):
    return [name for batch in take(loader, count, first) for name in batch.names]


def test_uniform_rounds_follow_the_list_in_the_order_that_the_seed_gave_before(web):
    found = names_of(BatchLoader(web, config(seed=5)), 7)
    expected = [web[place].name for turn in range(4) for place in np.random.default_rng((5, 0, turn)).permutation(7)]
    assert found == expected


def test_balanced_classes_take_turns_and_pass_all_their_images(web):
    names = names_of(BatchLoader(web, config(), balanced=True), 15)
    turns = [names[start:start + 3] for start in range(0, 60, 3)]
    assert all(sorted(name[0] for name in turn) == ["1", "2", "3"] for turn in turns)
    assert len({tuple(name[0] for name in turn) for turn in turns}) > 1
    first = [name for name in names if name.startswith("1_")]
    rounds = [first[start:start + 5] for start in range(0, 20, 5)]
    assert all(sorted(part) == ["1_0", "1_1", "1_3", "1_4", "1_6"] for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1


def test_balanced_batches_depend_on_seed_and_position_alone(web):
    one = take(BatchLoader(web, config(), balanced=True), 9)
    many = take(BatchLoader(web, config(workers=4), balanced=True), 9)
    late = take(BatchLoader(web, config(workers=2), balanced=True), 2, first=7)
    for expected, found in zip(one + one[7:], many + late):
        assert expected.names == found.names and (expected.data == found.data).all()
    names = [name for batch in one for name in batch.names]
    assert names_of(BatchLoader(web, config(seed=1), balanced=True), 9) != names


@pytest.mark.parametrize("damage", ["image", "mask", "size", "label"])
def test_a_bad_file_ends_the_run_with_its_name(samples, damage):
    bad = samples[3]
    if damage == "image":
        open(bad.image, "wb").close()
    elif damage == "mask":
        open(bad.mask, "wb").close()
    elif damage == "size":
        write_mask(bad.mask, np.zeros((5, 5), np.uint8))
    else:
        write_mask(bad.mask, np.full((70, 60), 4, np.uint8))
    with pytest.raises(UserError, match=r"3\.(jpg|png)"):
        take(BatchLoader(samples, config(workers=3)), 20)


def test_missing_files_and_names_without_class_are_named(tmp_path):
    layout = Layout(config(root=str(tmp_path)))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "web_train_list.txt").write_text("1_000001\n")
    with pytest.raises(UserError, match="web_images.1_000001.jpg is missing"):
        training_samples("init", layout, config())
    for name in ("9_000001", "cat_1", "0_000001"):
        (tmp_path / "dataset" / "web_train_list.txt").write_text(name + "\n")
        with pytest.raises(UserError, match=name):
            training_samples("init", layout, config())
    (tmp_path / "dataset" / "train_images").mkdir()
    (tmp_path / "dataset" / "train_images" / "a.jpg").write_bytes(b"")
    (tmp_path / "dataset" / "train_list.txt").write_text("a\n")
    with pytest.raises(UserError, match="a.png is missing: run est_voc_train_masks.py"):
        training_samples("final", layout, config())
