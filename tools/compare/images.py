"""The data sets of an experiment for PyTorch: the same images in the same split as elbo uses."""

import gzip
import os
import pathlib
import struct

import numpy as np

FREYFACE_TEST_IMAGES = 200
SHUFFLE = 1  # elbo::Purpose::shuffle


def find(dataset, given=None):
    folders = [given] if given else [os.environ.get("ELBO_DATA"), "data", "/usr/share/datasets"]
    for folder in filter(None, folders):
        if (path := pathlib.Path(folder) / dataset).is_dir():
            return path
    raise SystemExit(f"no folder {dataset} in {', '.join(filter(None, folders))}; give one with --data")


def read_idx(folder, name):
    """uint8 [N, rows * columns] of an IDX file, plain or .gz."""
    path = folder / name
    data = path.read_bytes() if path.exists() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    magic, count, rows, columns = struct.unpack(">4i", data[:16])
    assert magic == 0x803, f"{path}: not images"
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, rows * columns)


def read_freyface(path):
    """uint8 [1965, 560]: the variable ff [560, 1965] of a MATLAB level 5 file, whose columns are images."""
    data = path.read_bytes()
    at = 128 + 8  # the file's header, the matrix's tag
    content = []
    while len(content) < 4:  # flags, dimensions, name, values
        kind, size = struct.unpack("<II", data[at : at + 8])
        if kind >> 16:  # packed into 8 bytes
            content.append(data[at + 4 : at + 4 + (kind >> 16)])
            at += 8
        else:
            content.append(data[at + 8 : at + 8 + size])
            at += 8 + (size + 7) // 8 * 8
    pixels, count = struct.unpack("<2i", content[1])
    assert content[2] == b"ff" and (pixels, count) == (560, 1965), f"{path}: not the Frey faces"
    return np.frombuffer(content[3], np.uint8).reshape(count, pixels)


def philox(counter, key):
    """Philox4x32-10, as in elbo/math/random.h."""
    c, k0, k1 = list(counter), key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k0, b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def shuffle(seed, epoch, count):
    """elbo's order of `count` images in an epoch: elbo::math::shuffled_index at every position."""
    half = 1
    while 1 << 2 * half < count:
        half += 1
    mask = (1 << half) - 1
    keys = [k for quad in (0, 1) for k in philox((quad, 0, epoch, SHUFFLE << 24), seed)]

    def walk(v):
        left, right = v >> half, v & mask
        for key in keys:
            h = (right ^ key) * 0x85EBCA6B & 0xFFFFFFFF
            h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
            left, right = right, left ^ (h ^ h >> 16) & mask
        return left << half | right

    order = []
    for position in range(count):
        v = walk(position)
        while v >= count:
            v = walk(v)
        order.append(v)
    return np.array(order)


def load(spec, given=None):
    """Training and test images of a spec, uint8 [N, pixels]."""
    dataset, split = spec["data"]["dataset"], spec["data"]["split"]
    folder = find(dataset, given)
    if dataset != "freyface":
        train, test = read_idx(folder, "train-images-idx3-ubyte"), read_idx(folder, "t10k-images-idx3-ubyte")
        both = np.concatenate([train, test])
        return (train, test) if split == "holdout" else (both, both)
    faces = read_freyface(folder / "frey_rawface.mat")
    if split == "none":
        return faces, faces
    order = shuffle(spec["seed"], 0xFFFFFFFF, len(faces))
    return faces[order[FREYFACE_TEST_IMAGES:]], faces[order[:FREYFACE_TEST_IMAGES]]
