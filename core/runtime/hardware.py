"""How much memory this process may use, what its CPU cores can do, and with how many processes it shares them."""
import os
import re
from typing import Iterator, List, Optional, Set

from core.errors import UserError

SLOW_BFLOAT16 = "; float32 is faster here: bfloat16 pays for ResNet-50 with AMX, and with avx512_bf16 on AMD's"

# Control groups of version 1 and 2: folder, and files of the limit and the use; counts that the kernel can reclaim.
_V1 = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_(?:in)?active_file"
_V2 = "/sys/fs/cgroup", "memory.max", "memory.current", "(?:(?:in)?active_file|slab_reclaimable)"


def cpu_flags() -> Set[str]:
    """Names of the CPU's features as Linux lists them, such as avx512_bf16; an empty set on other systems."""
    return set(next(iter(_found("/proc/cpuinfo", r"(?m)^(?:flags|Features)\s*:(.*)$")), "").split())


def has_fast_bfloat16(amx: bool, backbone: str) -> bool:
    """Whether a network in bfloat16 is faster than in float32 on this CPU; of the light one that has not been measured.

    With avx512_bf16 alone ResNet-50 had 1.94 times the speed on AMD's, and half the speed on Intel's; `amx`
    says whether the engine uses the CPU's AMX.
    """
    vendors = _found("/proc/cpuinfo", r"(?m)^vendor_id\s*: (.*)$")
    return backbone == "resnet50" and (amx or "AuthenticAMD" in vendors and "avx512_bf16" in cpu_flags())


def torchrun_number(name: str, default: int) -> int:
    """A number that torchrun gives to its processes by their environment."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,6}", text):
        raise UserError(f"{name}={text} is in the environment, and torchrun sets a number there: unset it")
    return int(text)


def processes_here() -> int:
    """Number of torchrun's processes on this machine; 1 without it."""
    return torchrun_number("LOCAL_WORLD_SIZE", 1) or 1


def free_memory() -> Optional[int]:
    """Bytes of memory that this process can still get, by Linux and by its control groups; None on other systems.

    As in the kernel's estimate, MemAvailable, the cache of files and reclaimable kernel memory count as available.
    """
    free = [1024 * kibibytes for kibibytes in _numbers("/proc/meminfo", r"MemAvailable: +([0-9]+) kB")]
    return max(0, min([*free, *_left_in_groups()])) if free else None


def _left_in_groups() -> Iterator[int]:
    """Bytes left in each control group that limits this process: its own and those above, as far as they can be seen.

    In a container its group is often what lies at the top, whatever path /proc names.
    """
    for controllers, path in _found("/proc/self/cgroup", r"(?m)^[0-9]+:([^:]*):(/.*)$"):
        if controllers and "memory" not in controllers.split(","):
            continue
        top, limit, used, reclaimable = _V1 if controllers else _V2
        names = [name for name in path.split("/") if name not in ("", "..")]
        for depth in range(len(names), -1, -1):
            folder = "/".join([top, *names[:depth]])
            limits, uses = (_numbers(f"{folder}/{name}", r"\A([0-9]+)\s*\Z") for name in (limit, used))
            if limits and uses:
                cached = sum(_numbers(f"{folder}/memory.stat", rf"(?m)^{reclaimable} ([0-9]+)$"))
                yield limits[0] - max(0, uses[0] - cached)


def _numbers(path: str, pattern: str) -> List[int]:
    """Numbers that a pattern finds in a file of the system's; none where there is no such file."""
    return [int(number) for number in _found(path, pattern)]


def _found(path: str, pattern: str) -> List:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return re.findall(pattern, file.read())
    except OSError:
        return []
