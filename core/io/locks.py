"""Locks that keep two processes from the same work."""
import contextlib
import errno
import os
import socket
import time
from typing import Iterator

from core.errors import UserError
from core.io.logs import logger

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
_WINDOWS_PLACE = 1 << 30  # of the byte that is locked there: others can't read a locked one, and the note is to be read


@contextlib.contextmanager
def locked(path: str, work: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` through the block; the system frees it when this process ends, however it ends.

    Args:
        work: what only one process may do at a time, for messages.
        wait: wait for the other process, which is logged, instead of refusing.

    Raises:
        UserError: another process holds the lock and `wait` is not set, or the folder can't be written to.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # whatever the lock file allows
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                raise UserError(f"{work} is under way in {holder}: wait for it, or end it first") from None
            logger.info("%s is under way in %s: waiting for it", work, holder)
            _lock(file, wait=True)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise UserError(f"{path} can't be locked: {error.strerror}") from error
            logger.warning("%s can't be locked here (%s): make sure that no other process does the same", path,
                           error.strerror)
        with contextlib.suppress(OSError):  # a full disk takes no note, and the lock holds all the same
            file.truncate(0)
            note = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            os.write(file.fileno(), note.encode("utf-8"))  # the time, as every container's process may be number 1
        yield


def _lock(file, wait=False):
    """Raise BlockingIOError where another process has locked the file, unless `wait` is set."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt
    while True:
        os.lseek(file.fileno(), _WINDOWS_PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return
        except PermissionError as error:
            if not wait:
                raise BlockingIOError(error.errno, error.strerror) from error
        time.sleep(1)
