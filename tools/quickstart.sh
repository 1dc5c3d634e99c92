#!/usr/bin/env bash
# From a fresh clone to a trained model: installs the packages that are missing, builds build/elbo, trains
# experiments/fashion-2d.json on the best device there is. Run it again and it only trains.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib/packages.sh

install_missing "${build_packages[@]}"

if [[ ! -f build/build.ninja ]]; then
  options=(-DELBO_TESTS=OFF)
  # The plug-in is built for the GPUs of this machine, where there are any to ask; else for one architecture, as the
  # default is. CMake's `native` is not asked: it fails where the driver is older than nvcc, and then nothing says so.
  capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null |
    sort -u | tr -d . | paste -sd ';') || true
  if [[ $capabilities =~ ^[0-9]+(;[0-9]+)*$ ]]; then options+=("-DELBO_CUDA_ARCHITECTURES=$capabilities"); fi
  echo "Configuring build/"
  if ! quietly configure cmake -S . -B build -G Ninja "${options[@]}"; then
    # An nvcc that is too old for the compiler, most likely. The rest of elbo does not need it.
    echo "That did not work; once more without CUDA"
    quietly configure cmake --fresh -S . -B build -G Ninja "${options[@]}" -DELBO_CUDA=OFF
    rm -f build/libelbo_cuda.so
  fi
fi
echo "Building build/elbo"
quietly build cmake --build build -j "$(nproc)"
if [[ ! -e build/libelbo_cuda.so ]]; then
  echo "No usable nvcc was found: everything but the CUDA plug-in is built, and the CPU trains."
fi

echo
exec build/elbo run experiments/fashion-2d.json --device auto
