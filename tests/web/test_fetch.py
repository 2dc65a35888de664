"""Web images: what is fetched, what is kept, and that nothing of the web can stop or hurt a run."""
import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
import yaml
from conftest import ROOT, largest_file, run_script
from PIL import Image
from web_server import ENDLESS, WebServer, encoded, picture

from core.config import Config
from core.errors import UserError
from core.io.files import write_lines
from core.io.images import read_image, write_image
from core.web import downloader as download
from core.web import sources as web_sources
from core.web.cleaning import decode
from core.web.collect import fetch_web_images
from core.web.corrections import add_decision, apply_moves, read_decisions
from core.web.downloader import Downloader, Failed, Rejected
from core.web.duplicates import Fingerprint, HashIndex, both_hashes
from core.web.manifest import Manifest
from core.web.sources import Candidate

SETTINGS = {"classes": ("bk", "cat", "oak tree", "dog"), "web_rate": 1000.0, "web_timeout": 4.0, "web_total_time": 5.0,
            "web_threads": 4, "web_bytes": 1000000}


@pytest.fixture(scope="module")
def shared_server():
    server = WebServer()
    yield server
    server.end()


@pytest.fixture
def server(shared_server, monkeypatch):
    monkeypatch.setattr(download, "_BACK_OFF", 0.01)
    for counter in (shared_server.hits, shared_server.times, shared_server.asked, shared_server.files):
        counter.clear()
    shared_server.streamed = 0
    return shared_server


@pytest.fixture
def config(tmp_path):
    return Config(root=str(tmp_path), **SETTINGS)


@pytest.fixture
def get(config, server):
    with contextlib.closing(Downloader(config)) as downloader:
        yield downloader.get


def changed(config, **values):
    return Config(root=config.root, **{**SETTINGS, **values})


def fetch(config, urls, **flags):
    """Run with a dict from class index to addresses; returns the manifest's rows."""
    def source(class_index):
        return (Candidate(class_index, "urls", url) for url in urls.get(class_index, ()))
    with contextlib.closing(Downloader(config)) as downloader:
        fetch_web_images(config, source, downloader, **flags)
    return rows_of(config)


def rows_of(config):
    with open(config.path("dataset", "web_manifest.jsonl")) as file:
        return [json.loads(line) for line in file]


def stored(config):
    """Dict from file name to content."""
    folder = config.path("dataset", "web_images")
    return {name: open(os.path.join(folder, name), "rb").read() for name in sorted(os.listdir(folder))}


def near(index, fingerprints, distance):
    return list(index.matches(fingerprints, distance))


def put_voc(config, val=(), test=()):
    """VOC with the given pictures as its val and test images."""
    lists = config.path(config.voc_dir, "ImageSets", "Segmentation")
    os.makedirs(lists, exist_ok=True)
    for part, images in (("val", val), ("test", test)):
        names = ["2007_%s%d" % (part, number) for number in range(len(images))]
        if names:
            with open(os.path.join(lists, part + ".txt"), "w") as file:
                file.write("\n".join(names))
        for name, image in zip(names, images):
            write_image(config.path(config.voc_dir, "JPEGImages", name + ".jpg"), image)


# Downloads

def test_an_answer_comes_whole_whatever_its_type_and_the_client_reports_who_it_is(get, server, config):
    assert get(server.url("ok", 1)) == get(server.url("as-text", 1)) == encoded(picture(1))
    assert server.agents == {config.web_user_agent}


@pytest.mark.parametrize("path, hits", [("flaky/3", 3), ("cut/3", 3), ("busy/3", 2)])
def test_what_fails_for_a_while_is_asked_for_again(get, server, path, hits):
    start = time.monotonic()
    assert get(server.url(path)) == encoded(picture(3))
    assert server.hits["/" + path] == hits
    assert path != "busy/3" or time.monotonic() - start >= 1, "Retry-After was not waited for"


@pytest.mark.parametrize("path, error, reason, hits", [
    ("status/404", Rejected, "HTTP 404", 1), ("status/500", Failed, "HTTP 500", 4), ("later/x", Failed, "HTTP 503", 1),
    ("cut-always/x", Failed, "", 4), ("loop/x", Rejected, "more than 5 redirects", 6),
    pytest.param("mute/x", Failed, "", 2, marks=pytest.mark.slow),
    pytest.param("drip/x", Failed, "took more than 5 s", 1, marks=pytest.mark.slow),
    pytest.param("drip-headers/x", Failed, "took more than 5 s", 1, marks=pytest.mark.slow),
    ("declared/x", Rejected, "too large: %d bytes" % ENDLESS, 1),
    ("endless/x", Rejected, "too large: more than 1000000", 1)])
def test_a_download_ends_in_time_with_its_reason(get, server, path, error, reason, hits):
    start = time.monotonic()
    with pytest.raises(Rejected) as caught:
        get(server.url(path))
    assert type(caught.value) is error and reason in str(caught.value)
    assert time.monotonic() - start < 10 and server.hits["/" + path] == hits
    assert server.streamed < 30000000  # what the sockets' buffers took beyond the limit


