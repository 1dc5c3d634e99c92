#!/usr/bin/env python3
"""Makes tests/golden/*.csv: what PyTorch, in float64, has to say about every formula of include/elbo/math.

    tools/golden/make.py            writes the files
    tools/golden/make.py --check    computes everything again and compares it with the files

Values come from PyTorch's functions, slopes and gradients from autograd. Every input is a float, so that a float
and a double evaluation of a formula start from the same number.
"""

import argparse
import csv
import math
import os
import pathlib
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError:
    required = os.environ.get("ELBO_REQUIRE_TORCH") == "1"
    print(f"golden: {'FAILED' if required else 'skipped'}: PyTorch is not installed (Debian: python3-torch)")
    sys.exit(1 if required else 77)

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"


def floats(*values):
    """The floats nearest to the values, as float64."""
    return np.array(values, dtype=np.float32).astype(np.float64)


def tensor(value, grad=False):
    return torch.tensor(float(value), dtype=torch.float64, requires_grad=grad)


def elementary():
    functions = {
        "exp": (torch.exp, floats(-87, -20, -1, -1e-3, 0, 1e-6, 0.5, 1, 10, 50, 88.7)),
        "log": (torch.log, floats(1e-37, 1e-10, 0.1, 0.5, 0.70710677, 0.99999994, 1, 1.0000001, 2, 3e5, 3e38)),
        "tanh": (torch.tanh, floats(-20, -9, -2, -0.625, -0.3, -1e-4, 0, 1e-6, 0.1, 0.6249, 0.626, 1, 5, 30)),
        "sqrt": (torch.sqrt, floats(0, 1e-30, 1e-8, 0.3, 2, 3e20)),
    }
    for name, (function, xs) in functions.items():
        for x in xs:
            yield {"function": name, "x": x, "value": function(tensor(x))}


def activation():
    functions = {"identity": lambda x: x * 1, "relu": torch.relu, "tanh": torch.tanh, "softplus": F.softplus}
    for name, function in functions.items():
        for x in floats(-100, -30, -19, -5, -1.5, -0.1, -1e-6, 0, 1e-6, 0.2, 0.7, 1, 3, 15, 19.5, 60):
            t = tensor(x, grad=True)
            y = function(t)
            y.backward()
            yield {"activation": name, "x": x, "y": y, "slope": t.grad}


def bernoulli():
    for logit in floats(-100, -88, -40, -17, -5, -1, -0.01, 0, 1e-5, 0.3, 1, 4, 16, 20, 45, 90, 1000):
        for pixel in (0, 1, 77, 128, 254, 255):
            target = float(np.float32(pixel / 255))
            t = tensor(logit, grad=True)
            value = F.binary_cross_entropy_with_logits(t, tensor(target))
            value.backward()
            yield {"logit": logit, "target": target, "value": value, "grad": t.grad}


def gaussian():
    for variance in floats(0.01, 0.5, 1, 4):
        for mean in floats(-3, 0, 0.2, 0.5, 1, 10):
            for target in floats(0, 0.2, 1):
                t = tensor(mean, grad=True)
                value = F.gaussian_nll_loss(t, tensor(target), tensor(variance), full=True)
                value.backward()
                yield {"variance": variance, "mean": mean, "target": target, "value": value, "grad": t.grad}


def gaussian_learned():
    least = tensor(-2 * math.log(255))
    for mean in ("identity", "sigmoid"):
        for raw in floats(-40, -14, -11.5, -10, -6, -2, 0, 3, 30):
            for output in floats(-3, 0, 0.2, 0.5, 1, 4):
                for target in floats(0, 0.2, 1):
                    o, r = tensor(output, grad=True), tensor(raw, grad=True)
                    variance = torch.exp(least + F.softplus(r - least, threshold=700))
                    m = torch.sigmoid(o) if mean == "sigmoid" else o
                    value = -torch.distributions.Normal(m, variance.sqrt()).log_prob(tensor(target))
                    value.backward()
                    yield {"mean": mean, "output": output, "raw": raw, "target": target, "variance": variance,
                           "value": value, "doutput": o.grad, "draw": r.grad}


def posterior_sigma(posterior, s):
    """The sigma that torch.distributions takes is positive; N(mu, sigma^2) does not know its sign."""
    return torch.exp(s / 2) if posterior == "log_variance" else torch.abs(s)


def kl():
    heads = {
        "log_variance": floats(-20, -6, -1, -0.01, 0, 1e-4, 0.5, 2, 10),
        "sigma": floats(-3, -1, -0.2, -1e-3, 1e-4, 0.05, 0.999, 1, 1.5, 30, 1e-25),  # the last squared is no float
    }
    for posterior, ss in heads.items():
        for mu in floats(-4, -0.3, 0, 1e-3, 1, 12):
            for s in ss:
                m, t = tensor(mu, grad=True), tensor(s, grad=True)
                q = torch.distributions.Normal(m, posterior_sigma(posterior, t))
                p = torch.distributions.Normal(tensor(0), tensor(1))
                value = torch.distributions.kl_divergence(q, p)
                value.backward()
                yield {"posterior": posterior, "mu": mu, "s": s, "value": value, "dmu": m.grad, "ds": t.grad}


def sample():
    for posterior in ("log_variance", "sigma"):
        for s in floats(-8, -1, -0.01, 0.02, 0.5, 3, 12):
            for epsilon in floats(-4.2, -0.7, 1e-3, 1.1, 3.3):
                t, mu = tensor(s, grad=True), tensor(0.25)
                sigma = torch.exp(t / 2) if posterior == "log_variance" else t
                z = mu + sigma * tensor(epsilon)
                z.backward()
                yield {"posterior": posterior, "s": s, "epsilon": epsilon, "sigma": sigma, "slope": t.grad}


