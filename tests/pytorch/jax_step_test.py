#!/usr/bin/env python3
"""Holds the training that tools/compare/bench_step_jax.py times against that of tools/elbo_torch.py, in float64.

Both start from the same weights, see the same batches and the same noise. Exit status: 0 all agree, 1 something does
not, 77 skipped for want of JAX or PyTorch.
"""

import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "compare")]

try:
    import jax
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import numpy as np

import bench_step_jax
from elbo_spec import load_spec
from elbo_torch import Vae, make_optimizer

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)

PIXELS, BATCH, STEPS, IMAGES = 30, 7, 6, 70
# Both in float64, where sums of a few hundred terms in another order differ by 1e-15 or so of a value.
TOLERANCE = 1e-12


def small(name, **changes):
    """A spec of experiments/, with narrow layers."""
    spec = load_spec(name)
    for part in ("encoder", "decoder"):
        for layer in spec["model"][part]:
            layer["units"] = 11
    for path, value in changes.items():
        section, field = path.split("__")
        spec[section][field] = value
    return spec


class JaxStep(unittest.TestCase):
    def agree(self, spec):
        torch.manual_seed(1)
        random = np.random.default_rng(2)
        model = Vae(spec, PIXELS).double()
        optimizer = make_optimizer(spec, model.parameters(), IMAGES)

        def stack(part):
            return [
                (m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy())
                for m in part
                if isinstance(m, torch.nn.Linear)
            ]

        initial, train = bench_step_jax.make_training(jax, spec, IMAGES)
        state = initial(jax.device_put({"encoder": stack(model.encoder), "decoder": stack(model.decoder)}))
        train = jax.jit(train)
        samples, latent = spec["objective"]["samples"], spec["model"]["latent"]
        for step in range(STEPS):
            batch = random.random((BATCH, PIXELS))
            epsilon = random.standard_normal(([samples] if samples > 1 else []) + [BATCH, latent])
            reconstruction, kl = model.losses(*[torch.from_numpy(batch)] * 2, torch.from_numpy(epsilon))
            expected = reconstruction + spec["objective"]["beta"] * kl
            optimizer.zero_grad()
            expected.backward()
            optimizer.step()
            state, objective = train(state, batch, epsilon)
            self.assertLess(abs(float(objective) - expected.item()), TOLERANCE * expected.item(), f"step {step + 1}")
        for part in ("encoder", "decoder"):
            for ours, theirs in zip(jax.device_get(state["weights"])[part], stack(getattr(model, part))):
                for a, b in zip(ours, theirs):
                    # Adam divides a gradient by its size, so that rounding in a small one counts for more.
                    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)

    def test_bernoulli(self):
        self.agree(small("mnist-2d", objective__beta=0.7))

    def test_gaussian_and_several_samples(self):
        self.agree(small("freyface-8d", model__likelihood="gaussian", model__variance=0.3, objective__samples=3))

    def test_decay_and_other_fields(self):
        self.agree(small("mnist-2d-as-run", optimizer__weight_decay=0.01, objective__weight_prior="standard_normal"))

    def test_both_forms_take_the_same_steps(self):
        spec = small("mnist-2d")
        pixels = np.random.default_rng(3).random((IMAGES, PIXELS), np.float32)
        order = np.arange(IMAGES, dtype=np.int32).reshape(-1, BATCH)
        results = []
        for form in bench_step_jax.FORMS:
            initial, _ = bench_step_jax.make_training(jax, spec, IMAGES)
            state = initial(jax.device_put(bench_step_jax.initial_weights(spec, PIXELS, 4)))
            call, steps = bench_step_jax.make_forms(jax, spec, jax.device_put(pixels), jax.device_put(order))[form]
            for _ in range(2 * len(order) // steps):  # two epochs
                state, objective = call(state)
            self.assertEqual(int(state["step"]), 2 * len(order))
            results.append(float(objective))
        self.assertLess(abs(results[0] - results[1]), 1e-5 * abs(results[0]))  # in float32

    def test_other_optimisers_are_refused(self):
        with self.assertRaisesRegex(ValueError, "only Adam"):
            bench_step_jax.make_training(jax, load_spec("aevb-mnist-20"), IMAGES)


if __name__ == "__main__":
    unittest.main()
