import numpy as np

from core.config import Config
from core.training.augmentation import augment


def config(**changes):
    return Config(**dict({"classes": ("bk", "a", "b", "c"), "crop_size": 64, "batch_size": 4, "workers": 1}, **changes))


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
    """A crop of int(64 / s) pixels, seen in a picture whose colour gives the place."""
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


def test_crops_reach_every_border(rng):
    y, x = np.mgrid[:66, :67]
    image = np.stack([y, x, 0 * x], -1).astype(np.uint8)
    still = config(flip_probability=0, scale_range=(1, 1))
    corners = {tuple(augment(rng, image, np.zeros((66, 67), np.uint8), still)[0][0, 0, :2]) for _ in range(200)}
    assert corners == {(top, left) for top in range(3) for left in range(4)}
