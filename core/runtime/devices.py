"""Devices as plain values, which both engines take."""
import contextlib
import os
import re
import sys
from typing import Any, Iterator, List, NamedTuple, Tuple

from core.errors import UserError


class Device(NamedTuple):
    """A device as an engine sees it: engine "mxnet" or "torch", kind "cpu", "gpu" or "mps" (Apple's GPU)."""
    engine: str
    kind: str = "cpu"
    number: int = 0

    def __str__(self) -> str:
        return f"{'torch ' if self.engine == 'torch' else ''}{self.kind}({self.number})"


def parse_devices(text: str) -> Tuple[str, List[int]]:
    """("cpu" or "gpu", numbers) of a device flag, as `engines.resolve_devices` takes it."""
    text = text.strip()
    cpus = re.fullmatch(r"cpu(?::([1-9][0-9]?))?", text)
    if cpus:
        return "cpu", list(range(int(cpus.group(1) or 1)))
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        raise UserError(f"device {text!r}: expected GPU numbers such as 0 or 0,1,2,3, or cpu, or cpu:2")
    numbers = [int(number) for number in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"device {text!r} names a GPU twice")
    return "gpu", numbers


def check_numbers(numbers: List[int], available: int) -> None:
    """Raise UserError if one of the numbers is not that of an available GPU."""
    missing = [number for number in numbers if number >= available]
    if missing:
        raise UserError(f"there is no GPU {missing[0]}; this machine has {available}, numbered from 0")


def leave(status: int, *_: Any) -> None:
    """End the process at once; what else is passed stays open until then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def explaining_out_of_memory(remedy: str) -> Iterator[None]:
    """Raise UserError where an engine runs out of memory in the block: its own errors are pages of C++ calls.

    Args:
        remedy: what needs less memory, for the message.
    """
    try:
        yield
    except RuntimeError as error:  # the engines' errors are ones, and MXNet's simple_bind raises a plain one
        if re.search("out of memory|Failed to allocate|could not create a primitive|can't allocate memory|not enough "
                     "memory", str(error), re.IGNORECASE):
            raise UserError(f"the memory of the device ran out: {remedy}") from error
        raise
