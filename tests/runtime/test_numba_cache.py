"""core/runtime/numba_cache.py: whatever happens to Numba's cache, functions work."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

MODULE = """
from core.runtime.numba_cache import compiled

@compiled("int64(int64)")
def squared(number):
    return number ** 2
"""
CODE = """
import own
print(own.squared(7), len(own.squared.stats.cache_hits))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(MODULE)
    return tmp_path


def run(folder, prepare="", **environment):
    """Import the module in a new process; returns how many functions it found in the cache."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join((str(folder), ROOT)), PYTHONDONTWRITEBYTECODE="1",
                       HOME=str(folder), **environment)
    done = subprocess.run([sys.executable, "-c", prepare + CODE], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    result, hits = map(int, done.stdout.split())
    assert result == 49
    return hits


def cached(folder):
    return sorted((folder / "__pycache__").glob("own.squared-*"))


def test_the_second_process_finds_what_the_first_one_made(folder):
    assert run(folder) == 0
    assert run(folder) == 1


@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
@pytest.mark.parametrize("size", [0, 30])
def test_damaged_files_are_no_trouble(folder, kind, size):
    run(folder)
    path, = [path for path in cached(folder) if path.suffix == kind]
    os.truncate(str(path), size)
    assert run(folder) == 0


def test_a_full_disk_is_no_trouble(folder):
    full = ("import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n")
    assert run(folder, full) == 0
    assert not cached(folder)


def test_folders_that_cannot_be_written_are_no_trouble(folder):
    (folder / "__pycache__").write_text("")  # files in place of both folders: also root can't write there
    (folder / ".cache").write_text("")
    assert run(folder, XDG_CACHE_HOME=str(folder / ".cache")) == 0
