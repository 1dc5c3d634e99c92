#!/usr/bin/env python3
"""Times training steps beside busy processes: how much of its share of the cores each program turns into steps.

    bench_load.py [--elbo PROGRAM] [--busy N...] [--rounds N] [--steps N] [--data FOLDER] [--only NAME...] [--json FILE]
                  [--markdown FILE]

elbo, PyTorch (eager, fused Adam) and JAX (an epoch of steps in one call), each with a thread for every core, train
tools/compare/w1.json (784-500-2x20-500-784, batch 100) alone, and beside N processes that do nothing but loop. A fair
share is cores / (cores + N) of the machine for a program that has as many threads as there are cores; what is told of it
is the throughput beside them over that share of the throughput alone, measured at the beginning of the program's turn.
Run it with a Python that has torch and jax, on a machine that does nothing else.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

import record

NAMES = ["elbo", "pytorch", "jax"]


@contextlib.contextmanager
def busy_processes(count):
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def time_steps(options, name, folder):
    """The figures of one program, as its own tool writes them."""
    spec, file = str(HERE / "w1.json"), f"{folder}/{name}.json"
    command = {
        "elbo": [options.elbo, "bench", "step", spec, "--device", "cpu", "--no-operations"],
        "pytorch": [sys.executable, HERE / "bench_step.py", spec, "--form", "eager-fused", "--threads", options.cores],
        "jax": [sys.executable, HERE / "bench_step_jax.py", spec, "--form", "scan", "--seconds", options.seconds],
    }[name]
    command = [*map(str, command), "--steps", str(options.steps), "--json", file]
    command += ["--data", options.data] if options.data else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(pathlib.Path(file).read_text())
    return result if name == "elbo" else result[0]


def measure(options):
    """{name: {number of busy processes: [figures of a round]}}"""
    figures = {name: {busy: [] for busy in options.busy} for name in options.only}
    for number in range(1, options.rounds + 1):
        for name in options.only:
            for busy in options.busy:
                with tempfile.TemporaryDirectory() as folder, busy_processes(busy):
                    result = time_steps(options, name, folder)
                print(f"round {number}: {name} beside {busy}: mean {result['mean_us']:.0f} us", flush=True)
                figures[name][busy].append(result)
    return figures


def table(options, figures):
    rows = []
    for name in options.only:
        alone = [r["mean_us"] for r in figures[name][0]]
        for busy in options.busy:
            results = figures[name][busy]
            mean = [r["mean_us"] for r in results]
            share = options.cores / (options.cores + busy)
            of_share = [a / m / share for a, m in zip(alone, mean)]
            one_step = results[0]["steps_per_timing"] == 1
            rows.append(
                [
                    name,
                    busy,
                    f"{statistics.median(mean) / 1e3:.2f}",
                    f"{min(mean) / 1e3:.2f} to {max(mean) / 1e3:.2f}",
                    f"{statistics.median(of_share):.0%}",
                    f"{min(of_share):.0%} to {max(of_share):.0%}",
                    f"{statistics.median(r['p90_us'] / r['median_us'] for r in results):.1f}" if one_step else "",
                ]
            )
    header = ["", "busy processes", "mean step, ms", "means of the rounds", "of a fair share", "in the rounds", "p90 / median"]
    return record.markdown(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elbo", default=str(ROOT / "build" / "elbo"), help="the program")
    parser.add_argument("--busy", type=int, nargs="+", default=[2, 3, 4], help="numbers of busy processes")
    parser.add_argument("--rounds", type=record.positive, default=3)
    parser.add_argument("--steps", type=record.positive, default=500, help="timed in each round, at least")
    parser.add_argument("--seconds", type=record.positive, default=10, help="of JAX in each round, at most")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--json", type=record.output, help="write the figures here")
    parser.add_argument("--markdown", type=record.output, help="write the table here, too")
    options = parser.parse_args()
    options.cores = len(os.sched_getaffinity(0))
    options.busy = [0, *sorted(set(options.busy) - {0})]

    figures = measure(options)
    result = {"cores": options.cores, "step": figures, **record.origin()}
    names = [figures["elbo"][0][0]["device_description"]] if "elbo" in figures else []
    names += [figures[name][0][0]["framework"] for name in options.only if name != "elbo"]
    text = (
        f"A W1 step (784-500-2x20-500-784, batch 100, Adam, f32) on {options.cores} cores, beside busy processes; "
        f"{options.rounds} rounds in turns of {options.steps} steps or more\n\n{table(options, figures)}"
        f"\n{result['machine']}; {result['date']}; {'; '.join(names)}. Made by `{result['command']}`\n"
    )
    record.tell(text, options.markdown)
    if options.json:
        record.write_json(options.json, result)


if __name__ == "__main__":
    main()
