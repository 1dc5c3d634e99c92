"""What goes wrong, and what must be said of it: tables of command lines, their exit status and words of the message."""

import os
import pathlib
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import program

# Wrong command lines: what is refused before anything is begun, with status 2.
USAGE = (
    ("", '"run"', '"eval"', "`elbo --help`"),
    ("rn spec.json", '"rn"', '"run"?'),
    ("rn run spec.json", '"rn"', '"run"?'),
    ("bench", '"step" or "loss"', "`elbo bench --help`"),
    ("bench stp spec.json", '"stp"', '"step"?'),
    ("data verfy", '"verfy"', '"verify"?'),
    ("frobnicate", '"frobnicate"', '"run", "eval"'),
    ("--verison", "--verison", '"--version"?'),
    ("run", "SPEC", "`elbo run --help`"),
    ("run --resume", "SPEC"),
    ("run --resume previous --device cpu", "SPEC"),
    ("run --resum", "--resum", '"--resume"?'),
    ("run spec.json one two three", "one two three"),
    ("run spec.json eval", "eval"),
    ("run spec.json --devic cpu", "--devic cpu", '"--device"?'),
    ("run spec.json --out", "--out: ", "missing"),
    ("run spec.json --data a --data b", "--data: ", "more than once"),
    ("run spec.json --device gpu", "--device: ", "'gpu'", "auto, cpu, cuda or cuda:N", '"cuda"?'),
    ("run spec.json --device CPU", "'CPU'", '"cpu"?'),
    ("run spec.json --device tpu", "'tpu'", "auto, cpu, cuda or cuda:N"),
    ("run spec.json --device cuda:x", "'cuda:x'", "cuda:0"),
    ("run spec.json --device cpu:2", "'cpu:2'", "--threads"),
    ("plan spec.json --gpu H1000", "--gpu: ", "'H1000'", "H100, H200, A100, 4090"),
    ("plan --gp=H100", "--gp=H100", '"--gpu"?'),
    ("eval", "RUN", "`elbo eval --help`"),
    ("tune spec.json --device cpu", "--out"),
    ("bench loss --loss bernouli", "--loss: ", '"bernouli"', '"bernoulli"?'),
    ("bench loss --rival fast", "--rival: ", '"unfused", "two_pass", "fused_log", "fused" or "naive"', '"fast"'),
    ("bench loss --target bf16", "--target: ", '"f32" or "u8"', '"bf16"'),
    ("bench loss --output u8", "--output: ", '"f32" or "bf16"', '"u8"'),
    *((f"bench loss --shape {shape}", "--shape: ", f"'{shape}'", "100x784")
      for shape in ("100", "0x5", "5x", "x", "-1x5", "70000x70000", "2x3.5")),
)

# Every option that takes a number: the command, the option, what it is said to expect, what else it refuses.
NUMBERS = (
    ("run spec.json", "--threads", "a whole number from 0 to 1024", "1025", "1.5"),
    ("sample out", "--count", "a whole number from 1 to 65536", "0", "65537"),
    ("sample out", "--seed", "a whole number from 0 to 9007199254740991", "9007199254740992"),
    ("bench step spec.json", "--steps", "a whole number from 1 to 1000000000", "0", "2.5"),
    ("bench step spec.json", "--warmup", "a number from 0 to 3600", "3601"),
    ("bench loss", "--latent", "a whole number from 1 to 65536", "0"),
    ("bench loss", "--seconds", "a number from 0 to 3600", "3601"),
    ("plan spec.json", "--bandwidth", "a number from 0.001 to 1000000", "0"),
    ("plan spec.json", "--tflops", "a number from 0.001 to 1000000", "0"),
    ("profile spec.json", "--steps", "a whole number from 1 to 1000000", "0"),
    ("tune spec.json --out t.json", "--seconds", "a number from 0 to 3600", "1e4"),
)

