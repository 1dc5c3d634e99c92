#!/usr/bin/env python3
"""Times training steps of a spec in PyTorch: the counterpart of `elbo bench step`.

    bench_step.py [SPEC] [--form NAME...] [--precision fp32|tf32...] [--device cpu|cuda] [--threads N] [--steps N]
                  [--warmup SECONDS] [--seconds N] [--data FOLDER] [--json FILE]

Forms: `eager`, `eager-foreach` and `eager-fused`, by Adam's implementation; `reduce-overhead` and `max-autotune`, the
modes of torch.compile, on a GPU; `graph`: compiled, and the whole step, optimiser included, captured as one CUDA graph.

The images are in the device's memory as floats; a batch is gathered by index, as a DataLoader's shuffling would, at
less cost. On a GPU ten steps are timed at a time, and nothing waits for the device within them.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import images
import record
import timing
from elbo_spec import load_spec

EAGER = {"eager": {}, "eager-foreach": {"foreach": True}, "eager-fused": {"fused": True}}
COMPILED = ["reduce-overhead", "max-autotune"]
FORMS = [*EAGER, *COMPILED, "graph"]


def make_step(torch, form, spec, data):
    """A function that takes the training step of a number and returns its objective."""
    from elbo_torch import Vae, make_optimizer

    compiled = None if form in EAGER else timing.compiler(torch)
    size = spec["train"]["batch_size"]
    model = Vae(spec, data.shape[1]).to(data.device)
    variant = EAGER[form] if form in EAGER else {"fused": True, "capturable": data.is_cuda}
    optimizer = make_optimizer(spec, model.parameters(), len(data), **variant)
    order = torch.randperm(len(data), device=data.device)[: len(data) // size * size].view(-1, size)

    def objective(batch):
        return model.minimised(model.losses(batch, batch))

    update = optimizer.step
    if form not in EAGER:
        objective = compiled(objective, mode=form if form in COMPILED else "default")
    if form in COMPILED:
        update = compiled(optimizer.step)

    def train(indices):
        optimizer.zero_grad(set_to_none=True)
        loss = objective(data[indices])
        loss.backward()
        update()
        return loss.detach()

    if form != "graph":
        return lambda number: train(order[number % len(order)])

    indices = order[0].clone()
    aside = torch.cuda.Stream()  # the warm-up before a capture belongs on a stream of its own
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            train(indices)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = train(indices)

    def replay(number):
        indices.copy_(order[number % len(order)])
        graph.replay()
        return loss

    return replay


def main():
    parser = timing.step_options(__doc__, FORMS)
    parser.add_argument("--threads", type=record.positive, default=2)
    options = parser.parse_args()
    if "graph" in options.form and options.device != "cuda":
        parser.error("graph needs --device cuda")
    torch = timing.framework("torch")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"PyTorch {torch.__version__} sees no GPU")
    spec = load_spec(options.spec)
    torch.set_num_threads(options.threads)
    data = (torch.from_numpy(images.load(spec, options.data)[0].astype("float32")) / 255).to(options.device)
    each = 10 if data.is_cuda else 1

    def measure(form, precision):
        torch.manual_seed(spec["seed"])
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        step = make_step(torch, form, spec, data)
        number, loss = 0, None

        def block():
            nonlocal number, loss
            for _ in range(each):
                loss = step(number)
                number += 1
            if data.is_cuda:
                torch.cuda.synchronize()

        figures = timing.measure(block, each, options, options.steps)
        if not loss.isfinite():
            raise ValueError("the objective is not finite")
        return figures

    return timing.run_steps(f"PyTorch {torch.__version__}", spec, options, measure, threads=options.threads)


if __name__ == "__main__":
    sys.exit(main())