@pytest.mark.slow
@pytest.mark.parametrize("path", ["drip/x", "drip-headers/x"])
def test_a_download_by_a_proxy_ends_in_time_too(get, server, path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, server.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    start = time.monotonic()
    with pytest.raises(Failed, match="took more than 5 s"):
        get("http://example.test/" + path)
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_no_new_attempt_starts_after_the_time_is_over(config, server):
    start = time.monotonic()
    with contextlib.closing(Downloader(changed(config, web_rate=0.1))) as downloader:
        with pytest.raises(Failed, match="took more than 5 s"):
            downloader.get(server.url("status/500"))
    assert sum(server.hits.values()) == 1 and time.monotonic() - start < 15


def test_redirects_are_followed_but_only_to_http(get, server):
    assert get(server.url("to/x?" + server.url("ok", 2))) == get(server.url("to/x?/ok/2")) == encoded(picture(2))
    assert get(server.url("to-endless/x")) == encoded(picture(1)) and server.streamed < 30000000
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "//[x", "http://"):
        with pytest.raises(Rejected):
            get(server.url("to/x?" + target))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "", "http://", "http://[x/",
                                 "http://127.0.0.1:99999/", "http://%s.com/" % ("a" * 70), "http://a b/",
                                 "http://..a/", "http://\u2603.\u0000/", "http://127.0.0.1:x/"])
def test_a_bad_address_is_rejected(get, url):
    with pytest.raises(Rejected):
        get(url)


def test_a_host_without_answers_is_left_alone(get, monkeypatch):
    monkeypatch.setattr(download, "_SILENT", 2)
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d/" % unused.getsockname()[1]
    for _ in range(2):
        with pytest.raises(Failed, match="refused"):
            get(url)
    with pytest.raises(Failed, match="no answer: 127.0.0.1 gave none 2 times in a row"):
        get(url)


def test_a_host_is_asked_in_peace(config, server):
    fetch(changed(config, web_rate=20.0), {1: [server.url("slow", number) for number in range(12)]})
    gaps = np.diff(server.times)
    assert len(gaps) == 11 and np.mean(gaps) > 0.045 and server.times[-1] - server.times[0] >= 0.53


def test_no_more_downloads_at_once_than_allowed(config, server, monkeypatch):
    active, most, lock, original = [], [0], threading.Lock(), Downloader.get

    def get(self, url):
        with lock:
            active.append(url)
            most[0] = max(most[0], len(active))
        try:
            return original(self, url)
        finally:
            with lock:
                active.remove(url)
    monkeypatch.setattr(Downloader, "get", get)
    fetch(changed(config, web_threads=3), {1: [server.url("slow", number) for number in range(20)]})
    assert most == [3]


# Cleaning

def bomb(width, height):
    """A PNG of a few bytes that says it has width x height pixels."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content, reason", [
    (b"", "unreadable"), (b"<html></html>", "unreadable"), (encoded(picture(1))[:-900], "unreadable"),
    (encoded(picture(1), "PNG")[:2000], "unreadable"), (encoded(picture(1), "EPS"), "unreadable"),
    (encoded(picture(1, 99, 200)), "tiny: 99 x 200"),
    (encoded(picture(1, 310, 100)), "extreme aspect ratio: 310 x 100"),
    (bomb(8000, 8000), "too many pixels: 8000 x 8000"), (bomb(12000, 12000), "too many pixels: 12000 x 12000"),
    (bomb(100000, 100000), "too many pixels"), (bomb(400, 400), "unreadable")])
def test_what_is_no_image_to_learn_from_is_rejected(config, content, reason):
    with pytest.raises(Rejected, match=reason):
        decode(content, config, {})


def test_images_of_all_kinds_become_rgb_upright_and_small_enough(config):
    image = Image.fromarray(picture(1, 800, 400))
    small = np.asarray(image.resize((500, 250), Image.LANCZOS)).astype(float)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    turned = image.transpose(Image.ROTATE_90)
    for content in (encoded(image, quality=95), encoded(image, "PNG"), encoded(image, "WEBP", quality=95),
                    encoded(image, "BMP"), encoded(image, "TIFF"), encoded(image.convert("CMYK"), quality=95),
                    encoded(image.convert("RGBA"), "PNG"), encoded(turned, exif=exif, quality=95),
                    encoded(image.convert("P", palette=Image.ADAPTIVE), "GIF")):
        row = {}
        decoded = decode(content, config, row)
        assert decoded.shape == (250, 500, 3) and decoded.dtype == np.uint8
        assert np.abs(decoded - small).mean() < 6 and sorted(row["source_size"]) == [400, 800]
    grey = decode(encoded(image.convert("L")), config, {})
    assert grey.shape == (250, 500, 3) and (grey[..., 0] == grey[..., 2]).all()
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    for content in (encoded(Image.fromarray(wide), "PNG"), encoded(Image.fromarray(wide), "TIFF")):
        assert np.abs(decode(content, config, {}).astype(float) - grey).mean() < 2, "16 bits become 8"
    for dtype in (np.float32, np.int32):
        with pytest.raises(Rejected, match="whose range is not known"):
            decode(encoded(Image.fromarray(wide.astype(dtype)), "TIFF"), config, {})
    clear = image.convert("RGBA")
    clear.putalpha(0)
    assert (decode(encoded(clear, "PNG"), config, {}) == 255).all()
    assert decode(encoded(picture(1, 130, 110)), config, {}).shape == (110, 130, 3), "small images are not enlarged"


def test_hashes_know_a_changed_copy_and_tell_others_apart(config):
    images = [picture(seed, 320, 240) for seed in range(60)]
    index = HashIndex()
    for number, image in enumerate(images):
        index.add(number, both_hashes(image)[0])
    for number, image in enumerate(images[:20]):
        half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for copy in (image, half, image[:, ::-1], image[8:-8, 10:-10], decode(encoded(image, quality=30), config, {}),
                     np.clip(image * 0.7 + 20, 0, 255).astype(np.uint8)):
            assert near(index, both_hashes(copy), 70) == [number]
    assert near(index, both_hashes(picture(99, 320, 240)), 70) == []


def test_an_index_grows_and_gives_all_names_nearest_first(rng):
    codes = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    busy = rng.integers(0, 256, (64, 64), dtype=np.uint8)  # no plain background: the hash alone decides
    index = HashIndex()
    assert near(index, [Fingerprint(codes[0], busy)], 255) == []
    for number, code in enumerate(codes):
        index.add(number, Fingerprint(code, busy))
    distances = np.unpackbits(codes ^ codes[7], axis=1).sum(1)
    expected = [int(number) for number in np.argsort(distances, kind="stable") if distances[number] <= 110]
    assert len(expected) > 5 and near(index, [Fingerprint(codes[7], busy)], 110) == expected


def cut_out(seed, background=255, outline_seed=0, even=False):
    """An object of the outline `outline_seed` and of a texture of its own on a plain background."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    rng = np.random.default_rng(outline_seed)
    radius = 110 * (1 + 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.2 * np.sin(3 * angle + rng.uniform(0, 6)))
    points = np.stack([160 + radius * np.cos(angle), 160 + 0.6 * radius * np.sin(angle)], 1).astype(np.int32)
    mask = cv2.fillPoly(np.zeros((320, 320), np.uint8), [points], 1)
    texture = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 255, (320, 320, 3), np.uint8), (0, 0), 8)
    texture = np.clip((texture.astype(float) - 127) * 8 + 100, 0, 200).astype(np.uint8)
    texture = np.full_like(texture, 60) if even else texture
    return np.where(mask[..., None] > 0, texture, np.uint8(background))


