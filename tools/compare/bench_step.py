#!/usr/bin/env python3
"""Times training steps of a spec in PyTorch, eager mode, f32: the counterpart of `elbo bench step`.

    bench_step.py [SPEC] [--optimizer default|foreach|fused] [--threads N] [--steps N] [--warmup N] [--json FILE]

The images are in memory as floats; a batch is gathered by index, as a DataLoader's shuffling would, at less cost.
"""

import argparse
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np
import torch

import images
import record
from elbo_torch import Vae, load_spec, make_optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default=str(HERE / "w1.json"))
    parser.add_argument("--optimizer", choices=["default", "foreach", "fused"], default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()

    spec = load_spec(options.spec)
    torch.manual_seed(spec["seed"])
    torch.set_num_threads(options.threads)
    data = torch.from_numpy(images.load(spec, options.data)[0].astype("float32")) / 255
    size, beta = spec["train"]["batch_size"], spec["objective"]["beta"]
    model = Vae(spec, data.shape[1])
    variant = {} if options.optimizer == "default" else {options.optimizer: True}
    optimizer = make_optimizer(spec, model.parameters(), len(data), **variant)
    order = torch.randperm(len(data))[: len(data) // size * size].view(-1, size)

    times = []
    for step in range(options.warmup + options.steps):
        begin = time.perf_counter()
        batch = data[order[step % len(order)]]
        reconstruction, kl = model.losses(batch, batch)
        optimizer.zero_grad(set_to_none=True)
        (reconstruction + beta * kl).backward()
        optimizer.step()
        times.append(1e6 * (time.perf_counter() - begin))

    p10, median, p90 = np.percentile(times[options.warmup :], [10, 50, 90])
    print(f"{spec['name']}: a training step of {size} images, PyTorch {torch.__version__}, Adam {options.optimizer}")
    print(f"median {median:.1f} us   p10 {p10:.1f}   p90 {p90:.1f}   ({options.steps} steps)")
    if options.json:
        result = {
            "spec": spec["name"],
            "batch_size": size,
            "framework": f"PyTorch {torch.__version__}",
            "optimizer": options.optimizer,
            "threads": options.threads,
            "median_us": median,
            "p10_us": p10,
            "p90_us": p90,
            "timings": options.steps,
            **record.origin(),
        }
        record.write_json(options.json, result)


if __name__ == "__main__":
    main()
