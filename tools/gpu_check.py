"""Proves and measures elbo on the GPU of this machine, section by section.

    gpu_check.sh [--out FOLDER] [--only SECTION...] [--data FOLDER] [--limit SECONDS] [--build FOLDER]
                 [--python PROGRAM]

SECTIONS below says what they are, the most valuable first. FOLDER gets one JSON file a section and summary.md: every
target, its figure, and met, missed or not run. What a section has measured is kept when it fails or its time runs out,
and the summary is written again after each. Exit status: 0; 1 where a test failed, compute-sanitizer found something,
all that a section tried failed, or elbo does not open the GPU that the driver lists; 130 where SIGINT ended it, 143
where SIGTERM did.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
IN_TREE = (HERE.parent / "CMakeLists.txt").exists()
SHARE = HERE.parent  # experiments/, results/ and tools/ are here
sys.path[:0] = [str(HERE / "compare"), str(HERE / "kernels")]

import gpu_summary
import ncu_table
import record

# Seconds, and what they are for. A section may use what those before it left, too: none can take from a later one.
SECTIONS = {
    "machine": (30, "GPU, driver, clocks; ceilings: copies, matrix products, launches, barriers"),
    "tests": (70, "operations against the CPU and float64, graph against eager, equal runs bitwise equal"),
    "bench": (125, "the loss kernels against a copy; the steps of W1, mnist-2d and freyface-8d"),
    "baselines": (135, "loss and steps in PyTorch eager and JAX, the loss in torch.compile; in between, elbo's again"),
    "training": (30, "mnist-2d and freyface-8d in full, and when they reach the test ELBO of the CPU"),
    "ncu": (45, "bytes that each loss kernel moves to and from memory, against its contract"),
    "sanitizer": (45, "compute-sanitizer's four tools on the tests of every operation"),
    "compiled": (45, "steps by torch.compile and CUDA graphs, the loss in JAX: what takes longest to prepare"),
}
AROUND = 10  # seconds before the first section and after the last

LOSS_SHAPES = ["65536x784", "100x784", "512x3x218x178"]
NCU_SHAPE = 32768, 784  # more than a cache holds, and quickly made up
COMPARE = SHARE / "tools/compare"
TRAINED_ON_CPU = {"fashion-2d": "fashion-mnist", "mnist-2d": "mnist", "freyface-8d": "freyface"}  # and its data set
PROBES = {
    "PyTorch": "import torch; assert torch.cuda.is_available(), 'it sees no GPU'; print(torch.__version__)",
    "JAX": "import jax; assert jax.devices()[0].platform == 'gpu', 'it sees no GPU'; print(jax.__version__)",
}
LIBRARIES = (
    "import glob, site; print(*[f for p in {*site.getsitepackages(), site.getusersitepackages()}"
    " for f in glob.glob(p + '/nvidia/*/lib')], sep=':')"
)


class NotRun(Exception):
    """A section that this machine cannot do; the words say why."""


class OutOfTime(Exception):
    """The section's time is over; what it has measured stays."""


class Failed(RuntimeError):
    """A program that failed, or took too long: its exit status (None where it was stopped), and all that it said."""

    def __init__(self, what, code, said):
        super().__init__(what)
        self.code, self.said = code, said


def failed(result):
    """Whether an attempt gave nothing but errors. What compute-sanitizer found is a result."""
    if isinstance(result, list):
        return bool(result) and all(map(failed, result))
    return isinstance(result, dict) and "error" in result and not (result.get("timings") or "first" in result)


