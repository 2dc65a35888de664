import os
import tempfile

import numpy as np
import pytest
from PIL import Image

from core.classes import voc_palette
from core.errors import UserError
from core.io.files import (
    list_folder,
    read_image,
    read_list,
    read_mask,
    replacing,
    walk,
    write_image,
    write_json,
    write_lines,
    write_mask,
)


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


def test_lists_may_have_any_line_ending_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf2008_1\r\n\r\n  2008_2 \n\n2008 3")
    assert read_list(str(tmp_path / "list.txt")) == ["2008_1", "2008_2", "2008 3"]


@pytest.mark.parametrize("content, message", [
    (b"", "is empty"), (b"\n \r\n", "is empty"), (b"a\nb\na\n", "a twice"), (b"../a\n", "no id"), (b"\xff\xfe", "UTF-8")])
def test_wrong_lists_are_named(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_list(str(tmp_path / "list.txt"))
    assert "list.txt" in str(error.value)


def test_a_file_that_fails_midway_leaves_the_old_one_and_nothing_else(tmp_path):
    path = str(tmp_path / "a.json")
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError):
        with replacing(path) as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            1 / 0
    assert os.listdir(str(tmp_path)) == ["a.json"]
    assert "1" in (tmp_path / "a.json").read_text()


def test_a_picture_that_no_jpeg_can_hold_is_told(tmp_path):
    with pytest.raises(UserError, match="a picture of 65501 x 1 pixels can't be encoded as .jpg"):
        write_image(str(tmp_path / "a.jpg"), np.zeros((1, 65501, 3), np.uint8))
    assert os.listdir(str(tmp_path)) == []


def test_folders_are_walked_in_order_and_links_lead_nowhere_twice(tmp_path):
    for name in ("b", "a/y", "a/x", ".hidden/z", "a/deep/w"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a" / "deep")
    (tmp_path / "a" / ".dot").write_text("")
    top = str(tmp_path)
    assert list(walk(top)) == [(top, ["b"]), (top + "/a", ["x", "y"]), (top + "/a/again", ["w"])]
    assert list(walk(top, [os.path.realpath(top + "/a")])) == [(top, ["b"])]
    assert list_folder(top + "/none") == []


@pytest.mark.parametrize("look", [list_folder, lambda path: list(walk(os.path.dirname(path)))])
def test_a_folder_that_can_not_be_read_is_named(look):
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        os.mkdir(above + "/closed", 0)
        if os.geteuid() == 0:
            os.seteuid(65534)  # permissions do not bind root
        try:
            with pytest.raises(UserError, match="closed can't be read: Permission denied"):
                look(above + "/closed")
        finally:
            os.seteuid(os.getuid())


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/a.txt can't be written"):
        write_lines(str(tmp_path / "file" / "a.txt"), ["x"])
