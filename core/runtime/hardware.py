"""How many CPU cores and how much memory this process may use, and what the cores can do."""
import math
import os
import re


def available_cpus():
    """Logical CPUs that the scheduler and the container's quota leave to this process, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or "max": no quota
    return max(1, count)


def physical_cores():
    """`available_cpus` with hyper-threads of one core counted once."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = set()
    for cpu in affinity(0) if affinity else ():
        try:
            with open("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu, encoding="ascii") as file:
                cores.add(file.read())
        except OSError:
            return available_cpus()
    return min(available_cpus(), len(cores) or available_cpus())


def cpu_flags():
    """Names of the CPU's features as Linux lists them, such as avx512_bf16; an empty set on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return set(value.split())
    except OSError:
        pass
    return set()


def free_memory():
    """Bytes of memory that this process can still get, by Linux and by its control group; None on other systems."""
    free = [1024 * kibibytes for kibibytes in _numbers("/proc/meminfo", r"MemAvailable: +([0-9]+) kB")]
    if not free:
        return None
    for names in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        limit, used = (_numbers("/sys/fs/cgroup/" + name, "[0-9]+") for name in names)
        if limit:
            free.append(max(0, limit[0] - sum(used)))
    return min(free)


def _numbers(path, pattern):
    """Numbers that a pattern finds in a file of the system's; none where there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return [int(number) for number in re.findall(pattern, file.read())]
    except OSError:
        return []
