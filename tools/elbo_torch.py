"""elbo's experiments in PyTorch's terms: the reference that tests and comparisons hold the engine against.

Needs torch and numpy, nothing else (Debian: python3-torch).
"""

import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

DTYPES = {"U8": np.uint8, "F32": np.float32, "F64": np.float64, "U64": np.uint64}


def load_safetensors(path):
    """The tensors of a safetensors file, by name, and its metadata."""
    data = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    metadata = header.pop("__metadata__", {})

    def tensor(entry):
        first, last = entry["data_offsets"]
        array = np.frombuffer(data[begin + first : begin + last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.uint64 else array.copy())

    return {name: tensor(entry) for name, entry in header.items()}, metadata


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}


def make_layers(inputs, hidden, outputs):
    modules = []
    for layer in hidden:
        modules.append(nn.Linear(inputs, layer["units"]))
        if layer["activation"] != "identity":
            modules.append(ACTIVATIONS[layer["activation"]]())
        inputs = layer["units"]
    return nn.Sequential(*modules, nn.Linear(inputs, outputs))


class Vae(nn.Module):
    """The network of a spec, for images of `pixels` values."""

    def __init__(self, spec, pixels):
        super().__init__()
        self.model = spec["model"]
        self.latent = self.model["latent"]
        self.objective = spec["objective"]
        self.samples = self.objective["samples"]
        self.encoder = make_layers(pixels, self.model["encoder"], 2 * self.latent)
        self.is_variance_learned = self.model.get("variance") == "learned"
        self.decoder = make_layers(self.latent, self.model["decoder"], pixels * (1 + self.is_variance_learned))
        self.initialise()

    def initialise(self):
        how = self.model["initialization"]
        if how["type"] == "pytorch":
            return  # as nn.Linear has done it
        for name, parameter in self.named_parameters():
            if how["type"] == "normal":
                nn.init.normal_(parameter, std=how["std"])
            elif name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def losses(self, images, target, epsilon=None):
        """Reconstruction loss and KL of a batch [R, D], in nats an image; and the negative importance-weighted bound
        where that is minimised. epsilon: [R, L] or [S, R, L], drawn if not given."""
        mu, s = self.encoder(images).chunk(2, dim=1)
        if self.model["posterior"] == "sigma":
            sigma, log_variance = s, torch.log(s * s)
        else:
            sigma, log_variance = torch.exp(0.5 * s), s
        kl = 0.5 * (sigma * sigma + mu * mu - 1 - log_variance).sum() / len(images)

        if epsilon is None:
            epsilon = torch.randn_like(mu if self.samples == 1 else mu.expand(self.samples, -1, -1))
        if self.objective["type"] not in ("elbo", "iwae"):
            raise ValueError(f"the objective {self.objective['type']} is not written here")
        z = mu + sigma * epsilon
        output = self.decoder(z)
        loss = self.reconstruction_loss(output, target, "sum" if self.objective["type"] == "elbo" else "none")
        if self.objective["type"] == "elbo":
            return loss / (output.numel() // output.shape[-1]), kl
        loss = loss.sum(-1)  # of a draw
        # log p(z) - log q(z|x), of which the constants cancel
        log_weights = 0.5 * (epsilon * epsilon + log_variance - z * z).sum(-1) - loss
        log_weights = log_weights.reshape(-1, len(images))
        bound = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
        return loss.mean(), kl, -bound.mean()

    def minimised(self, losses):
        """The objective, of what losses() gives."""
        return losses[0] + self.objective["beta"] * losses[1] if self.objective["type"] == "elbo" else losses[2]

    def reconstruction_loss(self, output, target, reduction):
        """-log p(x|z) in nats: of each pixel, or their sum."""
        if self.is_variance_learned:
            mean, raw = output.chunk(2, dim=-1)
            if self.model["mean"] == "sigmoid":
                mean = mean.sigmoid()
            least = -2 * math.log(255)  # a standard deviation of one grey level
            log_variance = least + F.softplus(raw - least)
            square = (mean - target.expand_as(mean)) ** 2
            loss = 0.5 * (square * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi))
            return loss.sum() if reduction == "sum" else loss
        target = target.expand_as(output)
        if self.model["likelihood"] == "bernoulli":
            return F.binary_cross_entropy_with_logits(output, target, reduction=reduction)
        if self.model["likelihood"] != "gaussian":
            raise ValueError(f"the likelihood {self.model['likelihood']} is not written here")
        variance = self.model["variance"]
        loss = (0.5 / variance) * F.mse_loss(output, target, reduction=reduction)
        return loss + 0.5 * math.log(2 * math.pi * variance) * (output.numel() if reduction == "sum" else 1)

    def reconstruct(self, images):
        """Pixel means [R, D], decoded from the posterior's mean."""
        output = self.decoder(self.encoder(images)[:, : self.latent])
        if self.is_variance_learned:
            output = output.chunk(2, dim=-1)[0]
        squashed = self.model["likelihood"] == "bernoulli" or self.model.get("mean") == "sigmoid"
        return output.sigmoid() if squashed else output


def make_optimizer(spec, parameters, images, **options):
    """The optimiser of a spec for `images` training images; `options` go to PyTorch's."""
    o = spec["optimizer"]
    options |= {"lr": o["learning_rate"], "weight_decay": o["weight_decay"]}
    if spec["objective"]["weight_prior"] == "standard_normal":
        options["weight_decay"] += 1 / images  # -log N(theta; 0, I), shared among the data points
    if o["type"] == "adam":
        return torch.optim.Adam(parameters, betas=(o["beta1"], o["beta2"]), eps=o["epsilon"], **options)
    if o["type"] == "adagrad":
        return torch.optim.Adagrad(parameters, eps=o["epsilon"], **options)
    return torch.optim.SGD(parameters, momentum=o["momentum"], **options)