def copies(image, config):
    """Changed copies of an image."""
    yield from (image, image[:, ::-1], image[8:-8, 8:-8], cv2.resize(image, None, fx=0.5, fy=0.5))
    yield decode(encoded(image, quality=30), config, {})
    yield np.clip(image * 0.8 + 10, 0, 255).astype(np.uint8)
    yield cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    yield cv2.copyMakeBorder(image, 8, 8, 8, 8, cv2.BORDER_CONSTANT, value=(255,) * 3)


@pytest.mark.parametrize("background", [255, 0, (200, 220, 240)])
def test_different_objects_cut_out_alike_are_no_copies_but_changed_copies_of_one_are(config, background):
    index = HashIndex()
    index.add("first", both_hashes(cut_out(0, background))[0])
    for copy in copies(cut_out(0, background), config):
        assert near(index, both_hashes(np.ascontiguousarray(copy)), 70) == ["first"]
    others = [both_hashes(cut_out(seed, background)) for seed in range(1, 9)]
    close = [np.unpackbits(pair[0].code ^ both_hashes(cut_out(0, background))[0].code).sum() <= 70 for pair in others]
    assert sum(close) >= 4, "their hashes alone would not tell them apart"
    assert [near(index, pair, 70) for pair in others] == [[]] * 8


def test_silhouettes_without_structure_are_compared_by_their_outlines(config):
    index = HashIndex()
    index.add("first", both_hashes(cut_out(0, even=True))[0])
    assert near(index, both_hashes(cut_out(0, even=True)[:, ::-1]), 70) == ["first"]
    assert near(index, both_hashes(decode(encoded(cut_out(0, even=True), quality=30), config, {})), 70) == ["first"]
    blank = np.full((200, 200, 3), 255, np.uint8)
    index.add("blank", both_hashes(blank)[0])
    assert "blank" in near(index, both_hashes(blank), 70)
    assert near(index, both_hashes(cut_out(0, even=True, outline_seed=5)), 255) == []


def test_an_image_that_is_gone_is_compared_by_its_hash(config, tmp_path):
    index = HashIndex()
    index.add("gone", Fingerprint(both_hashes(cut_out(0))[0].code, str(tmp_path / "gone.jpg")))
    assert near(index, both_hashes(cut_out(0)), 70) == ["gone"]


def test_different_objects_on_white_are_all_kept_and_copies_rejected(config, server, tmp_path):
    folder = tmp_path / "own" / "cat"
    for name, image in [(f"{seed}.png", cut_out(seed)) for seed in range(4)] + [("9.png", cut_out(2)[:, ::-1])]:
        write_image(str(folder / name), image)
    with contextlib.closing(Downloader(config)) as downloader:
        fetch_web_images(config, web_sources.folder_source(config, str(tmp_path / "own")), downloader)
    assert [row["status"] for row in rows_of(config)] == ["kept"] * 4 + ["rejected"]
    assert rows_of(config)[4]["reason"] == "near duplicate of 1_000003"


