#!/usr/bin/env bash
# Runs the tests, in .venv: bash tests/run.sh [pytest's flags]
set -eu
cd "$(dirname "$0")/.."
. ./environment.sh
make_environment "$DEPENDENCIES" export-dependencies.txt tests/dependencies.txt
# The reference of the dense CRF, which has no wheels: built where that is possible, once. Its tests are skipped elsewhere.
if [ ! -e .venv/tried-pydensecrf2 ] && ! python -c 'import pydensecrf' 2>/dev/null; then
    echo "building pydensecrf2"
    python -m pip install --quiet --disable-pip-version-check pydensecrf2==1.1 >.venv/pydensecrf2.log 2>&1 \
        || echo "pydensecrf2 can't be built (see .venv/pydensecrf2.log): its tests will be skipped"
    touch .venv/tried-pydensecrf2
fi
exec python -m pytest "$@"
