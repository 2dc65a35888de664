"""Downloads that can't hang, overload a host, or fill the memory."""
import contextlib
import ipaddress
import queue
import threading
import time
from typing import Any, Dict, Mapping, Optional, Set
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from core.config import Config

THREADS = 8  # simultaneous downloads
MOST_BYTES = 20000000  # of a download
_CHUNK = 1 << 14  # bytes
_REDIRECTS = 5
_TIMEOUT = 10.0  # seconds to wait for a connection and for each next byte
_TOTAL_TIME = 60.0  # seconds that a download takes at most, retries included
_RETRIES = 3  # after a failure that may pass
_BACK_OFF = 1  # seconds before the first new attempt; doubled for each further one
_BUSY = (429, 503)  # the whole host wants a pause
_PASSING = _BUSY + (408, 425, 500, 502, 504)
_FAILURES = 20  # of a host in a row, after which it is left alone
_STAND_INS = ipaddress.ip_network("198.18.0.0/15")  # of VPN clients for public addresses


class Rejected(Exception):
    """What was asked for is of no use; the message says why. Asking again gives the same."""


class Failed(Rejected):
    """What was asked for did not arrive; another time it may."""


class Downloader:
    """HTTP client for many addresses, used from several threads at once.

    Every download ends within a minute, holds at most `MOST_BYTES` bytes, and starts at least 1 / `web_rate` seconds
    after the one before from the same host. Private networks are asked only where an address itself names one: no
    public name and no redirect of one leads there.
    """

    def __init__(self, config: Config):
        self._pause = 1 / config.web_rate
        self._private, self._public = (self._session(config, adapter) for adapter in (HTTPAdapter, _PublicAdapter))
        self._lock = threading.Lock()
        self._turns: Dict[str, float] = {}  # host: time from which on it may be asked
        self._failures: Dict[str, int] = {}  # host: downloads in a row that failed
        self._waiting: Set[queue.SimpleQueue] = set()
        self._closed = threading.Event()

    def _session(self, config, adapter):
        session = requests.Session()
        session.headers.update({"User-Agent": config.web_user_agent, "Accept": "image/*, */*;q=0.5",
                                "Accept-Encoding": "identity"})
        session.max_redirects = _REDIRECTS
        session.hooks["response"].append(self._pass_redirect)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter(pool_maxsize=THREADS))
        return session

    def close(self) -> None:
        """End all downloads now; they raise Failed."""
        self._closed.set()
        for answers in list(self._waiting):
            answers.put(Failed("stopped"))

    def get(self, url: str, headers: Optional[Mapping[str, str]] = None) -> bytes:
        """Content of an http or https address; headers replace those of image downloads.

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
            # No timeout of a socket ends the look-up of a host, or what comes byte by byte: the thread of such a
            # download is left behind.
            threading.Thread(target=self._download, args=(url, headers, answers), daemon=True).start()
            answer = answers.get(timeout=_TOTAL_TIME)
        except queue.Empty:
            answer = Failed(f"took more than {_TOTAL_TIME:g} s")
        finally:
            self._waiting.discard(answers)
        self._failures[host] = self._failures.get(host, 0) + 1 if isinstance(answer, Failed) else 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _download(self, url, headers, answers):
        try:
            answers.put(self._try(url, headers))
        except Exception as error:
            answers.put(error)

    def _try(self, url, headers):
        """Content of an address, which is asked again after failures that may pass.

        With urllib3's retries, a server would decide how long to sleep and how much of a refusal to read.
        """
        host, deadline = _host(url), time.monotonic() + _TOTAL_TIME
        session = self._private if _is_private(host) else self._public
        for attempt in range(_RETRIES + 1):
            pause = _BACK_OFF * 2 ** attempt
            try:
                with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as response:
                    if response.status_code == 200:
                        return _body(response)
                    reason = f"HTTP {response.status_code}"
                    if response.status_code not in _PASSING:
                        raise Rejected(reason)
                    with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
                        pause = max(pause, urllib3.Retry().get_retry_after(response.raw) or 0)
                    if response.status_code in _BUSY:
                        with self._lock:
                            self._turns[host] = max(self._turns[host], time.monotonic() + pause)
            except requests.TooManyRedirects as error:
                raise Rejected(f"more than {_REDIRECTS} redirects") from error
            except ValueError as error:  # requests and urllib3 derive their errors for bad addresses from it
                raise Rejected(f"not an address: {url!r} ({error})") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if attempt == _RETRIES or time.monotonic() + pause > deadline:
                break
            self._sleep(pause)
            self._wait_for_turn(host)
        raise Failed(reason)

    def _pass_redirect(self, response, **_):
        """Close a redirect, whose body the session would read, of any size, and wait for the turn of the next host."""
        if response.is_redirect:
            response.close()
            self._wait_for_turn(_host(urljoin(response.url, response.headers["Location"])))

    def _wait_for_turn(self, host):
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._turns.get(host, now))
            self._turns[host] = turn + self._pause
        self._sleep(turn - now)

    def _sleep(self, seconds):
        if self._closed.wait(seconds):
            raise Failed("stopped")


def _body(response: requests.Response) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > MOST_BYTES:
        raise Rejected(f"too large: {length} bytes")
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):  # decompressed: some servers compress though identity was asked for
        content += chunk
        if len(content) > MOST_BYTES:
            raise Rejected(f"too large: more than {MOST_BYTES} bytes")
    return bytes(content)


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
