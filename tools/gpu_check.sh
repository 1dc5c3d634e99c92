#!/usr/bin/env bash
# Everything that this project claims of a GPU, measured in two calls: `gpu_check.sh first`, in 200 seconds at most, then
# `gpu_check.sh second`, in 330. tools/gpu_check.py says what, docs/first-gpu.md what to make of it. Works in a built
# source tree and in the unpacked package. Where there is no GPU it does what it can on the simulated device and the CPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/gpu_check.py" "$@"
