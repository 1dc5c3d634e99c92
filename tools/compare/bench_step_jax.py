#!/usr/bin/env python3
"""Times training steps of a spec in JAX: the counterpart of `elbo bench step`.

    bench_step_jax.py [SPEC] [--form NAME...] [--precision fp32|tf32...] [--device cpu|cuda] [--steps N] [--warmup SECONDS]
                      [--seconds N] [--data FOLDER] [--json FILE]

Forms: `scan`, an epoch of steps in one call by lax.scan; `jit`, a call for each step, ten of them timed at a time on a
GPU. State is donated, the images are in the device's memory as floats and a batch is gathered by index there, and
nothing waits for the device within a timing. The training is that of tools/elbo_torch.py, with Adam
(tests/pytorch/jax_step_test.py).
"""

import math
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others measure on the same GPU

import numpy as np

import images
import timing
from elbo_spec import load_spec

FORMS = ["jit", "scan"]
PRECISIONS = {"fp32": "highest", "tf32": "tensorfloat32"}


def initial_weights(spec, pixels, seed):
    """Encoder and decoder: a list of (weights [inputs, outputs], bias) each, drawn as PyTorch's nn.Linear does."""
    random, latent = np.random.default_rng(seed), spec["model"]["latent"]

    def layers(part, inputs, outputs):
        widths = [inputs, *(layer["units"] for layer in spec["model"][part]), outputs]
        return [
            tuple(random.uniform(-1, 1, shape).astype(np.float32) / math.sqrt(n) for shape in ((n, m), (m,)))
            for n, m in zip(widths, widths[1:])
        ]

    return {"encoder": layers("encoder", pixels, 2 * latent), "decoder": layers("decoder", latent, pixels)}


def make_training(jax, spec, count):
    """(initial, train) for `count` training images: initial(weights) -> state; train(state, batch, epsilon) ->
    (state, objective). epsilon: [R, L], or [S, R, L] with more samples than one."""
    jnp, model, o = jax.numpy, spec["model"], spec["optimizer"]
    activations = {"relu": jax.nn.relu, "tanh": jnp.tanh, "softplus": jax.nn.softplus, "identity": lambda x: x}
    if o["type"] != "adam":
        raise ValueError(f"only Adam is written here, not {o['type']}")
    if spec["objective"]["type"] != "elbo":
        raise ValueError(f"only the ELBO is written here, not {spec['objective']['type']}")
    decay = o["weight_decay"] + (1 / count if spec["objective"]["weight_prior"] == "standard_normal" else 0)

    def through(part, weights, x):
        for layer, (w, b) in zip([*model[part], None], weights[part]):
            x = x @ w + b
            x = activations[layer["activation"]](x) if layer else x
        return x

    def objective(weights, batch, epsilon):
        mu, s = jnp.split(through("encoder", weights, batch), 2, axis=1)
        sigma, log_variance = (s, jnp.log(s * s)) if model["posterior"] == "sigma" else (jnp.exp(0.5 * s), s)
        kl = 0.5 * jnp.sum(sigma * sigma + mu * mu - 1 - log_variance) / len(batch)
        output = through("decoder", weights, mu + sigma * epsilon)
        if model["likelihood"] == "bernoulli":
            loss = jnp.sum(jax.nn.softplus(output) - output * batch)
        else:
            variance = model["variance"]
            if model["likelihood"] != "gaussian" or variance == "learned":
                raise ValueError("only Bernoulli, and a Gaussian whose variance is given")
            loss = 0.5 / variance * jnp.sum((output - batch) ** 2)
            loss = loss + 0.5 * math.log(2 * math.pi * variance) * output.size
        return loss * (output.shape[-1] / output.size) + spec["objective"]["beta"] * kl

    def initial(weights):
        zeros = jax.tree_util.tree_map(jnp.zeros_like, weights)
        return {
            "weights": weights,
            "first": zeros,
            "second": jax.tree_util.tree_map(jnp.copy, zeros),
            "step": jnp.zeros((), jnp.int32),
        }

    def train(state, batch, epsilon):
        value, gradients = jax.value_and_grad(objective)(state["weights"], batch, epsilon)
        step = state["step"] + 1
        time = step.astype(batch.dtype)
        # as torch.optim.Adam: epsilon is added after the correction of the second moment
        size = o["learning_rate"] / (1 - o["beta1"] ** time)
        root = jnp.sqrt(1 - o["beta2"] ** time)
        each = jax.tree_util.tree_map
        gradients = each(lambda g, w: g + decay * w, gradients, state["weights"])
        first = each(lambda m, g: o["beta1"] * m + (1 - o["beta1"]) * g, state["first"], gradients)
        second = each(lambda v, g: o["beta2"] * v + (1 - o["beta2"]) * g * g, state["second"], gradients)
        weights = each(
            lambda w, m, v: w - size * m / (jnp.sqrt(v) / root + o["epsilon"]), state["weights"], first, second
        )
        return {"weights": weights, "first": first, "second": second, "step": step}, value

    return initial, train


def make_forms(jax, spec, data, order):
    """form -> (call(state) -> (state, objective of the last step), steps of a call). order: [N, batch], indices into
    data; the noise is a function of the spec's seed and the step."""
    _, train = make_training(jax, spec, len(data))
    samples, key = spec["objective"]["samples"], jax.random.key(spec["seed"])
    shape = ([samples] if samples > 1 else []) + [order.shape[1], spec["model"]["latent"]]

    def step(state, data, indices):
        epsilon = jax.random.normal(jax.random.fold_in(key, state["step"]), shape, data.dtype)
        return train(state, data[indices], epsilon)

    def single(state, data, order):
        return step(state, data, order[state["step"] % len(order)])

    def epoch(state, data, order):
        state, objectives = jax.lax.scan(lambda s, indices: step(s, data, indices), state, order)
        return state, objectives[-1]

    single, epoch = (jax.jit(f, donate_argnums=0) for f in (single, epoch))
    return {
        "jit": (lambda state: single(state, data, order), 1),
        "scan": (lambda state: epoch(state, data, order), len(order)),
    }


def main():
    options = timing.step_options(__doc__, FORMS).parse_args()
    jax = timing.framework("jax")
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif jax.devices()[0].platform != "gpu":
        raise SystemExit(f"JAX {jax.__version__} sees no GPU, but {jax.devices()}")
    spec = load_spec(options.spec)
    size = spec["train"]["batch_size"]
    pixels = images.load(spec, options.data)[0].astype("float32") / 255
    order = np.random.default_rng(spec["seed"]).permutation(len(pixels))[: len(pixels) // size * size].reshape(-1, size)
    data, order = jax.device_put(pixels), jax.device_put(order.astype(np.int32))

    def measure(form, precision):
        with jax.default_matmul_precision(PRECISIONS[precision]):
            initial, _ = make_training(jax, spec, len(data))
            state = initial(jax.device_put(initial_weights(spec, data.shape[1], spec["seed"])))
            call, steps = make_forms(jax, spec, data, order)[form]
            each = 10 * steps if options.device == "cuda" and form == "jit" else steps

            def block():
                nonlocal state
                for _ in range(each // steps):
                    state, objective = call(state)
                objective.block_until_ready()

            figures = timing.measure(block, each, options, options.steps)
            if not np.isfinite(jax.device_get(call(state)[1])):
                raise ValueError("the objective is not finite")
            return figures

    return timing.run_steps(f"JAX {jax.__version__}", spec, options, measure)


if __name__ == "__main__":
    sys.exit(main())
