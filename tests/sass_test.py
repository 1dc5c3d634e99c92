"""What the loss kernels promise is in their machine code: no more lane slots an element than tests/sass_budget.csv
allows, all loads of a lane under way before the first use, accesses as wide as they can be, no spills and no slow
paths; and the page of results/ that shows their floors is theirs.

Usage: sass_test.py NVCC. Exits with 77 where there is no such compiler or no nvdisasm.

A kernel that needs another budget gets it with the reason in the commit:
    tools/kernels/sass.py --csv tests/sass_budget.csv --table results/computed/DATE/loss-kernels.md
"""
import csv
import pathlib
import re
import shutil
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "kernels"))

import sass

# Kernels whose issue floor is at most this part of an H200's memory floor, whatever the types. (importance_bound_kernel
# is none of them: its work is small, and most of it is exponentials and sums in double.)
MEMORY_BOUND = {"likelihood_fused_bernoulli_kernel": 0.85, "likelihood_fused_gaussian_kernel": 0.85,
                "likelihood_fused_gaussian_learned_kernel": 0.95,
                "sample_latent_kernel": 0.85, "sample_latent_sampled_kl_kernel": 0.9,
                "sample_latent_backward_kernel": 0.85, "optimizer_step_kernel": 0.85}
# Kernels that may call a subroutine, and how often; no other may.
# That is a division in double, by one block; in finish_step_kernel by block 0.
SLOW_PATHS = {"accumulate_kernel": 1,
              **{f"finish_step_kernel<{aligned}, {type}>": 1
                 for aligned in ("false", "true") for type in ("adam", "adagrad", "sgd")}}


def kernel_of(text):
    """A Kernel of lines of SASS, an instruction or a label each."""
    lines = [line.strip() for line in text.strip().splitlines()]
    addressed, address = [], 0
    for line in lines:
        addressed.append(line if line.endswith(":") else f"/*{address:04x}*/ {line} ;")
        address += 0 if line.endswith(":") else 16
    return sass.Kernel("test", "test.cu", *sass.parse("\n".join(addressed)))


def issued(text, **case):
    return sass.longest_path(kernel_of(text), **case).issued()


class ThePath(unittest.TestCase):
    def test_takes_the_longer_side(self):
        code = "MOV R0, R1\n@P0 BRA `(.L_a)\nFADD R0, R0, R1\nFADD R0, R0, R1\n{}\n.L_a:\nFMUL R0, R0, R1\n.L_b:\nEXIT"
        self.assertEqual(issued(code.format("BRA `(.L_b)")), 6)
        self.assertEqual(issued(code.format("NOP")), 7)
        self.assertEqual(issued(code.format("NOP"), issues={"FADD": 0}), 4)
        with self.assertRaisesRegex(ValueError, "no path"):
            issued(code.format("NOP"), issues={"FADD": 1})

    def test_counts_a_loop_as_often_as_it_runs(self):
        code = "MOV R0, R1\n.L_a:\nFADD R0, R0, R1\nFMUL R0, R0, R1\n@P0 BRA `(.L_a)\nEXIT"
        self.assertEqual(issued(code, trips=(5,)), 2 + 5 * 3)
        with self.assertRaisesRegex(ValueError, "has 1 loops"):
            issued(code)

    def test_leaves_out_slow_paths(self):
        code = ("MOV R0, R1\n@!P0 BRA `(.L_b)\nMOV R4, R0\nCALL.REL.NOINC `(.L_slow)\n.L_b:\nEXIT\n"
                ".L_slow:\nFADD R0, R0, R1\nRET")
        self.assertEqual(issued(code), 3)
        self.assertEqual(kernel_of(code).count("CALL"), 1)
        self.assertEqual(issued("BRA.DIV UR4, `(.L_a)\nFADD R0, R0, R1\nEXIT\n.L_a:\nNOP\nNOP\nNOP\nEXIT"), 3)

    def test_ends_where_all_lanes_do(self):
        self.assertEqual(issued("@P0 EXIT\nFADD R0, R0, R1\nEXIT"), 3)
        self.assertEqual(issued("@P0 EXIT\nFADD R0, R0, R1\nEXIT", issues={"FADD": 0}), 1)
        joined = "BSSY B0, `(.L_a)\n@P0 BRA `(.L_b)\nFADD R0, R0, R1\n.L_b:\nBSYNC B0\nNOP\n.L_a:\nEXIT"
        self.assertEqual(issued(joined), 5)

    def test_sees_what_uses_a_load(self):
        def loads(*lines):
            return sass.loads_before_use(sass.longest_path(kernel_of("\n".join(lines) + "\nEXIT")))

        two = ("LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E R8, desc[UR4][R2.64+0x10]")
        self.assertEqual(loads(*two, "FADD R0, R4, R8"), 2)
        self.assertEqual(loads(two[0], "FADD R0, R7, R0", two[1]), 1)
        self.assertEqual(loads(two[0], "FADD R0, R8, R0", two[1]), 2)
        self.assertEqual(loads(two[1], "STG.E.128 desc[UR4][R2.64], R4", two[0]), 2)
        self.assertEqual(loads(two[1], "STG.E.128 desc[UR4][R2.64], R8", two[0]), 1)
        self.assertEqual(loads("LDG.E.64 R2, desc[UR4][R6.64]", "LDG.E R8, desc[UR4][R2.64]"), 1)


