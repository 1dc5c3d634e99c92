#!/usr/bin/env bash
# Builds and runs every test. Needs no GPU.
#
#   tools/test.sh               everything: some fifty minutes on two cores
#   tools/test.sh quick         the release build and its tests only
#   tools/test.sh STAGE...      some of: format release package no-cuda tidy asan tsan fuzz
#
# Tests that need a data set look for it in ELBO_DATA and skip where it is not; ELBO_REQUIRE_DATA=1 makes that a
# failure.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib/packages.sh

all_stages=(format release package no-cuda tidy asan tsan fuzz)
jobs=$(nproc)
# Tests that need what is no Debian package (the Python module safetensors with a recent PyTorch; nvcc; JAX).
may_skip='safetensors_reference_test|kernel_code_test|jax_step_test'

headline_of() {
  case $1 in
    format) echo "every source is formatted as .clang-format says" ;;
    release) echo "release build, all tests" ;;
    package) echo "the relocatable package unpacks and trains, and the GPU check is rehearsed from it" ;;
    no-cuda) echo "build as without nvcc, quick tests" ;;
    tidy) echo "clang-tidy has nothing to say that .clang-tidy asks for" ;;
    asan) echo "AddressSanitizer and UndefinedBehaviorSanitizer, quick tests, several thread orders" ;;
    tsan) echo "ThreadSanitizer: every kernel, a step, the CUDA device, the writing thread, several thread orders" ;;
    fuzz) echo "the readers of specs, tunings, data and checkpoints fuzzed, 30 s each" ;;
    *) return 1 ;;
  esac
}

# ---- Stages: each runs in a shell of its own, where any failing command ends it -----------------------------

stage_format() {
  git ls-files --cached --others --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' |
    xargs clang-format-14 --dry-run --Werror
}

stage_release() {
  build default
  run_tests default
}

stage_package() {
  local packed unpacked
  packed=$(mktemp -d)
  (
    cd "$packed"
    root=$OLDPWD
    without=--without-data
    if [[ -n ${ELBO_DATA:-} ]]; then  # as a folder of links, named from here
      without=
      mkdir linked
      ln -s "$(cd "$root" && realpath "$ELBO_DATA")"/* linked
      export ELBO_DATA=linked
    fi
    "$root/tools/gpu_pack.sh" $without elbo-gpu > lines
  )
  unpacked=$(mktemp -d)
  tar -xf "$packed"/elbo-gpu/elbo-*.tar.xz -C "$unpacked" --strip-components 1
  # Nothing of the build folder or of this shell helps it, and no libraries but C's and CUDA's come from outside.
  (
    cd "$unpacked"
    env -i bin/elbo devices
    if ldd bin/elbo lib/elbo/tests/* | grep '=>' | grep -v "=> $unpacked/" |
      grep -vE 'lib(c|m|dl|rt|pthread|cudart|cublasLt)\.so'; then
      echo "the package takes these libraries from the machine" >&2
      exit 1
    fi
    env -i bin/elbo run share/elbo/experiments/fashion-2d.json --device cpu --set train.epochs=1 --out run
    test -s run/report.html
    compgen -G 'share/elbo/results/cpu-*/*/elbo/mnist-2d-*-elbo.json' > /dev/null  # what a GPU has to reach
  )
  if [[ -n ${ELBO_DATA:-} ]]; then
    python3 tests/gpu_rehearsal.py "$packed/elbo-gpu" "$packed/lines"
  else
    echo "The GPU check is not rehearsed: it trains on MNIST and Frey Face, which are looked for in ELBO_DATA"
    [[ -z ${ELBO_REQUIRE_DATA:-} ]]
  fi
  rm -r "$packed" "$unpacked"
}

stage_no-cuda() {
  build no-cuda
  run_tests no-cuda
}