# Runs

@pytest.mark.slow
def test_every_candidate_has_its_line_and_only_good_images_are_kept(config, server):
    put_voc(config, [picture(50)], [picture(51)])
    server.files["mirrored"] = encoded(picture(1)[:, ::-1])
    server.files["smaller"] = encoded(cv2.resize(picture(1, 640, 480), (200, 150), interpolation=cv2.INTER_AREA))
    server.files["val"] = encoded(picture(50)[:, ::-1], quality=50)
    server.files["test"] = encoded(picture(51), "PNG")
    server.files["tiny"] = encoded(picture(5, 90, 90))
    rows = fetch(config, {
        1: [server.url(path) for path in ("ok/1", "status/404", "file/mirrored", "drip/x", "html/x", "ok/2",
                                          "file/val")],
        2: [server.url(path) for path in ("file/smaller", "file/tiny", "ok/3", "file/test", "declared/x")] + ["none"],
        3: [server.url("flaky/4"), server.url("ok/1"), server.url("ok/1")]})
    assert [(row["status"], row.get("name", row.get("reason", "")).split(":")[0]) for row in rows] == [
        ("kept", "1_000001"), ("rejected", "HTTP 404"), ("rejected", "near duplicate of 1_000001"),
        ("failed", "took more than 5 s"), ("rejected", "unreadable"), ("kept", "1_000002"),
        ("rejected", "near duplicate of VOC 2007_val0"), ("rejected", "near duplicate of 1_000001"),
        ("rejected", "tiny"),
        ("kept", "2_000001"), ("rejected", "near duplicate of VOC 2007_test0"), ("rejected", "too large"),
        ("rejected", "neither http nor https"), ("kept", "3_000001"), ("rejected", "near duplicate of 1_000001")]
    images = stored(config)
    assert list(images) == ["1_000001.jpg", "1_000002.jpg", "2_000001.jpg", "3_000001.jpg"]
    kept = rows[0]
    assert kept["class"] == "cat" and kept["url"] == server.url("ok/1") and kept["source"] == "urls"
    assert kept["size"] == kept["source_size"] == [160, 120] and kept["bytes"] == len(encoded(picture(1)))
    assert kept["file_sha256"] == hashlib.sha256(images["1_000001.jpg"]).hexdigest()
    assert np.abs(read_image(config.path("dataset/web_images/1_000001.jpg")) - picture(1).astype(float)).mean() < 4


def test_numbers_follow_the_order_of_the_candidates_and_the_limit_holds(config, server):
    limited = changed(config, web_images_per_class=9)
    rows = fetch(limited, {1: [server.url("slow", number) for number in range(30)]})
    assert [row["name"] for row in rows] == ["1_%06d" % number for number in range(1, 10)]
    assert [row["url"] for row in rows] == [server.url("slow", number) for number in range(9)]
    assert sum(server.hits.values()) <= 9 + 2 * limited.web_threads + 1
    assert len(fetch(limited, {1: [server.url("slow", 40)]})) == 9, "a full class asks for more"


def test_what_was_decided_is_not_asked_for_again_unless_wanted(config, server):
    urls = {1: [server.url("ok", 1), server.url("status", 404), server.url("status", 500)], 2: [server.url("ok", 2)]}
    rows, images = fetch(config, urls), stored(config)
    for name in ("1_000001", "2_000001"):
        os.remove(config.path("dataset/web_images/%s.jpg" % name))  # by its user, who does not want it
    server.hits.clear()
    urls[1].append(server.url("ok", 3))
    again = fetch(config, urls)
    assert again[:4] == rows and again[4]["name"] == "1_000002" and list(server.hits) == ["/ok/3"]
    assert sorted(stored(config)) == ["1_000002.jpg"] and len(images) == 2
    server.hits.clear()
    assert fetch(config, urls, retry=("failed",))[-1]["reason"] == "HTTP 500"
    assert list(server.hits) == ["/status/500"] and len(rows_of(config)) == 5


def test_rejections_are_decided_on_again_when_wanted(config, server):
    urls = {1: [server.url("ok", seed) for seed in (1, 2)]}
    assert {row["reason"] for row in fetch(changed(config, web_shortest_side=140), urls)} == {"tiny: 160 x 120 pixels"}
    assert [row["status"] for row in fetch(config, urls)] == 2 * ["rejected"]
    assert [row["status"] for row in fetch(config, urls, retry=("rejected",))] == 2 * ["kept"]


def test_classes_in_another_order_are_refused(config, server):
    fetch(config, {1: [server.url("ok", 1)], 2: [server.url("ok", 2)]})
    fetch(changed(config, classes=("bk", "cat", "oak tree", "dog", "new")), {})
    for classes, message in ((("bk", "dog", "cat"), "1_000001.jpg belongs to class cat, but class 1 is now dog"),
                             (("bk", "cat"), "2_000001.jpg belongs to class oak tree, but class 2 is now none")):
        with pytest.raises(UserError, match=message + ": keep the order of the classes"):
            fetch(changed(config, classes=classes), {})


