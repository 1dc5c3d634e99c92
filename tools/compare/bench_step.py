#!/usr/bin/env python3
"""Times training steps of a spec in PyTorch: the counterpart of `elbo bench step`.

    bench_step.py [SPEC] [--optimizer default|foreach|fused] [--device cpu|cuda] [--precision fp32|tf32] [--compile]
                  [--threads N] [--steps N] [--warmup N] [--json FILE]

The images are in the device's memory as floats; a batch is gathered by index, as a DataLoader's shuffling would, at less
cost. On a GPU ten steps are timed at a time, and nothing waits for the device within them.
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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32"], default="fp32", help="of matrix products")
    parser.add_argument("--compile", action="store_true", help="by torch.compile, on a GPU with CUDA graphs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_args()

    spec = load_spec(options.spec)
    torch.manual_seed(spec["seed"])
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    on_gpu = options.device == "cuda"
    data = (torch.from_numpy(images.load(spec, options.data)[0].astype("float32")) / 255).to(options.device)
    size, beta = spec["train"]["batch_size"], spec["objective"]["beta"]
    model = Vae(spec, data.shape[1]).to(options.device)
    variant = {} if options.optimizer == "default" else {options.optimizer: True}
    if on_gpu and options.compile:
        variant["capturable"] = True
    optimizer = make_optimizer(spec, model.parameters(), len(data), **variant)
    order = torch.randperm(len(data), device=options.device)[: len(data) // size * size].view(-1, size)

    def objective(batch):
        reconstruction, kl = model.losses(batch, batch)
        return reconstruction + beta * kl

    update = optimizer.step
    if options.compile:
        objective = torch.compile(objective, mode="reduce-overhead" if on_gpu else "default")
        update = torch.compile(optimizer.step)

    def step(number):
        optimizer.zero_grad(set_to_none=True)
        objective(data[order[number % len(order)]]).backward()
        update()

    each = 10 if on_gpu else 1
    times = []
    for number in range(options.warmup):
        step(number)
    for block in range(-(-options.steps // each)):
        if on_gpu:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for number in range(block * each, (block + 1) * each):
            step(number)
        if on_gpu:
            torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - begin) / each)

    p10, median, p90 = np.percentile(times, [10, 50, 90])
    mode = f"{options.device}, {options.precision}, {'compiled' if options.compile else 'eager'}"
    print(f"{spec['name']}: a training step of {size} images, PyTorch {torch.__version__}, Adam {options.optimizer}, {mode}")
    print(f"median {median:.1f} us   p10 {p10:.1f}   p90 {p90:.1f}   ({len(times)} timings of {each} steps)")
    if options.json:
        result = {
            "spec": spec["name"],
            "batch_size": size,
            "framework": f"PyTorch {torch.__version__}",
            "optimizer": options.optimizer,
            "mode": mode,
            "threads": options.threads,
            "median_us": median,
            "p10_us": p10,
            "p90_us": p90,
            "timings": len(times),
            "steps_per_timing": each,
            **record.origin(),
        }
        record.write_json(options.json, result)


if __name__ == "__main__":
    main()
