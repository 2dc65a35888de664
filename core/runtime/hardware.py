"""How much memory this process may use, and what its CPU cores can do."""
import re
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

SLOW_BFLOAT16 = "; float32 is faster on this CPU: bfloat16 pays with AMX, and with avx512_bf16 on AMD's"


def cpu_flags() -> Set[str]:
    """Names of the CPU's features as Linux lists them, such as avx512_bf16; an empty set on other systems."""
    return set(next(iter(_found("/proc/cpuinfo", r"(?m)^(?:flags|Features)\s*:(.*)$")), "").split())


def has_fast_bfloat16(amx: bool) -> bool:
    """Whether networks in bfloat16 are faster than in float32 on this CPU.

    With avx512_bf16 alone they measured 1.94 times the speed on AMD's, and half the speed on Intel's; `amx`
    says whether the engine uses the CPU's AMX.
    """
    amd = "AuthenticAMD" in _found("/proc/cpuinfo", r"(?m)^vendor_id\s*: (.*)$")
    return amx or amd and "avx512_bf16" in cpu_flags()


def free_memory() -> Optional[int]:
    """Bytes of memory that this process can still get, by Linux and by its control groups; None on other systems.

    As in the kernel's own estimate, MemAvailable, the cache of files and reclaimable kernel memory count as available.
    """
    free = [1024 * kibibytes for kibibytes in _numbers("/proc/meminfo", r"MemAvailable: +([0-9]+) kB")]
    if not free:
        return None
    return max(0, min(free + [left for folder, files in _memory_groups() for left in _left_in_group(folder, files)]))


class _GroupFiles(NamedTuple):
    """Files of a control group, and the counts in its memory.stat that the kernel can reclaim."""
    limit: str
    used: str
    reclaimable: str


_V1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_(?:in)?active_file")
_V2 = _GroupFiles("memory.max", "memory.current", "(?:(?:in)?active_file|slab_reclaimable)")


def _memory_groups() -> Iterator[Tuple[str, _GroupFiles]]:
    """Folders of the control groups that limit this process: its own and each above, as far as they can be seen.

    In a container the own group is often what lies at the top, whatever path /proc names.
    """
    for _, controllers, path in _found("/proc/self/cgroup", r"(?m)^([0-9]+):([^:]*):(/.*)$"):
        if "memory" in controllers.split(","):
            top, files = "/sys/fs/cgroup/memory", _V1
        elif not controllers:
            top, files = "/sys/fs/cgroup", _V2
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield "/".join([top] + parts[:depth]), files


def _left_in_group(folder: str, files: _GroupFiles) -> List[int]:
    """Bytes left in a control group, as a list of one number; an empty list where it sets no limit."""
    limit, used = (_numbers(f"{folder}/{name}", r"\A([0-9]+)\s*\Z") for name in (files.limit, files.used))
    if not limit or not used:
        return []
    cached = sum(_numbers(f"{folder}/memory.stat", rf"(?m)^{files.reclaimable} ([0-9]+)$"))
    return [limit[0] - max(0, used[0] - cached)]


def _numbers(path: str, pattern: str) -> List[int]:
    """Numbers that a pattern finds in a file of the system's; none where there is no such file."""
    return [int(number) for number in _found(path, pattern)]


def _found(path: str, pattern: str) -> List:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return re.findall(pattern, file.read())
    except OSError:
        return []
