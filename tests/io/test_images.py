import os

import numpy as np
import pytest
from PIL import Image

from core.classes import voc_palette
from core.errors import UserError
from core.io.images import read_image, read_mask, write_image, write_mask


def save_jpeg(path, image=None):
    image = np.full((20, 30, 3), (200, 100, 50), np.uint8) if image is None else image
    Image.fromarray(image).save(str(path), quality=95)
    return path


def test_the_palette_is_that_of_voc():
    palette = voc_palette()
    assert palette[0].tolist() == [0, 0, 0]
    assert palette[1].tolist() == [128, 0, 0]
    assert palette[15].tolist() == [192, 128, 128]
    assert palette[20].tolist() == [0, 64, 128]
    assert palette[255].tolist() == [224, 224, 192]


def test_images_are_read_as_red_green_blue(tmp_path):
    image = read_image(str(save_jpeg(tmp_path / "a.jpg")))
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - (200, 100, 50)).max() < 8


def test_names_with_spaces_and_other_letters_are_read(tmp_path):
    assert read_image(str(save_jpeg(tmp_path / "ein Bär ☃.jpg"))).shape == (20, 30, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_grey_and_cmyk_pictures_become_rgb(tmp_path, mode):
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(str(tmp_path / "a.jpg"))
    image = read_image(str(tmp_path / "a.jpg"))
    assert image.shape == (6, 8, 3) and image.min() > 250


def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (30, 20)).save(str(tmp_path / "a.jpg"), exif=exif)
    assert read_image(str(tmp_path / "a.jpg")).shape == (30, 20, 3)


@pytest.mark.parametrize("kept", [0, 1, 100, -200, -2])
def test_a_truncated_image_is_named(tmp_path, kept):
    path = save_jpeg(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="a.jpg"):
        read_image(str(path))


def test_a_mask_keeps_its_indices_and_shows_them_in_voc_colours(tmp_path):
    mask = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    write_mask(str(tmp_path / "a.png"), mask)
    assert (read_mask(str(tmp_path / "a.png"), 21) == mask).all()
    with Image.open(str(tmp_path / "a.png")) as image:
        assert (np.array(image.convert("RGB")) == voc_palette()[mask]).all()


def test_a_label_out_of_range_is_named(tmp_path):
    write_mask(str(tmp_path / "a.png"), np.array([[0, 0], [0, 21]], np.uint8))
    with pytest.raises(UserError, match=r"a.png has label 21 at x=1, y=1; labels are 0..20"):
        read_mask(str(tmp_path / "a.png"), 21)


def test_a_mask_of_another_size_is_named(tmp_path):
    write_mask(str(tmp_path / "a.png"), np.zeros((5, 7), np.uint8))
    with pytest.raises(UserError, match="a.png is 7 x 5 pixels, its image 5 x 7"):
        read_mask(str(tmp_path / "a.png"), 21, (7, 5))


@pytest.mark.parametrize("mode", ["RGB", "I;16", "1", "RGBA"])
def test_a_picture_in_place_of_a_mask_is_named(tmp_path, mode):
    Image.new(mode, (5, 5)).save(str(tmp_path / "a.png"))
    with pytest.raises(UserError, match="a.png is a picture of mode"):
        read_mask(str(tmp_path / "a.png"), 21)


def test_a_truncated_mask_is_named(tmp_path):
    write_mask(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 20, (60, 60), dtype=np.uint8))
    content = (tmp_path / "a.png").read_bytes()
    for kept in (0, 10, len(content) // 2):
        (tmp_path / "a.png").write_bytes(content[:kept])
        with pytest.raises(UserError, match="a.png"):
            read_mask(str(tmp_path / "a.png"), 21)


def test_a_picture_that_no_jpeg_can_hold_is_told(tmp_path):
    with pytest.raises(UserError, match="a picture of 65501 x 1 pixels can't be encoded as .jpg"):
        write_image(str(tmp_path / "a.jpg"), np.zeros((1, 65501, 3), np.uint8))
    assert os.listdir(str(tmp_path)) == []
