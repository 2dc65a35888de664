"""Downloads that can't hang, overload a host, or fill the memory."""
import contextlib
import http.client
import socket
import threading
import time
from typing import Any, Callable, Mapping, Optional
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import urllib3
from urllib3.util.retry import Retry

from core.config import Config

_CHUNK = 1 << 16  # bytes
_REDIRECTS = 5
_BACK_OFF = 1  # seconds before the first new attempt; doubled for each further one
_BUSY = (429, 503)  # the whole host wants a pause
_PASSING = _BUSY + (408, 425, 500, 502, 504)
_SILENT = 20  # downloads from a host that got no answer, one after the other, after which it is left alone


class Rejected(Exception):
    """What was asked for is of no use; the message says why. Asking again gives the same."""


class Failed(Rejected):
    """What was asked for did not arrive; another time it may."""


class _Passing(Exception):
    """An attempt failed and the next may not.

    Args:
        pause: seconds that the server asks to wait.
        busy: the whole host is, not this address alone.
        silent: there was no answer at all.
    """

    def __init__(self, reason: str, pause: float = 0, busy: bool = False, silent: bool = False):
        super().__init__(reason)
        self.pause, self.busy, self.silent = pause, busy, silent


class Downloader:
    """HTTP client for many addresses, used from several threads at once.

    Every download ends within `web_total_time` seconds (looking up a host's name excepted), holds at most `web_bytes`
    bytes, and starts at least 1 / `web_rate` seconds after the one before from the same host.

    Args:
        config: Config; its settings web_* apply.
    """

    def __init__(self, config: Config):
        self._config = config
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": config.web_user_agent, "Accept": "image/*, */*;q=0.5",
                                      "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._watch, pool_maxsize=config.web_threads))
        self._lock = threading.Lock()
        self._turns = {}  # host: time from which on it may be asked
        self._silent = {}  # host: downloads in a row that got no answer
        self._deadline = threading.local()
        self._sockets = {}  # thread: (socket that it waits for, deadline)
        self._closed = threading.Event()
        threading.Thread(target=self._enforce_deadlines, daemon=True).start()

    def close(self) -> None:
        """End all downloads now; they raise Failed."""
        self._closed.set()
        for connection, _ in list(self._sockets.values()):
            _shut_down(connection)
        self._session.close()

    def get(self, url: str, headers: Optional[Mapping[str, str]] = None) -> bytes:  # type: ignore[return]  # the last try returns or raises
        """Content of an http or https address, as bytes.

        Args:
            headers: dict of those that differ from the image downloads', or None.

        Raises:
            Rejected: no such address, not http(s), too large, or the server refuses.
            Failed: no answer, too slow, or cut off, each time it was tried.
        """
        config = self._config
        host = _host(url)
        if self._silent.get(host, 0) >= _SILENT:
            raise Failed(f"no answer: {host} gave none {_SILENT} times in a row")
        self._wait_for_turn(host)
        deadline = time.monotonic() + config.web_total_time
        for attempt in range(config.web_retries + 1):
            if attempt:
                self._wait_for_turn(host)
                self._check_time(deadline)
            try:
                return self._get_once(url, deadline, headers)
            except _Passing as error:
                pause = max(_BACK_OFF * 2 ** attempt, error.pause)
                if attempt == config.web_retries or time.monotonic() + pause > deadline:
                    if error.silent:
                        self._silent[host] = self._silent.get(host, 0) + 1
                    raise Failed(str(error)) from error
                if error.busy:
                    self._hold(host, pause)
                self._sleep(pause)

    def _get_once(self, url, deadline, headers):
        for hop in range(_REDIRECTS + 1):
            host = _host(url)
            if hop:
                self._wait_for_turn(host)
                self._check_time(deadline)
            self._deadline.time = deadline
            try:
                with contextlib.closing(self._send(url, headers)) as response:
                    self._silent[host] = 0
                    target = self._session.get_redirect_target(response)
                    if target is None:
                        return self._body(response, deadline)
                    url = urljoin(url, target)
            except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError,
                    ValueError) as error:
                self._check_time(deadline)
                if isinstance(error, ValueError):  # requests and urllib3 derive their errors for bad addresses from it
                    raise Rejected(f"not an address: {url!r} ({error})") from error
                raise _Passing(_in_short(error), silent=isinstance(error, requests.RequestException)) from error
            finally:
                self._sockets.pop(threading.get_ident(), None)
        raise Rejected(f"more than {_REDIRECTS} redirects")

    def _send(self, url, headers):
        """Session.get without its redirects, for which it would read a body of any size."""
        request = self._session.prepare_request(requests.Request("GET", url, headers))
        address = request.url or url  # in normal form
        settings = self._session.merge_environment_settings(address, {}, True, None, None)
        return self._session.get_adapter(address).send(request, timeout=self._config.web_timeout, **settings)

    def _body(self, response, deadline):
        status = response.status_code
        if status in _PASSING:
            raise _Passing(f"HTTP {status}", _retry_after(response), status in _BUSY)
        if status != 200:
            raise Rejected(f"HTTP {status}")
        limit = self._config.web_bytes
        length = response.headers.get("Content-Length", "")
        length = int(length) if length.isdigit() else None
        if length is not None and length > limit:
            raise Rejected(f"too large: {length} bytes")
        content = bytearray()
        while True:
            chunk = response.raw.read(_CHUNK, decode_content=False)
            self._check_time(deadline)  # also the end of a connection that was shut down looks like the end of a file
            if not chunk:
                break
            content += chunk
            if len(content) > limit:
                raise Rejected(f"too large: more than {limit} bytes")
        if length is not None and len(content) < length and "Transfer-Encoding" not in response.headers:
            raise _Passing(f"cut off: {len(content)} of {length} bytes came")
        return bytes(content)

    def _check_time(self, deadline):
        if self._closed.is_set():
            raise Failed("stopped")
        if time.monotonic() >= deadline:
            raise Failed(f"took more than {self._config.web_total_time:g} s")

    def _wait_for_turn(self, host):
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._turns.get(host, now))
            self._turns[host] = turn + 1 / self._config.web_rate
        self._sleep(turn - now)

    def _hold(self, host, pause):
        with self._lock:
            self._turns[host] = max(self._turns.get(host, 0), time.monotonic() + pause)

    def _sleep(self, seconds):
        if self._closed.wait(seconds):
            raise Failed("stopped")

    def _watch(self, connection):
        self._sockets[threading.get_ident()] = connection, self._deadline.time
        if self._closed.is_set():
            _shut_down(connection)

    def _enforce_deadlines(self):
        """A socket's timeout bounds the time between two bytes only, so a slow drip, of headers too, is ended here."""
        while not self._closed.wait(0.2):
            now = time.monotonic()
            for connection, deadline in list(self._sockets.values()):
                if now > deadline:
                    _shut_down(connection)