class Kernels(unittest.TestCase):
    def test_budget(self):
        with open(ROOT / "tests" / "sass_budget.csv") as file:
            budget = {(r["kernel"], r["shape"], r["does"]): r for r in csv.DictReader(file)}
        for row in sass.rows(NVCC, NVDISASM):
            found = row.budget()
            with self.subTest(f"{found['kernel']}, {found['does']}, {found['shape']}"):
                allowed = budget.pop((found["kernel"], found["shape"], found["does"]), None)
                self.assertIsNotNone(allowed, "it has no budget")
                self.assertLessEqual(float(found["slots"]), float(allowed["slots"]), "lane slots an element")
                self.assertGreaterEqual(found["before_use"], int(allowed["before_use"]), "loads before the first use")
                for what in ("loads", "load_bits", "store_bits"):
                    self.assertEqual(str(found[what]), allowed[what], what)
        self.assertEqual(budget, {}, "budgets of kernels that are no more")

    def test_all_loads_of_a_lane_are_under_way(self):
        """Those of buffers that allow no vector access, too."""
        for kernel in sass.kernels(NVCC, NVDISASM, "likelihood.cu").values():
            with self.subTest(kernel.name):
                path = sass.longest_path(kernel)
                quads = 24 if "learned" in kernel.name.lower() else 16  # of the outputs, one or two a pixel, and targets
                weights = kernel.name.startswith("likelihood_gradient_kernel")  # one, of the chunk's gradients
                self.assertEqual(path.issued("LDG"), quads * (1 if "<true" in kernel.name else 4) + weights)
                self.assertEqual(sass.loads_before_use(path), path.issued("LDG"))

    def test_memory_is_what_holds_them_back(self):
        h200 = sass.GPUS[-1]
        for row in sass.rows(NVCC, NVDISASM):
            share = MEMORY_BOUND.get(row.case.kernel.partition("<")[0])
            if share and row.case.does != "value":
                with self.subTest(f"{row.case.kernel}, {row.case.shape}"):
                    self.assertLessEqual(row.issue_us(h200), share * row.memory_us(h200))

    def test_no_spills_and_no_slow_paths(self):
        for source in sass.CASES:
            for kernel in sass.kernels(NVCC, NVDISASM, source).values():
                with self.subTest(kernel.name):
                    self.assertEqual(kernel.count("LDL", "STL"), 0, "accesses to spilled registers")
                    self.assertEqual(kernel.count("CALL"), SLOW_PATHS.get(kernel.name, 0), "calls of slow paths")

    def test_the_page_of_results_is_theirs(self):
        newest = max((ROOT / "results" / "computed").glob("*/loss-kernels.md"))
        page = newest.read_text()
        fresh = sass.page(sass.rows(NVCC, NVDISASM), NVCC, newest.parent.name)
        if re.search(r"nvcc (\S+),", page)[1] != re.search(r"nvcc (\S+),", fresh)[1]:
            self.skipTest("it was made with another nvcc")
        self.assertEqual(page, fresh, f"make it again: tools/kernels/sass.py --table {newest}")


if __name__ == "__main__":
    NVCC = sys.argv[1]
    NVDISASM = shutil.which(NVCC) and sass.find_nvdisasm(NVCC)
    if not NVDISASM:
        print(f"no {NVCC} here, or no nvdisasm: skipped")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
