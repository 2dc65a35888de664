"""Runs of fetch_web_images: what is kept, what is known of it, and how a run continues."""
import hashlib
import json
import os

import cv2
import numpy as np
import pytest
from fetching import changed, fetch, put_voc, rows_of, stored
from picture_files import encoded
from web_server import cut_out, picture

from core.errors import UserError
from core.io.files import write_lines
from core.io.images import read_image, write_image
from core.web import sources
from core.web.corrections import add_decision, apply_moves, read_decisions
from core.web.downloader import THREADS


@pytest.fixture
def config(web_config):
    return web_config


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


def test_different_objects_on_white_are_all_kept_and_copies_rejected(config, server, tmp_path):
    folder = tmp_path / "own" / "cat"
    for name, image in [(f"{seed}.png", cut_out(seed)) for seed in range(4)] + [("9.png", cut_out(2)[:, ::-1])]:
        write_image(str(folder / name), image)
    rows = fetch(config, source=sources.folder_source(config, str(tmp_path / "own")))
    assert [row["status"] for row in rows] == ["kept"] * 4 + ["rejected"]
    assert rows[4]["reason"] == "near duplicate of 1_000003"


def test_a_picture_that_a_host_shows_for_several_photos_is_no_image_of_their_class(config, server):
    """Deleted photos lead to one; a host that wants to be visited shows one to all who link to its photos."""
    server.files.update(dict.fromkeys("abcd", encoded(picture(98))), e=encoded(picture(97)), f=encoded(picture(97)))
    config = changed(config, web_images_per_class=4)
    urls = {1: [server.url("file/a"), server.url("ok", 1), server.url("to/x?" + server.url("file/b"))],
            2: [server.url("file/c"), server.url("ok", 2)], 3: [server.url("file/e"), server.url("file/f")]}
    rows = fetch(config, urls)
    assert [row.get("reason", "kept").split(":")[0] for row in rows] == [
        "placeholder", "kept", "near duplicate of 1_000001", "placeholder", "kept", "kept",
        "near duplicate of 3_000001"]
    assert list(stored(config)) == ["1_000002.jpg", "2_000001.jpg", "3_000001.jpg"]
    rows = fetch(config, {1: [server.url("file/d")]})
    assert rows[-1]["reason"].startswith("placeholder"), "forgotten by the next run"
    fetch(config, urls, retry=("rejected",))
    assert list(stored(config)) == ["1_000002.jpg", "2_000001.jpg", "3_000001.jpg"], "an address counts twice"


def test_numbers_follow_the_order_of_the_candidates_and_the_limit_holds(config, server):
    limited = changed(config, web_images_per_class=9)
    rows = fetch(limited, {1: [server.url("slow", number) for number in range(30)]})
    assert [row["name"] for row in rows] == ["1_%06d" % number for number in range(1, 10)]
    assert [row["url"] for row in rows] == [server.url("slow", number) for number in range(9)]
    assert sum(server.hits.values()) <= 9 + 2 * THREADS + 1
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
    rows = fetch(changed(config, web_shortest_side=140), urls)
    assert {row["reason"] for row in rows} == {"tiny: 160 x 120 pixels"}
    assert [row["status"] for row in fetch(config, urls)] == 2 * ["rejected"]
    assert [row["status"] for row in fetch(config, urls, retry=("rejected",))] == 2 * ["kept"]


def test_classes_in_another_order_are_refused(config, server):
    fetch(config, {1: [server.url("ok", 1)], 2: [server.url("ok", 2)]})
    fetch(changed(config, classes=("bk", "cat", "oak tree", "dog", "new")), {})
    for classes, message in ((("bk", "dog", "cat"), "class 1 as cat, and the setting classes has class 1 as dog"),
                             (("bk", "cat"), "class 2 as oak tree, and the setting classes has no class 2")):
        with pytest.raises(UserError, match=message):
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


def test_images_that_the_review_moved_are_known_by_their_new_names(config, server, caplog):
    urls = {1: [server.url("ok", seed) for seed in (1, 2)], 3: [server.url("ok", 3)]}
    config = changed(config, web_images_per_class=2)
    fetch(config, urls)
    for name, class_index in (("1_000001", 2), ("2_000001", 3)):
        add_decision(config.layout, name, "move", class_index)
        apply_moves(config.layout, read_decisions(config.layout, config.num_classes))
    rows = fetch(config, {1: [server.url("ok", seed) for seed in (1, 4)], 3: [server.url("ok", 5)]})
    assert [row["name"] for row in rows] == ["1_000001", "1_000002", "3_000001", "1_000003"], "class 3 is full"
    assert "does not list" not in caplog.text
    put_voc(config, [picture(1)])
    assert fetch(config)[0]["reason"] == "near duplicate of VOC 2007_val0"
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


def test_a_second_run_is_refused(config, server):
    fetch(config, {1: [server.url("ok", 1)]})
    with pytest.raises(UserError, match="fetching or moving images of .* is under way"):
        fetch(config, source=lambda class_index: fetch(config))
