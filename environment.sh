# Makes .venv with all packages and puts it first on the PATH. Sourced by demo/run.sh and tests/run.sh.
#
#   PYTHON=/usr/bin/python3.11 bash demo/run.sh              chooses the interpreter: Python 3.8 to 3.13
#   DEPENDENCIES=dependencies-gpu.txt bash demo/run.sh       MXNet for NVIDIA's GPUs
#   DEPENDENCIES=dependencies-torch.txt bash demo/run.sh     torch in place of MXNet

DEPENDENCIES=${DEPENDENCIES:-dependencies.txt}

stop() {
    echo "error: $*" >&2
    exit 2
}

suited() {
    "$1" -c 'import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo missing
}

has_pip() {
    "$1" -m pip --version >/dev/null 2>&1
}

# The interpreter that .venv is to have: $PYTHON, else that of a suited .venv, else python3.
choose_python() {
    local python=${PYTHON:-python3} candidate
    if [ -z "${PYTHON:-}" ] && suited .venv/bin/python && has_pip .venv/bin/python; then
        python=.venv/bin/python
    fi
    if suited "$python"; then
        command -v "$python"
        return
    fi
    for candidate in python3.12 python3.11 python3.10 python3.9 python3.13 python3.8 \
            "$HOME"/.pyenv/versions/3.*/bin/python; do
        if suited "$candidate"; then
            stop "$python is $(version_of "$python"), and Python 3.8 to 3.13 is needed; run again with:" \
                "PYTHON=$(command -v "$candidate") bash $0"
        fi
    done
    stop "$python is $(version_of "$python"), and Python 3.8 to 3.13 is needed; install one, for example with uv" \
        "(https://docs.astral.sh/uv): uv python install 3.11, then PYTHON=\$(uv python find 3.11) bash $0"
}

check_platform() {
    case "$(uname -s) $(uname -m)" in
        "Linux x86_64" | "Linux aarch64" | "Darwin x86_64") ;;
        *) stop "MXNet 1.9.1 has no package for $(uname -s) on $(uname -m), only for Linux (x86_64, aarch64) and macOS" \
            "on Intel; use torch (DEPENDENCIES=dependencies-torch.txt), Docker (see Dockerfile), or WSL 2" ;;
    esac
}

# attempt WHAT COMMAND...: stops with one line of the command's output where it fails
attempt() {
    local what=$1 log
    shift
    log=$("$@" 2>&1) && return
    { echo "$log" >.venv/install.log; } 2>/dev/null || true
    case $log in
        *"No space left"*) stop "$what failed: the disk is full; free some space and run the same command again" ;;
    esac
    stop "$what failed: $(grep -m 1 ^ERROR <<<"$log" || grep -m 1 -i error <<<"$log" || tail -n 1 <<<"$log")" \
        "(all of it: .venv/install.log); check the network and run the same command again"
}

install() {
    attempt "installing $1" .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@:2}"
}

# Makes .venv, unless there is one of this interpreter. One that this script made is replaced.
create_venv() {
    local python=$1 found
    found=$(version_of .venv/bin/python)
    if [ "$found" = "$(version_of "$python")" ] && has_pip .venv/bin/python; then
        return
    fi
    if [ -e .venv ] && [ -z "$(ls .venv/made-by-environment.sh .venv/installed-* 2>/dev/null)" ]; then
        stop ".venv is not suitable: its Python is $found, or it lacks pip; remove it (rm -r .venv) and run the same" \
            "command again"
    fi
    echo "creating .venv with $python"
    rm -rf .venv
    { mkdir .venv && touch .venv/made-by-environment.sh && "$python" -m venv .venv; } >/dev/null 2>&1 \
        || stop "$python can't create .venv: is the disk full? On Debian and Ubuntu: apt-get install python3-venv"
}

# make_environment REQUIREMENTS...: .venv in the current folder, installed once for each content of the files
make_environment() {
    local python stamp file mxnet
    if grep -q '^mxnet' "$@"; then
        check_platform
    fi
    python=$(choose_python) || exit 2
    create_venv "$python"
    stamp=$(cat dependencies-common.txt "$@" | cksum | tr -d ' ')
    if [ ! -e ".venv/installed-$stamp" ]; then
        for file in "$@"; do
            echo "installing $file"
            install "$file" -r "$file"
            mxnet=$(grep -o '^mxnet[^; ]*' "$file" || true)
            if [ -n "$mxnet" ] && ! .venv/bin/python -m pip show --quiet "${mxnet%%=*}" 2>/dev/null; then
                install "$mxnet" --no-deps "$mxnet"  # Python 3.13 and later; see dependencies.txt
            fi
        done
        if [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] && grep -q '^mxnet' "$@"; then
            .venv/bin/python -c 'import ctypes; [ctypes.CDLL(name) for name in ("libgomp.so.1", "libquadmath.so.0")]' \
                2>/dev/null || stop "MXNet needs two libraries of GCC; on Debian and Ubuntu: apt-get install libgomp1" \
                "libquadmath0, and run the same command again"
        fi
        touch ".venv/installed-$stamp" || stop "the disk is full; free some space and run the same command again"
    fi
    PATH=$PWD/.venv/bin:$PATH
}
