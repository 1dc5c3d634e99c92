"""What a command takes of memory is known before it begins: too much is refused with nothing written, and the sum is
what a run really takes."""

import json
import os
import pathlib
import re
import resource
import subprocess
import tempfile
import unittest

import program

MB = 1_000_000
WIDE = [{"type": "dense", "units": 3000, "activation": "relu"}] * 2
SETTINGS = (f"model.encoder={json.dumps(WIDE)}", "model.decoder=[]")
WEIGHTS = 4 * (100 * 3000 + 3000 + 3000 * 3000 + 3000 + 3000 * 4 + 4 + 2 * 100 + 100)
# Gives a process the /proc files of a made-up control group, in a mount namespace of its own.
IN_GROUP = ('mount --bind "$0/cgroup" /proc/$$/cgroup && mount --bind "$0/mountinfo" /proc/$$/mountinfo && exec "$@"')


def needs(text):
    """The bytes that a refusal says are needed."""
    return int(re.search(r"needs [^(]*\((\d+) bytes\) of memory", text)[1])


class Memory(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        cls.data = program.make_data(cls.root / "data", train=40, test=20)
        cls.spec = program.make_spec(cls.root / "spec.json", epochs=1)
        trained = cls.elbo("run", cls.spec, "--out", cls.root / "wide", settings=SETTINGS)
        assert trained.returncode == 0, trained.stderr

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def setUp(self):
        self.cwd = pathlib.Path(tempfile.mkdtemp(dir=self.root))

    @classmethod
    def words(cls, *words, settings=(), device="cpu"):
        return [*map(str, words), "--data", str(cls.data), "--device", device,
                *(word for s in settings for word in ("--set", s))]

    @classmethod
    def elbo(cls, *words, settings=(), device="cpu", cwd=None, limit=None, **options):
        """`limit`: a kind of resource, and bytes of it."""
        if limit:
            kind, most = limit
            options["preexec_fn"] = lambda: resource.setrlimit(kind, (most, most))
        return program.run(*cls.words(*words, settings=settings, device=device), cwd=cwd or cls.root, **options)

    def refused(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertTrue(result.stderr.startswith("elbo: "), result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertEqual(result.stdout, "", "before anything is said of the run")
        self.assertEqual(list(self.cwd.iterdir()), [], "before anything is written")

    def content(self, folder):
        return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    # ---- What is too much --------------------------------------------------------------------------------------

    def test_a_run(self):
        """With what there is, and the three largest parts."""
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            result = self.elbo("run", self.spec, settings=(*SETTINGS, "train.epochs=2"), cwd=self.cwd,
                               limit=(kind, 300 * MB))
            self.refused(result, "a run of squares-2d", "this process may take",
                         f"two checkpoints on their way to the disk: {6 * WEIGHTS / MB:.1f} MB ({6 * WEIGHTS} bytes)",
                         f"gradients and optimiser state: {3 * WEIGHTS / MB:.1f} MB ({3 * WEIGHTS} bytes)",
                         "the best state so far: ", "fewer model.*.units", "train.checkpoint_epochs 1")
            self.assertEqual(len(result.stderr.splitlines()), 4)
            self.assertGreater(needs(result.stderr), 13 * WEIGHTS)
            there = int(re.search(r"may take [^(]*\((\d+) bytes\)", result.stderr)[1])
            self.assertLess(there, 300 * MB)

    def test_a_batch(self):
        """Of a step's activations, beside a small network; each draw of z has its own."""
        layer = json.dumps([{"type": "dense", "units": 1000}])
        settings = ("objective.samples=1024", f"model.decoder={layer}", "train.batch_size=40")
        result = self.elbo("run", self.spec, settings=settings, cwd=self.cwd, limit=(resource.RLIMIT_DATA, 300 * MB))
        self.refused(result, "the activations of a training step: ", "train.batch_size or objective.samples")

    def test_images(self):
        """Their headers say it: the pixels are not read, and here they are holes."""
        folder = self.data / "holes"
        folder.mkdir()
        for part in ("train", "t10k"):
            path = folder / f"{part}-images-idx3-ubyte"
            path.write_bytes(program.idx(b"", 100_000, 100, 100))
            os.truncate(path, 16 + 1000 * MB)
        result = self.elbo("run", self.spec, settings=("data.dataset=holes",), cwd=self.cwd,
                           limit=(resource.RLIMIT_DATA, 500 * MB))
        self.refused(result, "the images of holes: 2.0 GB (2000200000 bytes)")

    def test_what_looks_at_a_run(self):
        run = self.root / "wide"
        before = self.content(run)
        for words in (["eval", run], ["report", run], ["report", run, "--out", "other"], ["sample", run]):
            result = self.elbo(*words, cwd=self.cwd, limit=(resource.RLIMIT_DATA, 120 * MB))
            self.refused(result, str(run), "the checkpoint on its way to the device: ", "the weights: ")
        self.assertEqual(self.content(run), before)

    def test_samples(self):
        result = self.elbo("sample", self.root / "wide", "--count", "65536", cwd=self.cwd,
                           limit=(resource.RLIMIT_DATA, 300 * MB))
        self.assertEqual(result.returncode, 0, result.stderr)
        (self.cwd / "samples.png").unlink()
        result = self.elbo("sample", self.root / "wide", "--count", "65536", cwd=self.cwd,
                           limit=(resource.RLIMIT_DATA, 180 * MB))
        self.refused(result, "the samples: ", "a smaller --count needs less")

    def test_a_control_group(self):
        """Of version 1 and of 2, in which a process would be killed."""
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
            self.skipTest("no mount namespaces here")
        group, settings = self.root / "group", (*SETTINGS, "train.epochs=2")
        group.mkdir()
        for groups, kind, name in (("4:memory:/", "cgroup cgroup rw,memory", "memory.limit_in_bytes"),
                                   ("0::/", "cgroup2 cgroup2 rw", "memory.max")):
            (group / "cgroup").write_text(groups + "\n")
            (group / "mountinfo").write_text(f"35 31 0:32 / {group} rw - {kind}\n")
            for limit in (300 * MB, 3000 * MB):
                (group / name).write_text(f"{limit}\n")
                result = subprocess.run(["unshare", "-rm", "sh", "-c", IN_GROUP, group, os.path.abspath(program.ELBO),
                                         *self.words("run", self.spec, settings=settings)],
                                        cwd=self.cwd, capture_output=True, text=True, check=False)
                if limit == 300 * MB:
                    self.refused(result, "a run of squares-2d", "two checkpoints")
            self.assertEqual(result.returncode, 0, result.stderr)
            subprocess.run(["rm", "-r", self.cwd / "runs"], check=True)

    def test_a_gpu(self):
        """Its memory is its own: the checkpoints are on the host."""
        program.device_or_skip("sim")
        env = {**os.environ, "ELBO_SIM_MEMORY": str(200 * MB)}
        result = self.elbo("run", self.spec, settings=(*SETTINGS, "train.epochs=2"), device="sim", cwd=self.cwd, env=env)
        self.refused(result, "a run of squares-2d", " has ", "gradients and optimiser state: ", "the weights: ")
        self.assertNotIn("checkpoints", result.stderr)
        self.assertLess(needs(result.stderr), 8 * WEIGHTS)

    # ---- What it really is -------------------------------------------------------------------------------------

    def test_the_sum_is_what_a_run_takes(self):
        """At most, and not much less: of one whose best epoch is not its last, so that all its copies are made."""
        settings = (*SETTINGS, "train.epochs=2", 'optimizer={"type":"sgd","learning_rate":0.02}')
        refused = self.elbo("run", self.spec, settings=settings, cwd=self.cwd, limit=(resource.RLIMIT_DATA, 300 * MB))
        self.refused(refused)
        child = program.start(*self.words("run", self.spec, settings=settings), cwd=self.cwd)
        output = child.stdout.read()
        child.stdout.close()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(child.returncode, 0, output)
        elbo = [line["test"]["elbo"] for line in program.figures(self.cwd / "runs" / "squares-2d")]
        self.assertLess(elbo[-1], max(elbo))
        peak = 1024 * used.ru_maxrss
        self.assertLess(peak, needs(refused.stderr))
        self.assertLess(needs(refused.stderr), 1.5 * peak)


class Plan(unittest.TestCase):
    def test_more_than_any_machine_has(self):
        """2.2 * 10^12 parameters: images of 4096 x 4096 pixels, and 65536 units on either side."""
        with tempfile.TemporaryDirectory() as folder:
            cwd = pathlib.Path(folder)
            images = cwd / "data" / "large"
            images.mkdir(parents=True)
            for part in ("train", "t10k"):
                path = images / f"{part}-images-idx3-ubyte"
                path.write_bytes(program.idx(b"", 64, 4096, 4096))
                os.truncate(path, 16 + 64 * 4096 * 4096)
            layer = json.dumps([{"type": "dense", "units": 65536}])
            settings = ("data.dataset=large", f"model.encoder={layer}", f"model.decoder={layer}", "train.batch_size=1")
            limit = 500 * MB
            result = program.run("plan", program.make_spec(cwd / "spec.json"), "--data", "data", "--json", "plan.json",
                                 *(word for s in settings for word in ("--set", s)), cwd=cwd,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
            self.assertEqual(result.returncode, 0, result.stderr)
            pixels, units, latent = 4096 * 4096, 65536, 2
            weights = (pixels * units + units + units * 2 * latent + 2 * latent + latent * units + units
                       + units * pixels + pixels)
            memory = json.loads((cwd / "plan.json").read_text())["memory"]
            self.assertEqual(memory["weights"], 4 * weights)
            self.assertEqual(memory["gradients"], 4 * weights)
            self.assertEqual(memory["optimizer"], 8 * weights)
            # The input and the decoder's output, which becomes its gradient; the targets.
            self.assertGreaterEqual(memory["activations"], 9 * pixels)
            self.assertLess(memory["activations"], 14 * pixels)
            self.assertIn(f"weights 8.8 TB ({4 * weights} bytes)", result.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
