import concurrent.futures
import itertools

import cv2
import joblib
import numpy as np
import pytest

from core.config import Config
from core.dataset.preprocessing import batch_input
from core.dataset.samples import Sample
from core.errors import UserError
from core.io.files import write_bytes
from core.io.images import write_mask
from core.training.batches import BatchLoader


def config(**changes):
    return Config(**dict({"classes": ("bk", "a", "b", "c"), "crop_size": 64, "batch_size": 4, "workers": 1}, **changes))


@pytest.fixture
def samples(tmp_path, rng):
    """Seven noise images of several sizes with masks."""
    made = []
    for number in range(7):
        height, width = 40 + 10 * number, 90 - 10 * number
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        made.append(Sample(str(number), str(tmp_path / f"{number}.jpg"), str(tmp_path / f"{number}.png")))
        write_bytes(made[-1].image, cv2.imencode(".jpg", image)[1].tobytes())
        mask = np.zeros((height, width), np.uint8)
        mask[:20] = 1 + number % 2
        mask[0, 0] = 255
        write_mask(made[-1].mask, mask)
    return made


def take(loader, count, first=0):
    batches = loader.batches(first)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def test_processes_of_one_machine_share_its_cores(samples, monkeypatch):
    sizes, pool = [], concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", lambda size, *_: sizes.append(size) or pool(size))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for processes in ("1", "4", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        take(BatchLoader(samples, config(workers=0)), 1)
    assert sizes == [8, 2, 1]


def test_batches_hold_rgb_and_the_labels_of_the_whole_image(samples):
    batch = take(BatchLoader(samples, config(scale_range=(0.1, 0.1), mean_rgb=(10, 20, 30))), 1)[0]
    assert batch.images.shape == (4, 64, 64, 3) and batch.images.dtype == np.uint8
    assert batch.labels.shape == (4, 64) and batch.image_labels.shape == (4, 4, 1, 1)
    np.testing.assert_array_equal(batch.images[:, -1, -1], 4 * [[10, 20, 30]])  # filled with the mean
    np.testing.assert_array_equal(batch_input(batch.images, (10, 20, 30))[:, :, -1, -1], 0)
    for name, present in zip(batch.names, batch.image_labels[:, :, 0, 0]):
        number = 1 + int(name) % 2
        assert present.tolist() == [1, number == 1, number == 2, 0]


def test_every_round_passes_each_sample_once_in_an_order_of_its_own(samples):
    names = [name for batch in take(BatchLoader(samples, config()), 7) for name in batch.names]
    rounds = [names[start:start + 7] for start in range(0, 28, 7)]
    assert all(sorted(part) == sorted(sample.name for sample in samples) for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1


@pytest.fixture
def web(samples):
    """The seven samples as web images: five of class 1, one of class 2, one of class 3."""
    return [sample._replace(name=f"{label}_{sample.name}", label=label)
            for label, sample in zip((1, 1, 2, 1, 1, 3, 1), samples)]


def names_of(loader, count, first=0):
    return [name for batch in take(loader, count, first) for name in batch.names]


def test_uniform_rounds_follow_the_list_in_the_order_that_the_seed_gave_before(web):
    found = names_of(BatchLoader(web, config(seed=5)), 7)
    expected = [web[place].name for turn in range(4) for place in np.random.default_rng((5, 0, turn)).permutation(7)]
    assert found == expected
    plain = [sample._replace(label=None) for sample in web]
    assert names_of(BatchLoader(plain, config(seed=5, web_sampling="balanced")), 7) == expected, "training images"


def test_balanced_classes_take_turns_and_pass_all_their_images(web):
    names = names_of(BatchLoader(web, config(web_sampling="balanced")), 15)
    turns = [names[start:start + 3] for start in range(0, 60, 3)]
    assert all(sorted(name[0] for name in turn) == ["1", "2", "3"] for turn in turns)
    assert len({tuple(name[0] for name in turn) for turn in turns}) > 1
    first = [name for name in names if name.startswith("1_")]
    rounds = [first[start:start + 5] for start in range(0, 20, 5)]
    assert all(sorted(part) == ["1_0", "1_1", "1_3", "1_4", "1_6"] for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_batches_depend_on_seed_and_position_alone(web, sampling):
    """Not on the number of threads, nor on where a run begins."""
    one, many, other = (take(BatchLoader(web, config(web_sampling=sampling, **changes)), 9)
                        for changes in ({}, {"workers": 4}, {"seed": 1}))
    late = take(BatchLoader(web, config(workers=2, web_sampling=sampling)), 2, first=7)
    for expected, found in zip(one + one[7:], many + late):
        assert expected.names == found.names
        assert (expected.images == found.images).all() and (expected.labels == found.labels).all()
    assert [batch.names for batch in other] != [batch.names for batch in one]


def test_web_images_take_their_share_of_the_final_models_batches(samples, web):
    settings = config(final_web_share=0.25, web_sampling="balanced")
    batches = take(BatchLoader(web + samples, settings), 28)
    assert all(sum("_" in name for name in batch.names) == 1 for batch in batches)
    names = [name for batch in batches for name in batch.names]
    assert [name for name in names if "_" in name] == names_of(BatchLoader(web, settings), 7)
    assert [name for name in names if "_" not in name] == names_of(BatchLoader(samples, settings), 21)


def test_parts_of_a_batch_are_the_batch(samples):
    whole, = take(BatchLoader(samples, config()), 1, first=1)
    parts = [take(BatchLoader(samples, config(), part=part, parts=2), 1, first=1)[0] for part in range(2)]
    assert whole.names == parts[0].names + parts[1].names and len(parts[0].names) == 2
    for name in ("images", "labels", "image_labels"):
        assert (getattr(whole, name) == np.concatenate([getattr(part, name) for part in parts])).all()


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
