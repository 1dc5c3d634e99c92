"""What the comparisons with other frameworks (tools/compare/timing.py) have in common: warm-up, clock, timings. Called
with the folder of the driver's stand-ins (fake_driver.cpp), which the loader has to find before Python starts."""

import os
import pathlib
import subprocess
import sys
import time
import types
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "compare"))

import timing


def options(device, **more):
    return types.SimpleNamespace(**{"device": device, "warmup": 0.02, "seconds": 0.05, **more})


class Timing(unittest.TestCase):
    def setUp(self):
        self.calls = []

    def block(self):
        self.calls.append(time.perf_counter())
        time.sleep(0.001)

    def test_a_warm_up_begins_after_the_first_block(self):
        def compiles_at_first():
            if not self.calls:
                time.sleep(0.05)
            self.block()

        timing.warm_up(compiles_at_first, 0.02)
        self.assertGreater(len(self.calls), 2)
        self.assertGreater(self.calls[-1] - self.calls[0], 0.015)
        self.calls = []
        timing.warm_up(self.block, 0)
        self.assertEqual(len(self.calls), 1)

    def test_what_is_timed_is_behind_the_warm_up(self):
        figures = timing.measure(self.block, 4, options("cpu", warmup=0.1))
        self.assertGreater(len(self.calls), figures["timings"] + 1)
        self.assertGreater(figures["median_us"], 1000 / 4)
        self.assertEqual(figures["steps_per_timing"], 4)
        self.assertNotIn("sm_clock_mhz", figures)

    def test_the_clock_stands_beside_the_figure(self):
        figures = timing.measure(self.block, 1, options("cuda"))
        if "DRIVER" in os.environ:
            self.assertEqual(figures["sm_clock_mhz"], 1755)
            self.assertGreater(len(self.calls), figures["timings"] + 10)  # it is asked in blocks that are not timed
        else:
            self.assertNotIn("sm_clock_mhz", figures)

    def test_options(self):
        parser = timing.options("A test.", ["form"])
        self.assertIsNone(parser.parse_args([]).warmup)
        self.assertEqual(parser.parse_args(["--warmup", "0"]).warmup, 0)
        for bad in ("-1", "inf", "nan"):
            with self.assertRaises(SystemExit), open(os.devnull, "w") as sys.stderr:
                parser.parse_args(["--warmup", bad])
        sys.stderr = sys.__stderr__


if __name__ == "__main__":
    if len(sys.argv) > 1:  # first without such libraries, then with them
        folder = sys.argv.pop()
        bare = {**os.environ, "LD_LIBRARY_PATH": ""}
        for more in ({}, {"LD_LIBRARY_PATH": folder, "DRIVER": "1"}):
            done = subprocess.run([sys.executable, __file__], env={**bare, **more})
            if done.returncode != 0:
                sys.exit(done.returncode)
    else:
        unittest.main()
