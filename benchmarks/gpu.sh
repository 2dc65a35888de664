#!/usr/bin/env bash
# Measures the engine torch on this machine's NVIDIA GPUs, in about ten minutes and without data, and prints a table to
# send to us. Without a GPU it runs small on the CPU.
#
#   bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DEPENDENCIES=${DEPENDENCIES:-dependencies-torch.txt}
. ./environment.sh
make_environment "$DEPENDENCIES"
exec python benchmarks/gpu.py
