"""The review page: its server, and the page itself in headless Chromium where that is installed."""
import csv
import dataclasses
import os

import numpy as np
import pytest
from pages import Page, narrow_screen

from core.annotation.review import make_app
from core.annotation.review import serve as serve_page
from core.config import Config
from core.data import record_classes
from core.errors import UserError
from core.io.files import read_lines, read_text, write_text
from core.io.images import decode_image, write_image, write_mask
from core.paths import image_path, mask_path
from core.web.corrections import add_decision, read_decisions

CLASSES = ("background", "mug", "spoon")


def make_data(root, count):
    """`count` web images of each class with masks; of every five one was left out."""
    config = Config(root=str(root), classes=CLASSES)
    layout = config.layout
    rows = []
    for label in (1, 2):
        for number in range(1, count + 1):
            name = f"{label}_{number:06d}"
            image = np.full((40, 50, 3), (number * 37 % 256, 90 * label, 60), np.uint8)
            mask = np.zeros((40, 50), np.uint8)
            mask[10:30, 12:40] = label
            write_image(image_path(layout.web_images, name), image)
            write_mask(mask_path(layout.web_masks, name), mask)
            left_out = number % 5 == 0
            rows.append([name, CLASSES[label], int(not left_out), f"{number / count:.4f}", "0.3",
                         "score below 0.4" if left_out else ""])
    with open(layout.web_report, "w", newline="") as file:
        csv.writer(file).writerows([["name", "class", "kept", "score", "foreground", "reason"], *rows])
    return config


@pytest.fixture
def config(tmp_path, monkeypatch):
    """In the working folder, as by default."""
    monkeypatch.chdir(tmp_path)
    return make_data(".", 10)


@pytest.fixture
def client(config):
    return make_app(config, "secret").test_client()


def test_nothing_is_served_without_the_token(client):
    for path in ("/", "/images", "/other/", "/other/images", "/static/review.js", "/secret/static/../../review.py"):
        assert client.get(path).status_code == 404, path
    assert client.post("/decide", json={"name": "1_000001", "decision": "keep"}).status_code == 404
    assert client.get("/secret/").status_code == 200
    assert client.get("/secret/static/review.js").status_code == 200
    assert client.get("/secret/images").headers["Referrer-Policy"] == "no-referrer"


def test_the_page_of_another_site_is_refused_though_its_name_leads_here(client):
    for host, status in (("127.0.0.1:8000", 200), ("localhost:8000", 200), ("evil.example:8000", 403),
                         ("127.0.0.1.evil.example", 403)):
        assert client.get("/secret/images", headers={"Host": host}).status_code == status


def test_a_decision_of_megabytes_is_refused_unread(client):
    assert client.post("/secret/decide", data=b"[" + b" " * (1 << 20), content_type="application/json"
                       ).status_code == 413


def test_a_row_for_each_image_says_what_became_of_it(client, config):
    path = config.layout.web_report
    write_text(path, read_text(path).replace(",", ";").replace(".", ","))  # as spreadsheets of some countries
    for page in (client, make_app(config, "secret").test_client()):
        rows = {row["name"]: row for row in page.get("/secret/images").get_json()["images"]}
        assert len(rows) == 20
        assert rows["2_000005"].pop("reason") in ("score below 0.4", "score below 0,4")
        assert rows["2_000005"] == {"name": "2_000005", "class": 2, "kept": False, "score": 0.5, "foreground": 0.3,
                                    "corrected": False}
    text = read_text(path)
    for old, new in (("0,5000", "0,5x"), (";score;", ";points;")):
        write_text(path, text.replace(old, new))
        with pytest.raises(UserError, match="web_report.csv is not as create_web_masks.py wrote it .*run it again"):
            make_app(config, "secret")


