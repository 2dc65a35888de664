"""Machine code for loops over pixels, made by Numba. Does not import mxnet, so that it runs in workers."""
from typing import Any, Callable, List, Union

import numba


def compiled(signatures: Union[str, List[str]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: machine code of a function for arguments of one signature, or several, in Numba's notation.

    It is made when the module is first imported, and kept in `__pycache__` beside it, or in the user's cache folder, or
    in that of the environment variable NUMBA_CACHE_DIR. Numba replaces those files as a whole, so processes may share
    them. Where they can't be written or read, each process makes its own.
    """
    def decorate(function):
        try:
            return numba.njit(signatures, cache=True)(function)
        except Exception:  # no folder can be written, the disk is full, a file is damaged: each raises what it likes
            return numba.njit(signatures)(function)
    return decorate