class _Adapter(requests.adapters.HTTPAdapter):
    """Shows each connection's socket to `watch` before it waits for the answer."""

    def __init__(self, watch: Callable[[Any], None], **flags: Any):
        self._watch = watch
        super().__init__(**flags)

    def init_poolmanager(self, *args: Any, **flags: Any) -> None:
        super().init_poolmanager(*args, **flags)
        self._show(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **flags: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **flags)
        if not known:
            self._show(manager)
        return manager

    def _show(self, manager):
        manager.pool_classes_by_scheme = {
            scheme: _watched(pool, self._watch) for scheme, pool in manager.pool_classes_by_scheme.items()}


def _watched(pool, watch):
    class Connection(pool.ConnectionCls):  # type: ignore[name-defined]
        def getresponse(self, *args, **flags):
            watch(self.sock)
            return super().getresponse(*args, **flags)
    return type("Watched" + pool.__name__, (pool,), {"ConnectionCls": Connection})


def _shut_down(connection):
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # SSL's own would wait for the other side


def _host(url):
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname, parts.scheme
    except ValueError as error:
        raise Rejected(f"not an address: {url!r} ({error})") from error
    if scheme.lower() not in ("http", "https") or not host:
        raise Rejected(f"neither http nor https: {url!r}")
    return host


def _retry_after(response):
    with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        header = response.headers.get("Retry-After")
        return Retry().parse_retry_after(header) if header else 0
    return 0


def _in_short(error):
    """The innermost reason, which says most: requests and urllib3 wrap errors in errors."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, Exception):
            reason = " ".join(str(error).split())[:200]
            return f"{type(error).__name__}: {reason}"
        error = inner
