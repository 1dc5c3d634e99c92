#!/usr/bin/env python3
"""Times elbo, PyTorch and JAX side by side on the CPU, in turns, and tabulates the ratios.

    bench.py [--elbo PROGRAM] [--threads N] [--rounds N] [--steps N] [--data FOLDER] [--json FILE] [--markdown FILE]
             [--epochs N] [--no-run]

A training step of tools/compare/w1.json (784-500-2x20-500-784, batch 100), and a whole run of fashion-2d from start
to end of the process: elbo's includes its report. JAX trains an epoch of steps in one call (lax.scan), on all cores.
Run it with a Python that has torch and jax, on a machine that does nothing else.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

import record

PYTORCH = ["eager", "eager-foreach", "eager-fused"]  # Adam's implementations
JAX = "scan"


def time_step(options, name, folder):
    """One round of one side; None where this PyTorch has no such Adam on the CPU, or there is no JAX."""
    shared = ["--steps", str(options.steps), "--json", f"{folder}/{name}.json"]
    shared += ["--threads", str(options.threads)] if name != JAX else ["--seconds", "8"]
    shared += ["--data", options.data] if options.data else []
    spec = str(HERE / "w1.json")
    if name == "elbo":
        command = [options.elbo, "bench", "step", spec, "--device", "cpu", *shared]
    else:
        script = "bench_step_jax.py" if name == JAX else "bench_step.py"
        command = [sys.executable, HERE / script, spec, "--form", name, *shared]
    done = subprocess.run(command, stderr=None if name == "elbo" else subprocess.PIPE, text=True)
    if done.returncode != 0:
        if name in ("elbo", "eager"):
            raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stderr or ''}")
        print(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return None
    result = json.loads(pathlib.Path(f"{folder}/{name}.json").read_text())
    return result if name == "elbo" else result[0]


def time_run(options, name, folder):
    """Seconds of a whole fashion-2d run."""
    data = ["--data", options.data] if options.data else []
    if name == "elbo":
        command = [options.elbo, "run", f"{ROOT}/experiments/fashion-2d.json", "--out", f"{folder}/run", "--device", "cpu"]
        command += ["--set", f"train.epochs={options.epochs}"] if options.epochs else []
    else:
        command = [sys.executable, HERE / "train.py", "fashion-2d"]
        command += ["--epochs", str(options.epochs)] if options.epochs else []
    begin = time.perf_counter()
    subprocess.run([*command, "--threads", str(options.threads), *data], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def in_turns(options, names, measure):
    """What each round measured, by name; a side that cannot run is left out."""
    rounds = {name: [] for name in names}
    for number in range(1, options.rounds + 1):
        for name in list(rounds):
            with tempfile.TemporaryDirectory() as folder:
                result = measure(options, name, folder)
            if result is None:
                print(f"{name}: not to be had")
                del rounds[name]
                continue
            print(f"round {number}: {name}: {result if isinstance(result, float) else result['median_us']:.1f}", flush=True)
            rounds[name].append(result)
    return rounds


def label(name, version):
    return "elbo" if name == "elbo" else f"{version}, {name}"


def step_table(steps, version):
    """By the mean step of a round, since of JAX no single one is timed."""
    mean = {name: [r["mean_us"] for r in results] for name, results in steps.items()}
    rows = []
    for name, results in steps.items():
        ratios = [m / elbo for m, elbo in zip(mean[name], mean["elbo"])]
        single = results[0]["steps_per_timing"] == 1
        quantiles = [statistics.median(r[key] for r in results) for key in ("median_us", "p10_us", "p90_us")]
        rows.append(
            [
                label(name, version[name]),
                f"{statistics.median(mean[name]):.0f}",
                f"{min(mean[name]):.0f} to {max(mean[name]):.0f}",
                *(f"{q:.0f}" if single else "" for q in quantiles),
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    header = ["", "mean", "means of the rounds", "median", "p10", "p90", "times elbo's", "in the rounds"]
    return record.markdown(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elbo", default=str(ROOT / "build" / "elbo"), help="the program")
    parser.add_argument("--threads", type=record.positive, default=2)
    parser.add_argument("--rounds", type=record.positive, default=3)
    parser.add_argument("--steps", type=record.positive, default=500, help="timed in each round")
    parser.add_argument("--epochs", type=record.positive, help="of the run; default: the experiment's")
    parser.add_argument("--no-run", action="store_true", help="only the step")
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--json", type=record.output, help="write the figures here")
    parser.add_argument("--markdown", type=record.output, help="write the tables here, too")
    options = parser.parse_args()

    steps = in_turns(options, ["elbo", *PYTORCH, JAX], time_step)
    version = {name: results[0].get("framework") for name, results in steps.items()}
    text = (
        f"A W1 step (784-500-2x20-500-784, batch 100, Adam, f32), {options.threads} threads, {options.rounds} rounds "
        f"in turns of {options.steps} steps each; microseconds\n\n{step_table(steps, version)}"
    )
    result = {"step": steps, **record.origin()}

    if not options.no_run:
        runs = in_turns(options, ["elbo", "pytorch"], time_run)
        ratio = statistics.median(runs["pytorch"]) / statistics.median(runs["elbo"])
        text += f"\nA whole fashion-2d run, {options.threads} threads, process start to end; seconds\n\n"
        text += record.markdown(
            ["", "median", "rounds", "times elbo's"],
            [
                ["elbo", f"{statistics.median(runs['elbo']):.1f}", ", ".join(f"{s:.1f}" for s in runs["elbo"]), "1.00"],
                [version["eager"], f"{statistics.median(runs['pytorch']):.1f}", ", ".join(f"{s:.1f}" for s in runs["pytorch"]), f"{ratio:.2f}"],
            ],
        )
        result["run_seconds"] = runs
    text += f"\n{result['machine']}; {result['date']}; {steps['elbo'][0]['device_description']}; {version['eager']}. Made by `{result['command']}`\n"

    record.tell(text, options.markdown)
    if options.json:
        record.write_json(options.json, result)


if __name__ == "__main__":
    main()
