#!/usr/bin/env python3
"""Trains an experiment of elbo in PyTorch, with the same network, optimiser, batches and epochs.

    train.py EXPERIMENT [--seed N] [--epochs N] [--threads N] [--data FOLDER] [--json FILE]

Each epoch goes through the training images in a fresh order and drops the last incomplete batch, as elbo does; then
the ELBO of the test images is taken with one draw of z for each.
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import timing

torch = timing.framework("torch")

import images
import record
from elbo_spec import load_spec
from elbo_torch import Vae, make_optimizer


def binarize(batch, how):
    if how == "none":
        return batch
    return (batch * 255 >= 127.5).float() if how == "threshold" else torch.bernoulli(batch)


@torch.no_grad()
def evaluate(model, data, how):
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in data.split(512):
        batch = binarize(batch, how)
        sums += torch.stack(model.losses(batch, batch)).double() * len(batch)
    reconstruction, kl = (sums / len(data)).tolist()
    return {"elbo": -(reconstruction + kl), "reconstruction": reconstruction, "kl": kl}


def train(spec, train_images, test_images):
    if spec["objective"]["type"] != "elbo":
        raise SystemExit(f"only the ELBO is measured here, not {spec['objective']['type']}")
    how, size = spec["data"]["binarize"], spec["train"]["batch_size"]
    model = Vae(spec, train_images.shape[1])
    optimizer = make_optimizer(spec, model.parameters(), len(train_images))
    begin = time.perf_counter()
    for epoch in range(1, spec["train"]["epochs"] + 1):
        epoch_begin = time.perf_counter()
        batches = torch.randperm(len(train_images)).split(size)
        if len(batches[-1]) < size:
            batches = batches[:-1]
        total = torch.zeros(())
        for indices in batches:
            batch = binarize(train_images[indices], how)
            reconstruction, kl = model.losses(batch, batch)
            optimizer.zero_grad(set_to_none=True)
            model.minimised((reconstruction, kl)).backward()
            optimizer.step()
            total += reconstruction.detach() + kl.detach()
        train_elbo = -total.item() / len(batches)
        rate = len(batches) * size / (time.perf_counter() - epoch_begin)
        test = evaluate(model, test_images, how)
        print(
            f"epoch {epoch:>4}/{spec['train']['epochs']}  train ELBO {train_elbo:9.3f}  test ELBO {test['elbo']:9.3f}"
            f"  {rate:8.0f} images/s",
            flush=True,
        )
    return {"train_elbo": train_elbo, "test": test, "seconds": time.perf_counter() - begin}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a name in experiments/, or the path of a JSON file")
    parser.add_argument("--seed", type=int, help="default: the experiment's")
    parser.add_argument("--epochs", type=record.positive, help="default: the experiment's")
    parser.add_argument("--threads", type=record.positive, default=2)
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    parser.add_argument("--json", type=record.output, help="write the result here")
    options = parser.parse_args()

    spec = load_spec(options.experiment)
    if options.seed is not None:
        spec["seed"] = options.seed
    if options.epochs is not None:
        spec["train"]["epochs"] = options.epochs
    torch.manual_seed(spec["seed"])
    torch.set_num_threads(options.threads)
    train_images, test_images = (torch.from_numpy(x.astype("float32")) / 255 for x in images.load(spec, options.data))

    result = {
        "framework": f"PyTorch {torch.__version__}",
        "experiment": spec["name"],
        "seed": spec["seed"],
        "epochs": spec["train"]["epochs"],
        "threads": options.threads,
        **train(spec, train_images, test_images),
        **record.origin(),
    }
    if options.json:
        record.write_json(options.json, result)


if __name__ == "__main__":
    main()
