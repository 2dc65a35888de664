"""Locks that keep two processes from the same work."""
import contextlib
import errno
import os
from typing import Iterator

from filelock import FileLock, Timeout

from core.errors import UserError
from core.io.logs import logger


@contextlib.contextmanager
def locked(path: str, work: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` through the block; the system frees it when this process ends, however it ends.

    Args:
        work: what only one process may do at a time, for messages.
        wait: wait for the other process, which is logged, instead of refusing.

    Raises:
        UserError: another process holds the lock and `wait` is not set, or the folder can't be written to.
    """
    lock = FileLock(path)
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            stack.enter_context(lock.acquire(timeout=0))
        except Timeout:
            if not wait:
                raise UserError(f"{work} is under way in another process: wait for it, or end it first") from None
            logger.info("%s is under way in another process: waiting for it", work)
            stack.enter_context(lock.acquire())
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise UserError(f"{path} can't be written: {getattr(error, 'strerror', error)}") from error
            logger.warning("%s can't be locked here: make sure that no other process does the same", path)
        yield
