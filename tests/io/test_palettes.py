"""Masks whose palettes contradict their indices."""
import numpy as np
import pytest
from PIL import Image

from core.classes import voc_palette
from core.errors import UserError
from core.io.images import read_mask

VOC = voc_palette()
MASK = np.array([[0, 1, 2, 3, 255]] * 4, np.uint8)


def stored(folder, palette, mask=MASK):
    image = Image.fromarray(mask)
    image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    image.save(str(folder / "m.png"))
    return str(folder / "m.png")


def exchanged(one, other):
    palette = VOC.copy()
    palette[[one, other]] = palette[[other, one]]
    return palette


@pytest.mark.parametrize("palette", [exchanged(1, 2), exchanged(2, 5), exchanged(0, 3), exchanged(255, 1),
                                     np.minimum(exchanged(1, 2).astype(int) + 4, 255)],
                         ids=["1 and 2", "a label that is not there", "background", "ignore", "nearly"])
def test_a_palette_with_the_voc_colours_at_other_indices_is_refused(tmp_path, palette):
    with pytest.raises(UserError, match="m.png: its palette has the VOC colour of label"):
        read_mask(stored(tmp_path, palette), 21)


def test_a_mask_reordered_by_quantisation_is_refused(tmp_path):
    Image.fromarray(VOC[MASK]).quantize(8).save(str(tmp_path / "m.png"))
    with pytest.raises(UserError, match="the palette was reordered"):
        read_mask(str(tmp_path / "m.png"), 21)


@pytest.mark.parametrize("palette", [
    VOC, VOC[:4], np.minimum(VOC * 1.3, 255), [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)],
    [(0, 0, 0), (0, 128, 0), (255, 165, 0), (255, 0, 255)], [(255, 255, 255), (0, 0, 0)],
    np.random.default_rng(0).integers(0, 256, (256, 3)), np.arange(256).repeat(3), exchanged(7, 8)],
    ids=["VOC", "start of VOC", "scaled", "own", "one VOC colour", "black on white", "random", "grey", "unused"])
def test_other_palettes_are_accepted(tmp_path, palette):
    mask = np.where(MASK < len(palette), MASK, 0).astype(np.uint8)
    assert (read_mask(stored(tmp_path, palette, mask), 21) == mask).all()


def test_colours_of_classes_that_are_not_there_mean_nothing(tmp_path):
    palette = [(0, 0, 0), (0, 0, 128)]  # VOC's colour of class 4
    mask = MASK % 2
    assert (read_mask(stored(tmp_path, palette, mask), 3) == mask).all()
    with pytest.raises(UserError, match="label 4 at index 1"):
        read_mask(stored(tmp_path, palette, mask), 21)


@pytest.mark.parametrize("image", [VOC[MASK], np.dstack([VOC[MASK], MASK]), np.dstack([MASK, MASK]),
                                   MASK.astype(np.uint16)], ids=["RGB", "RGBA", "LA", "16 bits"])
def test_pictures_are_no_masks(tmp_path, image):
    Image.fromarray(image).save(str(tmp_path / "m.png"))
    with pytest.raises(UserError, match="is a picture of mode"):
        read_mask(str(tmp_path / "m.png"), 21)
