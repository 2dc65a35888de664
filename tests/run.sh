#!/usr/bin/env bash
# Runs the tests, in .venv: bash tests/run.sh [pytest's flags]
set -eu
cd "$(dirname "$0")/.."
. ./environment.sh
make_environment dependencies.txt export-dependencies.txt tests/dependencies.txt
exec python -m pytest "$@"
