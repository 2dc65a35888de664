"""Sources of candidates: folders and lists of the user, Flickr, and search engines."""
import contextlib
import os
import sys
from urllib.parse import urlsplit

import pytest
from fetching import fetch
from picture_files import encoded
from web_server import picture

from core.config import Config
from core.errors import UserError
from core.web import sources
from core.web.downloader import MOST_BYTES, Downloader, Failed
from core.web.sources import Candidate


@pytest.fixture
def config(web_config):
    return web_config


@pytest.fixture
def get(config, server):
    with contextlib.closing(Downloader(config)) as downloader:
        yield downloader.get


def test_folders_and_lists_of_the_user(config, server, tmp_path):
    folder = tmp_path / "mine of #1"
    for name, seeds in (("cat", (1, 2)), ("oak tree", (3,))):
        (folder / name).mkdir(parents=True)
        for seed in seeds:
            (folder / name / ("%d ä%%20.png" % seed)).write_bytes(encoded(picture(seed), "PNG"))
    (folder / "cat" / "notes.txt").write_text("none")
    (folder / "cat" / "large.bmp").write_bytes(b"BM" + bytes(MOST_BYTES))
    (folder / "cat" / "inner").mkdir()
    rows = fetch(config, source=sources.folder_source(config, str(folder)))
    assert [(row["class"], row["status"]) for row in rows] == [
        ("cat", "kept"), ("cat", "kept"), ("cat", "rejected"), ("cat", "rejected"), ("oak tree", "kept")]
    assert rows[2]["reason"].startswith("too large")

    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "oak tree.txt").write_text("# mine\r\n%s\r\n\r\n" % server.url("ok", 5))
    source = sources.url_source(config, str(lists))
    assert list(source(1)) == [] and list(source(2)) == [Candidate(2, "urls", server.url("ok", 5))]
    manifest = sources.url_source(config, config.path("dataset/web_manifest.jsonl"))
    assert [candidate.url for candidate in manifest(1)] == [row["url"] for row in rows[:2]]
    for make, path in ((sources.folder_source, lists), (sources.url_source, folder)):
        with pytest.raises(UserError, match="holds none of cat"):
            make(config, str(path))
    for line in ('{"class": "bk", "url": "http://b/"}', '{"class": "cat", "url": 5}', '["cat"]', "{",
                 '{"class": "cat", "class": "dog", "url": "http://a/"}'):
        (tmp_path / "list.jsonl").write_text('{"class": "cat", "url": "http://a/"}\n' + line)
        with pytest.raises(UserError, match="list.jsonl, line 2"):
            sources.url_source(config, str(tmp_path / "list.jsonl"))


def test_pictures_in_folders_below_a_class_are_taken_and_others_reported(config, tmp_path, caplog):
    own = tmp_path / "own"
    for number, name in enumerate(("cat/1.jpg", "cat/deep/er/2.png", "cat/3.png/latest", "oak tree/.hidden/4.png")):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(encoded(picture(number)))
    (own / "cat" / "again").symlink_to(own / "cat")
    (own / "lost.png").write_bytes(b"")
    (own / "cats").mkdir()
    source = sources.folder_source(config, str(own))
    assert [os.path.relpath(candidate.url[len("file://"):], str(own / "cat")) for candidate in source(1)] == [
        "1.jpg", "3.png/latest", "deep/er/2.png"]
    assert list(source(2)) == [] and "1 entries of" in caplog.text and "lost.png" in caplog.text
    assert f"left out: {own}/cats: there is no class 'cats'; did you mean cat?" in caplog.text


def test_flickr_gives_its_pages_in_order_in_the_size_that_is_wanted(config, get, server):
    queries = {1: ["cat", "tomcat"], 2: ["oak tree"], 3: ["dog"]}
    source = sources.flickr_source(config, queries, get, "secret", "commercial,modify", server.url("rest", ""))
    found = list(source(1))
    assert [candidate.url for candidate in found] == [server.url("ok", number)
                                                   for number in (32, 33, 34, 35, 62, 63, 64, 65)]
    assert found[4] == Candidate(1, "flickr", server.url("ok", 62), "tomcat", "https://www.flickr.com/photos/me/62",
                                 "https://creativecommons.org/licenses/by/2.0/")
    assert [values["license"] for values in server.asked if "text" in values] == ["4,9"] * 4
    for licence, numbers in (("commercial", "4,6,9"), ("noncommercial", "1,4,6,9"), ("noncommercial,modify", "1,4,9")):
        server.asked.clear()
        next(sources.flickr_source(config, queries, get, "secret", licence, server.url("rest", ""))(1))
        assert server.asked[-1]["license"] == numbers
    server.asked.clear()
    next(sources.flickr_source(config, queries, get, "secret", None, server.url("rest", ""))(1))
    assert "license" not in server.asked[-1]


