#!/usr/bin/env python3
"""The reference implementation of safetensors reads what the engine writes, and the engine what it writes.

    safetensors_test.py SAFETENSORS_COPY

Exit status: 0 all agree, 1 something does not, 77 skipped for want of safetensors or of a PyTorch that it suits.
"""
import pathlib
import subprocess
import sys
import tempfile

try:
    from safetensors import safe_open
    from safetensors.torch import save_file
    import torch
    torch.uint64  # PyTorch 2.3
except (ImportError, AttributeError) as error:
    print(f"safetensors_test: skipped: the Python modules safetensors and torch (2.3 or later) are needed: {error}")
    sys.exit(77)

TENSORS = {
    "encoder.0.weight": torch.randn(5, 3, generator=torch.Generator().manual_seed(1)),
    "odd": torch.arange(7, dtype=torch.uint8),
    "bf16": torch.tensor([1.5, -2.0, float("inf")], dtype=torch.bfloat16),
    "f16": torch.tensor([[0.25], [65504.0], [-0.0]], dtype=torch.float16),
    "f64": torch.tensor(3.141592653589793, dtype=torch.float64),
    "u64": torch.tensor([0, 2**64 - 1], dtype=torch.uint64),
    "empty": torch.empty(0, 4),
    "name \"ä\" \\ \n": torch.zeros(1, 2, 1, 2, 1),
}
METADATA = {"format": "pt", "note": "ä \" \\ \n"}


def main(copy):
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours, refused = (str(pathlib.Path(folder, name)) for name in ("theirs", "ours", "refused"))
        save_file(TENSORS, theirs, METADATA)
        subprocess.run([copy, theirs, ours], check=True)
        with safe_open(ours, "pt") as file:
            metadata = file.metadata()
            assert metadata.pop("checksum") == "sha256" and len(metadata.pop("sha256")) == 64, metadata
            assert metadata == METADATA, metadata
            assert set(file.keys()) == set(TENSORS), file.keys()
            for name, expected in TENSORS.items():
                found = file.get_tensor(name)
                assert found.dtype == expected.dtype and found.shape == expected.shape, (name, found)
                assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8)) if found.dim() else \
                    found == expected, name

        save_file({"w": torch.zeros(2, dtype=torch.int64)}, refused)
        result = subprocess.run([copy, refused, ours], capture_output=True, text=True)
        assert result.returncode == 1 and "tensor 'w': type I64" in result.stderr, result
    print("safetensors_test: both implementations read each other's files")


if __name__ == "__main__":
    main(sys.argv[1])
