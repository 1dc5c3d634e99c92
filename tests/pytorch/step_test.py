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

# One thread: more would fight with other tests over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
# Losses along many steps, by the size of the objective: the differences of each step feed the next.
RUN_TOLERANCE = 1e-4
# Weights after many steps, by the distance they have moved: the same; and where a gradient is little more than
# rounding, Adam and Adagrad divide it by its size.
MOVE_TOLERANCE = 1e-2
# An encoder that gives sigma itself has gradients of 1 / sigma, and sigma passes through 0: on MNIST, runs of PyTorch in
# float64 whose weights differ by a float's rounding are 1e-4 apart after 60 steps and 6e-3 after 100. Such a model is
# allowed ten times what PyTorch drifts when it changes its weights by as much after every step, where that is more.
DRIFTS_ALLOWED = 10
FLOAT_ROUNDING = 2.0**-24
# Importance weights of draws whose losses differ by many nats: a small difference moves a row's gradient from one draw to
# another. PyTorch's own float32 is 1e-6 from its float64 after 20 steps, 3e-5 after 30 and 2e-2 after 100.
WEIGHTED_STEPS = 20


class Judge:
    def __init__(self, experiment):
        self.experiment = experiment
        self.failures = 0
        self.worst = {}

    def compare(self, kind, name, got, expected, tolerance, scale=None):
        """The norm of the difference against `scale` (default: the norm of what is expected)."""
        got, expected = got.double(), expected.detach()
        if scale is None:
            scale = torch.linalg.norm(expected)
        error = (torch.linalg.norm(got - expected) / scale).item() if not torch.equal(got, expected) else 0.0
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= tolerance:  # a NaN is not
            self.failures += 1
            if self.failures <= 10:  # one wrong formula is wrong at every step
                print(f"  {self.experiment}: {kind} {name}: relative error {error:.2e}, allowed {tolerance:.0e}")


def make_model(dump, spec):
    model = Vae(spec, dump["target"].shape[2]).double()
    model.load_state_dict({name: dump[f"before.{name}"].double() for name in model.state_dict()})
    return model


def judge_update(judge, dump, spec, images):
    """The first update, by PyTorch's optimiser from the engine's gradients: those of autograd could not be used, since
    the first step of Adam and Adagrad is nearly the sign of the gradient, and rounding decides the sign of some."""
    model = make_model(dump, spec)
    optimizer = make_optimizer(spec, model.parameters(), images)
    for name, parameter in model.named_parameters():
        parameter.grad = dump[f"gradient.{name}"].double()
    optimizer.step()
    for name, parameter in model.named_parameters():
        judge.compare("weights", name, dump[f"after1.{name}"], parameter, STEP_TOLERANCE)
        state = optimizer.state[parameter]
        first = state.get("exp_avg", state.get("sum", state.get("momentum_buffer")))
        if first is not None:
            judge.compare("first moments", name, dump[f"after1.first.{name}"], first, STEP_TOLERANCE)
        if "exp_avg_sq" in state:
            second = state["exp_avg_sq"]
            judge.compare("second moments", name, dump[f"after1.second.{name}"], second, STEP_TOLERANCE)


class Trajectory:
    """Training as the engine did it, with PyTorch alone; `change`: of the weights after every step, relative."""

    def __init__(self, dump, spec, images, change=0.0):
        self.model = make_model(dump, spec)
        generator = torch.Generator().manual_seed(0)
        optimizer = make_optimizer(spec, self.model.parameters(), images)
        # The encoder sees what the decoder should give: the pixels, binarised where the spec says so.
        self.losses, self.objectives = [], []
        for step, batch in enumerate(dump["target"].double() / 255):
            losses = self.model.losses(batch, batch, dump["epsilon"][step].double().transpose(0, 1))
            objective = self.model.minimised(losses)
            optimizer.zero_grad()
            objective.backward()
            if step == 0:
                self.first_gradients = {n: p.grad.clone() for n, p in self.model.named_parameters()}
            self.losses.append(torch.stack(losses).detach())
            self.objectives.append(objective.item())
            optimizer.step()
            if change:
                with torch.no_grad():
                    for parameter in self.model.parameters():
                        noise = 2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1
                        parameter.mul_(1 + change * noise)
        self.weights = {n: p.detach() for n, p in self.model.named_parameters()}


