"""The 16-byte accesses that the kernels promise are in the code that nvcc makes of them.

Usage: kernel_code_test.py NVCC. Exits with 77 where there is no such compiler.
"""
import collections
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Kernel (a pattern for its mangled name) -> the least number of 16-byte loads and stores in it. ILb1: aligned.
PROMISED = {
    "gather.cu": {"gather_rowsILb1": (0, 1)},
    "latent.cu": {"sample_and_klILb1": (2, 1), "latent_gradientILb1": (3, 2)},
    "layers.cu": {"bias_add_activateILb1": (2, 1), "activation_gradientILb1": (2, 1)},
    # Four quads a thread, all loaded before the first is stored.
    "likelihood.cu": {"bernoulli_fusedILb1Eh": (4, 4), "bernoulli_fusedILb1Ef": (8, 4),
                      "bernoulli_fused_logILb1Eh": (4, 4), "bernoulli_fused_logILb1Ef": (8, 4),
                      "gaussian_fusedILb1Eh": (4, 4), "gaussian_fusedILb1Ef": (8, 4)},
    "optimizer.cu": {"update_weightsILb1": (4, 3)},
}


def ptx(source):
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "kernel.ptx"
        subprocess.run([sys.argv[1], "-std=c++20", "-arch=sm_90", "--fmad=false", "-I", ROOT, "-I", ROOT / "include",
                        "-ptx", ROOT / "kernels" / source, "-o", output], check=True)
        return output.read_text()


def wide_accesses(code):
    """Kernel -> [loads, stores] of 16 bytes."""
    counts = collections.defaultdict(lambda: [0, 0])
    name = ""
    for line in code.splitlines():
        if entry := re.search(r"\.entry\s+(\w+)", line):
            name = entry[1]
        elif access := re.match(r"\s*(?:@%p\d+\s+)?(ld|st)\.global\S*\.v4\.[fbu]32", line):
            counts[name][access[1] == "st"] += 1
    return counts


class KernelCode(unittest.TestCase):
    def test_wide_accesses(self):
        for source, kernels in PROMISED.items():
            counts = wide_accesses(ptx(source))
            for kernel, (loads, stores) in kernels.items():
                with self.subTest(kernel):
                    found = [c for name, c in counts.items() if kernel in name]
                    self.assertEqual(len(found), 1, f"{source} has no 16-byte access in {kernel}")
                    self.assertGreaterEqual(found[0][0], loads, f"{source}: loads of 16 bytes in {kernel}")
                    self.assertGreaterEqual(found[0][1], stores, f"{source}: stores of 16 bytes in {kernel}")


if __name__ == "__main__":
    if not shutil.which(sys.argv[1]):
        print(f"no {sys.argv[1]} here: skipped")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
