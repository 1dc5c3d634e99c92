"""The program as a person meets it: what goes wrong is said, exits non-zero, and leaves nothing half-written."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import program


class CommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        cls.data = program.make_data(cls.root / "data", train=400, test=60)
        cls.spec = program.make_spec(cls.root / "spec.json")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def setUp(self):
        self.cwd = pathlib.Path(tempfile.mkdtemp(dir=self.root))

    def train(self, *arguments, spec=None, **options):
        return program.run("run", spec or self.spec, "--data", self.data, "--device", "cpu", *arguments, cwd=self.cwd,
                           **options)

    def refused(self, result, *words):
        """Non-zero, with each of the words in the error, and nothing in the working folder."""
        self.assertNotEqual(result.returncode, 0, result.stdout)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertEqual(sorted(p.name for p in self.cwd.iterdir()), [])

    # ---- What works --------------------------------------------------------------------------------------------

    def test_a_run_and_what_can_be_done_with_it(self):
        result = self.train()
        self.assertEqual(result.returncode, 0, result.stderr)
        run = self.cwd / "runs" / "squares-2d"
        for name in ("spec.json", "machine.json", "metrics.jsonl", "report.html", "checkpoints/last.safetensors",
                     "checkpoints/best.safetensors"):
            self.assertTrue((run / name).exists(), name)
        self.assertTrue(list((run / "figures").glob("*.png")))
        lines = program.figures(run)
        self.assertEqual([r["epoch"] for r in lines], [1, 2, 3])
        self.assertGreater(lines[-1]["test"]["elbo"], lines[0]["test"]["elbo"])

        for words in (["eval", run], ["report", run], ["sample", run, "--count", "9", "--out", "nine.png"]):
            again = program.run(*words, "--data", self.data, "--device", "cpu", cwd=self.cwd)
            self.assertEqual(again.returncode, 0, again.stderr)
        self.assertTrue((self.cwd / "nine.png").read_bytes().startswith(b"\x89PNG"))
        figures = json.loads(program.run("eval", run, "--data", self.data, "--device", "cpu", cwd=self.cwd).stdout)
        self.assertEqual(figures["test"], lines[-1]["test"], "eval repeats the figures of the last epoch")

        second = self.train()
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertTrue((self.cwd / "runs" / "squares-2d-2" / "report.html").exists())
        self.assertEqual(program.weights(run), program.weights(self.cwd / "runs" / "squares-2d-2"))

    def test_interrupt_and_resume(self):
        """SIGINT: a checkpoint, status 130; resumed it ends like a whole run."""
        long = program.make_spec(self.cwd / "long.json", epochs=400)
        process = subprocess.Popen([os.path.abspath(program.ELBO), "run", str(long), "--data", str(self.data), "--device",
                                    "cpu", "--out", "out"], cwd=self.cwd, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith("epoch   2"):
                process.send_signal(2)
                break
        rest = process.stdout.read()
        process.stdout.close()
        self.assertEqual(process.wait(), 130)
        self.assertIn("--resume", rest)
        step, _ = program.weights(self.cwd / "out")
        epochs = int(step) // 20 + 2
        for out, words in (("out", ["--resume"]), ("whole", [])):
            result = self.train("--out", out, "--set", f"train.epochs={epochs}", *words, spec=long)
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(program.weights(self.cwd / "out"), program.weights(self.cwd / "whole"))
        self.assertEqual(program.figures(self.cwd / "out"), program.figures(self.cwd / "whole"))

    # ---- Spec ----------------------------------------------------------------------------------------------------

    def test_all_mistakes_of_a_spec_at_once(self):
        text = self.spec.read_text().replace('"epochs"', '"epocs"').replace('"batch_size": 20', '"batch_size": -3')
        spec = self.root / "wrong.json"
        spec.write_text(text)
        self.refused(self.train(spec=spec), "wrong.json:", "epocs", 'did you mean "epochs"', "batch_size", "-3")

    def test_json_that_does_not_parse(self):
        spec = self.root / "torn.json"
        spec.write_text('{\n  "name": "x",\n  "seed" 3\n}')
        self.refused(self.train(spec=spec), "torn.json:3:")

    def test_a_spec_that_is_not_there(self):
        self.refused(self.train(spec=self.root / "nothing.json"), "nothing.json", "No such file")

    def test_overrides(self):
        self.refused(self.train("--set", "train.epoch=3"), "train.epoch", "epochs")
        self.refused(self.train("--set", "train.epochs"), "train.epochs")

    # ---- Data ----------------------------------------------------------------------------------------------------

    def test_data_that_are_not_there(self):
        empty = self.root / "empty"
        empty.mkdir(exist_ok=True)
        result = program.run("run", self.spec, "--data", empty, "--device", "cpu", cwd=self.cwd)
        self.refused(result, "squares", str(empty))

    def test_data_that_are_damaged(self):
        for name, change, word in (
                ("train-images-idx3-ubyte", lambda b: b[:-1], "train-images-idx3-ubyte"),
                ("train-images-idx3-ubyte", lambda b: b + b"x", "train-images-idx3-ubyte"),
                ("t10k-images-idx3-ubyte", lambda b: b[:4] + b"\xff\xff\xff\xff" + b[8:], "t10k-images-idx3-ubyte"),
                ("train-labels-idx1-ubyte.gz", lambda b: b"x" + b[1:], "train-labels-idx1-ubyte.gz"),
                ("train-labels-idx1-ubyte.gz", lambda b: b[:-10], "train-labels-idx1-ubyte.gz"),
        ):
            folder = pathlib.Path(tempfile.mkdtemp(dir=self.root))
            shutil.copytree(self.data / "squares", folder / "squares")
            file = folder / "squares" / name
            file.write_bytes(change(file.read_bytes()))
            self.refused(program.run("run", self.spec, "--data", folder, "--device", "cpu", cwd=self.cwd), word)

    def test_fewer_labels_than_images(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.root))
        shutil.copytree(self.data / "squares", folder / "squares")
        (folder / "squares" / "train-labels-idx1-ubyte.gz").unlink()
        (folder / "squares" / "train-labels-idx1-ubyte").write_bytes(program.idx([1] * 399, 399))
        self.refused(program.run("run", self.spec, "--data", folder, "--device", "cpu", cwd=self.cwd),
                     "train-labels-idx1-ubyte", "399", "400")

    # ---- Device, folder, disk --------------------------------------------------------------------------------------

    def test_a_device_that_is_not_there(self):
        result = program.run("run", self.spec, "--data", self.data, "--device", "tpu", cwd=self.cwd)
        self.refused(result, "tpu")
        result = program.run("run", self.spec, "--data", self.data, "--device", "cuda:x", cwd=self.cwd)
        self.refused(result, "cuda:x")

    def test_an_output_folder_that_exists(self):
        (self.cwd / "out").mkdir()
        (self.cwd / "out" / "precious").write_text("mine")
        for words in ([], ["--resume"]):
            result = self.train("--out", "out", *words)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("out", result.stderr)
            self.assertEqual([p.name for p in (self.cwd / "out").iterdir()], ["precious"])

    def test_an_output_folder_that_cannot_be_made(self):
        (self.cwd / "file").write_text("x")
        result = self.train("--out", "file/out")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("file/out", result.stderr)

    def test_no_space_left(self):
        """A tmpfs of a few hundred kilobytes fills while checkpoints are written."""
        mount = self.cwd / "small"
        mount.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", mount],
                                               stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("a tmpfs cannot be mounted here")
        try:
            result = self.train("--out", mount / "out", "--set", "model.encoder.0.units=256")
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("No space left on device", result.stderr)
            self.assertIn(str(mount / "out"), result.stderr)
            self.assertEqual([p.name for p in mount.rglob("*.tmp")], [])
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_standard_output_that_is_full(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([os.path.abspath(program.ELBO), "schema"], stdout=full, stderr=subprocess.PIPE,
                                    text=True)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("standard output", result.stderr)

    # ---- Checkpoints -------------------------------------------------------------------------------------------------

    def test_damaged_checkpoints(self):
        self.assertEqual(self.train("--out", "whole", "--set", "train.epochs=4").returncode, 0)
        self.assertEqual(self.train("--out", "out", "--set", "train.epochs=2").returncode, 0)
        last = self.cwd / "out" / "checkpoints" / "last.safetensors"
        good = last.read_bytes()
        middle = len(good) // 2
        for name, bad in (("cut short", good[:-100]), ("empty", b""), ("a flipped bit",
                          good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1:]),
                          ("a flipped bit in the header", good[:40] + bytes([good[40] ^ 1]) + good[41:])):
            last.write_bytes(bad)
            result = self.train("--out", "out", "--resume", "--set", "train.epochs=4")
            self.assertNotEqual(result.returncode, 0, name)
            self.assertIn("last.safetensors", result.stderr, name)
            self.assertIn("--resume previous", result.stderr, name)
            self.assertEqual(last.read_bytes(), bad, "nothing was changed")
        result = self.train("--out", "out", "--resume", "previous", "--set", "train.epochs=4")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(program.weights(self.cwd / "whole"), program.weights(self.cwd / "out"))
        self.assertEqual(program.figures(self.cwd / "whole"), program.figures(self.cwd / "out"))

    def test_a_checkpoint_of_another_network(self):
        self.assertEqual(self.train("--out", "out").returncode, 0)
        self.assertEqual(self.train("--out", "other", "--set", "model.latent=3").returncode, 0)
        checkpoint = self.cwd / "other" / "checkpoints" / "last.safetensors"
        result = self.train("--out", "out", "--resume", checkpoint, "--set", "train.epochs=5")
        self.assertNotEqual(result.returncode, 0)
        for word in ("another network", "encoder.2.weight", "[6, 64]", "[4, 64]"):
            self.assertIn(word, result.stderr)

    def test_a_resumed_run_must_be_the_same_experiment(self):
        self.assertEqual(self.train("--out", "out").returncode, 0)
        result = self.train("--out", "out", "--resume", "--set", "optimizer.learning_rate=0.5")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("learning_rate", result.stderr)

    def test_a_nan_stops_the_run(self):
        self.assertEqual(self.train("--out", "out").returncode, 0)
        last = self.cwd / "out" / "checkpoints" / "last.safetensors"
        header, payload = program.read_safetensors(last)
        begin = header["decoder.0.bias"]["data_offsets"][0]
        program.write_safetensors(last, header, payload[:begin] + b"\x00\x00\xc0\x7f" + payload[begin + 4:])
        best = program.weights(self.cwd / "out", "best")
        result = self.train("--out", "out", "--resume", "--set", "train.epochs=9")
        self.assertNotEqual(result.returncode, 0)
        for word in ("diverged at step 61 ", "decoder.0.bias", "NaN"):
            self.assertIn(word, result.stderr)
        self.assertEqual(program.weights(self.cwd / "out", "best"), best, "the good checkpoint is kept")
        self.assertEqual(len(program.figures(self.cwd / "out")), 3)

    # ---- The rest ------------------------------------------------------------------------------------------------------

    def test_help_and_mistyped_commands(self):
        self.assertEqual(program.run("--help", cwd=self.cwd).returncode, 0)
        self.assertIn("0.", program.run("--version", cwd=self.cwd).stdout)
        for words in (["rn"], [], ["run"], ["run", self.spec, "--devic", "cpu"], ["bench"]):
            result = program.run(*words, cwd=self.cwd)
            self.assertNotEqual(result.returncode, 0)
            self.assertTrue(result.stderr)

    def test_devices(self):
        result = program.run("devices", cwd=self.cwd)
        self.assertEqual(result.returncode, 0)
        self.assertIn("cpu", result.stdout)

    def test_bench(self):
        result = program.run("bench", "step", self.spec, "--data", self.data, "--device", "cpu", "--steps", "20", "--warmup",
                             "3", "--json", "bench.json", cwd=self.cwd)
        self.assertEqual(result.returncode, 0, result.stderr)
        figures = json.loads((self.cwd / "bench.json").read_text())
        self.assertGreater(figures["median_us"], 0)
        self.assertLessEqual(figures["p10_us"], figures["median_us"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