# Wrong specs, data and runs: status 1. TRAIN is a training that would go well; "out" is the folder of a finished run.
TRAIN = "run spec.json --data data --device cpu"
ERRORS = (
    ("run nothing.json", "nothing.json: ", "No such file or directory"),
    ("run spec.json --data nowhere --out spec.json/out", "spec.json/out: ", "Not a directory"),
    ("report nothing --out spec.json/out", "spec.json/out: ", "Not a directory"),
    (f"{TRAIN} --set train.epoch=3", "--set train.epoch=3: train.epoch: ", "unknown", '"epochs"?'),
    (f"{TRAIN} --set train.epochs", "--set train.epochs: ", "path=value"),
    *((f"{TRAIN} --set {field}=2", f"--set {field}=2: ", "between dots")
      for field in ("train..epochs", "none..of", ".")),
    (f"{TRAIN} --set 'odd name=2'", '--set odd name=2: "odd name": ', "unknown"),
    (f"{TRAIN} --set train.batch_size=401", "--set train.batch_size=401: train.batch_size", "401", "400"),
    ("run large.json --data data --device cpu", "large.json:32: train.batch_size", "401", "400"),
    (f"{TRAIN} --set train.epochs=1000000 --set train.batch_size=1 --set data.dataset=many",
     "--set train.epochs=1000000: train.epochs: ", "5000000000", "2^32"),
    (f"{TRAIN} --out out --resume nope", "out/checkpoints/nope.safetensors: ", "No such file", "(--resume last)"),
    ("eval out --checkpoint nope --data data", "out/checkpoints/nope.safetensors: ", "No such file",
     "(--checkpoint last)"),
    (f"{TRAIN} --out out --resume --set train.epochs=1", "--set train.epochs=1: train.epochs: ", "40", "20"),
    ("data list --data nowhere", "--data nowhere: ", "no such folder"),
    ("data verify --data spec.json", "--data spec.json: ", "not a folder"),
    ("run spec.json --data nowhere", "--data nowhere: ", "no such folder"),
    ("run spec.json --data gone", "gone: ", "link to away"),
    ("run spec.json --data data --set data.dataset=round", "data/round: ", "Too many levels of symbolic links"),
    ("run spec.json --data data --set data.dataset=gone", "data/gone: ", "link to away"),
    ("run spec.json --data data --set data.dataset=links", "data/links/train-images-idx3-ubyte: ", "link to away"),
    ("run spec.json --data data --set data.dataset=loops", "data/loops/train-images-idx3-ubyte: ",
     "Too many levels of symbolic links"),
    ("run spec.json --data data --set data.dataset=none", "--set data.dataset=none: data.dataset: ", "'none'",
     " in data"),
    ("run absent.json --data data", "absent.json:5: data.dataset: ", "'absent'", " in data"),
    ("bench loss --device cpu --latent 65536 --shape 70000x1", "--latent 65536: ", "70000 rows"),
)

SGD = """--set 'optimizer={"type":"sgd","learning_rate":0.01}'"""

# Trainings that diverge: what is changed, what is found, what may help, and what is no cause.
DIVERGENCES = (
    ("--set optimizer.learning_rate=1e20", "step 2 ", ("smaller optimizer.learning_rate", "1e+20"), "beta"),
    ("--set objective.beta=1e30", "step 1 ", ("smaller objective.beta", "1e+30"), "learning_rate"),
    ("--set model.likelihood=gaussian --set model.variance=1e-30", "step 1 ", ("larger model.variance", "1e-30"),
     "learning_rate"),
    ("""--set 'model.initialization={"type":"normal","std":100}'""", "step 1 ",
     ("smaller model.initialization.std", "100"), "learning_rate"),
    (f"{SGD} --set optimizer.weight_decay=1e10", "step 2 ", ("smaller optimizer.weight_decay", "1e+10"), "beta"),
    ("""--set data.dataset=black --set model.posterior=sigma --set 'model.initialization={"type":"glorot"}'""",
     "step 1 (epoch 1): infinity in the KL", ("model.posterior log_variance",), "learning_rate"),
)

# What prints: with each, standard output that cannot be written is an error.
PRINTS = ("--version", "--help", "run --help", "bench --help", "schema", "devices", "data list",
          "plan spec.json --data data", "eval out --data data --device cpu", f"{TRAIN} --out full")


