"""The page of predict.py --serve: its server, and the page itself in headless Chromium where that is installed."""
import base64

import numpy as np
import pytest
from conftest import CPUS, run_script
from pages import Page, narrow_screen

from core.inference.postprocess import Scored, predict
from core.inference.segmenter import Segmenter
from core.inference.try_page import make_app
from core.io.drawing import overlay
from core.io.images import decode_image, read_image, write_image
from core.io.resize import shrink
from core.network.snapshots import load_snapshot


@pytest.fixture
def picture(tmp_path, rng):
    path = str(tmp_path / "picture.png")
    write_image(path, np.kron(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), np.ones((12, 12, 1), np.uint8)))
    return path


@pytest.fixture
def snapshot(untrained):
    return load_snapshot(untrained, "final", 2)


@pytest.fixture
def app(snapshot):
    return make_app(snapshot, CPUS[:1], "float32", 60, "secret")


@pytest.mark.parametrize("refined", [False, True])
def test_a_picture_is_segmented_with_and_without_scales_and_crf(app, snapshot, picture, refined):
    with open(picture, "rb") as file:
        result = app.test_client().post(f"/secret/segment?refined={int(refined)}", data=file.read()).get_json()
    image = shrink(read_image(picture), 60)
    scores = Segmenter(snapshot, CPUS[:1]).scores(image, (0.7, 1.0, 1.3) if refined else (1.0,))
    mask, _ = predict(Scored(None, image, scores), snapshot.config, refined)
    names = snapshot.config.classes
    assert {row["name"]: row["share"] for row in result["classes"]} == {
        names[label]: (mask == label).mean() for label in np.unique(mask)}
    shares = [row["share"] for row in result["classes"]]
    assert len(shares) > 1 and shares == sorted(shares, reverse=True)
    for key, expected in (("picture", image), ("overlay", overlay(image, mask))):
        shown = decode_image(base64.b64decode(result[key].partition(",")[2])).image
        assert np.abs(shown.astype(int) - expected).mean() < 12, "but for JPEG"


def test_what_is_no_picture_is_refused_in_a_line(app):
    answer = app.test_client().post("/secret/segment", data=b"none")
    assert answer.status_code == 422 and "not a picture" in answer.get_json()["error"]
    assert app.test_client().post("/segment", data=b"none").status_code == 404, "without the token"


@pytest.mark.slow
def test_either_pictures_or_the_page_are_expected(tmp_path):
    for flags in ((), ("a.jpg", "--serve")):
        assert "either --serve or the pictures" in run_script(tmp_path, "predict.py", *flags, status=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_a_picture_its_legend_and_what_went_wrong(browser, serve, app, picture, tmp_path, scheme):
    """With the keyboard alone, on a narrow screen."""
    from selenium.webdriver.common.keys import Keys
    (tmp_path / "none.jpg").write_bytes(b"none")
    with narrow_screen(browser, scheme):
        page = Page(browser, serve(app))
        browser.find_element("id", "file").send_keys(picture)
        page.wait(lambda: "%" in page.text("status"))
        shown = page.run("return document.getElementById('image').src")
        legend = page.run("return [...document.querySelectorAll('#legend li')].map(row => row.textContent)")
        assert len(legend) > 1 and all(row.endswith(" %") for row in legend)
        assert page.run("return document.documentElement.scrollWidth <= 380"), "nothing sticks out sideways"
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 24, 26)")
        page.run("document.getElementById('file').focus()")
        page.press(Keys.TAB, Keys.SPACE)  # scales and CRF
        page.wait(lambda: page.run("return document.getElementById('refined').checked"))
        page.wait(lambda: page.run("return document.getElementById('image').src") != shown)
        refined = page.run("return document.getElementById('image').src")
        page.press(Keys.TAB, Keys.SPACE)  # without overlay
        page.wait(lambda: page.run("return document.getElementById('image').src") not in (shown, refined))
        assert not page.faults()
        browser.find_element("id", "file").send_keys(str(tmp_path / "none.jpg"))
        page.wait(lambda: "not a picture" in page.text("status"))