# By the compile commands of a build without nvcc, in which each source of the program is compiled once.
stage_tidy() {
  local omp_h
  build no-cuda
  omp_h=$(clang -print-resource-dir)/include
  run-clang-tidy-16 -quiet -use-color 0 -j "$jobs" -p build-no-cuda -extra-arg=-idirafter"$omp_h" \
    "/(cpu|cuda|host)/[^.]*\.cpp$|/include/elbo/[^.]*\.cpp$" 2>&1 | sed '/^clang-tidy-16 /d; /warnings generated/d'
}

stage_asan() {
  build asan
  run_tests asan
  # Orders are those of the simulated device: what tests do on the CPU beside it was seen. So was what sets its orders
  # itself.
  local order
  for order in reverse random; do
    GTEST_FILTER='-*/cpu:Devices/Step.*' ELBO_SIM_ORDER=$order run_tests asan -L orders
  done
}

# What runs without the CPU's products (the preset takes the label `kernels`, and no test on that device):
# ThreadSanitizer cannot see into libgomp, so that the tests which need them are left to the other stages. So is what
# does not depend on threads: alignment, NaN. These tests set the orders of threads themselves.
stage_tsan() {
  build tsan --target kernel_tests
  run_tests tsan
}

stage_fuzz() {
  build fuzz --target elbo_fuzzers
  run_tests fuzz
}

# ---- What they share ------------------------------------------------------------------------------------------

# build PRESET ARGUMENT...: configures and builds, quietly unless it fails.
build() {
  quietly "configure-$1" cmake --preset "$1"
  quietly "build-$1" cmake --build --preset "$1" -j "$jobs" "${@:2}"
}

# run_tests PRESET ARGUMENT...: ctest, its figures added to $counts. Fails if a test does.
run_tests() {
  local junit=build/junit.xml code=0 total failed skipped
  rm -f "$junit"
  ctest --preset "$1" -j "$jobs" --output-junit "$PWD/$junit" "${@:2}" || code=$?
  # `paste` ends the line: `read` fails at one that is not ended.
  read -r total failed skipped < <(sed -nE 's/^\s+(tests|failures|skipped)="([0-9]+)"$/\2/p' "$junit" | paste -sd ' ')
  echo "$((total - failed - skipped)) $failed $skipped" >> "$counts"
  if ((has_all_packages)) && grep 'status="notrun"' "$junit" | grep -vE "name=\"($may_skip)\""; then
    echo "Everything that these tests need was installed, so they may not be skipped" >&2
    return 1
  fi
  return "$code"
}

# run_stage NAME: its headline, itself, its row of the summary.
run_stage() {
  local start=$SECONDS code passed failed skipped
  printf '\n==== %s: %s\n' "$1" "$(headline_of "$1")"
  : > "$counts"
  set +e
  (
    set -e
    "stage_$1"
  )
  code=$?
  set -e
  read -r passed failed skipped < <(awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }' "$counts")
  # The stage itself counts as a check: it can fail with no test to blame.
  if ((code == 0)); then passed=$((passed + 1)); elif ((failed == 0)); then failed=1; fi
  summary+=("$(printf '%-8s  %4d passed  %3d failed  %3d skipped  %5d s' "$1" "$passed" "$failed" "$skipped" \
    $((SECONDS - start)))")
  all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed)) all_skipped=$((all_skipped + skipped))
}

stages=("$@")
case ${1:-all} in
  all) stages=("${all_stages[@]}") ;;
  quick) stages=(release) ;;
esac
for stage in "${stages[@]}"; do
  headline_of "$stage" > /dev/null || { echo "No stage '$stage'; there are: quick ${all_stages[*]}" >&2; exit 2; }
done

install_missing "${build_packages[@]}" "${test_packages[@]}"
fetch_nvdisasm build/nvdisasm
export ELBO_REQUIRE_SIM=1
if command -v ccache > /dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi

counts=$(mktemp)
summary=() all_passed=0 all_failed=0 all_skipped=0
mkdir -p build
for stage in "${stages[@]}"; do run_stage "$stage"; done
rm "$counts"

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed, %d skipped\n' "$all_passed" "$all_failed" "$all_skipped"
((all_failed == 0))
