"""Devices as plain values, which both engines take."""
import contextlib
import re
import traceback
from typing import Iterator, List, NamedTuple, Tuple

from core.errors import UserError
from core.io.logs import logger


class Device(NamedTuple):
    """A device as an engine sees it: engine "mxnet" or "torch", type "cpu", "gpu" or "mps" (Apple's GPU)."""
    engine: str
    type: str = "cpu"
    number: int = 0

    def __str__(self) -> str:
        return f"{'torch ' if self.engine == 'torch' else ''}{self.type}({self.number})"


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


@contextlib.contextmanager
def explaining_engine_errors(work: str, remedy: str) -> Iterator[None]:
    """Raise UserError where an engine fails in the block: its errors, pages of C++ calls, go to the log file.

    Args:
        work: what the engine does in the block. remedy: what needs less memory. Both are for the message.
    """
    try:
        yield
    except RuntimeError as error:  # as all errors of both engines are
        if isinstance(error, (NotImplementedError, RecursionError)):
            raise
        logger.debug("%s failed: %s", work, traceback.format_exc())
        text = str(error).strip()
        if re.search("out of memory|Failed to allocate|could not create a primitive|can't allocate memory|not enough "
                     "memory", text, re.IGNORECASE):
            raise UserError(f"the memory of the device ran out: {remedy}") from error
        if re.search("gloo|NCCL|Connection (closed|reset)", text):
            raise UserError("another process of the job is gone, or can't be reached") from error
        reason = text.splitlines()[-1].strip() if text else type(error).__name__
        raise UserError(f"{work} failed: {reason} (the log file has the whole error): try the other --engine, mxnet or "
                        f"torch; on a CPU DNNL_MAX_CPU_ISA=AVX2 before the command; or {remedy}") from error