def test_a_manifest_changed_by_an_editor_or_by_hand(config, server):
    urls = {1: [server.url("ok", 1), server.url("status", 404), server.url("ok", 2)]}
    rows = fetch(config, urls)
    path = config.path("dataset/web_manifest.jsonl")
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) - 1)  # the last line's end
    assert fetch(config, urls) == rows and len(stored(config)) == 2
    for number, change in ((0, {"name": ["1_000001"]}), (0, {"name": "one"}), (1, {"reason": 5}),
                           (1, {"reason": None})):
        changed_rows = [dict(row, **change) if place == number else row for place, row in enumerate(rows)]
        with open(path, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in changed_rows)
        with pytest.raises(UserError, match="line %d is damaged" % (number + 1)):
            fetch(config, urls)


def test_own_val_images_are_compared_with_beside_voc(config, server):
    put_voc(config, [picture(70)])
    write_image(config.path("dataset", "val_images", "mine.jpg"), picture(2)[:, ::-1])
    write_lines(config.path("dataset", "val_list.txt"), ["mine"])
    rows = fetch(config, {1: [server.url("ok", seed) for seed in (1, 2)]})
    assert [row.get("reason") for row in rows] == [None, "near duplicate of val mine"]


def test_evaluation_images_are_taken_out_once_voc_is_there(config, server, caplog):
    urls = {1: [server.url("ok", seed) for seed in range(4)]}
    fetch(config, urls)
    put_voc(config, [picture(70), picture(2)[:, ::-1]], [picture(71)])
    rows = fetch(config, urls)
    assert [row["status"] for row in rows] == ["kept", "kept", "rejected", "kept"]
    assert rows[2]["reason"] == "near duplicate of VOC 2007_val1"
    assert sorted(stored(config)) == ["1_000001.jpg", "1_000002.jpg", "1_000004.jpg"]
    assert fetch(config, {1: [server.url("ok", 9)]})[-1]["name"] == "1_000005", "a number is given twice"


def decide(config, *decisions):
    """Moves by the review; where the flag is set, create_web_masks.py has run since."""
    layout = config.layout
    for name, class_index, applied in decisions:
        add_decision(layout, name, "move", class_index)
        if applied:
            apply_moves(layout, read_decisions(layout, config.num_classes))


def test_a_number_that_the_review_gave_to_an_image_is_not_given_to_another(config, server):
    fetch(config, {1: [server.url("ok", 1)], 2: [server.url("ok", 2)]})
    moved = stored(config)["1_000001.jpg"]
    decide(config, ("1_000001", 2, False))
    assert fetch(config, {2: [server.url("ok", 3)]})[-1]["name"] == "2_000003"
    apply_moves(config.layout, read_decisions(config.layout, 4))
    assert stored(config)["2_000002.jpg"] == moved and len(stored(config)) == 3


def test_images_that_the_review_moved_are_known_by_their_new_names(config, server, caplog):
    urls = {1: [server.url("ok", seed) for seed in (1, 2)], 3: [server.url("ok", 3)]}
    config = changed(config, web_images_per_class=2)
    fetch(config, urls)
    decide(config, ("1_000001", 2, True), ("2_000001", 3, True))
    rows = fetch(config, {1: [server.url("ok", seed) for seed in (1, 4)], 3: [server.url("ok", 5)]})
    assert [row["name"] for row in rows] == ["1_000001", "1_000002", "3_000001", "1_000003"], "class 3 is full"
    assert "does not list" not in caplog.text
    put_voc(config, [picture(1)])
    assert fetch(config, {})[0]["reason"] == "near duplicate of VOC 2007_val0"
    assert sorted(stored(config)) == ["1_000002.jpg", "1_000003.jpg", "3_000001.jpg"]


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("spoil", [
    lambda lines: lines[:-1] + [lines[-1][:30]],  # killed amid a line
    lambda lines: lines,  # killed before the file had its name
])
def test_a_kill_at_the_worst_moment_leaves_nothing_wrong(config, server, spoil):
    urls = {1: [server.url("ok", seed) for seed in range(5)]}
    rows, images = fetch(config, urls), stored(config)
    path = config.path("dataset/web_manifest.jsonl")
    lines = spoil(open(path).read().splitlines(True))
    with open(path, "w") as file:
        file.writelines(lines)
    os.rename(config.path("dataset/web_images/1_000005.jpg"), config.path("dataset/web_images/.1_000005.jpg.new"))
    with open(config.path("dataset/web_images/.1_000005.jpg.77.tmp"), "wb") as file:
        file.write(b"half")
    assert fetch(config, urls) == rows
    os.remove(config.path("dataset/web_images/.1_000005.jpg.77.tmp"))
    assert stored(config) == images


def test_images_that_lie_there_are_never_overwritten(config, server):
    write_image(config.path("dataset/web_images/1_000007.jpg"), picture(1))
    mine = stored(config)
    assert fetch(config, {1: [server.url("ok", 2)]})[0]["name"] == "1_000008"
    assert stored(config)["1_000007.jpg"] == mine["1_000007.jpg"]


def test_a_damaged_manifest_and_a_second_run_are_reported(config, server):
    fetch(config, {1: [server.url("ok", 1)]})
    with pytest.raises(UserError, match="fetching or moving images of .* is under way"):
        def source(class_index):
            return fetch(config, {}) if class_index == 1 else ()
        fetch_web_images(config, source, Downloader(config))
    with open(config.path("dataset/web_manifest.jsonl"), "a") as file:
        file.write('{"status": "kept"}\n')
    with pytest.raises(UserError, match="web_manifest.jsonl, line 2 is damaged"):
        fetch(config, {})


