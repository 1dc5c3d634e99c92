"""Runs that are killed with SIGKILL at random moments, and resumed, end like one that never was."""

import pathlib
import random
import signal
import subprocess
import tempfile
import time
import unittest

import program


class Kill(unittest.TestCase):
    def check(self, device, kills, **size):
        program.device_or_skip(device)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            data = program.make_data(folder / "data", **size.pop("data"))
            spec = program.make_spec(folder / "spec.json", **size)
            common = ["run", spec, "--data", data, "--device", device, "--threads", "1"]

            begin = time.monotonic()
            whole = program.run(*common, "--out", "whole", cwd=folder)
            duration = time.monotonic() - begin
            self.assertEqual(whole.returncode, 0, whole.stderr)

            dice, killed, runs = random.Random(7), 0, 0
            while killed < kills:
                out = f"killed-{runs}"
                runs += 1
                finished = False
                while not finished and killed < kills:
                    process = subprocess.Popen(
                        [str(pathlib.Path(program.ELBO).absolute()), *map(str, common), "--out", out, "--resume"],
                        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                    try:
                        _, errors = process.communicate(timeout=dice.uniform(0, duration * 0.6))
                        self.assertEqual(process.returncode, 0, errors)
                        finished = True
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.communicate()
                        killed += 1
                last = program.run(*common, "--out", out, "--resume", cwd=folder)
                self.assertEqual(last.returncode, 0, last.stderr)
                self.assertEqual(program.weights(folder / "whole"), program.weights(folder / out))
                self.assertEqual(program.weights(folder / "whole", "best"), program.weights(folder / out, "best"))
                self.assertEqual(program.figures(folder / "whole"), program.figures(folder / out))
                self.assertTrue((folder / out / "report.html").exists())
                leftovers = [p.name for p in (folder / out).rglob("*.tmp")]
                self.assertEqual(leftovers, [])
            print(f"{device}: {killed} kills in {runs} runs of {duration:.1f} s, all ended alike")

    def test_cpu(self):
        self.check("cpu", 50, epochs=12, checkpoint_steps=17, data={"train": 2000, "side": 20})

    def test_sim(self):
        self.check("sim", 6, epochs=2, checkpoint_steps=3, data={"train": 300, "test": 50, "side": 8})


if __name__ == "__main__":
    unittest.main(verbosity=2)
