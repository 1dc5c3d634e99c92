"""The GPU check where there is no GPU: it does what it can, and says of the rest that it was not run.

Usage: gpu_check_test.py BUILD
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = sys.argv.pop(1)


def check(out, *arguments):
    return subprocess.run([ROOT / "tools/gpu_check.sh", "--build", BUILD, "--out", out, *arguments], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)


class GpuCheck(unittest.TestCase):
    def test_small(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "check"
            done = check(out)
            self.assertEqual(done.returncode, 0, done.stdout)
            summary = (out / "summary.md").read_text()
            self.assertIn("| tests | done |", summary)
            if json.loads((out / "machine.json").read_text())["device"] == "cuda":
                return  # then the figures are in results/, and not a matter of this test
            self.assertNotIn("| met |", summary)
            self.assertNotIn("missed", summary)
            for section in ("baselines", "sanitizer", "ncu"):
                self.assertIn(f"| {section} | not run: there is no GPU |", summary)
                self.assertFalse((out / f"{section}.json").exists())
            for tests in json.loads((out / "tests.json").read_text()).values():
                self.assertGreater(tests["passed"], 0)
                self.assertEqual(tests["failed"], [])
            bench = json.loads((out / "bench.json").read_text())
            self.assertGreater(bench["step"]["W1 fp32"]["median_us"], 0)
            self.assertGreater(len(bench["loss"]["timings"]), 10)
            self.assertEqual(sorted(out.glob("*.tmp")), [])

    def test_a_section_that_fails_leaves_the_others(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "check"
            done = check(out, "--only", "machine", "bench", "--limit", "0.1")
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertIn("| bench | not run: no time was left |", (out / "summary.md").read_text())
            done = check(out, "--data", "/nowhere", "--only", "training", "machine")
            self.assertTrue((out / "machine.json").exists())
            self.assertIn("there is no folder of that name", (out / "training.json").read_text())

    def test_nothing_built(self):
        done = subprocess.run([ROOT / "tools/gpu_check.sh", "--build", "/nowhere"], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("build it first", done.stdout)


if __name__ == "__main__":
    unittest.main()