# Sources

def test_folders_and_lists_of_the_user(config, server, tmp_path):
    folder = tmp_path / "mine of #1"
    for name, seeds in (("cat", (1, 2)), ("oak tree", (3,))):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            (folder / name / ("%d ä%%20.png" % seed)).write_bytes(encoded(picture(seed), "PNG"))
    (folder / "cat" / "notes.txt").write_text("none")
    (folder / "cat" / "large.bmp").write_bytes(b"BM" + bytes(config.web_bytes))
    (folder / "cat" / "inner").mkdir()
    downloader = Downloader(config)
    fetch_web_images(config, web_sources.folder_source(config, str(folder)), downloader)
    assert [(row["class"], row["status"]) for row in rows_of(config)] == [
        ("cat", "kept"), ("cat", "kept"), ("cat", "rejected"), ("cat", "rejected"), ("oak tree", "kept")]
    assert rows_of(config)[2]["reason"].startswith("too large")

    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "oak tree.txt").write_text("# mine\r\n%s\r\n\r\n" % server.url("ok", 5))
    source = web_sources.url_source(config, str(lists))
    assert list(source(1)) == [] and list(source(2)) == [Candidate(2, "urls", server.url("ok", 5))]
    manifest = web_sources.url_source(config, config.path("dataset/web_manifest.jsonl"))
    assert [candidate.url for candidate in manifest(1)] == [row["url"] for row in rows_of(config)[:2]]
    for make, path in ((web_sources.folder_source, lists), (web_sources.url_source, folder)):
        with pytest.raises(UserError, match="holds none of cat"):
            make(config, str(path))
    (tmp_path / "list.jsonl").write_text('{"class": "cat", "url": "http://a/"}\n{"class": "bk", "url": "http://b/"}\n')
    with pytest.raises(UserError, match="list.jsonl, line 2"):
        web_sources.url_source(config, str(tmp_path / "list.jsonl"))


def test_flickr_gives_its_pages_in_order_in_the_size_that_is_wanted(config, get, server):
    queries = {1: ["cat", "tomcat"], 2: ["oak tree"], 3: ["dog"]}
    source = web_sources.flickr_source(config, queries, get, "secret", "commercial,modify", server.url("rest", ""))
    found = list(source(1))
    assert [candidate.url for candidate in found] == [server.url("ok", number)
                                                   for number in (32, 33, 34, 35, 62, 63, 64, 65)]
    assert found[4] == Candidate(1, "flickr", server.url("ok", 62), "tomcat", "https://www.flickr.com/photos/me/62",
                                 "https://creativecommons.org/licenses/by/2.0/")
    assert [values["license"] for values in server.asked if "text" in values] == ["4,9"] * 4
    for licence, numbers in (("commercial", "4,6,9"), ("noncommercial", "1,4,6,9"), ("noncommercial,modify", "1,4,9")):
        server.asked.clear()
        next(web_sources.flickr_source(config, queries, get, "secret", licence, server.url("rest", ""))(1))
        assert server.asked[-1]["license"] == numbers
    server.asked.clear()
    next(web_sources.flickr_source(config, queries, get, "secret", None, server.url("rest", ""))(1))
    assert "license" not in server.asked[-1]


@pytest.mark.parametrize("path, key, message", [
    ("rest/", "wrong", "Invalid API Key"), ("html/x", "wrong", "something other"), ("status/500", "wrong", "HTTP 500"),
    ("loop/x", "wrong", "redirects"), ("ok/1", "wrong", "something other")])
def test_flickr_out_of_order_is_reported_without_the_key(config, get, server, path, key, message):
    with pytest.raises(UserError, match=message) as caught:
        web_sources.flickr_source(config, {}, get, key, None, server.url(path))
    assert key not in str(caught.value)


def test_folders_whose_names_have_their_accents_apart_are_those_of_the_class(config, tmp_path):
    apart = tmp_path / "mine" / "cafe\u0301"
    apart.mkdir(parents=True)
    (apart / "1.png").write_bytes(b"")
    named = changed(config, classes=("bk", "caf\u00e9"))
    assert len(list(web_sources.folder_source(named, str(tmp_path / "mine"))(1))) == 1
    assert named.class_index("cafe\u0301") == 1 and changed(config, classes=("bk", "cafe\u0301")) == named


def test_what_flickr_leaves_out_of_an_answer_is_reported(config, get, server):
    server.files["bare"] = b'{"stat": "ok"}'
    with pytest.raises(UserError, match="something other than its API's JSON"):
        web_sources.flickr_source(config, {}, get, "secret", None, server.url("file/bare"))


@pytest.fixture
def engines(get, server):
    """Downloader.get that finds the search engines on the local server."""
    def local(url, headers):
        parts = urlsplit(url)
        assert parts.hostname in ("www.bing.com", "image.baidu.com")
        return get(server.url(parts.path[1:] + "?" + parts.query), headers)
    return local


