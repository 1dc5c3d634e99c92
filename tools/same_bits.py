#!/usr/bin/env python3
"""Whether two builds of elbo train to the same weights, bit for bit, on this machine.

    tools/same_bits.py OLD/elbo NEW/elbo [--data DIR] [--only NAME]...

For every experiment: two epochs on the CPU (fashion-2d in full), the second epoch by NEW from OLD's checkpoint of the
first, and 200 steps on the simulated device where both builds have one. Prints a line for each, with the hash of the
weights and the test figures; ends with 1 where any differ. Experiments that OLD cannot read are named and left out.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 200  # on the simulated device


def run(program, *arguments):
    """What a run prints; ends the process where it fails."""
    environment = dict(os.environ, ELBO_PLUGINS=str(pathlib.Path(program).resolve().parent))
    done = subprocess.run([program, "run", *map(str, arguments)], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{program} run {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def result(output, folder):
    """The hash of the weights, and the figures of every epoch."""
    figures = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        epoch = json.loads(line)
        figures.append({k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")})
    return re.search(r"sha256 (\w+)", output)[1], figures


def write_images(folder, count, height, width):
    """A data set of discs of all sizes and greys, as MNIST's files are."""
    noise = random.Random(1)
    folder.mkdir(parents=True)
    for name, n in (("train", count), ("t10k", 64)):
        pixels = bytearray()
        for _ in range(n):
            y, x, r, grey = noise.uniform(6, 22), noise.uniform(6, 18), noise.uniform(2, 8), noise.randint(100, 255)
            pixels += bytes(grey if (i - y) ** 2 + (j - x) ** 2 < r * r else noise.randint(0, 40)
                            for i in range(height) for j in range(width))
        head = bytes([0, 0, 8, 3]) + b"".join(k.to_bytes(4, "big") for k in (n, height, width))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + pixels)


def cases(old, new, data, scratch):
    """(name, OLD's result, NEW's result), each made when it is asked for."""
    simulated = all((pathlib.Path(p).resolve().parent / "libelbo_sim.so").exists() for p in (old, new))
    for path in sorted((ROOT / "experiments").glob("*.json")):
        if path.name == "experiment.schema.json":
            continue
        spec = json.loads(path.read_text())
        name = path.stem
        where = [] if spec["data"]["dataset"] == "fashion-mnist" else data
        epochs = [] if name == "fashion-2d" else ["--set", "train.epochs=2"]
        if subprocess.run([old, "plan", path, *where], capture_output=True).returncode != 0:
            print(f"{name:<36} OLD cannot read it", flush=True)
            continue

        def train(program, tag, *more):
            folder = scratch / f"{name}-{tag}"
            return result(run(program, path, "--device", "cpu", "--out", folder, *where, *more), folder)

        yield f"{name}, cpu", lambda: train(old, "old", *epochs), lambda: train(new, "new", *epochs)

        def resume():
            train(old, "resumed", "--set", "train.epochs=1")
            return train(new, "resumed", "--set", "train.epochs=2", "--resume")

        yield f"{name}, cpu, resumed", lambda: train(old, "two", "--set", "train.epochs=2"), resume
        if not simulated:
            continue
        batch = spec["train"]["batch_size"]
        steps = ["--set", "data.dataset=discs", "--set", "data.split=holdout", "--set", "train.epochs=2"]

        def simulate(program, tag):
            folder, images = scratch / f"{name}-sim-{tag}", scratch / f"data-{name}-{tag}"
            write_images(images / "discs", batch * STEPS // 2, 28, 20 if "freyface" in name else 28)
            return result(run(program, path, "--device", "sim", "--out", folder, "--data", images, *steps), folder)

        yield f"{name}, sim", lambda: simulate(old, "old"), lambda: simulate(new, "new")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--data")
    parser.add_argument("--only", action="append", default=[], help="cases whose name has this in it")
    options = parser.parse_args()
    differ = 0
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        data = ["--data", options.data] if options.data else []
        for name, left, right in cases(options.old, options.new, data, pathlib.Path(scratch)):
            if options.only and not any(part in name for part in options.only):
                continue
            if "sim" in name:
                a, b = [f.result() for f in (pool.submit(left), pool.submit(right))]
            else:
                a, b = left(), right()  # one after the other: each has all threads
            same = "same" if a == b else "same weights, other figures" if a[0] == b[0] else "OTHER WEIGHTS"
            differ += a != b
            print(f"{name:<36} {a[0][:12]} {b[0][:12]} {same}", flush=True)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
