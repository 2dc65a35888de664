# Makes .venv with all packages and puts it first on the PATH. Sourced by demo/run.sh and tests/run.sh.
#
#   PYTHON=/usr/bin/python3.11 bash demo/run.sh    chooses the interpreter; Python 3.8 to 3.12 will do

stop() {
    echo "error: $*" >&2
    exit 2
}

suited() {
    "$1" -c 'import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# A suited interpreter anywhere on this machine, or nothing.
find_suited() {
    local candidate
    for candidate in python3.12 python3.11 python3.10 python3.9 python3.8 "$HOME"/.pyenv/versions/3.*/bin/python; do
        if suited "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null; then
        uv python find '>=3.8,<3.13' 2>/dev/null
    fi
}

choose_python() {
    local python=${PYTHON:-python3} version other
    version=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) \
        || version=missing
    if suited "$python"; then
        command -v "$python"
        return
    fi
    other=$(find_suited)
    if [ -n "$other" ]; then
        stop "$python is $version, and MXNet 1.9.1 needs Python 3.8 to 3.12; run again with: PYTHON=$other bash $0"
    fi
    stop "$python is $version, and MXNet 1.9.1 needs Python 3.8 to 3.12; install one, for example with uv" \
        "(https://docs.astral.sh/uv): uv python install 3.11, then PYTHON=\$(uv python find 3.11) bash $0"
}

# make_environment REQUIREMENTS...: .venv in the current folder, installed once for each content of the files
make_environment() {
    local python stamp file
    stamp=$(cat dependencies-common.txt "$@" | cksum | tr -d ' ')
    if [ ! -e ".venv/installed-$stamp" ]; then
        python=$(choose_python) || exit 2
        if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
            rm -rf .venv
            echo "creating .venv with $python"
            "$python" -m venv .venv >/dev/null 2>&1 \
                || stop "$python can't create .venv; on Debian and Ubuntu: apt-get install python3-venv"
        fi
        if ! .venv/bin/python -c 'import pydensecrf.densecrf' 2>/dev/null; then
            command -v "${CXX:-c++}" >/dev/null \
                || stop "there is no C++ compiler, which pydensecrf2 needs; on Debian and Ubuntu: apt-get install g++"
            .venv/bin/python -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
                || stop "the headers of $python are missing; on Debian and Ubuntu: apt-get install python3-dev"
        fi
        # Two wheels own the folder cv2: remove the one that an older dependencies.txt asked for, whole.
        if .venv/bin/python -m pip show --quiet opencv-python-headless 2>/dev/null; then
            .venv/bin/python -m pip uninstall --quiet --yes opencv-python-headless opencv-contrib-python-headless \
                >.venv/install.log 2>&1 || stop "opencv-python-headless can't be removed: $(tail -n 1 .venv/install.log)"
        fi
        for file in "$@"; do
            echo "installing $file"
            .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file" >.venv/install.log 2>&1 \
                || stop "installing $file failed: $(grep -m 1 -i error .venv/install.log || tail -n 1 .venv/install.log)" \
                    "(all of it: .venv/install.log); check the network and run the same command again"
        done
        touch ".venv/installed-$stamp"
    fi
    PATH=$PWD/.venv/bin:$PATH
}