def judge_steps(judge, dump, spec, images):
    run = Trajectory(dump, spec, images)
    drift = [0.0] * len(run.losses)  # the largest so far, by the size of the objective
    moves_drift = {name: 0.0 for name in run.weights}
    moved = {n: torch.linalg.norm(w - dump[f"before.{n}"].double()) for n, w in run.weights.items()}
    if spec["model"]["posterior"] == "sigma":
        other = Trajectory(dump, spec, images, FLOAT_ROUNDING)
        largest = 0.0
        for step, (a, b) in enumerate(zip(run.losses, other.losses)):
            largest = max(largest, (a - b).abs().max().item() / run.objectives[step])
            drift[step] = largest
        moves_drift = {n: (torch.linalg.norm(w - other.weights[n]) / moved[n]).item() for n, w in run.weights.items()}

    judge.compare("input", "of step 1", dump["input"], dump["target"][0].double() / 255, 1e-7)
    for step, losses in enumerate(run.losses):
        for i, name in enumerate(("reconstruction", "KL", "iwae")[: len(losses)]):
            got = dump["losses"][step, i]
            if step == 0:
                judge.compare("first losses", name, got, losses[i], STEP_TOLERANCE)
            judge.compare("losses", f"{name} of step {step + 1}", got, losses[i],
                          max(RUN_TOLERANCE, DRIFTS_ALLOWED * drift[step]), run.objectives[step])
    for name, gradient in run.first_gradients.items():
        judge.compare("gradients", name, dump[f"gradient.{name}"], gradient, STEP_TOLERANCE)
    for name, weights in run.weights.items():
        judge.compare("moves", name, dump[f"after.{name}"], weights, max(MOVE_TOLERANCE, DRIFTS_ALLOWED * moves_drift[name]),
                      moved[name])


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
    options = parser.parse_intermixed_args()  # options may stand between the positional arguments

    failures = 0
    everything = sorted((ROOT / "experiments").glob("*.json"))
    specs = options.experiments or [p for p in everything if not p.name.endswith(".schema.json")]
    for path in map(pathlib.Path, specs):
        with tempfile.TemporaryDirectory() as folder:
            is_weighted = json.loads(path.read_text()).get("objective", {}).get("type") == "iwae"
            steps = min(options.steps, WEIGHTED_STEPS) if is_weighted else options.steps
            command = [options.step_dump, path, options.device, str(steps), folder]
            dumped = subprocess.run(command + ([options.data] if options.data else []))
            if dumped.returncode != 0:
                print(f"  {path.stem}: {options.step_dump} failed")
                failures += 1
                continue
            dump, metadata = load_safetensors(f"{folder}/steps.safetensors")
            checkpoint, _ = load_safetensors(f"{folder}/checkpoint.safetensors")
        spec = json.loads(metadata["spec"])
        judge = Judge(path.stem)
        judge_update(judge, dump, spec, int(metadata["images"]))
        judge_steps(judge, dump, spec, int(metadata["images"]))
        judge_checkpoint(judge, checkpoint, dump, spec)
        worst = ", ".join(f"{kind} {error:.1e}" for kind, error in judge.worst.items())
        print(f"{'FAILED' if judge.failures else 'ok    '} {path.stem} on {options.device}: {worst}", flush=True)
        failures += judge.failures
    print(f"{len(specs)} experiments against PyTorch {torch.__version__}: {failures} differences")
    return 1 if failures or not specs else 0


if __name__ == "__main__":
    sys.exit(main())