def test_a_decision_is_on_the_disk_when_it_is_answered(client, config):
    answer = client.post("/secret/decide", json={"name": "1_000005", "decision": "keep"})
    assert answer.get_json() == {"decision": "keep", "class": 1}
    assert read_lines(config.layout.web_decisions)[1:] == ["1_000005,keep,"]
    answer = client.post("/secret/decide", json={"name": "1_000005", "decision": "move", "class": 2})
    assert answer.get_json() == {"decision": "move", "class": 2}
    assert client.get("/secret/changes").get_json() == {"1_000005": {"decision": "move", "class": 2}}


@pytest.mark.parametrize("row, status", [
    ({"name": "1_000005", "decision": "burn"}, 400), ({"name": "../x", "decision": "keep"}, 404), ({}, 400), ([], 400),
    ({"name": "1_000005", "decision": "move"}, 409), ({"name": "1_000005", "decision": "move", "class": 1}, 409),
    ({"name": "1_000005", "decision": "move", "class": 3}, 409),
    ({"name": "1_000005", "decision": "move", "class": True}, 409)])
def test_what_is_no_decision_is_refused(client, config, row, status):
    assert client.post("/secret/decide", json=row).status_code == status
    assert not os.path.exists(config.layout.web_decisions)


def test_thumbnails_show_the_mask_as_it_is(client, config):
    layout = config.layout
    pictures = [client.get("/secret/thumbnail/1_000001").data]
    for folder, label in ((layout.web_masks, 0), (layout.web_corrected, 1)):
        write_mask(mask_path(folder, "1_000001"), np.full((40, 50), label, np.uint8))
        pictures.append(client.get("/secret/thumbnail/1_000001").data)
    assert len(set(pictures)) == 3 and decode_image(pictures[1]).image.shape == (40, 50, 3)
    absolute = make_app(dataclasses.replace(config, root=os.getcwd()), "secret").test_client()
    assert absolute.get("/secret/thumbnail/1_000001").data == pictures[2]
    assert client.get("/secret/view/1_000001").data != client.get("/secret/view/1_000001?outline=0").data
    assert client.get("/secret/thumbnail/9_000001").status_code == 404


def test_a_damaged_mask_leaves_the_image_to_be_seen_and_a_damaged_image_an_empty_tile(client, config):
    shown = [client.get("/secret/view/1_000001?outline=0").data]
    for path in (mask_path(config.layout.web_masks, "1_000001"), image_path(config.layout.web_images, "1_000001")):
        with open(path, "wb") as file:
            file.write(b"none")
        shown.append(client.get("/secret/view/1_000001").data)
    assert shown[0] == shown[1] and (decode_image(shown[2]).image == 235).all()


def test_without_web_images_there_is_nothing_to_review(tmp_path):
    with pytest.raises(UserError, match="run fetch_web_images.py first"):
        make_app(Config(root=str(tmp_path)), "secret")


@pytest.mark.parametrize("port", [-1, 65536])  # the system would take 65536 for 0, any free port
def test_a_port_that_does_not_exist_is_refused(config, port):
    with pytest.raises(UserError, match=f"--port {port}: a number from 0 to 65535"):
        serve_page(config, port)


def test_images_of_other_classes_are_refused(config):
    """As where --config is forgotten: the page would name other classes and move images to them."""
    record_classes(config.layout.classes, CLASSES)
    make_app(config, "secret")
    with pytest.raises(UserError, match="class 1 as mug, and the setting classes has class 1 as aeroplane"):
        make_app(Config(root=config.root), "secret")


# The page in a browser


class Review(Page):
    """The review page of a data set."""

    def __init__(self, browser, address):
        super().__init__(browser, address)
        self.wait(lambda: self.names("kept") or self.names("left"))

    def names(self, grid):
        return self.run("return [...document.querySelectorAll(`#${arguments[0]} .tile`)]"
                        ".map(tile => tile.dataset.name)", grid)

    def focus(self, name):
        self.run("document.querySelector(`[data-name='${arguments[0]}']`).focus()", name)

    def focused(self):
        return self.run("return document.activeElement.dataset.name || null")