@pytest.mark.parametrize("path, key, message", [
    ("rest/", "wrong", "Invalid API Key"), ("html/x", "wrong", "something other"), ("status/500", "wrong", "HTTP 500"),
    ("loop/x", "wrong", "redirects"), ("file/bare", "wrong", "something other")])
def test_flickr_out_of_order_is_reported_without_the_key(config, get, server, path, key, message):
    server.files["bare"] = b'{"stat": "ok"}'
    with pytest.raises(UserError, match=message) as caught:
        sources.flickr_source(config, {}, get, key, None, server.url(path))
    assert key not in str(caught.value)


@pytest.fixture
def engines(get, server):
    """Downloader.get that finds the search engines on the local server."""
    def local(url, headers):
        parts = urlsplit(url)
        assert parts.hostname in ("www.bing.com", "image.baidu.com")
        return get(server.url(parts.path[1:] + "?" + parts.query), headers)
    return local


def test_search_gives_each_address_on_an_engines_pages_once(server, engines):
    source = sources.search_source({1: ["rock & roll"]}, engines, "bing", "commercial")
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
    source = sources.search_source({1: ["nothing", "short"]}, engines, "bing")
    assert len(list(source(1))) == 35, "what came before the refusal"
    assert "bing shows nothing for 'nothing' (no addresses" in caplog.text
    assert "bing stops after 35 addresses for 'short': HTTP 403" in caplog.text
    assert list(sources.search_source({1: ["cat"]}, engines, "baidu")(1)) == []
    assert "baidu shows nothing for 'cat' (KeyError: 'data')" in caplog.text

    def refusing(url, headers):
        raise Failed("no answer")
    with pytest.raises(UserError, match="bing can't be queried for 'cat': no answer; check the network"):
        list(sources.search_source({1: ["cat"]}, refusing, "bing")(1))
    with pytest.raises(UserError, match="baidu has no filter"):
        sources.search_source({}, engines, "baidu", "commercial")
    assert "Traceback" not in capfd.readouterr().err


def test_search_without_icrawler_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "icrawler.builtin", None)
    with pytest.raises(UserError, match="--search needs icrawler: pip install"):
        sources.search_source({}, None, "bing")


def test_queries_of_a_class(config, tmp_path):
    path = tmp_path / "queries.yaml"
    path.write_text("dog: [puppy, dog]\ncat: tomcat\n")
    assert sources.read_queries(str(path), config) == {1: ["tomcat"], 2: ["oak tree"], 3: ["puppy", "dog"]}
    assert sources.read_queries(None, config) == {1: ["cat"], 2: ["oak tree"], 3: ["dog"]}
    for text, message in (("dgo: x", "did you mean dog"), ("dog: []", "queries of dog"), ("- x", "holds no lines"),
                          ("dog: [1]", "queries of dog"), ("a: [", "not valid YAML"),
                          ("bk: x", "'bk' is the background")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            sources.read_queries(str(path), config)


def test_class_names_match_however_their_accents_are_composed(tmp_path):
    config = Config(classes=("bk", "caf\u00e9"))
    (tmp_path / "q.yaml").write_text("cafe\u0301: coffee house\n")
    assert sources.read_queries(str(tmp_path / "q.yaml"), config) == {1: ["coffee house"]}
    (tmp_path / "u.jsonl").write_text('{"class": "cafe\u0301", "url": "http://a/"}\n')
    assert [row.url for row in sources.url_source(config, str(tmp_path / "u.jsonl"))(1)] == ["http://a/"]
    (tmp_path / "own" / "cafe\u0301").mkdir(parents=True)
    (tmp_path / "own" / "cafe\u0301" / "1.png").write_bytes(b"")
    assert len(list(sources.folder_source(config, str(tmp_path / "own"))(1))) == 1
