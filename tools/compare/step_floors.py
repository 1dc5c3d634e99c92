#!/usr/bin/env python3
"""The costs of a training step on the CPU, largest first, beside what this machine could do at most.

    step_floors.py [SPEC] [--build FOLDER] [--threads N] [--rounds N] [--steps N] [--data FOLDER] [--markdown FILE]

In turns, `elbo bench step` times the operations of a step, and tests/cpu_ceilings the machine. A layer's floor is its
FLOP at the rate of fused multiply-adds in registers; the optimiser's is the time for its bytes without its arithmetic,
or for the same code with all of them in a core's caches, whichever is longer.
What an operation takes in the best round stands beside the floor by the best ceiling, since on a virtual machine the
speed varies from round to round; the median is told, too.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

import record


def parameters_of(operation):
    """Of the optimiser's shape: "[815824]"."""
    return int(operation["shapes"].strip("[]"))


def floor_us(operation, ceilings):
    if operation["flops"] > 0:
        return operation["flops"] / ceilings["gflops"] * 1e-3
    if operation["name"] == "finish_step":
        arithmetic = parameters_of(operation) * ceilings["adam_ns"] / ceilings["threads"] * 1e-3
        return max(arithmetic, operation["bytes"] / ceilings["adam_gb_per_second"] * 1e-3)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default=str(HERE / "w1.json"))
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="folder of the program and its tests")
    parser.add_argument("--threads", type=record.positive, default=2)
    parser.add_argument("--rounds", type=record.positive, default=7)
    parser.add_argument("--steps", type=record.positive, default=300, help="timed in each round")
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--markdown", type=record.output, help="write the table here, too")
    options = parser.parse_args()

    steps, ceilings = [], []
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            command = [options.build / "elbo", "bench", "step", options.spec, "--device", "cpu"]
            command += ["--threads", options.threads, "--steps", options.steps, "--json", f"{folder}/step.json"]
            command += ["--data", options.data] if options.data else []
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            steps.append(json.loads(pathlib.Path(folder, "step.json").read_text()))
        command = [options.build / "tests/cpu_ceilings", options.threads, parameters_of(steps[0]["operations"][-1])]
        ceilings.append(json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout))
        print(f"round {number}: {steps[-1]['median_us']:.0f} us, {ceilings[-1]}", flush=True)

    lower = ["adam_ns", "empty_loop_us"]  # is better
    best = {key: (min if key in lower else max)(c[key] for c in ceilings) for key in ceilings[0]}
    rows, sums = [], [0.0, 0.0]
    operations = [[step["operations"][i] for step in steps] for i in range(len(steps[0]["operations"]))]
    for timings in sorted(operations, key=lambda o: -min(t["median_us"] for t in o)):
        least, floor = min(t["median_us"] for t in timings), floor_us(timings[0], best)
        sums[0] += least
        sums[1] += floor or 0
        median = statistics.median(t["median_us"] for t in timings)
        told = [f"{floor:.0f}", f"{least / floor:.2f}"] if floor else ["", ""]
        rows.append([timings[0]["name"], f"{least:.0f}", f"{median:.0f}", *told])
    rows.append(["sum", f"{sums[0]:.0f}", "", f"{sums[1]:.0f}", f"{sums[0] / sums[1]:.2f}"])
    whole = [step["median_us"] for step in steps]
    rows.append(["the step as it is trained", f"{min(whole):.0f}", f"{statistics.median(whole):.0f}", "", ""])
    origin = record.origin()
    text = (
        f"The operations of a step of {steps[0]['spec']}, {options.threads} threads, by {options.rounds} rounds; "
        "microseconds\n\n"
        + record.markdown(["", "best round", "median round", "floor", "times the floor"], rows)
        + f"\nCeilings, of the best round: {best['gflops']:.0f} GFLOP/s of fused multiply-adds by {options.threads} "
        f"threads ({best['gflops_of_one']:.0f} by one), {best['adam_gb_per_second']:.0f} GB/s of the optimiser's "
        f"traffic, {best['adam_ns']:.2f} ns of Adam for a parameter in the caches, {best['empty_loop_us']:.2f} us for a loop "
        f"of the team.\n\n{origin['machine']}; {origin['date']}; {steps[0]['device_description']}. Made by "
        f"`{origin['command']}`\n"
    )
    record.tell(text, options.markdown)


if __name__ == "__main__":
    main()
