import numpy as np

from core.io.drawing import colour_mask, heat_map, legend, overlay, write_title


def test_masks_have_the_colours_of_voc():
    mask = np.array([[0, 1, 15, 20, 255]], np.uint8)
    assert colour_mask(mask).tolist() == [[[0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]]


def test_an_overlay_leaves_the_background_as_it_is(rng):
    image = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = 1
    mixed = overlay(image, mask, 0.5)
    assert (mixed[mask == 0] == image[mask == 0]).all()
    assert mixed[1, 2].tolist() == [(int(image[1, 2, 0]) + 128) // 2, image[1, 2, 1] // 2, image[1, 2, 2] // 2]


def test_a_legend_has_the_colours_of_the_classes_that_the_mask_shows():
    names = ["bk", "aeroplane", "bicycle", "a bird with a long name"]
    strip = legend(np.array([[0, 1, 3, 255]], np.uint8), names, 400)
    colours = {tuple(pixel) for pixel in strip.reshape(-1, 3).tolist()}
    assert (128, 0, 0) in colours and (128, 128, 0) in colours and (0, 128, 0) not in colours
    assert (0, 0, 0) in colours and strip.shape[1] == 400
    assert len(legend(np.array([[1, 3]], np.uint8), names, 120)) == 2 * len(strip), "a row for each that has no room"
    assert legend(np.zeros((1, 1), np.uint8), names, 1).shape[1] == 1


def test_heat_goes_from_violet_to_yellow_and_grows_brighter():
    colours = heat_map(np.linspace(0, 1, 50)[None])[0].astype(int)
    assert colours[0, 2] > colours[0, 1] and colours[-1, 0] > 200 and colours[-1, 1] > 200 > colours[-1, 2]
    assert (np.diff(colours @ (0.3, 0.59, 0.11)) > 0).all()


def test_titles_tell_letters_of_other_scripts_apart():
    sheets = []
    for title in ("\u043a\u043e\u0442", "\u043f\u0451\u0441", "caf\u00e9", "cafe", "???"):
        sheet = np.full((20, 60, 3), 255, np.uint8)
        write_title(sheet, title, 2, 14)
        assert (sheet < 128).any() and (sheet[:, :2] == 255).all() and (sheet[18:] == 255).all()
        sheets.append(sheet.tobytes())
    assert len(set(sheets)) == len(sheets)