class Messages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        data = program.make_data(cls.root / "data", train=400, test=60)
        cls.add_set("many", train=5000, side=1)
        cls.add_set("black", train=20)
        for path, to in (("gone", "away"), ("data/gone", "away"), ("data/round", "round"),
                         ("data/links/train-images-idx3-ubyte", "away"),
                         ("data/loops/train-images-idx3-ubyte", "train-images-idx3-ubyte")):
            (cls.root / path).parent.mkdir(exist_ok=True)
            (cls.root / path).symlink_to(to)
        program.make_spec(cls.root / "spec.json", epochs=2)
        spec = program.make_spec(cls.root / "large.json", batch_size=401).read_text()
        (cls.root / "absent.json").write_text(spec.replace('"squares"', '"absent"'))
        trained = cls.elbo(f"{TRAIN} --out out")
        assert trained.returncode == 0 and data.exists(), trained.stderr

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def add_set(cls, name, train, side=10):
        """Black images without labels."""
        folder = cls.root / "data" / name
        folder.mkdir()
        for part, count in (("train", train), ("t10k", 10)):
            (folder / f"{part}-images-idx3-ubyte").write_bytes(program.idx(bytes(count * side**2), count, side, side))

    @classmethod
    def elbo(cls, line, **options):
        return program.run(*shlex.split(line), cwd=cls.root, **options)

    def refused(self, status, line, *words, without=None, **options):
        """Ends with this status, and these words in its errors."""
        with self.subTest(line):
            result = self.elbo(line, **options)
            self.assertEqual(result.returncode, status, result.stderr)
            self.assertTrue(result.stderr.startswith("elbo: "), result.stderr)
            self.assertLess(max(map(len, result.stderr.splitlines())), 600)
            for word in words:
                self.assertIn(word, result.stderr)
            if without:
                self.assertNotIn(without, result.stderr)
            if status == 2:
                self.assertEqual(result.stdout, "")

    def test_wrong_command_lines(self):
        for line, *words in USAGE:
            self.refused(2, line, *words)

    def test_numbers_that_are_none(self):
        for command, option, expected, *others in NUMBERS:
            for value in ("nan", "inf", "-1", "1e400", "12x", "''", *others):
                found = value.strip("'")
                self.refused(2, f"{command} {option} {value}", f"{option}: ", expected, f'"{found}"')

    def test_numbers_are_decimal(self):
        """CLI11 alone takes 010 for 8."""
        for value in ("010", "1e1"):
            result = self.elbo("bench step spec.json --data data --device cpu --warmup 0 --no-operations "
                               f"--steps {value}")
            self.assertIn("(10 timings of 1 steps)", result.stdout)

    def test_errors(self):
        for line, *words in ERRORS:
            self.refused(1, line, *words)

    def nobody(self):
        """Options for elbo(): as a user who may not do everything, as root may."""
        nobody = {"user": 65534} if os.geteuid() == 0 else {}
        self.root.chmod(0o755)
        try:
            self.elbo("--version", **nobody)
        except PermissionError:
            self.skipTest("no other user may run the program here")
        return nobody

    def test_what_may_not_be_read(self):
        nobody = self.nobody()
        (self.root / "data" / "closed").mkdir()
        for folder, message in (("data/closed", "data/closed/train-images-idx3-ubyte: "),
                                ("data", "data/closed: ")):
            (self.root / folder).chmod(0)
            self.refused(1, "plan spec.json --data data --set data.dataset=closed", message, "Permission denied",
                         **nobody)
            (self.root / folder).chmod(0o755)

    def test_what_may_not_be_written(self):
        """It is found before the data are looked for, or the run is."""
        nobody, kept = self.nobody(), self.root / "kept"
        kept.mkdir()
        kept.chmod(0o555)
        for line, message in (("run spec.json --data nowhere --out kept", "kept: "),
                              ("run spec.json --data nowhere --out kept/out", "kept/out: "),
                              ("report nothing --out kept/out", "kept/out: "),
                              ("report kept", "kept: "),
                              ("sample nothing --out kept/x.png", "kept/x.png: ")):
            self.refused(1, line, message, "Permission denied", **nobody)

    def test_a_thread_that_cannot_be_had(self):
        nobody = self.nobody()
        (self.root / "open").mkdir()
        (self.root / "open").chmod(0o777)
        for threads in (1, 2):
            self.refused(1, f"{TRAIN} --threads {threads} --out open/out", "thread", "Resource temporarily unavailable",
                         without="standard output", **nobody,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)))

    def test_places_that_are_not_there(self):
        result = self.elbo("data list", env={**os.environ, "ELBO_DATA": "nowhere"})
        self.assertEqual(result.returncode, 0)
        self.assertIn("nowhere (no such folder)", result.stdout)

    def test_a_set_that_cannot_be_seen_hides_no_other(self):
        for command, status in (("list", 0), ("verify", 1)):
            result = self.elbo(f"data {command} --data data")
            self.assertEqual(result.returncode, status)
            self.assertRegex(result.stdout, "data/round: .*Too many levels of symbolic links")
            self.assertIn("black: data/black\n", result.stdout)

    # ---- What diverges ---------------------------------------------------------------------------------------------

    def test_what_may_help_a_diverged_run(self):
        for changes, found, remedy, no_cause in DIVERGENCES:
            out = tempfile.mkdtemp(dir=self.root)
            good = (f"{out}/checkpoints/last.safetensors", "step 0")
            if "model.initialization" in changes:
                good = ("no checkpoint",)
            self.refused(1, f"{TRAIN} --out {out} {changes}", found, *remedy, *good, "new run", without=no_cause)

    def test_a_checkpoint_that_only_seems_good(self):
        """Weights that are finite, but whose figures are not: the one before is the last good one."""
        self.refused(1, f"""{TRAIN} --out seems --set train.batch_size=100 --set train.checkpoint_steps=1
                        --set 'optimizer={{"type":"sgd","learning_rate":1e20}}'""", "step 2 ",
                     "seems/checkpoints/previous.safetensors", "step 0")
        self.assertEqual(self.elbo("eval seems --data data --device cpu --checkpoint previous").returncode, 0)
        self.refused(1, "eval seems --data data --device cpu", "last.safetensors: ", "diverged")

    def test_weights_of_another_model(self):
        shutil.copytree(self.root / "out", self.root / "edited")
        spec = self.root / "edited" / "spec.json"
        was = spec.read_text()
        spec.write_text(was.replace('"log_variance"', '"sigma"'))
        for command in ("eval", "report", "sample"):
            self.refused(1, f"{command} edited --data data --device cpu", "weights are of another model",
                         'model.posterior is "log_variance", and in the run\'s spec.json "sigma"')
        spec.write_text(was.replace('"learning_rate": ', '"learning_rate": 1'))
        self.assertEqual(self.elbo("eval edited --data data --device cpu").returncode, 0)

    def test_figures_that_are_not_finite(self):
        """The step of the only epoch goes well, but no image gets through the weights that it leaves."""
        line = f"""{TRAIN} --out bad --set train.epochs=1 --set train.batch_size=400
                   --set train.checkpoint_epochs=1 --set 'optimizer={{"type":"sgd","learning_rate":1e20}}'"""
        for words in ("", " --resume"):
            self.refused(1, line + words, "step 1 (epoch 1)", "60 images are not finite",
                         "smaller optimizer.learning_rate", "bad/checkpoints/last.safetensors", "step 0")
            self.assertEqual([p.name for p in (self.root / "bad" / "checkpoints").iterdir()], ["last.safetensors"])
            self.assertEqual(program.weights(self.root / "bad")[0], "0")
            self.assertEqual((self.root / "bad" / "metrics.jsonl").read_text(), "")
            self.assertFalse((self.root / "bad" / "report.html").exists())

        # Such weights from elsewhere: all that is made of them fails.
        last = self.root / "bad" / "checkpoints" / "last.safetensors"
        header, payload = program.read_safetensors(last)
        weights = {k: v["data_offsets"] for k, v in header.items() if k.startswith(("encoder", "decoder"))}
        huge = bytearray(payload)
        for begin, end in weights.values():
            huge[begin:end] = struct.pack("<ff", 1e30, -1e30) * ((end - begin) // 8)
        program.write_safetensors(last, header, bytes(huge))
        for command in ("eval", "report", "sample --out samples.png"):
            self.refused(1, f"{command} bad --data data --device cpu",
                         "bad/checkpoints/last.safetensors: ", "diverged")
        self.assertFalse((self.root / "samples.png").exists())

    # ---- Output ----------------------------------------------------------------------------------------------------

    def test_standard_output_that_cannot_be_written(self):
        for line in PRINTS:
            command = [os.path.abspath(program.ELBO), *shlex.split(line)]
            for to, reason in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
                with self.subTest(f"{line} {to}"):
                    shutil.rmtree(self.root / "full", ignore_errors=True)
                    result = subprocess.run(["sh", "-c", f'exec "$@" {to}', "sh", *command], cwd=self.root,
                                            stderr=subprocess.PIPE, text=True)
                    self.assertRegex(result.stderr, f"^elbo: standard output: .*{reason}\n$")
                    self.assertEqual(result.returncode, 1)

    def test_a_wrong_command_line_stays_one(self):
        result = subprocess.run(["sh", "-c", 'exec "$0" nope >&-', os.path.abspath(program.ELBO)], cwd=self.root,
                                stderr=subprocess.PIPE, text=True)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("nope", result.stderr)

    def test_output_and_errors_in_one_file(self):
        """They stand there in the order in which they were said."""
        line = f"{TRAIN} --out ordered --set optimizer.learning_rate=1e20"
        with open(self.root / "said", "w") as said:
            subprocess.run([os.path.abspath(program.ELBO), *shlex.split(line)], cwd=self.root, stdout=said, stderr=said)
        lines = (self.root / "said").read_text().splitlines()
        self.assertEqual([line.split()[0] for line in lines], ["squares-2d:", "400", "train", "elbo:"])

    def test_epochs_in_80_columns(self):
        """Of images of 250,000 pixels, whose ELBO is below -100,000; a run that is interrupted, too."""
        self.add_set("large", train=2, side=500)
        line = (f"{TRAIN} --out large --set data.dataset=large --set train.epochs=1000 --set train.batch_size=1 "
                "--set model.encoder=[] --set model.decoder=[]")
        process = program.start(*shlex.split(line), cwd=self.root)
        lines = [process.stdout.readline().rstrip("\n") for _ in range(5)]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        process.stdout.close()
        self.assertEqual(process.wait(), 130)
        self.assertIn("to go on: elbo run large/spec.json --out large --resume", rest)
        self.assertEqual(lines[2].split(), ["train", "ELBO", "test", "ELBO", "reconstruction", "KL", "images/s"])
        self.assertRegex(lines[3], r"^epoch    1/1000  -\d{6}\.\d{3}  ")
        self.assertEqual(len(lines[2]), len(lines[3]), "the head stands above its columns")
        for line in lines[2:]:
            self.assertLessEqual(len(line), 80)

    # ---- What the words promise ------------------------------------------------------------------------------------

    def test_a_spec_that_resume_takes_first(self):
        for line in ("--resume spec.json --data data --device cpu", "--data data --device cpu --resume spec.json",
                     "spec.json --data data --device cpu --resume",
                     "--resume last spec.json --data data --device cpu"):
            with self.subTest(line):
                result = self.elbo(f"run {line} --out taken")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertRegex(result.stdout, "taken: no checkpoint|resumed from last .*40 of 40")

    def test_a_spec_from_standard_input(self):
        def elbo(line, text):
            return subprocess.run([os.path.abspath(program.ELBO), *shlex.split(line)], cwd=self.root, input=text,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        spec = (self.root / "spec.json").read_text()
        result = elbo("run - --data data --device cpu --out piped", spec)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(program.weights(self.root / "piped"), program.weights(self.root / "out"))
        self.assertEqual(elbo("plan - --data data", spec).stdout, self.elbo("plan spec.json --data data").stdout)
        for text, words in ((spec.replace("epochs", "epocs"), "standard input:31: train.epocs: "),
                            ("", "standard input:1:1: "), (" " * 2**21, "standard input: ")):
            result = elbo("run - --data data", text)
            self.assertEqual(result.returncode, 1)
            self.assertIn(words, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
