"""CPU cores and memory that a process may use."""
import re

import pytest

import core.runtime.hardware as hardware
from core.runtime.hardware import free_memory

GIB = 1 << 30
V2, V1 = "0::/a/b\n", "4:memory:/a/b\n3:cpu,cpuacct:/a\n"


@pytest.fixture
def system(monkeypatch):
    """Function that gives the system other files, of 8 GiB available; those named by a number have just that."""
    def make(groups, files):
        content = {"/proc/meminfo": f"MemFree: 3 kB\nMemAvailable: {8 * GIB >> 10} kB\n", "/proc/self/cgroup": groups,
                   **{"/sys/fs/cgroup/" + name: f"{value}\n" for name, value in files.items()}}
        monkeypatch.setattr(hardware, "_found", lambda path, pattern: re.findall(pattern, content.get(path, "")))
    return make


def group(place, limit, used, stat="", v1=False):
    """Files of a control group."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    return {place + names[0]: limit, place + names[1]: used, place + "memory.stat": stat}


CACHE_V2 = f"anon 5\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\nslab_reclaimable 4096\nslab 9999"
CACHE_V1 = f"inactive_file 7\ntotal_cache {9 * GIB}\ntotal_inactive_file {2 * GIB}\ntotal_active_file {GIB}"


@pytest.mark.parametrize("groups, files, expected", [
    ("", {}, 8 * GIB),
    (V2, group("a/b/", "max", 5), 8 * GIB),
    (V2, group("a/b/", 4 * GIB, GIB), 3 * GIB),
    (V2, group("a/b/", 4 * GIB, 5 * GIB), 0),
    (V2, group("a/b/", 4 * GIB, 4 * GIB, CACHE_V2), 3 * GIB + 4096),
    (V2, {**group("a/b/", "max", GIB), **group("a/", 2 * GIB, GIB)}, GIB),
    (V2, {**group("a/b/", 6 * GIB, GIB), **group("a/", 7 * GIB, 6 * GIB)}, GIB),
    ("0::/../c\n", group("", 4 * GIB, GIB), 3 * GIB),
    (V1, group("memory/a/b/", 9223372036854771712, GIB, v1=True), 8 * GIB),
    (V1, group("memory/a/b/", 4 * GIB, 4 * GIB, CACHE_V1, v1=True), 3 * GIB),
    (V1, group("memory/", 4 * GIB, 4 * GIB, CACHE_V1, v1=True), 3 * GIB)],
    ids=["no group", "no limit", "limit", "more than the limit", "cache of files", "limit above", "tighter above",
         "group of a container", "v1 without limit", "v1 cache of files", "v1 in a container"])
def test_free_memory_is_what_the_control_groups_leave(system, groups, files, expected):
    system(groups, files)
    assert free_memory() == expected


def test_free_memory_is_unknown_where_linux_does_not_say(monkeypatch):
    monkeypatch.setattr(hardware, "_found", lambda path, pattern: [])
    assert free_memory() is None


def test_this_machine_has_memory_left():
    assert 0 < free_memory() < 1 << 50
