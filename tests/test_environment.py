"""environment.sh: the right interpreter and packages, and one line for what a machine may lack."""
import os
import shutil
import subprocess

import pytest
from conftest import ROOT

# Stands for an interpreter and its pip: answers environment.sh's questions, and notes what it is asked to install.
PYTHON = """#!/bin/bash
version=$(cat "$(dirname "$0")/version")
minor=${version#3.}
minor=${minor%%.*}
case "$*" in
    *"not (3, 8) <="*) last=${2##*<= (3, }; [ $minor -ge 8 ] && [ $minor -le ${last%%)*} ] ;;
    *platform.python_version*) echo $version ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" "$(dirname "$0")/version" .venv/bin ;;
    "-m pip show"*mxnet*) [ $minor -lt 13 ] ;;  # there, the requirements file brings it
    "-m pip show"*) false ;;
    "-m pip install"*) [ ! -e failure ] || { cat failure; exit 1; }; echo "pip install ${*:5}" >>log ;;
esac
"""


class Machine:
    def __init__(self, folder):
        self.folder = folder
        for name in ("environment.sh", "dependencies.txt", "dependencies-gpu.txt", "dependencies-common.txt",
                     "dependencies-torch.txt"):
            shutil.copy(os.path.join(ROOT, name), str(folder))
        (folder / "log").write_text("")
        self.system = "Linux x86_64"

    def python(self, version):
        """Path of an interpreter of that version."""
        path = self.folder / version / "python"
        path.parent.mkdir(exist_ok=True)
        (path.parent / "version").write_text(version)
        path.write_text(PYTHON)
        path.chmod(0o755)
        return str(path)

    def run(self, version="3.11.7", file="dependencies.txt", status=0):
        """make_environment with $PYTHON of that version; returns (stdout, stderr)."""
        kernel, processor = self.system.split()
        code = (f'uname() {{ if [ $1 = -s ]; then echo {kernel}; else echo {processor}; fi; }}\n'
                f'set -eu; . ./environment.sh; make_environment {file}')
        env = {**os.environ, "HOME": str(self.folder)}
        env.pop("PYTHON", None)
        if version:
            env["PYTHON"] = self.python(version)
        done = subprocess.run(["bash", "-c", code], cwd=str(self.folder), env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        assert done.stderr.count("\n") == (status != 0) and done.stderr.startswith("error: " * (status != 0))
        return done.stdout, done.stderr

    def installed(self):
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_packages_are_installed_once(machine):
    machine.run()
    machine.run()
    machine.run(version=None)  # .venv's own interpreter
    assert [command.split()[-2:] for command in machine.installed()] == [["-r", "dependencies.txt"]]


@pytest.mark.parametrize("file, package", [("dependencies.txt", "mxnet==1.9.1"),
                                           ("dependencies-gpu.txt", "mxnet-cu117==1.9.1")])
def test_mxnet_is_installed_without_its_dependencies_where_the_file_leaves_it_out(machine, file, package):
    machine.run("3.13.0", file)
    assert machine.installed()[1].endswith("--no-deps " + package)


@pytest.mark.parametrize("version", ["3.7.16", "3.14.0"])
def test_an_unsuited_interpreter_is_named_with_a_suited_one(machine, version):
    _, message = machine.run(version, status=2)
    assert f"is {version}, and Python 3.8 to 3.13 is needed" in message and not (machine.folder / ".venv").exists()


@pytest.mark.parametrize("system", ["Darwin arm64", "MINGW64_NT-10.0 x86_64"])
def test_a_platform_without_a_package_of_mxnet_is_named(machine, system):
    machine.system = system
    assert "use torch (DEPENDENCIES=dependencies-torch.txt), Docker" in machine.run(status=2)[1]
    machine.run(file="dependencies-torch.txt")
    assert machine.installed()[0].endswith("-r dependencies-torch.txt")


@pytest.mark.parametrize("log, words", [
    ("WARNING: Retrying after NewConnectionError\nERROR: No matching distribution found for numpy\n",
     "ERROR: No matching distribution found for numpy (all of it: .venv/install.log); check the network"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "the disk is full")])
def test_after_a_failure_the_same_command_continues(machine, log, words):
    (machine.folder / "failure").write_text(log)
    assert words in machine.run(status=2)[1]
    (machine.folder / "failure").unlink()
    assert "creating" not in machine.run()[0] and len(machine.installed()) == 1


def test_an_environment_of_another_interpreter_is_replaced(machine):
    machine.run("3.11.7")
    assert "creating .venv" in machine.run("3.12.1")[0]
    assert (machine.folder / ".venv" / "bin" / "version").read_text() == "3.12.1"


def test_an_environment_of_the_users_own_is_not_removed(machine):
    (machine.folder / ".venv" / "bin").mkdir(parents=True)
    assert "rm -r .venv" in machine.run(status=2)[1]
