#!/usr/bin/env bash
# Everything that this project claims of a GPU, measured in one call of under nine minutes: tools/gpu_check.py says what.
# Works in a built source tree and in the unpacked package. Where there is no GPU it does what it can on the simulated
# device and the CPU, in about a minute.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/gpu_check.py" "$@"
