#!/usr/bin/env python3
"""Trains experiments with elbo and with PyTorch, some seeds each, and tabulates the final ELBO of the test images.

    compare.py --out FOLDER [--elbo PROGRAM] [--only elbo|pytorch] [--experiments NAME...] [--seeds N...]
               [--epochs N] [--threads N] [--device NAME] [--data FOLDER] [--markdown FILE]

Every run leaves one JSON file in FOLDER and is not done again while that is there, so the comparison can be stopped,
and continued, at any time; the table is made of what is there. Run it with a Python that has torch.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

import record


def run_elbo(options, experiment, seed, epochs):
    with tempfile.TemporaryDirectory() as folder:
        command = [options.elbo, "run", f"{ROOT}/experiments/{experiment}.json", "--out", f"{folder}/run"]
        command += ["--set", f"seed={seed}", "--set", f"train.epochs={epochs}"]
        command += ["--device", options.device, "--threads", str(options.threads)]
        command += ["--data", options.data] if options.data else []
        subprocess.run(command, check=True)
        last = json.loads(pathlib.Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()[-1])
        machine = json.loads(pathlib.Path(f"{folder}/run/machine.json").read_text())
    return {
        "framework": f"elbo {machine['version']} on {machine['device']}",
        "experiment": experiment,
        "seed": seed,
        "epochs": last["epoch"],
        "threads": options.threads,
        "train_elbo": last["train"]["elbo"],
        "test": last["test"],
        "seconds": last["seconds"],
        **record.origin(),
    }


def run_pytorch(options, experiment, seed, epochs):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, HERE / "train.py", experiment, "--json", f"{folder}/result.json"]
        command += ["--seed", str(seed), "--epochs", str(epochs), "--threads", str(options.threads)]
        command += ["--data", options.data] if options.data else []
        subprocess.run(command, check=True)
        return json.loads(pathlib.Path(f"{folder}/result.json").read_text())


RUNNERS = {"elbo": run_elbo, "pytorch": run_pytorch}


def planned_epochs(options, experiment):
    spec = json.loads((ROOT / "experiments" / f"{experiment}.json").read_text())
    return options.epochs or spec["train"]["epochs"]


def result_path(options, name, experiment, seed):
    epochs = planned_epochs(options, experiment)
    return pathlib.Path(options.out) / f"{experiment}-{epochs}epochs-seed{seed}-{name}.json"


def summarise(results):
    """Mean, standard deviation over the seeds, and the text for a table."""
    mean, deviation = record.mean_and_deviation([r["test"]["elbo"] for r in results])
    return mean, deviation, f"{mean:.2f} ± {deviation:.2f}"


def make_table(options):
    rows, origins = [], {}
    for experiment in options.experiments:
        cells, sides = [experiment, planned_epochs(options, experiment)], {}
        for name in RUNNERS:
            paths = [result_path(options, name, experiment, seed) for seed in options.seeds]
            results = [json.loads(p.read_text()) for p in paths if p.exists()]
            if not results:
                cells += ["not run", ""]
                continue
            sides[name] = mean, deviation, text = summarise(results)
            seconds = record.mean_and_deviation([r["wall_seconds"] for r in results])[0]
            cells += [f"{text} ({len(results)} seeds)", f"{seconds:.0f} s"]
            for r in results:
                origins.setdefault((r["framework"], f"{r['threads']} threads", r["machine"]), []).append(r["date"])
        if len(sides) == 2:
            difference = sides["elbo"][0] - sides["pytorch"][0]
            agree = abs(difference) <= sides["elbo"][1] + sides["pytorch"][1]
            cells += [f"{difference:+.2f}", "yes" if agree else "**no**"]
        else:
            cells += ["", ""]
        rows.append(cells)
    header = ["experiment", "epochs", "elbo", "time", "PyTorch", "time", "difference", "agree"]
    notes = [f"- {', '.join(what)}; {min(dates)} to {max(dates)}" for what, dates in origins.items()]
    return (
        "Final ELBO of the test images in nats an image (one draw of z for each): mean ± standard deviation over the "
        "seeds. Time is that of the whole process. They agree if the means differ by no more than the two deviations "
        "together.\n\n" + record.markdown(header, rows) + "\n" + "\n".join(notes) + f"\n\nMade by `{record.origin()['command']}`\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--elbo", default=str(ROOT / "build" / "elbo"), help="the program")
    parser.add_argument("--only", choices=RUNNERS, help="run only this side")
    parser.add_argument("--experiments", nargs="+", default=["fashion-2d", "mnist-2d", "freyface-8d"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=record.positive, help="default: the experiment's")
    parser.add_argument("--threads", type=record.positive, default=2)
    parser.add_argument("--device", default="cpu", help="of elbo")
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--markdown", type=record.output, help="write the table here, too")
    options = parser.parse_args()
    for experiment in options.experiments:
        if not (ROOT / "experiments" / f"{experiment}.json").exists():
            parser.error(f"there is no experiment {experiment}")
    pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)

    for experiment in options.experiments:
        for seed in options.seeds:
            for name, runner in RUNNERS.items():
                path = result_path(options, name, experiment, seed)
                if path.exists() or (options.only or name) != name:
                    continue
                print(f"== {path.stem}", flush=True)
                begin = time.perf_counter()
                result = runner(options, experiment, seed, planned_epochs(options, experiment))
                record.write_json(path, {**result, "wall_seconds": time.perf_counter() - begin})

    record.tell(make_table(options), options.markdown)


if __name__ == "__main__":
    main()
