"""What the kernels promise is in the code that nvcc makes of them: accesses of a whole quad, and no more registers, shared memory
and spills than tests/kernel_budget.csv allows.

Usage: kernel_code_test.py NVCC. Exits with 77 where there is no such compiler.

A kernel that needs another budget gets it with the reason in the commit:
    tools/kernels/resources.py --csv tests/kernel_budget.csv
"""
import collections
import csv
import functools
import pathlib
import re
import shutil
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "kernels"))

import resources

# Kernel (a pattern for its mangled name) -> the least number of loads and stores of a quad (16 bytes) in it. ILb1:
# aligned. Those of likelihood.cu are in sass_budget.csv.
PROMISED = {
    "gather.cu": {"gather_batch_kernelILb1": (0, 1)},
    "dense.cu": {"bias_activation_kernelILb1": (2, 1), "activation_backward_kernelILb1": (2, 1),
                 "add_kernelILb1": (2, 1)},
}


@functools.lru_cache
def ptx(source):
    return resources.make_ptx(sys.argv[1], source)


def quad_accesses(code):
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
    def test_quad_accesses(self):
        for source, kernels in PROMISED.items():
            counts = quad_accesses(ptx(source))
            for kernel, (loads, stores) in kernels.items():
                with self.subTest(kernel):
                    found = [c for name, c in counts.items() if kernel in name]
                    self.assertEqual(len(found), 1, f"{source} has no access of a quad in {kernel}")
                    self.assertGreaterEqual(found[0][0], loads, f"{source}: loads of a quad in {kernel}")
                    self.assertGreaterEqual(found[0][1], stores, f"{source}: stores of a quad in {kernel}")

    def test_budget(self):
        with open(ROOT / "tests" / "kernel_budget.csv") as file:
            budget = {(r["source"], r["kernel"]): r for r in csv.DictReader(file)}
        for source in resources.sources():
            for row in resources.resources(sys.argv[1], source, ptx=ptx(source)):
                with self.subTest(row["kernel"]):
                    allowed = budget.pop((source, row["kernel"]), None)
                    self.assertIsNotNone(allowed, "it has no budget")
                    for what in ("registers", "shared", "stack", "spills"):
                        self.assertLessEqual(row[what], int(allowed[what]), what)
                    self.assertGreaterEqual(row["blocks"], int(allowed["blocks"]), "resident blocks on a multiprocessor")
                    self.assertEqual((row["stack"], row["spills"]), (0, 0))
        self.assertEqual(budget, {}, "budgets of kernels that are no more")


if __name__ == "__main__":
    if not shutil.which(sys.argv[1]):
        print(f"no {sys.argv[1]} here: skipped")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