@pytest.fixture
def review(browser, serve):
    """Function that opens the page of a data set."""
    return lambda config: Review(browser, serve(make_app(config, "secret")))


def decided(config):
    return {name: tuple(decision)[1:] for name, decision in read_decisions(config.layout, 3).items()}


def test_click_key_undo_and_reload(review, config):
    page = review(config)
    assert page.names("left") == ["1_000005", "1_000010"] and page.names("kept")[0] == "1_000001", "lowest score first"
    page.click("[data-name='1_000005']")
    page.wait(lambda: "1_000005" in page.names("kept"))
    page.focus("1_000001")
    page.press("r")
    page.wait(lambda: "1_000001" in page.names("left"))
    assert decided(config) == {"1_000005": ("keep", ""), "1_000001": ("reject", "")}
    page.wait(lambda: page.focused() == "1_000002")  # the next image
    page.press("u")
    page.wait(lambda: "1_000001" in page.names("kept"))
    assert decided(config) == {"1_000005": ("keep", "")}
    page.browser.refresh()
    page.wait(lambda: "1_000005" in page.names("kept"))
    assert not page.faults()


def test_keyboard_alone_is_enough(review, config):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    page = review(config)
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: page.focused() == "1_000001")
    page.press(Keys.ARROW_RIGHT, Keys.ENTER)
    page.wait(lambda: page.run("return document.getElementById('large').open"))
    page.click("[data-act=move]")
    page.wait(lambda: page.run("return document.getElementById('move').open"))
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.run("return document.getElementById('move').open"))
    page.press("r")
    page.wait(lambda: "1_000003" in page.text("large-text"))  # the next
    page.press("r")
    page.wait(lambda: set(decided(config)) == {"1_000002", "1_000003"})
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.run("return document.getElementById('large').open"))
    page.focus("1_000004")
    page.press("m")
    page.wait(lambda: page.run("return document.getElementById('move').open"))
    page.press(Keys.TAB, Keys.ENTER)  # from the list of classes to the button
    page.wait(lambda: "1_000004" not in page.names("kept"))
    assert decided(config)["1_000004"] == ("move", "2_000011")
    page.press("u")
    page.wait(lambda: "1_000004" not in decided(config))
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    page.wait(lambda: len(decided(config)) == 1)


def test_two_windows_see_each_others_decisions(review, config):
    page = review(config)
    add_decision(config.layout, "1_000002", "reject")  # as a second window does, by the same file
    page.wait(lambda: "1_000002" in page.names("left"))


def test_filters_show_a_class_and_a_reason(review, config):
    page = review(config)
    page.run("const menu = document.getElementById('class'); menu.value = '2'; menu.dispatchEvent(new Event('change'))")
    assert page.names("left") == ["2_000005", "2_000010"]
    page.run("const menu = document.getElementById('reason'); menu.value = 'score below 0.4';"
             "menu.dispatchEvent(new Event('change'))")
    assert page.names("kept") == [] and page.names("left") == ["2_000005", "2_000010"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_many_images_on_a_narrow_screen(browser, review, tmp_path, scheme):
    config = make_data(tmp_path, 250)
    with narrow_screen(browser, scheme):
        page = review(config)
        assert len(page.names("kept")) == 200 and len(page.names("left")) == 50
        assert page.run("return document.documentElement.scrollWidth <= 380"), "nothing sticks out sideways"
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 24, 26)")
        page.wait(lambda: page.run("return document.querySelector('.tile img').naturalWidth") > 0)
        made = page.run("return performance.getEntriesByType('resource').filter(e => /thumbnail/.test(e.name)).length")
        assert 0 < made < 250, "thumbnails are asked for where they come into view"


def test_a_decision_on_an_image_that_is_gone_is_reported(review, config):
    page = review(config)
    os.remove(image_path(config.layout.web_images, "1_000001"))
    page.click("[data-name='1_000001']")
    page.wait(lambda: "1_000001 is gone" in page.text("status"))
    assert decided(config) == {}
