#!/usr/bin/env python3
"""Times the Bernoulli loss and its gradient in PyTorch or JAX, in fp32: the counterpart of `elbo bench loss`.

    bench_loss.py --framework pytorch|jax [--form NAME...] [--shape RxP...] [--device cpu|cuda] [--warmup SECONDS]
                  [--seconds N] [--json FILE]

Forms: in PyTorch `eager` and `compile` (binary_cross_entropy_with_logits, then backward) and `compile-both` (value and
gradient in one compiled function, by torch.func); in JAX `jit` (value_and_grad of the same formula). Inputs rotate
through more memory than a cache holds, ten calls are timed at a time on a GPU, and value and gradient are held against
float64.
"""

import argparse
import math
import os
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others measure on the same GPU

import record
import timing

FORMS = {"pytorch": ["eager", "compile", "compile-both"], "jax": ["jit"]}
SHAPES = ["100x784", "65536x784", "512x3x218x178"]
ROTATED_BYTES = 256 << 20  # as in host/lab/bench_loss.cpp
BYTES = 12  # an element: logit and target read, gradient written


def shape(text):
    """Rows and pixels of RxP, or of RxCxHxW."""
    sizes = text.split("x")
    if len(sizes) < 2 or not all(s.isdecimal() and int(s) > 0 for s in sizes):
        raise argparse.ArgumentTypeError(f"{text}: not a shape, such as {SHAPES[0]} or {SHAPES[-1]}")
    rows, *rest = map(int, sizes)
    return rows, math.prod(rest)


class PyTorch:
    def __init__(self, device):
        torch = timing.framework("torch")
        self.torch, self.device, self.name = torch, device, f"PyTorch {torch.__version__}"
        if device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(f"{self.name} sees no GPU")
        self.loss = lambda logits, target: torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="sum"
        )

    def inputs(self, rows, pixels, seed):
        generator = self.torch.Generator(self.device).manual_seed(seed)
        make = dict(generator=generator, device=self.device)
        return 3 * self.torch.randn(rows, pixels, **make), self.torch.rand(rows, pixels, **make)

    def function(self, form):
        """(logits, target) -> (loss, gradient)"""
        if form == "compile-both":
            both = timing.compiler(self.torch)(self.torch.func.grad_and_value(self.loss), dynamic=False)
            return lambda logits, target: both(logits, target)[::-1]
        loss = timing.compiler(self.torch)(self.loss, dynamic=False) if form == "compile" else self.loss

        def value_and_gradient(logits, target):
            value = loss(logits.requires_grad_(), target)
            return value.detach(), self.torch.autograd.grad(value, logits)[0]

        return value_and_gradient

    def wait(self, result):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def errors(self, result, logits, target):
        logits = logits.detach().double()
        return errors_of(result, *self.function("eager")(logits, target.double()), self.torch.abs)


class Jax:
    def __init__(self, device):
        jax = timing.framework("jax")
        jax.config.update("jax_enable_x64", True)  # for the reference: all else says float32
        if device == "cpu":
            jax.config.update("jax_platforms", "cpu")
        self.jax, self.name = jax, f"JAX {jax.__version__}"
        if device == "cuda" and jax.devices()[0].platform != "gpu":
            raise SystemExit(f"{self.name} sees no GPU, but {jax.devices()}")
        both = jax.value_and_grad(lambda logits, target: (jax.nn.softplus(logits) - logits * target).sum())
        self.compiled = jax.jit(both)

    def inputs(self, rows, pixels, seed):
        keys, f32 = self.jax.random.split(self.jax.random.key(seed)), self.jax.numpy.float32
        return (
            3 * self.jax.random.normal(keys[0], (rows, pixels), f32),
            self.jax.random.uniform(keys[1], (rows, pixels), f32),
        )

    def function(self, form):
        return self.compiled

    def wait(self, result):
        self.jax.block_until_ready(result)

    def errors(self, result, logits, target):
        f64 = self.jax.numpy.float64
        return errors_of(result, *self.compiled(logits.astype(f64), target.astype(f64)), self.jax.numpy.abs)


def errors_of(result, value, gradient, absolute):
    """Of the sum, relative; of the gradient, by its largest."""
    return {
        "value_error": float(abs(result[0] - value) / abs(value)),
        "gradient_error": float(absolute(result[1] - gradient).max() / absolute(gradient).max()),
    }


def measure(framework, form, rows, pixels, each, options):
    sets = min(max(ROTATED_BYTES // (BYTES * rows * pixels) + 1, 1), 512)
    rotated = [framework.inputs(rows, pixels, seed) for seed in range(sets)]
    function, number = framework.function(form), 0

    def block():
        nonlocal number
        for _ in range(each):
            result = function(*rotated[number % sets])
            number += 1
        framework.wait(result)

    return {
        "bytes": BYTES * rows * pixels,
        **timing.measure(block, each, options),
        **framework.errors(function(*rotated[0]), *rotated[0]),
    }


def main():
    parser = timing.options(__doc__, sorted({form for forms in FORMS.values() for form in forms}))
    parser.set_defaults(form=None)
    parser.add_argument("--framework", choices=FORMS, required=True)
    parser.add_argument("--shape", nargs="+", type=shape, default=list(map(shape, SHAPES)))
    options = parser.parse_args()
    forms = options.form or FORMS[options.framework]
    if not set(forms) <= set(FORMS[options.framework]):
        parser.error(f"{options.framework} has the forms {', '.join(FORMS[options.framework])}")
    framework = {"pytorch": PyTorch, "jax": Jax}[options.framework](options.device)
    each = 10 if options.device == "cuda" else 1
    cases = []
    for rows, pixels in options.shape:
        for form in forms:
            cases.append(
                (
                    {"form": form, "loss": "bernoulli", "rows": rows, "pixels": pixels},
                    lambda f=form, r=rows, p=pixels: measure(framework, f, r, p, each, options),
                )
            )
    return timing.run(cases, {"framework": framework.name, "device": options.device, **record.origin()}, options.json)


if __name__ == "__main__":
    sys.exit(main())