def test_search_gives_each_address_on_an_engines_pages_once(server, engines):
    source = web_sources.search_source({1: ["rock & roll"]}, engines, "bing", "commercial")
    addresses = source(1)
    found = [next(addresses)]
    assert len(server.asked) == 1, "pages are asked for before they are needed"
    found += addresses
    assert found == [Candidate(1, "bing", server.url("ok", "%d.jpg" % number), "rock & roll") for number in range(50)]
    assert [asked["first"] for asked in server.asked] == ["0", "20", "40", "60"]
    for asked in server.asked:
        assert asked["q"] == "rock & roll" and "license-L2_L3_L4" in asked["qft"]
        assert asked["agent"].startswith("Mozilla") and asked["referer"] == "https://www.bing.com/"


def test_a_search_engine_that_refuses_is_reported_in_a_line(server, engines, caplog, capfd):
    source = web_sources.search_source({1: ["nothing", "short"]}, engines, "bing")
    assert len(list(source(1))) == 35, "what came before the refusal"
    assert "bing shows nothing for 'nothing' (no addresses" in caplog.text
    assert "bing stops after 35 addresses for 'short': HTTP 403" in caplog.text
    assert list(web_sources.search_source({1: ["cat"]}, engines, "baidu")(1)) == []
    assert "baidu shows nothing for 'cat' (KeyError: 'data')" in caplog.text

    def refusing(url, headers):
        raise Failed("no answer")
    with pytest.raises(UserError, match="bing can't be queried for 'cat': no answer; check the network"):
        list(web_sources.search_source({1: ["cat"]}, refusing, "bing")(1))
    with pytest.raises(UserError, match="baidu has no filter"):
        web_sources.search_source({}, engines, "baidu", "commercial")
    assert "Traceback" not in capfd.readouterr().err


def test_search_without_icrawler_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "icrawler.builtin", None)
    with pytest.raises(UserError, match="--search needs icrawler: pip install"):
        web_sources.search_source({}, None, "bing")


