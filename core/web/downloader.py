"""Downloads that can't hang, overload a host, or fill the memory."""
import contextlib
import ipaddress
import queue
import threading
import time
from typing import Any, Dict, Mapping, NamedTuple, Optional, Set
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from core.config import Config

THREADS = 8  # simultaneous downloads
MOST_BYTES = 20000000  # of a download
_CHUNK = 1 << 14  # bytes
_REDIRECTS = 5
_BACK_OFF = 1  # seconds before the first new attempt; doubled for each further one
_BUSY = (429, 503)  # the whole host wants a pause
_PASSING = _BUSY + (408, 425, 500, 502, 504)
_FAILURES = 20  # of a host in a row, after which it is left alone
_STAND_INS = ipaddress.ip_network("198.18.0.0/15")  # of VPN clients for public addresses


class Rejected(Exception):
    """What was asked for is of no use; the message says why. Asking again gives the same."""


class Failed(Rejected):
    """What was asked for did not arrive; another time it may."""


class Answer(NamedTuple):
    """Content of an address, and the address that redirects led to."""
    content: bytes
    url: str


class Downloader:
    """HTTP client for many addresses, used from several threads at once.

    Every download ends within `web_total_time` seconds, holds at most `MOST_BYTES` bytes, and starts at least
    1 / `web_rate` seconds after the one before from the same host. Private networks are asked only where an address
    itself names one: no public name and no redirect of one leads there.

    Args:
        config: Config; its settings web_* apply.
    """

    def __init__(self, config: Config):
        self._config = config
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": config.web_user_agent, "Accept": "image/*, */*;q=0.5",
                                      "Accept-Encoding": "identity"})
        self._private = HTTPAdapter(pool_maxsize=THREADS)
        self._public = _PublicAdapter(pool_maxsize=THREADS)
        self._lock = threading.Lock()
        self._turns: Dict[str, float] = {}  # host: time from which on it may be asked
        self._failures: Dict[str, int] = {}  # host: downloads in a row that failed
        self._waiting: Set[queue.SimpleQueue] = set()
        self._closed = threading.Event()

    def close(self) -> None:
        """End all downloads now; they raise Failed."""
        self._closed.set()
        for answers in list(self._waiting):
            answers.put(Failed("stopped"))

    def get(self, url: str, headers: Optional[Mapping[str, str]] = None) -> Answer:
        """Answer of an http or https address.

        Args:
            headers: dict of those that differ from the image downloads', or None.

        Raises:
            Rejected: no such address, not http(s), too large, or the server refuses.
            Failed: no answer, too slow, or cut off, each time it was tried.
        """
        host = _host(url)
        if self._failures.get(host, 0) >= _FAILURES:
            raise Failed(f"left alone: {host} failed {_FAILURES} times in a row")
        answers: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting.add(answers)
        try:
            self._wait_for_turn(host)
            deadline = time.monotonic() + self._config.web_total_time
            # No timeout of a socket ends the look-up of a host, or what comes byte by byte: the thread of such a
            # download is left behind.
            threading.Thread(target=self._download, args=(url, headers, deadline, answers), daemon=True).start()
            answer = answers.get(timeout=self._config.web_total_time)
        except queue.Empty:
            answer = self._late()
        finally:
            self._waiting.discard(answers)
        self._failures[host] = self._failures.get(host, 0) + 1 if isinstance(answer, Failed) else 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _download(self, url, headers, deadline, answers):
        try:
            answers.put(self._try(url, headers, deadline))
        except Exception as error:
            answers.put(error)

    def _try(self, url, headers, deadline):
        """Answer of an address, which is asked again after failures that may pass.

        With urllib3's own retries, a server would decide how long to sleep and how much of a refusal to read.
        """
        host = _host(url)
        for attempt in range(self._config.web_retries + 1):
            pause = _BACK_OFF * 2 ** attempt
            try:
                with self._follow(url, headers, deadline) as response:
                    if response.status_code == 200:
                        return Answer(self._body(response, deadline), response.url)
                    reason = f"HTTP {response.status_code}"
                    if response.status_code not in _PASSING:
                        raise Rejected(reason)
                    with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
                        pause = max(pause, urllib3.Retry().get_retry_after(response.raw) or 0)
                    if response.status_code in _BUSY:
                        with self._lock:
                            self._turns[host] = max(self._turns[host], time.monotonic() + pause)
            except ValueError as error:  # requests and urllib3 derive their errors for bad addresses from it
                raise Rejected(f"not an address: {url!r} ({error})") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if attempt == self._config.web_retries or time.monotonic() + pause > deadline:
                break
            self._sleep(pause)
            self._wait_for_turn(host)
        raise Failed(reason)

    def _follow(self, url, headers, deadline):
        """The response that redirects lead to; Session.get would read the bodies of redirects, of any size."""
        adapter = self._private if _is_private(_host(url)) else self._public
        for _ in range(_REDIRECTS + 1):
            self._check_time(deadline)
            request: Any = self._session.prepare_request(requests.Request("GET", url, headers))
            settings = self._session.merge_environment_settings(request.url, {}, True, None, None)
            response = adapter.send(request, timeout=self._config.web_timeout, **settings)
            target = self._session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            url = urljoin(url, target)
            self._wait_for_turn(_host(url))
        raise Rejected(f"more than {_REDIRECTS} redirects")

    def _body(self, response, deadline):
        limit = MOST_BYTES
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > limit:
            raise Rejected(f"too large: {length} bytes")
        content = bytearray()
        for chunk in response.iter_content(_CHUNK):  # decompressed: some servers compress though identity was asked for
            self._check_time(deadline)
            content += chunk
            if len(content) > limit:
                raise Rejected(f"too large: more than {limit} bytes")
        return bytes(content)

    def _check_time(self, deadline):
        if self._closed.is_set() or time.monotonic() >= deadline:
            raise self._late()

    def _late(self):
        return Failed(f"took more than {self._config.web_total_time:g} s")

    def _wait_for_turn(self, host):
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._turns.get(host, now))
            self._turns[host] = turn + 1 / self._config.web_rate
        self._sleep(turn - now)

    def _sleep(self, seconds):
        if self._closed.wait(seconds):
            raise Failed("stopped")


class _PublicConnection:
    """Mixin of a connection that is closed, before anything is asked, where it leads to a private network."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        address = self.sock.getpeername()[0].split("%")[0]
        if _is_private(address):
            self.sock.close()
            raise Rejected(f"it leads to {address}, an address of a private network")


class _PublicAdapter(HTTPAdapter):
    """Connects to public hosts only. Where a proxy connects to is the proxy's matter."""

    def init_poolmanager(self, *args, **flags):
        super().init_poolmanager(*args, **flags)
        pools: Any = self.poolmanager.pool_classes_by_scheme
        self.poolmanager.pool_classes_by_scheme = {
            scheme: type("Pool", (pool,), {"ConnectionCls": type("Link", (_PublicConnection, pool.ConnectionCls), {})})
            for scheme, pool in pools.items()}


def _is_private(host: str) -> bool:
    """Whether a host is written as one of a private network or of this machine: by its number or without a dot."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host
    return address.is_private and address not in _STAND_INS


def _host(url: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme.lower() in ("http", "https") and parts.hostname:
            return parts.hostname
    raise Rejected(f"neither http nor https: {url!r}")
