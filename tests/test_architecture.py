"""Imports between the packages, as pyproject.toml states them."""
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("importlinter")
LINT = ("import sys; from importlinter.cli import lint_imports_command; "
        "sys.argv[1:] = ['--no-cache']; lint_imports_command()")


def lint(folder):
    """Run import-linter in the folder; returns (exit status, output)."""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", LINT], cwd=str(folder), env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, encoding="utf-8")
    return done.returncode, done.stdout


def test_imports_point_down_and_workers_import_no_engine():
    status, output = lint(ROOT)
    assert status == 0, output


@pytest.mark.parametrize("module, line, contract", [
    ("runtime/parallel.py", "import core.training.train", "Imports point down only"),
    ("inference/crf.py", "import core.engines.mxnet.backend", "Code that runs in worker processes imports no engine"),
    ("inference/crf.py", "import core.engines.torch.backend", "Code that runs in worker processes imports no engine"),
    ("network/fcn.py", "import mxnet", "One module imports mxnet"),
    ("network/fcn.py", "import torch", "Torch computes behind one module")])
def test_an_import_that_points_up_is_found(tmp_path, module, line, contract):
    for folder, folders, names in os.walk(os.path.join(ROOT, "core")):
        folders[:] = [name for name in folders if name != "__pycache__"]
        target = tmp_path / os.path.relpath(folder, ROOT)
        target.mkdir()
        for name in names:
            if name.endswith(".py"):
                os.symlink(os.path.join(folder, name), str(target / name))
    os.symlink(os.path.join(ROOT, "pyproject.toml"), str(tmp_path / "pyproject.toml"))
    path = tmp_path / "core" / module
    source = path.read_text(encoding="utf-8")
    path.unlink()
    path.write_text(source + line + "\n", encoding="utf-8")
    status, output = lint(tmp_path)
    assert status == 1 and f"{contract} BROKEN" in output
