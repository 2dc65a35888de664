import itertools
import os
import resource

import cv2
import numpy as np
import PIL
import pytest
from picture_files import claiming, encoded, tiff
from PIL import Image, features

import core.io.images  # which lets Pillow find its formats
from core.classes import voc_palette
from core.errors import UserError
from core.io.images import DecodingError, decode_image, image_size, read_image, read_mask, write_image, write_mask

COLOURS = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8), (50, 40),
                     interpolation=cv2.INTER_CUBIC)
GREY = np.asarray(Image.fromarray(COLOURS).convert("L"))
GREYS = np.repeat(GREY[:, :, None], 3, 2)
CLEAR = np.arange(40)[:, None].repeat(50, 1) < 20  # the upper half, where alpha is 0


def difference(content, expected):
    """Mean difference of what the decoder makes of a file from the expected picture, of 255."""
    image, damage = decode_image(content)
    assert damage is None and image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
    assert image.shape == expected.shape
    return np.abs(image.astype(int) - expected).mean()


@pytest.mark.parametrize("kept", [0, 1, 100, -200, -2])
def test_a_truncated_image_is_named(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    (tmp_path / "a.jpg").write_bytes(encoded(noise, quality=95)[:kept])
    with pytest.raises(UserError, match="a.jpg"):
        read_image(str(tmp_path / "a.jpg"))


def test_a_mask_keeps_its_indices_and_shows_them_in_voc_colours(tmp_path):
    mask = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    write_mask(str(tmp_path / "a.png"), mask)
    assert (read_mask(str(tmp_path / "a.png"), 21) == mask).all()
    with Image.open(str(tmp_path / "a.png")) as image:
        assert (np.array(image.convert("RGB")) == voc_palette()[mask]).all()


def test_a_picture_that_no_jpeg_can_hold_is_reported(tmp_path):
    with pytest.raises(UserError, match="a picture of 65501 x 1 pixels can't be encoded as .jpg"):
        write_image(str(tmp_path / "a.jpg"), np.zeros((1, 65501, 3), np.uint8))
    assert os.listdir(str(tmp_path)) == []


def pillow_pictures():
    """name, one of Pillow's images, and what a viewer shows, for every mode that stands for colours."""
    image = Image.fromarray(COLOURS)
    palette = image.convert("P", palette=Image.ADAPTIVE)
    alpha = Image.fromarray(np.where(CLEAR, 0, 255).astype(np.uint8))
    yield "RGB", image, COLOURS
    yield "L", image.convert("L"), GREYS
    yield "1", image.convert("1"), np.asarray(image.convert("1").convert("RGB"))
    yield "P", palette, np.asarray(palette.convert("RGB"))
    for mode, opaque in (("RGBA", COLOURS), ("LA", GREYS)):
        clear = image.convert(mode)
        clear.putalpha(alpha)
        yield mode, clear, np.where(CLEAR[:, :, None], 255, opaque)
    yield "CMYK", image.convert("CMYK"), COLOURS
    yield "YCbCr", image.convert("YCbCr"), COLOURS
    yield "I;16", Image.fromarray(GREY.astype(np.uint16) * 257), GREYS
    yield "I;16B", Image.frombytes("I;16B", (50, 40), (GREY.astype(">u2") * 257).tobytes()), GREYS


@pytest.mark.parametrize("kind, modes, flags", [
    ("PNG", "RGB L 1 P RGBA LA I;16", {}), ("JPEG", "RGB L CMYK YCbCr", {"quality": 95, "subsampling": 0}),
    ("JPEG", "RGB L", {"quality": 95, "progressive": True}), ("WEBP", "RGB RGBA", {"lossless": True}),
    ("BMP", "RGB L 1 P", {}), ("GIF", "L 1 P", {}), ("PPM", "RGB L 1", {}), ("JPEG2000", "RGB L RGBA LA I;16", {}),
    ("TIFF", "RGB L 1 P RGBA LA CMYK I;16 I;16B", {}),
    pytest.param("TIFF", "YCbCr", {}, marks=pytest.mark.skipif(
        int(PIL.__version__.split(".")[0]) < 11, reason="Pillow 10 can't read what it writes, and says so")),
    ("TIFF", "RGB L P CMYK I;16", {"compression": "tiff_lzw"}), ("TIFF", "RGB L", {"compression": "jpeg"}),
    ("TIFF", "1", {"compression": "group4"})])
def test_every_mode_of_pillows_writers_is_read_as_a_viewer_shows_it(kind, modes, flags):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    for mode, image, expected in pillow_pictures():
        if mode in modes.split():
            assert difference(encoded(image, kind, **flags), expected) < 3, mode


@pytest.mark.skipif("AVIF" not in Image.OPEN, reason="Pillow without AVIF")
def test_avif_is_read_and_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert difference(encoded(COLOURS, "AVIF", quality=95, exif=exif), np.rot90(COLOURS, -1)) < 4


@pytest.mark.parametrize("ending", [".png", ".tif", ".ppm", ".bmp", ".webp"])
def test_every_depth_of_opencvs_writers_is_read_right_or_refused(ending):
    seen = 0
    for (dtype, scale), channels in itertools.product(((np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255),
                                                       (np.float64, 1 / 255)), (1, 3, 4)):
        if dtype is not np.uint8 and ending in (".bmp", ".webp") or \
                dtype in (np.float32, np.float64) and ending != ".tif" or channels != 3 and ending == ".ppm":
            continue  # OpenCV would write something else
        image = {1: GREY, 3: COLOURS[..., ::-1], 4: np.dstack([COLOURS[..., ::-1], np.full(GREY.shape, 255)])}[channels]
        good, content = cv2.imencode(ending, (image * float(scale)).astype(dtype))
        assert good
        try:
            assert difference(content.tobytes(), GREYS if channels == 1 else COLOURS) < 3, (dtype, channels)
            seen += 1
        except DecodingError:
            assert dtype in (np.float32, np.float64)
    assert seen


@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("planar", [False, True])
def test_tiffs_of_other_programs_are_read_right_or_refused(byte_order, planar):
    opaque = np.full(GREY.shape, 255, np.uint8)
    kinds = {"grey": (GREY[..., None], {}, GREYS), "white is zero": (255 - GREY[..., None], {"photometric": 0}, GREYS),
             "rgb": (COLOURS, {}, COLOURS), "rgba": (np.dstack([COLOURS, opaque]), {"extra_samples": 2}, COLOURS),
             "cmyk": (np.dstack([255 - COLOURS, 255 - opaque]), {"photometric": 5}, COLOURS),
             "five bands": (np.dstack([COLOURS, COLOURS[..., :2]]), {"extra_samples": 0}, None)}
    read = set()
    for name, (pixels, tags, expected) in kinds.items():
        for dtype, scale in ((np.uint8, 1), (np.uint16, 257), (np.int8, .4), (np.int16, 100), (np.uint32, 16843009),
                             (np.int32, 257), (np.float32, 1), (np.float32, 1 / 255), (np.float64, 1 / 255)):
            try:
                content = tiff((pixels * float(scale)).astype(dtype), byte_order, planar, **tags)
                assert difference(content, expected) < 2, (name, dtype)
                read.add((name, np.dtype(dtype).name))
            except DecodingError:
                pass
    assert all(depth in ("uint8", "uint16") for _, depth in read)
    refused = {"five bands", "white is zero"} if planar else {"five bands"}
    assert read >= {(name, "uint8") for name in set(kinds) - refused}
    assert planar or read >= {("grey", "uint16"), ("rgb", "uint16")}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_container_is_turned_as_its_orientation_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        content = encoded(COLOURS, kind, tiffinfo={0x0112: orientation})
    else:
        flags = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
        content = encoded(COLOURS, kind, exif=exif, **flags)
    upright = {1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
               5: COLOURS.swapaxes(0, 1), 6: np.rot90(COLOURS, -1), 7: np.rot90(COLOURS, 2).swapaxes(0, 1),
               8: np.rot90(COLOURS)}[orientation]
    assert difference(content, upright) < 4


def test_exif_data_with_any_damaged_byte_cost_no_picture():
    exif = Image.Exif()
    exif[0x0112], exif[0x010f] = 6, "A maker of cameras"
    exif.get_ifd(0x8769)[0x829a] = 0.01
    for kind in ("JPEG", "WEBP"):
        content = encoded(COLOURS, kind, exif=exif)
        block = exif.tobytes()[6:]
        start = content.index(block)
        for place in range(start, start + len(block)):
            damaged = bytearray(content)
            damaged[place] ^= 0xff
            assert sorted(decode_image(bytes(damaged)).image.shape) == [3, 40, 50]


def test_jpegs_are_decoded_to_the_bits_of_opencv():
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    files = [encoded(cv2.GaussianBlur(noise, (0, 0), 2), "JPEG", quality=quality, subsampling=sampling, progressive=how)
             for quality, sampling, how in itertools.product((30, 90), (0, 1, 2), (False, True))]
    files += [cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
              for factor in (0x411111, 0x440000 | 0x1111, 0x211111, 0x221111, 0x111111)]
    for content in files:
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert (decode_image(content).image == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_a_hole_is_reported_by_name_once(tmp_path, caplog, mode, progressive):
    pytest.importorskip("simplejpeg")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).convert(mode)
    whole = encoded(noise, "JPEG", progressive=progressive)
    middle = len(whole) // 2
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "hole.jpg").write_bytes(whole[:middle] + bytes(700) + whole[middle + 700:])
    (tmp_path / "lost.jpg").write_bytes(whole[:middle] + whole[middle + 700:])
    caplog.set_level("WARNING", core.io.images.logger.name)
    core.io.images.logger.propagate = True
    for name in ("whole", "hole", "lost", "hole"):
        assert read_image(str(tmp_path / (name + ".jpg"))).shape == (90, 90, 3)
    assert [message.split(".jpg is damaged")[0] for message in caplog.messages] == [
        str(tmp_path / "hole"), str(tmp_path / "lost")]


