"""Imports between the packages, as pyproject.toml states them."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("importlinter")


def test_imports_point_down_and_workers_import_no_engine():
    code = ("import sys; from importlinter.cli import lint_imports_command; sys.argv[1:] = ['--no-cache']; "
            "lint_imports_command()")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert done.returncode == 0, done.stdout
