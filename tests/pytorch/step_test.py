#!/usr/bin/env python3
"""Holds training steps of the engine against PyTorch in float64.

    step_test.py STEP_DUMP [--device NAME] [--steps N] [--data FOLDER] [EXPERIMENT...]

STEP_DUMP (tests/step_dump.cpp) trains each experiment (default: all of experiments/) for N steps and writes down
what went in and what came out. Here the same network starts from the same weights, sees the same batches and the
same noise, and is trained with autograd and torch.optim. Also loads the checkpoint into torch.nn modules.

Exit status: 0 all agree, 1 something does not, 77 skipped for want of PyTorch (a failure if ELBO_REQUIRE_TORCH=1).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

try:
    import torch

    from elbo_torch import Vae, load_safetensors, make_optimizer
except ImportError as error:
    required = os.environ.get("ELBO_REQUIRE_TORCH") == "1"
    print(f"{'FAILED' if required else 'skipped'}: PyTorch is not installed (Debian: python3-torch): {error}")
    sys.exit(1 if required else 77)

# One step, each tensor by its norm. Rounding to float is 6e-8 of a value; sums of 784 products and batches of 128
# rows, one behind the other through forward and backward pass, stay below 1e-6, ten times under the limit.
STEP_TOLERANCE = 1e-5
# Adam's mean of squares: the engine keeps 0.999 as a float, and 1 - 0.999f is 1.3e-5 less than 0.001. The bias
# correction, made of the same float, takes it out of the weights' update.
SECOND_TOLERANCE = 2e-5
# Losses along many steps: the differences of each step feed the next.
RUN_TOLERANCE = 1e-4
# Weights after many steps, by the distance they have moved: the same reason, and Adam divides by |g| where g is
# little more than rounding.
MOVE_TOLERANCE = 1e-3


class Judge:
    def __init__(self, experiment):
        self.experiment = experiment
        self.failures = 0
        self.worst = {}

    def compare(self, kind, name, got, expected, tolerance, scale=None):
        """The norm of the difference against that of `scale` (default: of what is expected)."""
        got, expected = got.double(), expected.detach()
        reference = expected if scale is None else scale
        error = (torch.linalg.norm(got - expected) / torch.linalg.norm(reference).clamp(min=1e-300)).item()
        if torch.equal(got, expected):
            error = 0.0
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= tolerance:  # a NaN is not
            self.failures += 1
            if self.failures <= 10:  # one wrong formula is wrong at every step
                print(f"  {self.experiment}: {kind} {name}: relative error {error:.2e}, allowed {tolerance:.0e}")


def compare_state(judge, when, dump, model, optimizer, before=None):
    for name, parameter in model.named_parameters():
        if before is None:
            judge.compare("weights", name, dump[f"{when}.{name}"], parameter, STEP_TOLERANCE)
        else:
            judge.compare("moves", name, dump[f"{when}.{name}"], parameter, MOVE_TOLERANCE, parameter - before[name])
        state = optimizer.state[parameter]
        first = state.get("exp_avg", state.get("sum", state.get("momentum_buffer")))
        if before is None and first is not None:
            judge.compare("first moments", name, dump[f"{when}.first.{name}"], first, STEP_TOLERANCE)
        if before is None and "exp_avg_sq" in state:
            second = state["exp_avg_sq"]
            judge.compare("second moments", name, dump[f"{when}.second.{name}"], second, SECOND_TOLERANCE)


def judge_steps(judge, dump, spec, images):
    """Trains the network of `spec` as the engine did, comparing on the way."""
    steps, _, pixels = dump["target"].shape
    model = Vae(spec, pixels).double()
    before = {name: dump[f"before.{name}"].double() for name, _ in model.named_parameters()}
    model.load_state_dict(before)
    optimizer = make_optimizer(spec, model.parameters(), images)

    # The encoder sees what the decoder should give: the pixels, binarised where the spec says so.
    target = dump["target"].double() / 255
    judge.compare("input", "of step 1", dump["input"], target[0], 1e-7)
    for step in range(steps):
        reconstruction, kl = model.losses(target[step], target[step], dump["epsilon"][step].double().transpose(0, 1))
        optimizer.zero_grad()
        (reconstruction + spec["objective"]["beta"] * kl).backward()
        tolerance = STEP_TOLERANCE if step == 0 else RUN_TOLERANCE
        for i, loss in enumerate((reconstruction, kl)):
            name = f"{('reconstruction', 'KL')[i]} of step {step + 1}"
            judge.compare("losses", name, dump["losses"][step, i], loss, tolerance)
        if step == 0:
            for name, parameter in model.named_parameters():
                judge.compare("gradients", name, dump[f"gradient.{name}"], parameter.grad, STEP_TOLERANCE)
        optimizer.step()
        if step == 0:
            compare_state(judge, "after1", dump, model, optimizer)
    compare_state(judge, "after", dump, model, optimizer, before)


def judge_checkpoint(judge, checkpoint, dump, spec):
    """encoder and decoder are plain nn.Sequential: their state_dict is what the file calls encoder.* and decoder.*."""
    model = Vae(spec, dump["images"].shape[1])
    for part in ("encoder", "decoder"):
        prefix = part + "."
        weights = {n[len(prefix) :]: t for n, t in checkpoint.items() if n.startswith(prefix)}
        getattr(model, part).load_state_dict(weights)
    for name, parameter in model.named_parameters():
        judge.compare("checkpoint", name, dump[f"after.{name}"], parameter.double(), 0)
    with torch.no_grad():
        reconstruction = model.double().reconstruct(dump["images"].double() / 255)
    judge.compare("reconstruction", "of a batch", dump["reconstruction"], reconstruction, STEP_TOLERANCE)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step_dump")
    parser.add_argument("experiments", nargs="*", help="JSON files (default: all of experiments/)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--data", help="train on the experiment's own images, from this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more would fight with other tests over the cores

    failures = 0
    everything = sorted((ROOT / "experiments").glob("*.json"))
    specs = options.experiments or [p for p in everything if not p.name.endswith(".schema.json")]
    for path in map(pathlib.Path, specs):
        with tempfile.TemporaryDirectory() as folder:
            command = [options.step_dump, path, options.device, str(options.steps), folder]
            dumped = subprocess.run(command + ([options.data] if options.data else []))
            if dumped.returncode != 0:
                print(f"  {path.stem}: {options.step_dump} failed")
                failures += 1
                continue
            dump, metadata = load_safetensors(f"{folder}/steps.safetensors")
            checkpoint, _ = load_safetensors(f"{folder}/checkpoint.safetensors")
        spec = json.loads(metadata["spec"])
        judge = Judge(path.stem)
        judge_steps(judge, dump, spec, int(metadata["images"]))
        judge_checkpoint(judge, checkpoint, dump, spec)
        worst = ", ".join(f"{kind} {error:.1e}" for kind, error in judge.worst.items())
        print(f"{'FAILED' if judge.failures else 'ok    '} {path.stem} on {options.device}: {worst}", flush=True)
        failures += judge.failures
    print(f"{len(specs)} experiments against PyTorch {torch.__version__}: {failures} differences")
    return 1 if failures or not specs else 0


if __name__ == "__main__":
    sys.exit(main())
