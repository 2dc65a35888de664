"""fetch_web_images.py: killed, interrupted, and called in wrong ways."""
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT, run_script
from fetching import SETTINGS, rows_of, stored

from core.config import Config


def start(folder, *flags):
    return subprocess.Popen([sys.executable, os.path.join(ROOT, "fetch_web_images.py"), "--config",
                             str(folder / "web.yaml"), "--root", str(folder), *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, universal_newlines=True,
                            # where the tests run in the background, it is ignored
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.fixture
def web(tmp_path, server):
    """Folder with settings and lists of 2 x 40 addresses, some of them bad."""
    settings = {**SETTINGS, "classes": list(SETTINGS["classes"])}
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
    process = start(web, "--urls", str(web / "lists"))
    while not (count_files(web) and server.hits["/mute/1"]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - begin < 5, "downloads were waited for"
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
                      server.url("status", 404, ""), status=2)
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
    (("--urls", "lists", "--web-user-agent", "Łukasz"), "web_user_agent is 'Łukasz'; one line of ASCII"),
])
def test_a_wrong_command_line_is_reported(web, monkeypatch, flags, message):
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    assert message in run_script(web, "fetch_web_images.py", "--config", str(web / "web.yaml"), *flags, status=2)
