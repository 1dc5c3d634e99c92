"""Runs that are killed with SIGKILL, at random moments and at each at which the disk changes, and resumed, end like one
that never was.

    kill_test.py DYING_RUN    the program of tests/dying_run.cpp
"""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import program

DYING_RUN = sys.argv.pop(1)
NEVER = 3600  # seconds between two checkpoints, in a run that ends long before, however busy the machine


class Kill(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def start(self, device, seconds, out, die_at=0, spec="spec.json"):
        """A run that writes `last` every so many seconds."""
        words = [pathlib.Path(DYING_RUN).absolute(), str(die_at), str(seconds), spec, "data", device, out]
        return subprocess.Popen(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, *arguments):
        """The same, to its end: what it prints."""
        process = self.start(*arguments)
        printed, errors = process.communicate()
        self.assertEqual(process.returncode, 0, errors)
        return printed

    def ended_alike(self, whole, out, names):
        for name in names:
            self.assertEqual(program.weights(self.folder / whole, name), program.weights(self.folder / out, name), name)
        self.assertEqual(program.figures(self.folder / whole), program.figures(self.folder / out))
        self.assertTrue((self.folder / out / "report.html").exists())
        files = [sorted(p.name for p in (self.folder / run / "checkpoints").iterdir()) for run in (whole, out)]
        self.assertEqual(*files)
        self.assertEqual([p.name for p in (self.folder / out).rglob("*.elbo-tmp")], [])

    def kill_at_random(self, device, kills, seconds, data, names=("last", "best"), **train):
        program.device_or_skip(device)
        program.make_data(self.folder / "data", **data)
        program.make_spec(self.folder / "spec.json", **train)
        begin = time.monotonic()
        self.finish(device, seconds, "whole")
        duration = time.monotonic() - begin

        dice, killed, runs = random.Random(7), 0, 0
        while killed < kills:
            out = f"killed-{runs}"
            runs += 1
            finished = False
            while not finished and killed < kills:
                process = self.start(device, seconds, out)
                try:
                    _, errors = process.communicate(timeout=dice.uniform(0, duration * 0.6))
                    self.assertEqual(process.returncode, 0, errors)
                    finished = True
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    killed += 1
            self.finish(device, seconds, out)
            self.ended_alike("whole", out, names)
        print(f"{device}: {killed} kills in {runs} runs of {duration:.1f} s, all ended alike")

    def test_cpu(self):
        self.kill_at_random("cpu", 20, NEVER, {"train": 2000, "side": 20}, ("last", "best", "previous"), epochs=12,
                            checkpoint_steps=17)

    def test_cpu_by_wall_time(self):
        self.kill_at_random("cpu", 20, 0.01, {"train": 2000, "side": 20}, epochs=12)

    def test_cpu_with_no_checkpoint_but_the_first(self):
        self.kill_at_random("cpu", 5, NEVER, {"train": 2000, "side": 20}, ("last", "best", "previous"), epochs=4)

    def test_sim(self):
        self.kill_at_random("sim", 6, NEVER, {"train": 300, "test": 50, "side": 8}, ("last", "best", "previous"),
                            epochs=2, checkpoint_steps=3)

    def test_at_every_moment_at_which_the_disk_changes(self):
        program.make_data(self.folder / "data", train=60, test=20, side=6)
        spec = json.loads(program.make_spec(self.folder / "spec.json", epochs=8, checkpoint_epochs=3).read_text())
        spec["seed"], spec["optimizer"]["learning_rate"], spec["model"]["latent"] = 4, 0.1, 4
        spec["model"]["encoder"][0]["units"] = spec["model"]["decoder"][0]["units"] = 8
        (self.folder / "spec.json").write_text(json.dumps(spec))
        self.finish("cpu", NEVER, "whole")
        elbos = [record["test"]["elbo"] for record in program.figures(self.folder / "whole")]
        best = [i + 1 for i, elbo in enumerate(elbos) if elbo == max(elbos[: i + 1])]
        # The best of the epochs up to 3, and of those up to 6, is another, which waits for these to be written.
        self.assertTrue(max(e for e in best if e <= 3) < 3 < max(e for e in best if e <= 6) < 6, best)
        names = ("last", "best", "previous", "epoch-3", "epoch-6")

        resumed_from, moment, ahead, printed = set(), 0, 0, ""
        while "weights " not in printed:  # from there on it writes the report
            moment += 1
            out = f"killed-{moment}"
            process = self.start("cpu", NEVER, out, moment)
            printed, errors = process.communicate()
            self.assertEqual(process.returncode, -signal.SIGKILL, errors)
            checkpoints = {p.stem for p in (self.folder / out / "checkpoints").glob("*.safetensors")}
            steps = {name: int(program.weights(self.folder / out, name)[0]) for name in checkpoints}
            if any(step > steps["last"] for step in steps.values()):
                self.end_where_it_was_killed(out, best)
                ahead += 1
            again = self.finish("cpu", NEVER, out)
            resumed_from.update(line for line in again.splitlines() if line.startswith("resumed"))
            self.ended_alike("whole", out, names)
        self.assertEqual(sorted(resumed_from), [f"resumed from last at step {step} of 24" for step in (0, 18, 24, 9)])
        self.assertGreater(ahead, 5)
        print(f"cpu: killed at each of {moment} moments, all ended alike")

    def end_where_it_was_killed(self, run, best):
        """A checkpoint is ahead of `last`. A copy goes on for the epochs that this has behind it: `best` is of those."""
        step = int(program.weights(self.folder / run)[0])
        spec = json.loads((self.folder / "spec.json").read_text())
        spec["train"]["epochs"] = max(1, step // 3)
        (self.folder / "short.json").write_text(json.dumps(spec))
        shutil.rmtree(self.folder / "short", ignore_errors=True)
        shutil.copytree(self.folder / run, self.folder / "short")
        self.finish("cpu", NEVER, "short", 0, "short.json")
        self.assertEqual(int(program.weights(self.folder / "short", "best")[0]),
                         3 * max(epoch for epoch in best if epoch <= spec["train"]["epochs"]))
        self.assertFalse((self.folder / "short" / "checkpoints" / "next-best.safetensors").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
