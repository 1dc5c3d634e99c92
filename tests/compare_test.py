"""What the comparisons with other frameworks (tools/compare/timing.py) have in common: warm-up, clock, timings. Called
with the folder of the driver's stand-ins (fake_driver.cpp), which the loader has to find before Python starts."""

import os
import pathlib
import subprocess
import sys
import time
import types
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "compare"))

import timing


def options(device, **more):
    return types.SimpleNamespace(**{"device": device, "warmup": 0.02, "seconds": 0.05, **more})


class Timing(unittest.TestCase):
    def setUp(self):
        self.calls, self.now = 0, 0.0

    def block(self, seconds=2**-10):
        """As if it took so long."""
        self.calls += 1
        self.now += seconds

    def by_its_own_clock(self):
        return mock.patch.object(timing.time, "perf_counter", lambda: self.now)

    def test_a_warm_up_begins_after_the_first_block(self):
        with self.by_its_own_clock():
            timing.warm_up(lambda: self.block(2**-10 if self.calls else 1), 20 * 2**-10)
            self.assertEqual(self.calls, 1 + 20)
            timing.warm_up(self.block, 0)
            self.assertEqual(self.calls, 1 + 20 + 1)

    def test_what_is_timed_is_behind_the_warm_up(self):
        with self.by_its_own_clock():
            figures = timing.measure(self.block, 4, options("cpu", warmup=100 * 2**-10))
        self.assertEqual(self.calls, 1 + 100 + figures["timings"])
        self.assertEqual(figures["median_us"], 1e6 * 2**-10 / 4)
        self.assertEqual(figures["steps_per_timing"], 4)
        self.assertNotIn("sm_clock_mhz", figures)

    def test_the_clock_stands_beside_the_figure(self):
        def block():
            self.calls += 1
            time.sleep(0.001)

        timed, before, after = timing.time_blocks, 0, 0

        def time_blocks(*arguments):
            nonlocal before, after
            before = self.calls
            times = timed(*arguments)
            after = self.calls
            return times

        with mock.patch.object(timing, "time_blocks", time_blocks):
            figures = timing.measure(block, 1, options("cuda", warmup=0))
        # It is asked in blocks that are not timed, before and after those that are; the first is the warm-up.
        with_driver = "DRIVER" in os.environ
        self.assertEqual((before > 1, self.calls > after), (with_driver, with_driver))
        self.assertEqual(figures.get("sm_clock_mhz"), 1755 if with_driver else None)

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
