#!/usr/bin/env bash
# Profiles training steps of an experiment with NVIDIA's tools; docs/profiling.md walks through an example.
#
#   tools/profile.sh ncu SPEC [ARGUMENT...]    every kernel of the steps: NAME.ncu-rep, and a table of time, memory
#                                              traffic (and by contract), registers, occupancy on standard output
#   tools/profile.sh nsys SPEC [ARGUMENT...]   the timeline of the steps: NAME.nsys-rep
#
# NAME is SPEC's, in the current folder. ARGUMENTs go to `elbo profile`: --steps 3, --set train.batch_size=512, ...
# Clocks are left as they are: figures vary with them, so compare within one run.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
elbo=${ELBO_PROGRAM:-$root/build/elbo}

tool=${1:-} spec=${2:-}
if [[ $tool != ncu && $tool != nsys ]] || [[ -z $spec ]]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
shift 2
[[ -x $elbo ]] || { echo "$elbo is missing: build it first (tools/quickstart.sh)" >&2; exit 1; }
if ! command -v "$tool" > /dev/null; then
  PATH=$PATH:/usr/local/cuda/bin
  if ! command -v "$tool" > /dev/null; then
    echo "$tool is not installed: it comes with the CUDA Toolkit ($tool is NVIDIA Nsight $([[ $tool == ncu ]] && echo Compute || echo Systems))." >&2
    echo "Without it, the kernels as CUPTI tells them: elbo profile $spec --trace trace.json" >&2
    exit 1
  fi
fi
name=$(basename "$spec" .json)

if [[ $tool == nsys ]]; then
  exec nsys profile --trace cuda,nvtx --capture-range cudaProfilerApi --capture-range-end stop --cuda-graph-trace node \
    --force-overwrite true --output "$name" "$elbo" profile "$spec" --device cuda "$@"
fi
# What of the arguments changes the plan, whose bytes stand beside those that ncu counts.
changes=()
for ((i = 1; i < $#; ++i)); do
  if [[ ${!i} == --set || ${!i} == --data ]]; then
    next=$((i + 1))
    changes+=("${!i}" "${!next}")
  fi
done
plan=$(mktemp --suffix .json)
trap 'rm -f "$plan"' EXIT
"$elbo" plan "$spec" --json "$plan" ${changes[@]+"${changes[@]}"} > /dev/null
ncu --set full --import-source yes --nvtx --profile-from-start off --graph-profiling node --clock-control none \
  --force-overwrite --export "$name" "$elbo" profile "$spec" --device cuda "$@"
ncu --import "$name.ncu-rep" --csv --page raw --metrics \
  gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active |
  python3 "$root/tools/kernels/ncu_table.py" "$plan"