class Check:
    def __init__(self, options):
        if IN_TREE:
            build = pathlib.Path(options.build).resolve()
            self.elbo, self.programs, self.plugins = build / "elbo", build / "tests", build
        else:
            root = HERE.parents[2]
            self.elbo, self.programs, self.plugins = root / "bin/elbo", root / "lib/elbo/tests", root / "lib/elbo"
        if not self.elbo.exists():
            raise SystemExit(
                f"gpu_check.sh: {self.elbo} is missing: build it first (tools/quickstart.sh), or name --build"
            )
        self.out = pathlib.Path(options.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.results, self.problems, self.seconds = {}, {}, {}
        self.section = self.result = None
        self.attempts = []  # what each of the section gave
        self.processes, self.stopped = set(), 0  # the exit status, once a signal has come
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        self.section_ends = time.monotonic() + 60
        self.environment = {**os.environ, "ELBO_PLUGINS": str(self.plugins)}
        self.python = options.python
        self.data = ["--data", pathlib.Path(options.data).resolve()] if options.data else []
        if options.data:
            self.environment["ELBO_DATA"] = str(self.data[1])
        self.steps = {"W1": self.w1(), **{n: SHARE / f"experiments/{n}.json" for n in ("mnist-2d", "freyface-8d")}}
        self.open_device()

    def open_device(self):
        devices = self.devices()
        if not devices["cuda"][0]:
            # CUDA's libraries may lie in a Python's packages, as PyTorch and JAX bring them. Only where needed,
            # and behind all others: profilers' libraries are among them, not of the version that ncu brings.
            packages = self.run([self.python, "-c", LIBRARIES], 20).splitlines()[-1:]
            folders = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *packages]))
            self.environment |= {"LD_LIBRARY_PATH": folders} if folders else {}
            devices = self.devices()
        self.has_gpu, said = devices["cuda"]
        self.device = "cuda" if self.has_gpu else "sim" if (self.plugins / "libelbo_sim.so").exists() else "cpu"
        self.description = f"cuda {said}" if self.has_gpu else f"cpu {devices['cpu'][1]}; cuda {said}"
        self.closed = None if self.has_gpu else self.listed_gpu()
        self.no_gpu = f"elbo does not open {self.closed}: {said}" if self.closed else "there is no GPU"

    def devices(self):
        """Of each device whether it is available, and what `elbo devices` says of it."""
        said = re.findall(r"^(\w+) +((?:not )?available) +(.*)", self.run([self.elbo, "devices"], 60), re.M)
        return {name: (how == "available", f"{how} {what}".replace("|", "/")) for name, how, what in said}

    def listed_gpu(self):
        """The first that the driver knows, elbo or no elbo; None where there is none."""
        try:
            found = re.search(r"^GPU \d+: [^(\n]*[^(\s]", self.run(["nvidia-smi", "-L"], 20), re.M)
        except (RuntimeError, OSError):
            return None
        return found and found[0]

    def w1(self):
        """The spec of W1, with MNIST where Fashion-MNIST is not: the step is the same."""
        spec = COMPARE / "w1.json"
        if self.has_data("fashion-mnist") or not self.has_data("mnist"):
            return spec
        record.write_json(self.out / "w1.json", {**json.loads(spec.read_text()), "data": {"dataset": "mnist"}})
        return self.out / "w1.json"

    def has_data(self, dataset):
        folders = [pathlib.Path(f) for f in [self.environment.get("ELBO_DATA")] if f]
        folders += [] if self.data else [SHARE / "data", pathlib.Path("/usr/share/datasets")]
        return any((f / dataset).is_dir() for f in folders)

    # ---- Running programs, within their time -----------------------------------------------------------------------

    def run(self, command, limit, check=True, environment=None):
        """Standard output and errors; Failed with their end where it fails or takes too long."""
        limit = min(limit, self.section_ends - time.monotonic())
        if limit <= 0:
            raise OutOfTime
        # To a file, and in a session of its own: a program that hangs can then be left behind, with all it has started.
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": subprocess.STDOUT}
            environment = environment or self.environment
            process = subprocess.Popen(
                list(map(str, command)), cwd=SHARE, env=environment, start_new_session=True, **streams
            )
            self.processes.add(process)
            try:
                code = None if self.stopped else process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self.end(process)
            if self.stopped:
                sys.exit(self.stopped)
            said.seek(0)
            text = said.read()
        if code is None or (check and code != 0):
            how = f"stopped after {limit:.0f} s" if code is None else f"exit status {code}"
            what = self.without_folders(f"{' '.join(map(str, command))}: {how}: {text[-1500:]}")
            raise Failed(what, code, text)
        return text

    def without_folders(self, text):
        """Those of this machine are of no use elsewhere."""
        for folder in (self.out, self.programs, self.plugins, self.elbo.parent, SHARE):
            text = text.replace(f"{folder}/", "")
        return text

    def end(self, process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass  # it hangs in the driver; it has no say here any more
        self.processes.discard(process)

    def stop(self, number, _):
        """On a signal: run() sees it, also where it is just starting a program."""
        self.stopped = 128 + number
        for process in list(self.processes):
            self.end(process)

    def json_of(self, command, limit):
        """What the program writes; of one that fails after it wrote a list, or "timings", that and the error."""
        path = self.out / "figures.tmp"
        path.unlink(missing_ok=True)
        try:
            self.run([*command, "--json", path], limit)
            return json.loads(path.read_text())
        except Failed as failed:
            result = json.loads(path.read_text()) if path.exists() else None
            if isinstance(result, dict) and isinstance(result.get("timings"), list):
                return {**result, "error": str(failed)}
            if not isinstance(result, list):
                raise
            return result if any("error" in r for r in result) else [*result, {"error": str(failed)}]
        finally:
            path.unlink(missing_ok=True)

    def attempt(self, label, measure, result=None):
        """Keeps what it gives under its label, or the error: one that fails leaves the others of its section."""
        result = self.result if result is None else result
        try:
            result[label] = measure()
        except RuntimeError as error:
            result[label] = {"error": str(error)}
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:  # output of another form
            result[label] = {"error": f"{type(error).__name__}: {error}"}
        self.attempts.append(result[label])
        record.write_json(self.out / f"{self.section}.json", self.result)

    def run_sections(self, names, limit):
        """The summary's text."""
        text, ends = "", time.monotonic()
        deadline = ends + limit
        for name in names:
            begin = time.monotonic()
            ends += SECTIONS[name][0]
            self.section, self.section_ends = name, min(ends, deadline)
            self.result = self.results[name] = {}
            self.attempts = []
            try:
                if self.section_ends <= begin:
                    raise NotRun("no time was left")
                getattr(self, name)()
            except NotRun as why:
                self.problems[name] = f"not run: {why}"
            except OutOfTime:
                self.problems[name] = "stopped: its time was over; what it had measured is here"
            except SystemExit:
                self.problems[name] = "stopped: by a signal; what it had measured is here"
            except Exception as error:  # whatever it is, the other sections are worth having
                said = " ".join(str(error).split())[-300:].replace("|", "/")
                self.problems[name] = f"failed: {type(error).__name__}: {said}"
            if self.attempts and all(map(failed, self.attempts)) and not self.stopped:
                said = " ".join(str(gpu_summary.errors({name: self.attempts[0]})[0][1]).split())[:300]
                self.problems[name] = f"failed: all that it tried, first: {said}".replace("|", "/")
            self.seconds[name] = time.monotonic() - begin
            if self.result:
                record.write_json(self.out / f"{name}.json", self.result)
            else:
                del self.results[name]
            print(f"{name}: {self.problems.get(name, 'done')} ({self.seconds[name]:.0f} s)", flush=True)
            try:
                text = self.summarise()
            except Exception as error:  # the figures are in the JSON files: what is left to measure matters more
                self.problems["summary"] = f"failed: {type(error).__name__}: {error}"
                print(f"summary: {self.problems['summary']}", flush=True)
            if self.stopped:
                break
        return text

    def summarise(self):
        said = {name: self.problems.get(name, "done") for name in self.seconds}
        text = gpu_summary.text(self.results, said, self.seconds, self.description, self.has_gpu)
        (self.out / "summary.md").write_text(text)
        return text

    # ---- Sections ------------------------------------------------------------------------------------------------

    def machine(self):
        self.result |= {
            "device": self.device,
            "description": self.description,
            "version": self.run([self.elbo, "--version"], 20).strip(),
        }
        if not self.has_gpu:
            return
        self.attempt("nvidia-smi", self.nvidia_smi)
        self.attempt("ceilings", self.ceilings)
        self.attempt("nvidia-smi afterwards", self.nvidia_smi)

    def nvidia_smi(self):
        fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu"
        said = self.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 20)
        return dict(zip(fields.split(","), map(str.strip, said.splitlines()[0].split(","))))

    def ceilings(self):
        program = self.programs / "ceilings"
        if not program.exists():
            raise RuntimeError(f"{program} was not built: that takes nvcc")
        path = self.out / "ceilings.tmp"
        try:
            self.run([program, path], 60)
            return json.loads(path.read_text())
        finally:
            path.unlink(missing_ok=True)

    def tests(self):
        for name in ("ops_test", "trainer_test"):
            self.attempt(name, lambda: self.test(name))

    def test(self, name):
        if not (self.programs / name).exists():
            raise NotRun(f"{self.programs / name} was not built")
        report = self.out / f"{name}.tmp"
        # Without a GPU a part of them is enough: this is a test of the script, they have runs of their own.
        only = f"*/{self.device}" if self.has_gpu else f"*Noise*/{self.device}:*TwoRuns*/{self.device}"
        try:
            command = [self.programs / name, f"--gtest_filter={only}", f"--gtest_output=json:{report}"]
            said = self.run(command, 100, check=False)
            if not report.exists():
                raise RuntimeError(f"{name} ended early: {said[-1500:]}")
            cases = [case for suite in json.loads(report.read_text())["testsuites"] for case in suite["testsuite"]]
        finally:
            report.unlink(missing_ok=True)
        failed = [c["name"] for c in cases if c.get("failures")]
        skipped = [c["name"] for c in cases if c["result"] == "SKIPPED"]
        return {"passed": len(cases) - len(failed) - len(skipped), "failed": failed, "skipped": skipped}

    def bench(self):
        self.result |= {"loss": {}, "step": {}}
        if not self.has_gpu:
            self.attempt("20x784", lambda: self.bench_loss("20x784", 0), self.result["loss"])
            for name in self.steps:
                self.attempt(f"{name} fp32", lambda: self.bench_step(name, "fp32"), self.result["step"])
            return
        self.attempt(LOSS_SHAPES[0], lambda: self.bench_loss(LOSS_SHAPES[0]), self.result["loss"])
        for name in self.steps:
            for precision in ("tf32", "fp32"):
                self.attempt(f"{name} {precision}", lambda: self.bench_step(name, precision), self.result["step"])
            bare = lambda: {**self.bench_step(name, "tf32", "--no-epilogues"), "framework": "elbo without epilogues"}
            self.attempt(f"{name} tf32, no epilogues", bare, self.result["step"])
        for shape in LOSS_SHAPES[1:]:
            self.attempt(shape, lambda: self.bench_loss(shape), self.result["loss"])

    def bench_loss(self, shape, seconds=0.2):
        command = [self.elbo, "bench", "loss", "--device", self.device, "--shape", shape, "--seconds", seconds]
        return self.json_of(command, 90)

    def bench_step(self, name, precision, *how):
        steps = ["--steps", 2000] if self.has_gpu else ["--steps", 2, "--warmup", 0]
        command = [self.elbo, "bench", "step", self.steps[name], "--device", self.device, *steps, *how, *self.data]
        measured = self.json_of([*command, "--set", f"train.precision={precision}"], 60)
        return {"framework": "elbo", "form": self.device, "precision": precision, **measured}

    def frameworks(self):
        """Those that this Python has and that see the GPU."""
        if not self.has_gpu:
            raise NotRun(self.no_gpu)
        for name, probe in PROBES.items():
            self.attempt(name, lambda: self.run([self.python, "-c", probe], 60).splitlines()[-1])
        self.attempts.clear()  # a probe measures nothing
        found = [name for name in PROBES if isinstance(self.result[name], str)]
        if not found:
            raise NotRun(f"{self.python} has neither PyTorch nor JAX that sees the GPU")
        return found

    def steps_of(self, script, name, forms, precisions, limit):
        command = [self.python, COMPARE / script, self.steps[name], "--device", "cuda", "--form", *forms]
        command += ["--precision", *precisions, "--steps", 1000, "--seconds", 5, *self.data]
        return self.json_of(command, limit)

    def loss_of(self, framework, limit):
        command = [self.python, COMPARE / "bench_loss.py", "--framework", framework, "--device", "cuda"]
        return self.json_of([*command, "--shape", *LOSS_SHAPES, "--seconds", 2], limit)

    def baselines(self):
        found = self.frameworks()
        if "PyTorch" in found:
            self.attempt("loss, PyTorch", lambda: self.loss_of("pytorch", 60))
        for name in self.steps:
            if "PyTorch" in found:
                forms = ["eager", "eager-fused"]
                measure = lambda: self.steps_of("bench_step.py", name, forms, ["tf32", "fp32"], 40)
                self.attempt(f"{name}, PyTorch", measure)
            if "JAX" in found:
                measure = lambda: self.steps_of("bench_step_jax.py", name, ["scan", "jit"], ["tf32"], 60)
                self.attempt(f"{name}, JAX", measure)
            measure = lambda: {**self.bench_step(name, "tf32"), "form": f"{self.device}, again"}
            self.attempt(f"{name}, elbo again", measure)
        self.attempt("loss, elbo again", lambda: self.bench_loss(LOSS_SHAPES[0]))

    def compiled(self):
        found = self.frameworks()
        jobs = [
            ("PyTorch", "bench_step.py", ["reduce-overhead", "graph"], "tf32", 70),
            ("JAX", "bench_step_jax.py", ["scan", "jit"], "fp32", 60),
            ("PyTorch", "bench_step.py", ["max-autotune"], "tf32", 120),
        ]
        if "JAX" in found:
            self.attempt("loss, JAX", lambda: self.loss_of("jax", 60))
        for framework, script, forms, precision, limit in jobs:
            for name in self.steps if framework in found else ():
                measure = lambda: self.steps_of(script, name, forms, [precision], limit)
                self.attempt(f"{name}, {framework} {' and '.join(forms)}, {precision}", measure)

    def training(self):
        names = ["mnist-2d", "freyface-8d"]
        if not self.has_gpu:
            names = [name for name, dataset in TRAINED_ON_CPU.items() if self.has_data(dataset)][:1]
        if not names:
            raise NotRun(f"there is none of the data sets {', '.join(TRAINED_ON_CPU.values())}")
        for name in names:
            self.attempt(name, lambda: self.train(name))

    def train(self, name):
        folder = self.out / f"{name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        device, few = (self.device, []) if self.has_gpu else ("cpu", ["--set", "train.epochs=1"])
        try:
            command = [self.elbo, "run", SHARE / f"experiments/{name}.json", "--out", folder, "--device", device]
            self.run([*command, *few, *self.data], 60)
            epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            batch = json.loads((folder / "spec.json").read_text())["train"]["batch_size"]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return gpu_summary.time_to_elbo(epochs, batch, gpu_summary.cpu_elbo(SHARE / "results", name))

    def tool(self, name):
        folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
        folders += map(str, pathlib.Path("/opt/nvidia").glob("nsight-compute/*"))
        found = shutil.which(name, path=":".join(folders))
        if not self.has_gpu or not found:
            raise NotRun(f"there is no {name}" if self.has_gpu else self.no_gpu)
        return found

    def run_in(self, tool, program, arguments):
        """A program in a tool of NVIDIA's. Only the program gets what it needs to find its libraries."""
        needs = [f"{k}={self.environment[k]}" for k in ("LD_LIBRARY_PATH", "ELBO_PLUGINS") if k in self.environment]
        command = [*tool, "--target-processes", "all", "env", *needs, program, *arguments]
        return self.run(command, 110, environment=os.environ)

    def ncu(self):
        rows, pixels = NCU_SHAPE
        metrics = ["gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"]
        kernels = "bernoulli|gaussian|scaled_gradients|sample_and_kl|latent_gradient"
        # Of each kernel the 50th call, the 150th, ...; ncu empties the caches before each. Clocks are left alone.
        command = [self.tool("ncu"), "--csv", "--page", "raw", "--clock-control", "none"]
        command += ["--metrics", ",".join(metrics), "--kernel-id", f"::regex:{kernels}:.*50", "--launch-count", 400]
        bench = ["bench", "loss", "--device", "cuda", "--shape", f"{rows}x{pixels}", "--seconds", 0]
        said = self.run_in(command, self.elbo, bench)
        try:
            launches = ncu_table.read(line for line in said.splitlines(keepends=True) if line.startswith('"'))
        except SystemExit:  # what it says is for a terminal
            raise RuntimeError(f"ncu measured no kernel: {said[-1500:]}") from None
        self.result |= {"rows": rows, "pixels": pixels, "kernels": {}}
        for launch in launches:
            time, read, written = (launch[m] for m in metrics)
            of = self.result["kernels"].setdefault(launch["Kernel Name"], [])
            of.append({"us": 1e6 * time, "read": read, "written": written})

    def sanitizer(self):
        tool = self.tool("compute-sanitizer")

        def sanitize(name):
            command = [tool, "--tool", name, "--error-exitcode", 9]
            try:
                said = self.run_in(command, self.programs / "ops_test", ["--gtest_filter=*/cuda-*TooMuchMemory*"])
            except Failed as failed:
                if failed.code != 9:
                    raise
                # The first finding names the kernel, the last lines count them all.
                lines = [line for line in failed.said.splitlines() if line.startswith("=========")]
                return {"error": str(failed), "first": lines[:15], "last": lines[15:][-15:]}
            passed = re.search(r"\[  PASSED  \] (\d+) test", said)
            if not passed or int(passed[1]) == 0:  # where the GPU does not open, all tests are skipped
                raise RuntimeError(f"no test ran: {said[-1500:]}")
            return f"{passed[1]} tests, no error"

        # At once: nothing is timed, and each waits for its own processor most of the time.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            futures = {name: pool.submit(sanitize, name) for name in gpu_summary.SANITIZERS}
            for name, future in futures.items():
                self.attempt(name, future.result)