def sampled_kl():
    """log q(z|x) - log p(z) of a draw z = mu + sigma epsilon, and its gradients by mu and s through z and beside it."""
    for posterior, ss in (("log_variance", floats(-3, -1, 0.02, 3)), ("sigma", floats(-2, -0.3, 0.5, 1.5, 30))):
        for mu in floats(-4, 0, 0.3, 12):
            for s in ss:
                for epsilon in floats(-4.2, 1e-3, 1.1):
                    m, t = tensor(mu, grad=True), tensor(s, grad=True)
                    sigma = posterior_sigma(posterior, t)
                    # A draw of N(mu, sigma^2) by epsilon and a negative sigma is one by -epsilon and a positive one.
                    z = m + sigma * tensor(epsilon if s > 0 or posterior == "log_variance" else -epsilon)
                    q, p = torch.distributions.Normal(m, sigma), torch.distributions.Normal(tensor(0), tensor(1))
                    value = q.log_prob(z) - p.log_prob(z)
                    value.backward()
                    yield {"posterior": posterior, "mu": mu, "s": s, "epsilon": epsilon, "value": value,
                           "dmu": m.grad, "ds": t.grad}


def importance():
    """Rows of draws, a line each: the loss is the row's, the gradient the draw's."""
    rows = [[(3.5, 0.25)],
            [(550.25, 21.5), (547.0, 19.75), (561.5, 30.25), (540.125, 25.0)],
            [(-1200.5, 40.0), (-1150.0, 2.5)],
            [(90.0, 5.0)] * 3 + [(300.0, 5.0)],
            [(80.0 + 0.37 * i, 25.0 - 0.2 * i) for i in range(50)]]
    for row, draws in enumerate(rows):
        nll = torch.tensor(floats(*[d[0] for d in draws]), requires_grad=True)
        kl = torch.tensor(floats(*[d[1] for d in draws]), requires_grad=True)
        loss = math.log(len(draws)) - torch.logsumexp(-nll - kl, 0)
        loss.backward()
        assert torch.equal(nll.grad, kl.grad)
        for i in range(len(draws)):
            yield {"row": row, "nll": nll[i], "kl": kl[i], "loss": loss, "gradient": nll.grad[i]}


OPTIMIZERS = {  # case: class, options by PyTorch's names
    "adam": (torch.optim.Adam, {"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adam-decay": (torch.optim.Adam, {"lr": 1e-2, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.02, "eps": 1e-10}),
    "adagrad-decay": (torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-8, "weight_decay": 1 / 60000}),
    "sgd": (torch.optim.SGD, {"lr": 0.05}),
    "sgd-momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
}


def optimizer():
    """Eight steps of each case; settings are floats, as the engine keeps them, but for Adam's betas."""
    gradients = floats(0.3, -1.25, 0, 1e-4, -30, 2.5, 0.01, 7)
    for case, (kind, options) in OPTIMIZERS.items():
        rounded = {k: v if k == "betas" else float(np.float32(v)) for k, v in options.items()}
        parameter = torch.nn.Parameter(tensor(floats(0.75)[0]))
        steps = kind([parameter], **rounded)
        betas = rounded.get("betas", (0, 0))
        for step, gradient in enumerate(gradients, start=1):
            parameter.grad = tensor(gradient)
            steps.step()
            state = steps.state[parameter]
            first = state.get("exp_avg", state.get("sum", state.get("momentum_buffer")))
            yield {
                "case": case,
                "type": case.split("-")[0],
                "learning_rate": rounded["lr"],
                "beta1": betas[0],
                "beta2": betas[1],
                "epsilon": rounded.get("eps", 0),
                "momentum": rounded.get("momentum", 0),
                "weight_decay": rounded.get("weight_decay", 0),
                "step": step,
                "gradient": gradient,
                "parameter": parameter,
                "first": gradient if first is None else first,  # without momentum, a velocity is the gradient
                "second": state.get("exp_avg_sq", 0),
            }


TABLES = [elementary, activation, bernoulli, gaussian, gaussian_learned, kl, sample, sampled_kl, importance, optimizer]


def as_text(value):
    if isinstance(value, torch.Tensor):
        value = value.item()
    return value if isinstance(value, str) else f"{value:.17g}"


def differs(old, new):
    """Text that is not the same, nor a number within 1e-13 of its size, or 4e-15: PyTorch 1.13 has log(1 + e) for
    log1p(e)."""
    try:
        return not math.isclose(float(old), float(new), rel_tol=1e-13, abs_tol=4e-15)
    except ValueError:
        return old != new


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files, write nothing")
    check = parser.parse_args().check
    wrong = 0
    for table in TABLES:
        rows = [{name: as_text(value) for name, value in row.items()} for row in table()]
        path = FOLDER / f"{table.__name__}.csv"
        if not check:
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            continue
        with open(path, newline="") as file:
            frozen = list(csv.DictReader(file))
        if len(frozen) != len(rows):
            print(f"{path}: {len(frozen)} rows, expected {len(rows)}")
            wrong += 1
        for number, (old, new) in enumerate(zip(frozen, rows), start=2):
            for name in new:
                if differs(old.get(name, "(missing)"), new[name]):
                    print(f"{path}:{number}: {name} is {old.get(name)}, PyTorch {torch.__version__} says {new[name]}")
                    wrong += 1
    if check:
        print(f"golden: {wrong} differences" if wrong else f"golden: all as PyTorch {torch.__version__} says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
