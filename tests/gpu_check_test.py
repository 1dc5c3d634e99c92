"""The GPU check, in two ways: where there is no GPU it does what it can, and says of the rest that it was not run; and
with stand-ins for all that a GPU needs (fake_gpu.py) it walks through every section and judges made-up figures.

Usage: gpu_check_test.py BUILD
"""

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import types
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = sys.argv.pop(1)
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "compare")]

import elbo_spec
import gpu_check
import gpu_summary
import timing


def check(out, *arguments):
    return subprocess.run(
        [ROOT / "tools/gpu_check.sh", *arguments, "--build", BUILD, "--out", out],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def left_by(call, out):
    """(about, results) of a call."""
    return gpu_check.read_archive(out / f"{call}.tar.gz")


class WithoutAGpu(unittest.TestCase):
    def test_small(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "check"
            for call in gpu_check.CALLS:
                done = check(out, call)
                self.assertEqual(done.returncode, 0, done.stdout)
            summary = (out / "first.md").read_text()
            self.assertIn("| tests | done |", summary)
            about, first = left_by("first", out)
            if about["has_gpu"]:
                return  # then the figures are in results/, and not a matter of this test
            self.assertNotIn("| met |", summary)
            self.assertNotIn("missed", summary)
            about, second = left_by("second", out)
            for section in ("baselines", "ncu", "sanitizer", "graph", "rest"):
                self.assertEqual(about["sections"][section], "not run: there is no GPU")
                self.assertNotIn(section, second)
            for tests in first["tests"].values():
                self.assertGreater(tests["passed"], 0)
                self.assertEqual(tests["failed"], [])
            self.assertGreater(first["steps"]["W1 fp32"]["median_us"], 0)
            kernels = {k["name"]: k for k in first["steps"]["W1 kernels"]["kernels"]}
            if first["machine"]["device"] == "sim":
                self.assertEqual(kernels["finish_step_kernel"]["a_step"], 1)
                self.assertIn("| finish_step_kernel | 1 |", summary)
            self.assertEqual({t["rival"] for t in first["losses"]["20x784"]["timings"]}, {"fused"})
            trained = next(iter(first["training"].values()))
            self.assertGreater(trained["images_per_second"], 0)
            self.assertEqual(trained["files_in"], gpu_check.memory_folder())
            self.assertGreater(second["variants"]["W1, images streamed"]["median_us"], 0)
            names = ["first.md", "first.tar.gz", "second.md", "second.tar.gz"]
            self.assertEqual(sorted(path.name for path in out.iterdir()), names)

    def test_what_fails_leaves_the_others(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "check"
            done = check(out, "--data", "/nowhere", "--only", "steps", "losses", "training", "machine")
            self.assertEqual(done.returncode, 1, done.stdout)
            about, results = left_by("only", out)
            self.assertEqual(about["sections"]["losses"], "done")  # they take no data
            self.assertIn("there is no such folder", results["steps"]["W1 fp32"]["error"])
            self.assertIn("| steps | failed: all that it tried, first: ", done.stdout)
            if not about["has_gpu"]:
                said = "not run: there is none of the data sets freyface, fashion-mnist, mnist"
                self.assertIn(f"| training | {said} |", done.stdout)

    def test_training_takes_the_data_that_is_there(self):
        with tempfile.TemporaryDirectory() as folder:
            data, out = pathlib.Path(folder) / "data", pathlib.Path(folder) / "check"
            (data / "mnist").mkdir(parents=True)
            done = check(out, "--data", data, "--only", "training")  # the folder is empty: that it fails is right
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("training: failed: all that it tried, first: elbo run experiments/mnist-2d.json", done.stdout)

    def test_wrong_arguments_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            wrong = pathlib.Path(folder) / "wrong.tar.gz"
            wrong.write_text("nothing that a call left")
            for arguments, why in (
                ([], "one of first, second, targets, or --only SECTION..."),
                (["first", "--only", "ncu"], "ncu: not of this call"),
                (["targets"], "targets are judged by what calls left: --with ARCHIVE..."),
                (["targets", "--with", wrong], f"{wrong}: not what a call left: "),
                (["targets", "--with", "/nowhere"], "/nowhere: not what a call left: "),
            ):
                done = check("/nowhere/check", *arguments)
                self.assertIn(done.returncode, (1, 2), done.stdout)
                self.assertIn(why, done.stdout.splitlines()[-1])

    def test_a_limit_is_a_time(self):
        for limit in ("0", "-1", "nan"):
            done = check("/nowhere/check", "first", "--limit", limit)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(f"argument --limit: {limit}: not a number of seconds greater than 0", done.stdout)

    def test_nothing_built(self):
        done = subprocess.run(
            [ROOT / "tools/gpu_check.sh", "first", "--build", "/nowhere"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("build it first", done.stdout)

    def test_ceilings_say_that_there_is_no_gpu(self):
        program = pathlib.Path(BUILD) / "tests/ceilings"
        if not program.exists():
            self.skipTest("built without nvcc")
        devices = subprocess.run([pathlib.Path(BUILD) / "elbo", "devices"], stdout=subprocess.PIPE, text=True).stdout
        if re.search("^cuda +available", devices, re.M):
            self.skipTest("there is a GPU")
        done = subprocess.run([program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("there is no GPU that CUDA can use", done.stderr)


class WithAStandIn(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.out = self.root / "check"
        built = ("build/elbo", "build/tests/ops_test", "build/tests/trainer_test", "build/tests/ceilings")
        for name in (*built, "bin/nvidia-smi", "bin/ncu", "bin/compute-sanitizer", "bin/python"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE}/fake_gpu.py" {path.name} "$@"\n')
            path.chmod(0o755)
        (self.root / "data/mnist").mkdir(parents=True)  # nothing is read of it
        (self.root / "temporary").mkdir()

    def command(self, *arguments):
        folders = ["--build", self.root / "build", "--out", self.out, "--data", self.root / "data"]
        return [ROOT / "tools/gpu_check.sh", *folders, "--python", self.root / "bin/python", *arguments]

    def environment(self, **fakes):
        return {
            **os.environ,
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "FAKE_PID": f"{self.root}/pid",
            "TMPDIR": f"{self.root}/temporary",
            **fakes,
        }

    def check(self, *arguments, **fakes):
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(**fakes),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=200,
        )

    def check_in_process(self, *arguments, **fakes):
        """Exit status and output, where something of the check's own is to be another."""
        words = ["gpu_check.sh", *map(str, self.command(*arguments)[1:])]
        with mock.patch.dict(os.environ, self.environment(**fakes)), mock.patch.object(sys, "argv", words):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                return gpu_check.main(), printed.getvalue()

    def results(self, *calls):
        """Of the calls, or of sections by themselves."""
        found = {}
        for call in calls or ["only"]:
            found |= left_by(call, self.out)[1]
        return found

    def both_calls(self, **fakes):
        """The first, and the second which judges both; the output of each."""
        first = self.check("first", **fakes)
        return first, self.check("second", "--with", self.out / "first.tar.gz", **fakes)

    def test_every_section_and_every_target(self):
        for done in self.both_calls():
            self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(len(list(self.out.iterdir())), 4)
        self.assertEqual(next(iter(self.results("second")["rest"])), "ceilings")  # they decide on a design
        summary = (self.out / "second.md").read_text()
        for section in gpu_check.SECTIONS:
            self.assertIn(f"| {section} | done |", summary)
        results = self.results(*gpu_check.CALLS)
        failed = [("rest: ceilings: figures: cluster barrier of 16 blocks", "this GPU has no clusters")]
        self.assertEqual(gpu_summary.errors(results), failed)
        verdicts = gpu_summary.targets(results, True)
        self.assertEqual({v[3] for v in verdicts}, {"met"}, summary)
        self.assertEqual(len(verdicts), 1 + 8 + 7 + 2 + 23 + 4)
        self.assertNotIn("missed", summary)
        # What was compared with what, and in which unit.
        self.assertIn("| 5.82 (1233.1 us and 211.9 us) | met |", summary)
        self.assertIn("97.0% of the copy beside it, 96.7% of the quickest copy", summary)
        self.assertIn("| grid barrier | 1.4 | 1 | 3 | us | 1980 |", summary)
        self.assertIn("| product in bf16 | 798 | 1 | 3 | TFLOP/s | 1980 |", summary)  # only the second call has it
        self.assertIn("cluster barrier of 16 blocks | this GPU has no clusters |", summary)  # the one that failed
        self.assertIn("| W1 | tf32 | PyTorch 2.11.0, max-autotune | 175.0 |", summary)
        self.assertIn("| W1 | tf32 | JAX 0.11.2, scan | 70.0 | 63.0 | 77.0 | 2.00 |", summary)
        self.assertIn("| W1 | tf32 | elbo, cuda, again | 35.0 | 31.5 | 38.5 | 1.00 | 16 | 14 | 1980 |", summary)
        for what in ("no epilogues", "unfused loss", "images streamed", "tuned"):
            self.assertIn(f"| W1 | tf32 | elbo, {what}, cuda | 35.0 |", summary)
        self.assertIn("| nodes in the graph of W1's step | at most 16 | 16 | met |", summary)
        self.assertIn("| fused | bernoulli | 512x116412 | u8 | bf16 |", summary)
        # Each kind of kernels beside the fused one, and the errors against float64.
        for loss, us, share, ratio in (
            ("gaussian_learned", "316.5", "92.0%", "3.38"),
            ("iwae 20", "245.3", "90.0%", "2.79"),
        ):
            types, errors = rf"{loss} \| 65536x784 \| u8 \| f32", r"1\.5e-09 \| 2\.5e-08"
            line = rf"(?m)^\| fused \| {types} \| {us} .* \| 1\.00 \| .* \| {share} \| .* \| {errors} \|$"
            self.assertRegex(summary, line)
            self.assertRegex(summary, rf"(?m)^\| unfused \| {types} .* \| {ratio} \| .* \| {errors} \|$")
        self.assertIn("importance-weighted head against unfused, 65536x784 | 2.2 times as fast | 2.79 (", summary)
        self.assertIn("traffic of importance_bound_kernel | within 5% of its contract | read 1.1 MB of 1.0", summary)
        # Kernels by name, with commas in it, and what all of them come to.
        self.assertIn("| sm90_xmma_gemm<f32, tf32, 64x64> | 1 | 2.50 | 2.50 | 8x7x1 | 256x1x1 |", summary)
        self.assertIn("| likelihood_fused_bernoulli_kernel | 2 | 1.50 | 3.00 | 100x1x1 | 64x1x1 |", summary)
        self.assertIn("| all | 4 |  | 10.0, 60% of it at work |", summary)
        with tarfile.open(self.out / "first.tar.gz") as archive:
            names = archive.getnames()
            w1 = json.load(archive.extractfile("w1.json"))
            log = archive.extractfile("log.txt").read().decode()
        self.assertEqual(w1["data"]["dataset"], "mnist")  # there is no Fashion-MNIST in data/
        self.assertTrue({"W1-trace.json", "W1-trace.csv", "freyface-8d-trace.csv"} <= set(names), names)
        self.assertIn("$ elbo bench step w1.json --device cuda", log)
        self.assertNotIn(str(self.root), log)
        reached = results["training"]["mnist-2d"]
        self.assertLess(abs(reached["cpu"]["mean"] + 155.37), 0.01)
        self.assertEqual(len(reached["cpu"]["runs"]), 3)
        self.assertEqual(reached["reached"]["epoch"], 8)  # -150 - 50 / 8 = -156.25; the goal is -156.94
        self.assertAlmostEqual(reached["reached"]["training_seconds"], 8 * 600 * 100 / 3e6)
        self.what_was_not_measured_is_not_judged(results)

    def what_was_not_measured_is_not_judged(self, everything):
        concerns = {
            ("machine",): 0,
            ("tests",): 1,
            ("losses",): 0,  # they are among every rival's in the rest
            ("losses", "rest"): 2 + 1,
            ("twins",): 0,  # the same
            ("twins", "rest"): 3 + 1,
            ("baselines",): 2 + 2,
            ("rest",): 1,
            ("steps", "baselines", "rest"): 2 + 7,
            ("training",): 2,
            ("ncu",): 1,
            ("sanitizer",): 4,
            ("variants", "large", "graph"): 0,
        }
        for names, count in concerns.items():
            verdicts = gpu_summary.targets({n: r for n, r in everything.items() if n not in names}, True)
            self.assertEqual(sum(v[3] == "not run" for v in verdicts), count, (names, verdicts))
            self.assertNotIn("missed", {v[3] for v in verdicts}, names)
        self.assertEqual({v[3] for v in gpu_summary.targets({}, True)}, {"not run"})
        self.assertEqual({v[3] for v in gpu_summary.targets(everything, False)}, {"not run"})
        # Figures of logits in f32 are not those of bf16.
        losses = {"losses": {"some": json.loads(json.dumps(everything["losses"]["65536x784, f32 target"]))}}
        for t in losses["losses"]["some"]["timings"]:
            t["output"] = "f32"
        verdicts = {v[0]: v[3] for v in gpu_summary.targets(losses, True)}
        self.assertEqual(verdicts["fused Bernoulli loss, f32, 65536x784"], "met")
        self.assertEqual(verdicts["fused Bernoulli loss, bf16 with u8 target, 65536x784"], "not run")
        self.assertEqual(verdicts["sample and KL, fused"], "not run")

    def test_misses_are_said(self):
        for done in self.both_calls(FAKE_SLOW="1"):
            self.assertEqual(done.returncode, 1, done.stdout)  # for the test that fails, and what is found
        results = self.results(*gpu_check.CALLS)
        verdicts = gpu_summary.targets(results, True)
        self.assertEqual({v[3] for v in verdicts}, {"missed"}, verdicts)
        self.assertEqual(len(verdicts), 1 + 8 + 7 + 2 + 23 + 4)
        self.assertIn("| **missed** |", (self.out / "second.md").read_text())
        said = results["sanitizer"]["memcheck"]
        self.assertIn("at a_kernel", said["first"][2])
        self.assertEqual((len(said["last"]), said["last"][-1]), (15, "========= ERROR SUMMARY: 1 errors"))

    def test_the_end_of_the_output_is_what_counts(self):
        done = self.check("second", FAKE_FAIL="-")  # every command has one: all that can fails
        self.assertEqual(done.returncode, 1, done.stdout)
        end = done.stdout[-12000:]
        self.assertIn("\n## What failed\n", end)
        self.assertRegex(end, r"and \d+ more, in the archive\n\n## Targets\n")
        self.assertEqual(end.count("| not run |"), 23)
        self.assertLess(max(map(len, done.stdout.splitlines())), 1500)

    def test_a_gpu_that_does_not_open_is_no_missing_gpu(self):
        closed = ("baselines", "ncu", "sanitizer", "graph", "rest")
        done = self.check("--only", "machine", *closed, FAKE_LIBRARIES="/not/found")
        self.assertEqual(done.returncode, 1, done.stdout)
        why = "libcublasLt.so.13: cannot open shared object file"
        self.assertIn(f"some CPU; cuda not available {why}; elbo 0.1.0; ", done.stdout)
        for section in closed:
            said = f"not run: elbo does not open GPU 0: NVIDIA H100 80GB HBM3: not available {why}"
            self.assertIn(f"| {section} | {said} |", done.stdout)
        self.assertNotIn("there is no GPU", done.stdout)

    def test_a_plug_in_that_crashes_or_hangs_leaves_a_call(self):
        elbo = self.root / "build/elbo"
        stand_in = elbo.read_text().splitlines()[1]
        for does, said in (
            ("kill -SEGV $$", "elbo devices: exit status -11: loading"),
            ("exec sleep 100", "elbo devices: stopped after "),
            ("exit 0", "loading"),
        ):
            elbo.write_text(f'#!/bin/sh\nif [ "$1" = devices ]; then echo loading; {does}; fi\n{stand_in}\n')
            with mock.patch.object(gpu_check, "OPENING", 1):
                code, printed = self.check_in_process("first", "--only", "machine")
            self.assertEqual(code, 1, printed)
            self.assertIn(f"cuda not available: {said}", printed)
            about, _ = left_by("first", self.out)
            self.assertEqual((about["version"], about["has_gpu"]), ("elbo 0.1.0", False))
            with tarfile.open(self.out / "first.tar.gz") as archive:
                self.assertIn("$ elbo devices\nloading", archive.extractfile("log.txt").read().decode())
        done = self.check("second", "--only", "ncu")
        why = "not run: elbo does not open GPU 0: NVIDIA H100 80GB HBM3: not available: loading"
        self.assertIn(f"| ncu | {why} |", done.stdout)

    def test_a_gpu_that_no_tool_lists_is_no_missing_gpu(self):
        (self.root / "gpu0").touch()
        for files, code, said in (
            (["/not/found*"], 0, "not run: there is no GPU"),
            ([f"{self.root}/gpu*"], 1, f"not run: elbo does not open the GPU of {self.root}/gpu0: not available lib"),
        ):
            with mock.patch.object(gpu_check, "GPU_FILES", files):
                done = self.check_in_process("--only", "ncu", FAKE_LIBRARIES="/not/found", FAKE_FAIL="nvidia-smi")
            self.assertEqual(done[0], code, done[1])
            self.assertIn(f"| ncu | {said}", done[1])

    def test_an_elbo_that_does_not_start_leaves_what_it_said(self):
        (self.root / "build/elbo").write_text("#!/bin/sh\necho a wrong loader; exit 127\n")
        done = self.check("first")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("gpu_check.sh: elbo --version: exit status 127: a wrong loader", done.stdout)
        with tarfile.open(self.out / "first.tar.gz") as archive:
            self.assertIn("a wrong loader", archive.extractfile("log.txt").read().decode())

    def test_libraries_of_python_are_for_elbo_alone(self):
        libraries = {"LD_LIBRARY_PATH": "/first", "FAKE_LIBRARIES": "/first:/nowhere/nvidia/cu13/lib"}
        done = self.check("--only", "tests", "ncu", "sanitizer", "graph", **libraries)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("| graph | done |", done.stdout)
        for name in gpu_summary.SANITIZERS:
            self.assertIn(f"| compute-sanitizer {name} | no error | 10 tests, no error | met |", done.stdout)
        self.assertIn("| ncu | done |", done.stdout)
        # Where elbo does without them, they are in nobody's way.
        done = self.check("--only", "tests", LD_LIBRARY_PATH="/first", FAKE_LIBRARIES="=/first")
        self.assertIn("| tests on the GPU | all pass | 20 passed", done.stdout)

    def test_a_cupti_among_pythons_packages_is_found(self):
        done = self.check("--only", "steps", LD_LIBRARY_PATH="/first", FAKE_CUPTI="/first:/nowhere/nvidia/cu13/lib")
        self.assertNotIn("no kernels in this trace", done.stdout)
        self.assertIn("| all | 4 |  | 10.0, 60% of it at work |", done.stdout)
        done = self.check("--only", "steps", LD_LIBRARY_PATH="/first", FAKE_CUPTI="/elsewhere")
        self.assertIn("| no kernels in this trace, but ranges, issued call by call: libcupti.so.13", done.stdout)

    def test_libraries_elsewhere_are_tried(self):
        folder = self.root / "cuda-13.0/lib64"
        folder.mkdir(parents=True)
        patterns = [str(self.root / "cuda*/lib64")]
        libraries = {"LD_LIBRARY_PATH": "", "FAKE_LIBRARIES": f"/nowhere/nvidia/cu13/lib:{folder}"}
        with mock.patch.object(gpu_check, "FOLDERS", patterns):
            code, printed = self.check_in_process("--only", "machine", **libraries)
        self.assertEqual(code, 0, printed)
        self.assertIn("only: cuda available NVIDIA H100", printed)

    def test_tools_that_the_machine_refuses_are_not_failures(self):
        done = self.check("--only", "ncu", "sanitizer", FAKE_REFUSED="1")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("| ncu | not run: the driver lets only administrators read the GPU's counters", done.stdout)
        self.assertIn("| sanitizer | not run: compute-sanitizer does not work on this machine", done.stdout)

    def test_kernels_that_ncu_did_not_come_to_are_said(self):
        done = self.check("--only", "ncu", FAKE_UNSEEN="sample_latent_backward_kernel")
        unseen = "| memory traffic of sample_latent_backward_kernel, {} dimensions | within 5% of its contract |  | not run |"
        for latent in ("20", "128", "weighed, 20"):
            self.assertIn(unseen.format(latent), done.stdout)
        for latent in (20, 128):
            self.assertRegex(done.stdout, rf"memory traffic of sample_latent_kernel, {latent} dimensions .* met \|")

    def test_losses_that_are_cut_short_are_kept(self):
        done = self.check("--only", "losses", FAKE_CUT="1")
        loss = self.results()["losses"]["65536x784, f32 target"]
        self.assertEqual(len(loss["timings"]), 1)
        self.assertIn("cut short", loss["error"])
        self.assertRegex(done.stdout, r"fused Bernoulli loss, f32, 65536x784 .* met \|")
        self.assertRegex(done.stdout, r"losses: 65536x784, f32 target \| .*cut short")

    def test_a_failure_leaves_the_rest_of_its_section(self):
        done = self.check("--only", "steps", "baselines", "sanitizer", FAKE_FAIL="mnist-2d.json")
        self.assertIn("| steps | done |", done.stdout)
        steps = self.results()["steps"]
        self.assertEqual(steps["W1 tf32"]["median_us"], 35.0)
        error = steps["mnist-2d tf32"]["error"]
        self.assertIn("a made-up failure", error)
        self.assertIn("a made-up failure", done.stdout)
        self.assertTrue(error.startswith("elbo bench step experiments/mnist-2d.json --device cuda --steps 2000"), error)
        self.assertIn("| step of mnist-2d, TF32 | at most 25 us |  | not run |", done.stdout)
        self.assertIn("| step of W1, TF32 | at most 40 us | 35.0 us | met |", done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout)
        done = self.check("--only", "sanitizer", FAKE_FAIL="racecheck")  # the tool itself, not what it looks for
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("| compute-sanitizer racecheck | no error |  | not run |", done.stdout)

    def test_an_objection_to_an_epilogue_leaves_the_figures_without(self):
        done = self.check("--only", "steps", "training", FAKE_OBJECTS="1")
        results = self.results()
        step = results["steps"]["W1 tf32"]
        self.assertEqual((step["median_us"], step["graph_nodes"]), (35.0, 26))
        self.assertGreater(results["steps"]["W1 kernels"]["us_a_step"], 0)
        self.assertEqual(results["training"]["mnist-2d"]["epochs"], 20)
        for kept in (step, results["steps"]["W1 kernels"], results["training"]["mnist-2d"]):
            self.assertIn("CUBLAS_STATUS_INVALID_VALUE", kept["objection"])
        self.assertRegex(done.stdout, r"\| steps: W1 tf32[^|]* \| .*CUBLAS_STATUS_INVALID_VALUE")
        self.assertIn("| nodes in the graph of W1's step | at most 16 | 26", done.stdout)

    def test_a_section_of_failures_failed(self):
        for section, fail in (("steps", ".json --device cuda"), ("training", "elbo run"), ("graph", "bench_")):
            done = self.check("--only", section, FAKE_FAIL=fail)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn(f"| {section} | failed: all that it tried, first: ", done.stdout)
            self.assertIn("a made-up failure", done.stdout)

    def assert_nothing_is_left(self):
        """The child of what hung is gone, or dead and not yet waited for, and so are the folders made for it."""
        child, *words = (self.root / "pid").read_text().split()
        stat = pathlib.Path(f"/proc/{child}/stat")
        deadline = time.monotonic() + 10
        while stat.exists() and stat.read_text().split()[2] != "Z":
            self.assertLess(time.monotonic(), deadline, "a process is left")
            time.sleep(0.05)
        runs = [pathlib.Path(word).parent for word in words if "/elbo-run-" in word]
        while folders := [f for f in [*runs, *(self.root / "temporary").glob("elbo-*")] if f.exists()]:
            self.assertLess(time.monotonic(), deadline, f"{folders} are left")
            time.sleep(0.05)

    def test_what_hangs_is_stopped_with_all_it_started(self):
        begin = time.monotonic()
        hangs = {"FAKE_HANG": "mnist-2d.json --device cuda --steps 2000"}
        done = self.check("--only", "machine", "steps", "training", "--limit", "18", **hangs)
        self.assertLess(time.monotonic() - begin, 18)
        self.assertEqual(done.returncode, 0, done.stdout)
        results = self.results()
        self.assertIn("stopped after", results["steps"]["mnist-2d tf32"]["error"])
        self.assertIn("median_us", results["steps"]["W1 tf32"])  # measured before
        self.assertIn("| steps | stopped: its time was over", done.stdout)
        self.assertIn("| training | not run: no time was left |", done.stdout)
        self.assert_nothing_is_left()

    def test_what_comes_before_the_sections_is_of_a_calls_time(self):
        elbo = self.root / "build/elbo"
        elbo.write_text(elbo.read_text().replace("exec", 'if [ "$1" = devices ]; then sleep 2; fi; exec'))
        for limit, before in (("8", 0), ("100", 92)):
            done = self.check("--only", "training", "--limit", limit, "--began", str(time.time() - before))
            self.assertIn("| training | not run: no time was left |", done.stdout)

    def test_a_sanitizer_whose_time_is_over_says_how_far_it_came(self):
        done = self.check("--only", "sanitizer", "--limit", "14", FAKE_HANG="ops_test", FAKE_PASSED="3")
        self.assertRegex(done.stdout, r"compute-sanitizer memcheck \| no error \| none in the first 3 tests \| not run")
        self.assert_nothing_is_left()

    def test_a_run_that_is_ended_leaves_a_summary(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
            with self.subTest(number):
                self.end_by(number, code)

    def end_by(self, number, code):
        (self.root / "pid").unlink(missing_ok=True)
        process = subprocess.Popen(
            self.command("first", "--only", "machine", "training"),
            env=self.environment(FAKE_HANG="freyface-8d.json --out"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            while not process.stdout.readline().startswith("  mnist-2d: test ELBO"):
                self.assertIsNone(process.poll())
            while not (self.root / "pid").exists():
                time.sleep(0.01)
            process.send_signal(number)
            said = process.communicate(timeout=20)[0] if number != signal.SIGKILL else ""
            process.wait(20)
        finally:
            process.kill()
            process.stdout.close()
        self.assertEqual(process.returncode, code, said)
        self.assertNotIn("Traceback", said)
        about, results = left_by("first", self.out)
        self.assertIn("test_elbo", results["training"]["mnist-2d"])
        summary = (self.out / "first.md").read_text()
        self.assertIn("| machine | done |", summary)
        self.assertRegex(summary, r"\| mnist-2d in full \| .* \| met \|")
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), ["first.md", "first.tar.gz"])
        if number != signal.SIGKILL:
            self.assertIn("| training | stopped: by a signal; what it had measured is here |", summary)
        self.assert_nothing_is_left()


class WhatFrameworksAreTimedBy(unittest.TestCase):
    def refused(self, why, script, *arguments):
        """In one line, behind the usage at most; there is neither a PyTorch nor a JAX."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("torch", "jax"):
                (pathlib.Path(folder) / f"{name}.py").write_text(f"raise ImportError('there is no {name}')\n")
            done = subprocess.run(
                [sys.executable, ROOT / "tools/compare" / script, *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": folder},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self.assertFalse((pathlib.Path(folder) / "nowhere").exists())
        self.assertIn(done.returncode, (1, 2))
        self.assertIn(why, done.stdout.splitlines()[-1])
        self.assertNotIn("Traceback", done.stdout)

    def test_wrong_options_are_refused(self):
        for script in ("bench_step.py", "bench_step_jax.py", "bench.py"):
            self.refused("argument --steps: 0: less than 1", script, "--steps", "0")
        self.refused("graph needs --device cuda", "bench_step.py", "--form", "eager", "graph")
        for shape in ("abc", "0x4", "784", "4x-1"):
            self.refused(f"argument --shape: {shape}: not a shape", "bench_loss.py", "--shape", shape)
        for script in ("bench.py", "bench_step.py", "bench_step_jax.py", "bench_loss.py"):
            self.refused("nowhere/out.json: cannot be written", script, "--json", "nowhere/out.json")
        self.refused("there is no experiment abc", "compare.py", "--out", "nowhere", "--experiments", "abc")

    def test_missing_frameworks_are_said(self):
        for script in ("bench_step.py", "train.py"):
            self.refused("torch cannot be imported: there is no torch", script)
        self.refused("jax cannot be imported: there is no jax", "bench_step_jax.py")
        for framework, module in (("pytorch", "torch"), ("jax", "jax")):
            self.refused(f"{module} cannot be imported", "bench_loss.py", "--framework", framework)
        with self.assertRaisesRegex(RuntimeError, "PyTorch 1.13 has no torch.compile"):
            timing.compiler(types.SimpleNamespace(__version__="1.13"))

    def test_missing_specs_are_said(self):
        for name, why in (("abc", "No such file or directory"), (HERE / "fake_gpu.json", "No such file")):
            with self.assertRaisesRegex(SystemExit, f"{name}.*: cannot be read: {why}"):
                elbo_spec.load_spec(name)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            with self.assertRaisesRegex(SystemExit, "cannot be read: Expecting value"):
                elbo_spec.load_spec(file.name)


class Rules(unittest.TestCase):
    def test_the_sections_of_a_call_have_room_in_it(self):
        for call, limit in gpu_check.CALLS.items():
            seconds = [s.seconds for s in gpu_check.SECTIONS.values() if s.call == call]
            self.assertLessEqual(sum(seconds) + gpu_check.AROUND, limit)
            self.assertGreaterEqual(min(seconds), 10)
        self.assertEqual(gpu_check.CALLS, {"first": 200, "second": 330})
        for name in gpu_check.SECTIONS:
            self.assertTrue(callable(getattr(gpu_check.Check, name)))

    def test_traffic_of_a_second_pass_is_seen(self):
        name = "void elbo::kernels::<unnamed>::likelihood_fused_bernoulli_kernel<true, float>(LikelihoodLoss<float>)"
        count = 32768 * 784
        ncu = {"kernels": {}}
        results = {"ncu": {"bernoulli, gaussian, latent": ncu}}
        contract = "likelihood_fused_bernoulli_kernel, f32 target, f32"
        ncu["kernels"][name] = [{"read": 8 * count, "written": 4 * count}]
        self.assertEqual(gpu_summary.traffic(results)[contract][4], True)
        for read, written in ((12, 4), (8, 8), (4, 4), (8, 1)):
            ncu["kernels"][name] = [{"read": read * count, "written": written * count}]
            self.assertEqual(gpu_summary.traffic(results)[contract][4], False, (read, written))

    def test_contracts_are_those_of_bench_loss(self):
        """Which leaves out the sums over chunks of pixels that a likelihood writes or, weighed, reads."""
        device = "sim" if (pathlib.Path(BUILD) / "libelbo_sim.so").exists() else "cpu"
        rows, pixels, latent = 8, 4100, 12
        with tempfile.TemporaryDirectory() as folder:
            figures = pathlib.Path(folder) / "loss.json"
            command = ["bench", "loss", "--device", device, "--shape", f"{rows}x{pixels}", "--latent", latent]
            command += ["--rival", "fused", "--no-reference", "--warmup", 0, "--seconds", 0, "--json", figures]
            subprocess.run(
                list(map(str, [pathlib.Path(BUILD) / "elbo", *command])),
                env={**os.environ, "ELBO_PLUGINS": BUILD},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            timings = json.loads(figures.read_text())["timings"]
        compared = set()
        for t in timings:
            if t["loss"] == "elbo":  # no kernels of its own
                continue
            contracts = gpu_summary.contracts([t["loss"]], rows, pixels, [latent])
            types = f", {t['target']} target, {t['output']}"
            moved = sum(sum(b) for what, b in contracts.items() if " target, " not in what or types in what)
            sums = {"latent": 0, "iwae": 2}.get(t["loss"], 1) * 4 * rows * 2
            self.assertEqual(moved, t["bytes"] + sums, t)
            self.assertEqual(t["samples"], gpu_summary.DRAWS if t["loss"] == "iwae" else 1)
            compared.add(t["loss"])
        self.assertEqual(compared, {loss for losses in gpu_summary.NCU for loss in losses})

    def test_a_spec_without_a_target_has_its_row(self):
        times = {"framework": "elbo", "form": "cuda", "precision": "tf32", "median_us": 1, "p10_us": 1, "p90_us": 1}
        results = {"bench": {"step": {name: {**times, "spec": name} for name in ("mine", "w1")}}}
        self.assertEqual([row[0] for row in gpu_summary.steps_table(results)[1]], ["W1", "mine"])

    def test_a_kernel_that_is_not_fused_has_no_contract(self):
        for name in (
            "void elbo::kernels::<unnamed>::likelihood_unfused_sum_kernel(const float *, float *, long)",
            "void elbo::kernels::<unnamed>::likelihood_fused_log_bernoulli_kernel<true, float, float>(LikelihoodLoss<float>)",
            "cub::DeviceReduce<float>(x)",
        ):
            self.assertIsNone(gpu_summary.with_contract(name))


if __name__ == "__main__":
    unittest.main()
