"""Log lines on the console and in a file, and progress that suits both."""
import importlib.metadata
import logging
import os
import platform
import sys
import time
from typing import Any, Iterable, Iterator, Optional, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from core.errors import printable
from core.io.files import naming_errors

logger = logging.getLogger("segmentation")
_Item = TypeVar("_Item")
_LINE_EVERY = 30  # seconds between progress lines where there is no terminal
_PACKAGES = ("mxnet", "mxnet-cu117", "mxnet-cu112", "torch", "numpy", "opencv-python-headless", "pillow",
             "simplejpeg", "scipy", "scikit-learn", "distributed", "numba", "requests", "urllib3", "ImageHash",
             "icrawler")


class _OneLine(logging.Formatter):
    """Escapes control characters of the message, such as those of file names."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        record.message = printable(record.message)
        return super().formatMessage(record)


class _File(logging.FileHandler):
    """A log that a full disk ends, in one line; the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        logger.removeHandler(self)
        logger.warning("%s can't be written: going on without it", self.baseFilename)


def start_log(path: str, config: Any) -> None:
    """Log to the console and append to the file at `path`; the first lines say what runs, on what, how set."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    with naming_errors(path, "can't be written"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file_handler = _File(path, encoding="utf-8")
    file_handler.stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that are not UTF-8
    file_handler.setFormatter(_OneLine("%(asctime)s %(message)s"))
    if hasattr(sys.stdout, "reconfigure"):  # file names that the console's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
    console.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(console)  # first, as the other one may remove itself
    logger.addHandler(file_handler)
    logger.info("command: %s", " ".join(sys.argv))
    logger.info("versions: %s", versions())
    changes = "; ".join(f"{name}={value}" for name, value in config.changed().items())
    logger.info("seed %d, settings: %s", config.seed, changes or "all as published")


def versions() -> str:
    """Python, platform and the packages that results depend on, as one line."""
    names = ["Python " + platform.python_version(), platform.platform(terse=True)]
    for package in _PACKAGES:
        try:
            names.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(names)


def progress(items: Iterable[_Item], total: Optional[int], what: str) -> Iterator[_Item]:
    """Pass `items` on, showing how many are done: a bar on a terminal, else a line every half minute. A total of None
    is unknown."""
    if sys.stderr.isatty():
        with logging_redirect_tqdm([logger]):
            yield from tqdm(items, total=total, desc=what, unit="", dynamic_ncols=True, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_EVERY and done != total:
            logger.info("%s: %d%s, %.2f a second", what, done, f" of {total}" if total else "", done / (now - start))
            last = now
