#!/usr/bin/env python3
"""Loads a checkpoint of mnist-2d or fashion-2d in PyTorch and reconstructs a batch of images.

    load_in_pytorch.py RUN/checkpoints/best.safetensors
"""

import sys

import torch
from torch import nn

from elbo_torch import load_safetensors  # or safetensors.torch.load_file, which leaves out the metadata

images = torch.rand(16, 784)  # pixels in [0, 1]

checkpoint, metadata = load_safetensors(sys.argv[1])
encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 2 * 2))
decoder = nn.Sequential(nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 784))
weights = {name: t for name, t in checkpoint.items() if name.startswith(("encoder.", "decoder."))}
nn.ModuleDict({"encoder": encoder, "decoder": decoder}).load_state_dict(weights)
reconstruction = decoder(encoder(images)[:, :2]).sigmoid()

print(f"step {metadata['step']}: images {list(images.shape)} -> reconstruction {list(reconstruction.shape)}")
