"""Downloads: what comes, what ends in time with its reason, and how hosts are spared."""
import contextlib
import gzip
import socket
import time

import numpy as np
import pytest
from fetching import changed, fetch
from picture_files import encoded
from web_server import ENDLESS, picture

import core.web.downloader
from core.web.downloader import Downloader, Failed, Rejected


@pytest.fixture
def get(web_config, server, monkeypatch):
    monkeypatch.setattr(core.web.downloader, "MOST_BYTES", 1000000)
    with contextlib.closing(Downloader(web_config)) as downloader:
        yield lambda *args: downloader.get(*args)


def test_an_answer_comes_whole_whatever_its_type_and_the_client_reports_who_it_is(get, server, web_config):
    assert get(server.url("ok", 1)) == get(server.url("as-text", 1)) == encoded(picture(1))
    assert server.agents == {web_config.web_user_agent}


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


def test_a_picture_that_comes_compressed_unasked_is_decompressed_up_to_the_limit(get, server):
    server.files["small"], server.files["bomb"] = (gzip.compress(content) for content in (
        encoded(picture(1)), bytes(100000000)))
    assert get(server.url("gzip/small")) == encoded(picture(1))
    with pytest.raises(Rejected, match="too large: more than 1000000"):
        get(server.url("gzip/bomb"))


def test_no_public_name_leads_to_a_private_network(get, server, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args: look_up(
        "127.0.0.1" if host == "example.test" else host, *args))
    monkeypatch.setenv("no_proxy", "*")
    for path in ("ok/1", "to/x?" + server.url("ok", 1)):
        with pytest.raises(Rejected, match="it leads to 127.0.0.1, an address of a private network"):
            get(server.url(path).replace("127.0.0.1", "example.test"))
    assert not server.hits


def test_a_host_without_answers_is_left_alone(get, monkeypatch):
    monkeypatch.setattr("core.web.downloader._FAILURES", 2)
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d/" % unused.getsockname()[1]
    for _ in range(2):
        with pytest.raises(Failed, match="refused"):
            get(url)
    with pytest.raises(Failed, match="left alone: 127.0.0.1 failed 2 times in a row"):
        get(url)


def test_a_host_is_asked_in_peace(web_config, server):
    fetch(changed(web_config, web_rate=20.0), {1: [server.url("slow", number) for number in range(12)]})
    gaps = np.diff(server.times)
    assert len(gaps) == 11 and np.mean(gaps) > 0.045 and server.times[-1] - server.times[0] >= 0.53
