"""What the tests of the whole program share: where it is, a made-up data set, a small spec, safetensors."""

import gzip
import hashlib
import json
import os
import pathlib
import struct
import subprocess
import unittest

ELBO = os.environ.get("ELBO_PROGRAM", "build/elbo")


def run(*arguments, cwd, env=None, **options):
    """Runs the program to its end; text output."""
    return subprocess.run([os.path.abspath(ELBO), *map(str, arguments)], cwd=cwd, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=300,
                          **options)


def start(*arguments, cwd, **options):
    """Starts the program. Its output is a pipe that soon is full, so it gets no further than some 100 lines beyond those
    that were read, however busy the machine is."""
    return subprocess.Popen([os.path.abspath(ELBO), *map(str, arguments)], cwd=cwd, text=True, stdout=subprocess.PIPE,
                            stdin=subprocess.DEVNULL, pipesize=4096, **options)


def idx(values, *shape):
    return struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


def images(count, side, seed):
    """Squares at pseudo-random places."""
    state, pixels = seed, bytearray()
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        x, y, size = (state >> 33) % side, (state >> 41) % side, 2 + (state >> 49) % 4
        for row in range(side):
            for column in range(side):
                inside = abs(row - y) < size and abs(column - x) < size
                pixels.append(255 if inside else (state >> (row + column) % 40) % 32)
    return pixels


def make_data(folder, train=2000, test=300, side=10):
    """A data set of the name `squares` in IDX form, half of it packed."""
    root = pathlib.Path(folder) / "squares"
    root.mkdir(parents=True)
    for name, count, seed in (("train", train, 1), ("t10k", test, 2)):
        (root / f"{name}-images-idx3-ubyte").write_bytes(idx(images(count, side, seed), count, side, side))
        (root / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([i % 10 for i in range(count)], count)))
    return pathlib.Path(folder)


def make_spec(path, **train):
    spec = {
        "name": "squares-2d",
        "seed": 5,
        "data": {"dataset": "squares", "binarize": "dynamic"},
        "model": {
            "latent": 2,
            "encoder": [{"type": "dense", "units": 64, "activation": "relu"}],
            "decoder": [{"type": "dense", "units": 64, "activation": "relu"}],
            "likelihood": "bernoulli",
        },
        "optimizer": {"type": "adam", "learning_rate": 1e-3},
        "train": {"epochs": 3, "batch_size": 20, **train},
    }
    pathlib.Path(path).write_text(json.dumps(spec, indent=2))
    return pathlib.Path(path)


def read_safetensors(path):
    """Header and bytes."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_safetensors(path, header, payload):
    """With the checksum that elbo expects: of the whole file, its own digits being zeros."""
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + payload
    digest = hashlib.sha256(data).hexdigest().encode()
    pathlib.Path(path).write_bytes(data.replace(b"0" * 64, digest, 1))


def weights(run_folder, name="last"):
    """All tensors of a checkpoint: what must be equal to the last bit."""
    header, payload = read_safetensors(pathlib.Path(run_folder) / "checkpoints" / f"{name}.safetensors")
    metadata = header.pop("__metadata__")
    tensors = {k: payload[v["data_offsets"][0] : v["data_offsets"][1]] for k, v in header.items()}
    return metadata["step"], tensors


def figures(run_folder):
    """metrics.jsonl without what a clock measured."""
    records = [json.loads(line) for line in (pathlib.Path(run_folder) / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds"), record.pop("images_per_second")
    return records


def device_or_skip(name):
    """Skips a test where a device is not there, unless it must be."""
    if name == "cpu":
        return
    plugin = pathlib.Path(os.path.abspath(ELBO)).parent / f"libelbo_{name}.so"
    if not plugin.exists():
        if os.environ.get("ELBO_REQUIRE_SIM"):
            raise AssertionError(f"{plugin} is missing")
        raise unittest.SkipTest(f"{plugin} is not built")