def test_queries_of_a_class(config, tmp_path):
    path = tmp_path / "queries.yaml"
    path.write_text("dog: [puppy, dog]\ncat: tomcat\n")
    assert web_sources.read_queries(str(path), config) == {1: ["tomcat"], 2: ["oak tree"], 3: ["puppy", "dog"]}
    assert web_sources.read_queries(None, config) == {1: ["cat"], 2: ["oak tree"], 3: ["dog"]}
    for text, message in (("dgo: x", "did you mean dog"), ("dog: []", "queries of dog"), ("- x", "holds no lines"),
                          ("dog: [1]", "queries of dog"), ("a: [", "not valid YAML"),
                          ("bk: x", "'bk' is the background")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            web_sources.read_queries(str(path), config)


# The script

def start(folder, *flags):
    return subprocess.Popen([sys.executable, os.path.join(ROOT, "fetch_web_images.py"), "--config",
                             str(folder / "web.yaml"), "--root", str(folder), *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, universal_newlines=True,
                            # where the tests run in the background, it is ignored
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.fixture
def web(tmp_path, server):
    """Folder with settings and lists of 2 x 40 addresses, some of them bad."""
    settings = {**SETTINGS, "classes": list(SETTINGS["classes"]), "web_threads": 3, "web_timeout": 20.0,
                "web_total_time": 60.0}
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "lists").mkdir()
    for name, first in (("cat", 0), ("dog", 25)):
        urls = [server.url("slow", seed) for seed in range(first, first + 36)]
        urls[5::9] = [server.url(path) for path in ("status/404", "html/x", "slow/3", "declared/x")]
        (tmp_path / "lists" / (name + ".txt")).write_text("\n".join(urls))
    return tmp_path


def count_files(folder):
    return len(list((folder / "dataset" / "web_images").glob("*.jpg")))


@pytest.mark.slow
@pytest.mark.kill
def test_a_run_killed_again_and_again_ends_with_the_same_set(web, server):
    lists = str(web / "lists")
    (web / "whole").mkdir()
    (web / "killed").mkdir()
    for folder in ("whole", "killed"):
        (web / folder / "web.yaml").write_text((web / "web.yaml").read_text())
    for goal in (3, 14, 38):
        process = start(web / "killed", "--urls", lists)
        while count_files(web / "killed") < goal and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    results = []
    for folder in ("killed", "whole"):
        hits = sum(server.hits.values())
        process = start(web / folder, "--urls", lists)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and not errors, errors
        config = Config(root=str(web / folder), **SETTINGS)
        results.append((rows_of(config), stored(config), sum(server.hits.values()) - hits))
    assert results[0][:2] == results[1][:2] and len(results[0][1]) == 55
    assert results[0][2] < results[1][2] / 2, "the last run did earlier ones' work again"


def test_control_c_ends_a_run_at_once(web, server):
    (web / "lists" / "cat.txt").write_text(server.url("ok", 1) + "\n" + "\n".join(
        server.url("mute", number) for number in range(30)))
    process = start(web, "--urls", str(web / "lists"), "--web-timeout", "60", "--web-total-time", "90")
    while not (count_files(web) and server.hits["/mute/1"]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - begin < 30, "downloads were waited for"
    assert errors == "interrupted; the same command continues from here\n"
    assert len((web / "dataset" / "web_manifest.jsonl").read_text().splitlines()) == 1


def test_a_run_without_any_image_ends_with_an_error(web, server):
    (web / "gone").mkdir()
    (web / "gone" / "cat.txt").write_text(server.url("status", 404))
    text = run_script(web, "fetch_web_images.py", "--config", str(web / "web.yaml"), "--urls", str(web / "gone"),
                      status=2)
    assert "cat: 0 images; not kept: HTTP 404 1" in text and "no image was kept" in text


def test_the_key_is_not_logged(web, server):
    text = run_script(web, "fetch_web_images.py", "--config", str(web / "web.yaml"), "--flickr", "--flickr-key",
                      "secret", "--flickr-url", server.url("rest", ""), "--web-images-per-class", "3")
    assert "--flickr-key <key>" in text and "secret" not in text + (web / "log" / "fetch_web_images.log").read_text()
    assert "cat: 3 images" in text and count_files(web) > 6


@pytest.mark.parametrize("key", ["s3cretkey\r", " s3cretkey\n", "s3cret key/1"])
def test_a_key_with_characters_that_need_encoding_is_not_shown(web, monkeypatch, server, key):
    monkeypatch.setenv("FLICKR_API_KEY", key)
    text = run_script(web, "fetch_web_images.py", "--config", str(web / "web.yaml"), "--flickr", "--flickr-url",
                      server.url("status", 404, ""), "--web-retries", "0", status=2)
    assert "s3cret" not in text + (web / "log" / "fetch_web_images.log").read_text()
    assert ("letters and digits" if "/" in key else "Flickr can't be queried") in text


@pytest.mark.parametrize("flags, message", [
    ((), "one of the arguments --folder --urls --flickr --search is required"),
    (("--flickr",), "FLICKR_API_KEY"),
    (("--folder", "nowhere"), "nowhere is not a folder"),
    (("--urls", "nowhere.jsonl"), "nowhere.jsonl can't be read"),
    (("--urls", "lists", "--licence", "commercial"), "--licence is for --flickr and --search"),
    (("--search", "bing", "--queries", "none.yaml"), "none.yaml can't be read"),
    (("--urls", "lists", "--web-rate", "0"), "web_rate"),
    (("--urls", "lists", "--web-rate", "1e-12"), "web_rate"),
    (("--urls", "lists", "--web-timeout", "1e12"), "web_timeout"),
    (("--urls", "lists", "--web-user-agent", "Łukasz"), "web_user_agent is 'Łukasz'; one line of ASCII"),
])
def test_a_wrong_command_line_is_reported(web, monkeypatch, flags, message):
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    assert message in run_script(web, "fetch_web_images.py", "--config", str(web / "web.yaml"), *flags, status=2)


def test_pictures_in_folders_below_a_class_are_taken_and_others_reported(config, tmp_path, caplog):
    own = tmp_path / "own"
    for number, name in enumerate(("cat/1.jpg", "cat/deep/er/2.png", "cat/3.png/latest", "oak tree/.hidden/4.png")):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(encoded(picture(number)))
    (own / "cat" / "again").symlink_to(own / "cat")
    (own / "lost.png").write_bytes(b"")
    source = web_sources.folder_source(config, str(own))
    assert [os.path.relpath(candidate.url[len("file://"):], str(own / "cat")) for candidate in source(1)] == [
        "1.jpg", "3.png/latest", "deep/er/2.png"]
    assert list(source(2)) == [] and "1 entries of" in caplog.text and "lost.png" in caplog.text


def test_class_names_match_however_their_accents_are_composed(tmp_path):
    config = Config(classes=("bk", "caf\u00e9"))
    (tmp_path / "q.yaml").write_text("cafe\u0301: coffee house\n")
    assert web_sources.read_queries(str(tmp_path / "q.yaml"), config) == {1: ["coffee house"]}
    (tmp_path / "u.jsonl").write_text('{"class": "cafe\u0301", "url": "http://a/"}\n')
    assert [row.url for row in web_sources.url_source(config, str(tmp_path / "u.jsonl"))(1)] == ["http://a/"]
    (tmp_path / "q.yaml").write_text("cafe\u0301: a\ncaf\u00e9: b\n")
    with pytest.raises(UserError, match="twice"):
        web_sources.read_queries(str(tmp_path / "q.yaml"), config)


@pytest.mark.parametrize("row", ['{"class": "cat", "class": "dog", "url": "http://a/"}'])
def test_a_key_that_appears_twice_in_a_list_of_addresses_is_refused(config, tmp_path, row):
    (tmp_path / "u.jsonl").write_text(row + "\n")
    with pytest.raises(UserError, match="line 1.*'class' appears twice"):
        web_sources.url_source(config, str(tmp_path / "u.jsonl"))


def test_a_manifest_line_that_a_full_disk_cuts_short_is_taken_back(config, server):
    rows = fetch(config, {1: [server.url("status", 404, number) for number in range(3)]})
    path = config.path("dataset", "web_manifest.jsonl")
    size = os.path.getsize(path)
    manifest = Manifest(config.layout, config).save()
    with contextlib.closing(manifest), largest_file(size + 10), pytest.raises(UserError, match="can't be written"):
        manifest.append({"class": "cat", "url": "x", "status": "failed", "reason": "none"})
    assert os.path.getsize(path) == size and rows_of(config) == rows