def test_bytes_after_the_end_of_a_png_are_passed_over(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(np.full((5, 6, 3), 77, np.uint8)).save(str(path))
    path.write_bytes(path.read_bytes() + bytes(4000))
    assert (read_image(str(path)) == 77).all()
    write_mask(str(path), np.ones((5, 6), np.uint8))
    path.write_bytes(path.read_bytes() + bytes(4000))
    assert (read_mask(str(path), 2) == 1).all()


def test_a_png_with_a_flipped_bit_is_refused(tmp_path):
    for write, read in ((lambda path: write_image(path, COLOURS), read_image),
                        (lambda path: write_mask(path, GREY % 20), lambda path: read_mask(path, 21))):
        path = tmp_path / "a.png"
        write(str(path))
        content = bytearray(path.read_bytes())
        for place in range(content.index(b"IDAT") + 6, content.index(b"IEND") - 12, 97):
            content[place] ^= 16
            path.write_bytes(bytes(content))
            content[place] ^= 16
            with pytest.raises(UserError, match="a.png can't be decoded: the file is damaged"):
                read(str(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM"])
def test_a_header_that_claims_too_many_pixels_takes_no_memory(kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodingError, match="pixels are too many for [0-9]+ bytes"):
        decode_image(claiming(kind, 30000, 30000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_large_picture_of_one_colour_is_no_damage():
    assert image_size(encoded(Image.new("1", (4000, 4000)), "PNG")) == (4000, 4000)
    assert decode_image(encoded(Image.new("L", (4000, 4000)), "WEBP", lossless=True)).image.shape == (4000, 4000, 3)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "TGA", "ICO", "SGI"])
def test_formats_that_start_programs_or_that_nobody_keeps_pictures_in_are_not_opened(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *args, **flags: pytest.fail("a program was started"))
    monkeypatch.setattr("os.system", lambda *args: pytest.fail("a program was started"))
    (tmp_path / "a.jpg").write_bytes(encoded(COLOURS, kind))
    with pytest.raises(UserError, match="a.jpg can't be decoded: the file is damaged, truncated, or not a picture of a "
                                        "format that is read here"):
        read_image(str(tmp_path / "a.jpg"))


def test_the_first_picture_of_several_is_read():
    red, blue = (Image.new("RGB", (30, 20), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        content = encoded(red, kind, save_all=True, append_images=[blue])
        assert difference(content, np.array([[[255, 0, 0]]]).repeat(20, 0).repeat(30, 1)) < 3, kind


def test_transparent_colours_of_a_palette_or_of_grey_are_white():
    image = Image.fromarray(COLOURS).convert("P", palette=Image.ADAPTIVE)
    indices = np.asarray(image)
    expected = np.where((indices == 3)[:, :, None], 255, np.asarray(image.convert("RGB")))
    for kind in ("PNG", "GIF", "WEBP"):
        flags = {"lossless": True} if kind == "WEBP" else {}
        image.info["transparency"] = 3
        assert difference(encoded(image, kind, transparency=3, **flags), expected) == 0


def test_a_mask_is_turned_as_its_image_would_be(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    mask = np.array([[0, 1], [2, 3]], np.uint8)
    Image.fromarray(mask).save(str(tmp_path / "a.png"), exif=exif)
    assert (read_mask(str(tmp_path / "a.png"), 21) == mask[::-1, ::-1]).all()
