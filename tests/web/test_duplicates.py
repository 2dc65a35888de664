"""Near duplicates: changed copies are known, other pictures told apart, those of cut-out objects too."""
import cv2
import numpy as np
import pytest
from picture_files import encoded
from web_server import cut_out, picture

from core.io.images import write_image
from core.web.cleaning import decode
from core.web.duplicates import HashIndex, fingerprints


def stored(folder, images):
    """Index of images, by their numbers, that lie in a folder."""
    index = HashIndex()
    for number, image in enumerate(images):
        path = str(folder / f"{number}.png")
        write_image(path, image)
        index.add(number, fingerprints(image)[0].code, path)
    return index


def near(index, image, distance=70):
    return list(index.matches(fingerprints(np.ascontiguousarray(image)), distance))


def copies(image, config):
    """Changed copies of an image."""
    yield from (image, image[:, ::-1], image[8:-8, 10:-10])
    yield cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    yield decode(encoded(image, quality=30), config, {})
    yield np.clip(image * 0.7 + 20, 0, 255).astype(np.uint8)
    yield cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def test_changed_copies_are_known_and_other_pictures_told_apart(web_config, tmp_path):
    images = [picture(seed, 320, 240) for seed in range(60)]
    index = stored(tmp_path, images)
    for number, image in enumerate(images[:20]):
        for copy in copies(image, web_config):
            assert near(index, copy) == [number]
    assert near(index, picture(99, 320, 240)) == []


def test_an_index_grows_and_gives_all_names_nearest_first(rng, tmp_path):
    image = picture(0)
    views = fingerprints(image)[:1]
    codes = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    index = HashIndex()
    assert list(index.matches(views, 255)) == []
    for number, code in enumerate(codes):
        index.add(number, code, str(tmp_path / "gone.png"))  # a file that is gone is judged by its hash
    distances = np.unpackbits(codes ^ views[0].code, axis=1).sum(1)
    expected = [int(number) for number in np.argsort(distances, kind="stable") if distances[number] <= 110]
    assert len(expected) > 5 and list(index.matches(views, 110)) == expected


@pytest.mark.parametrize("background", [255, 0, (200, 220, 240)])
def test_different_objects_cut_out_alike_are_no_copies_but_changed_copies_of_one_are(web_config, tmp_path, background):
    first = cut_out(0, background)
    index = stored(tmp_path, [first])
    border = np.pad(first, ((8, 8), (8, 8), (0, 0)), mode="edge")
    for copy in (*copies(first, web_config), border):
        assert near(index, copy) == [0]
    others = [cut_out(seed, background) for seed in range(1, 9)]
    code = fingerprints(first)[0].code
    close = [np.unpackbits(fingerprints(other)[0].code ^ code).sum() <= 70 for other in others]
    assert sum(close) >= 4, "their hashes alone would not tell them apart"
    assert [near(index, other) for other in others] == [[]] * 8


def test_silhouettes_without_structure_are_compared_by_their_outlines(web_config, tmp_path):
    even, blank = cut_out(0, even=True), np.full((200, 200, 3), 255, np.uint8)
    index = stored(tmp_path, [even, blank])
    for copy in copies(even, web_config):
        assert near(index, copy) == [0]
    assert 1 in near(index, blank)
    assert near(index, cut_out(0, even=True, outline_seed=5), 255) == []