def seconds(text):
    """Of --limit."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds greater than 0")
    return float(text)


def main():
    epilog = "sections:\n" + "\n".join(f"  {n:<10} {s:>4} s  {what}" for n, (s, what) in SECTIONS.items())
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0], epilog=epilog)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", default="gpu-check", help="folder of the results (default: gpu-check)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections")
    parser.add_argument("--data", help="folder of the data sets")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="of a source tree (default: build)")
    parser.add_argument("--python", default=sys.executable, help="with PyTorch and JAX (default: of this script)")
    everything = sum(limit for limit, _ in SECTIONS.values())
    parser.add_argument(
        "--limit", type=seconds, default=everything, help=f"seconds, all in all (default: {everything})"
    )
    options = parser.parse_args()
    try:
        check = Check(options)
    except (RuntimeError, OSError) as error:
        raise SystemExit(f"gpu_check.sh: {error}") from None
    print("\n" + check.run_sections(options.only or list(SECTIONS), options.limit))
    if check.stopped:
        return check.stopped
    wrong = any(p.startswith("failed") for p in check.problems.values())
    wrong |= bool(check.closed)
    wrong |= any(t.get("failed") or t.get("error") for t in check.results.get("tests", {}).values())
    wrong |= any("first" in said for said in check.results.get("sanitizer", {}).values())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
