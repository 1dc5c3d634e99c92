"""Proves and measures elbo on the GPU of this machine, in two calls.

    gpu_check.sh first|second [--only SECTION...] [--out FOLDER] [--with ARCHIVE...] [--data FOLDER] [--build FOLDER]
                 [--python PROGRAM] [--limit SECONDS]
    gpu_check.sh targets --with ARCHIVE...

SECTIONS below says what they are, the most telling first. FOLDER gets two files, and both are written again after each
measurement, so that a call that is cut off loses only what was under way: CALL.tar.gz, with a JSON file a section, the
traces of the steps and all that the programs said, and CALL.md, the summary. The summary ends with every target, its
figure, and met, missed or not run, and so does the output. --with judges what earlier calls left together with this
one; `targets` does only that.

Exit status: 0; 1 where a test failed, compute-sanitizer found something, all that a section tried failed, or elbo does
not open the GPU that is there; 130 where SIGINT ended it, 143 where SIGTERM did.
"""

import argparse
import concurrent.futures
import datetime
import glob
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import typing

BEGAN = time.time()  # before the other modules are read

HERE = pathlib.Path(__file__).resolve().parent
IN_TREE = (HERE.parent / "CMakeLists.txt").exists()
SHARE = HERE.parent  # experiments/, results/ and tools/ are here
sys.path[:0] = [str(HERE / "compare"), str(HERE / "kernels")]

import gpu_summary
import ncu_table
import record


class Section(typing.NamedTuple):
    call: str
    seconds: int
    what: str


# A section may use what those before it left, too: none can take from a later one. A GPU's own part is small by
# arithmetic (a loss 0.2 ms, a step 50 us); what a program needs beside it decides. Measured without a GPU, 2026-11-27,
# in seconds of one processor, the CPU's own timings included:
#   read and check MNIST 0.4, Fashion-MNIST 1.5; bench loss of 65536x784, one type with its reference 6, two 9, the
#   latent variable 6; of 512x3x218x178, four types without 9; ops_test 6; import PyTorch 1.3; of what ncu looks at 14
#   and, of a learned variance and importance weights, 24; these two beside unfused, with their references, 26 (both on
#   2026-11-28, on a machine so busy that the one type with its reference took 10).
# Assumed, until a GPU has been seen: 3 for a program to open it and its libraries, 15 for the first use of a framework,
# 30 for its compiler. A section has about twice what its programs add up to on two cores.
SECTIONS = {
    "machine": Section("first", 25, "GPU, driver, clocks; the ceilings that the targets need"),
    "steps": Section("first", 45, "steps of W1, mnist-2d, freyface-8d in TF32, and every kernel of them"),
    "losses": Section("first", 40, "the fused loss kernels at 65536x784 beside a copy"),
    "training": Section("first", 30, "mnist-2d and freyface-8d in full, and when they reach the CPU's test ELBO"),
    "tests": Section("first", 50, "operations against the CPU and float64, graph against eager, equal runs equal"),
    "baselines": Section("second", 110, "JAX scan and PyTorch eager, its loss eager and compiled; elbo's again"),
    "ncu": Section("second", 45, "bytes that each loss kernel moves to and from memory, against its contract"),
    "sanitizer": Section("second", 55, "compute-sanitizer's tools on elbo's kernels, in the tests of operations"),
    "variants": Section("second", 30, "a step with fused and unfused losses, from images on the device and streamed"),
    "large": Section("second", 15, "the fused loss kernels at 512x3x218x178"),
    "twins": Section("second", 15, "a learned variance's loss and the importance-weighted head beside unfused ones"),
    "graph": Section("second", 35, "PyTorch's step compiled and captured as a CUDA graph"),
    "rest": Section("second", 15, "all ceilings, tuned products, fp32, no epilogues, other rivals; while time is left"),
}
CALLS = {"first": 200, "second": 330}  # seconds, all in all
AROUND = 10  # of them, before the first section and after the last
AFTER = 6  # of these: what hangs in the driver is waited for, and the summary written

LARGE, LARGEST = "x".join(map(str, gpu_summary.LARGE)), "512x3x218x178"  # shapes of losses
QUICK_CEILINGS = [
    "copy by cudaMemcpyAsync",
    "copy by a kernel",
    "product in TF32",
    "launch in a stream",
    "node of a graph",
    "grid barrier",
]
COMPARE = SHARE / "tools/compare"
TRAINED_ON_CPU = {"freyface-8d": "freyface", "fashion-2d": "fashion-mnist", "mnist-2d": "mnist"}  # and its data set
PROBES = {
    "PyTorch": "import torch; assert torch.cuda.is_available(), 'it sees no GPU'; print(torch.__version__)",
    "JAX": "import jax; assert jax.devices()[0].platform == 'gpu', 'it sees no GPU'; print(jax.__version__)",
}
# Where CUDA's libraries and the driver's may lie: in a Python's packages, as PyTorch and JAX bring them, and elsewhere.
PACKAGES = (
    "import glob, site; print(*[f for p in {*site.getsitepackages(), site.getusersitepackages()}"
    " for f in glob.glob(p + '/nvidia/*/lib')], sep=':')"
)
FOLDERS = ["/usr/local/cuda*/lib64", "/usr/local/cuda*/extras/CUPTI/lib64", "/usr/local/nvidia/lib64"]
TOOLS = ["/usr/local/cuda/bin", "/usr/local/nvidia/bin", "/opt/nvidia/nsight-compute/*"]
GPU_FILES = ["/proc/driver/nvidia/gpus/*", "/dev/nvidia[0-9]*"]  # one of each for a GPU
OPENING = 20  # seconds that elbo may take to open every device; it is tried twice
LOGGED = 20000  # characters of what a program said
# What NVIDIA's tools say where the machine does not let them work, and what that means.
REFUSALS = {
    "ERR_NVGPUCTRPERM": "the driver lets only administrators read the GPU's counters",
    "LibraryNotLoaded": "the profiler's libraries do not work on this machine, as in some sandboxes",
    "Device not supported": "compute-sanitizer does not work on this machine, as in some sandboxes",
}

# Outlives a check that is killed, and clears up: a line is a process group's number or a folder, and takes that back
# where it comes again. What a check has started would else slow the next one, what it has written fill the memory.
GUARD = """
import os, shutil, signal, sys
left = set()
for line in sys.stdin:
    left ^= {line.strip()}
for group in filter(str.isdigit, left):
    try:
        os.killpg(int(group), signal.SIGKILL)
    except OSError:
        pass
for folder in left:
    shutil.rmtree(folder, ignore_errors=True)
"""


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
    return isinstance(result, dict) and "error" in result and not (
        result.get("timings") or result.get("figures") or "first" in result
    )


class Check:
    def __init__(self, options, earlier):
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
        self.name = options.call or "only"
        self.out = pathlib.Path(options.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.guard = subprocess.Popen(
            [sys.executable, "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True, **nothing
        )
        self.folder = self.temporary("elbo-gpu-check-")  # what will be in the archive
        self.kept = pathlib.Path(self.folder.name)
        self.earlier, self.text = earlier, ""  # what earlier calls left; the summary
        self.results, self.problems, self.seconds = {}, {}, {}
        self.section = self.result = None
        self.attempts = []  # what each of the section gave
        self.known_frameworks = None
        self.processes, self.stopped = set(), 0  # the exit status, once a signal has come
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        limit = options.limit or CALLS.get(options.call, sum(CALLS.values()))
        self.deadline = time.monotonic() + limit - AFTER - max(0, time.time() - options.began)
        self.section_ends = self.deadline
        self.environment = {**os.environ, "ELBO_PLUGINS": str(self.plugins)}
        self.version, self.has_gpu, self.description = "", False, "elbo has not said yet which devices there are"
        self.python = options.python
        self.data = ["--data", pathlib.Path(options.data).resolve()] if options.data else []
        if options.data:
            self.environment["ELBO_DATA"] = str(self.data[1])
        self.specs = {"W1": self.w1(), **{n: SHARE / f"experiments/{n}.json" for n in ("mnist-2d", "freyface-8d")}}
        try:
            self.version = self.run([self.elbo, "--version"], 20).strip()
            self.save()
            self.open_device()
        finally:
            self.save()

    def open_device(self):
        devices = self.devices()
        if not devices["cuda"][0]:
            # Only where needed: profilers' libraries are among them, not of the version that ncu brings.
            self.environment |= self.with_more_folders()
            devices = self.devices()
        self.has_gpu, said = devices["cuda"]
        self.device = "cuda" if self.has_gpu else "sim" if (self.plugins / "libelbo_sim.so").exists() else "cpu"
        self.description = f"cuda {said}" if self.has_gpu else f"cpu {devices['cpu'][1]}; cuda {said}"
        self.closed = None if self.has_gpu else self.listed_gpu()
        self.no_gpu = f"elbo does not open {self.closed}: {said}" if self.closed else "there is no GPU"

    def devices(self):
        """Of each device whether it is available, and what `elbo devices` says of it: of `cuda` and `cpu` also where it
        crashes, hangs or says something else."""
        lines = []
        try:
            text = self.run([self.elbo, "devices"], OPENING)
            lines = re.findall(r"^(\w+) +((?:not )?available) +(.*)", text, re.M)
        except (Failed, OutOfTime) as why:
            text = str(why)
        unknown = False, f"not available: {' '.join(text.split())[-300:]}".replace("|", "/")
        found = {name: (how == "available", f"{how} {what}".replace("|", "/")) for name, how, what in lines}
        return {"cuda": unknown, "cpu": unknown, **found}

    def with_more_folders(self):
        """What to add to the environment of a program that lacks CUDA's libraries: where they may be, behind all."""
        try:
            packages = self.run([self.python, "-c", PACKAGES], 20).splitlines()[-1:]
        except (Failed, OutOfTime, OSError):
            packages = []
        known = [os.environ.get("LD_LIBRARY_PATH"), *packages, *(f for p in FOLDERS for f in sorted(glob.glob(p)))]
        folders = ":".join(filter(None, known))
        return {"LD_LIBRARY_PATH": folders} if folders else {}

    def listed_gpu(self):
        """The first that the driver knows, elbo or no elbo; None where there is none. nvidia-smi may be missing, or
        hang: then what the driver has put into /proc and /dev tells."""
        try:
            found = re.search(r"^GPU \d+: [^(\n]*[^(\s]", self.run([self.found("nvidia-smi"), "-L"], 20), re.M)
        except (RuntimeError, OutOfTime, OSError):
            found = None
        files = [file for pattern in GPU_FILES for file in sorted(glob.glob(pattern))]
        return found[0] if found else f"the GPU of {files[0]}" if files else None

    def w1(self):
        """The spec of W1, with MNIST where Fashion-MNIST is not: the step is the same."""
        spec = COMPARE / "w1.json"
        if self.has_data("fashion-mnist") or not self.has_data("mnist"):
            return spec
        record.write_json(self.kept / "w1.json", {**json.loads(spec.read_text()), "data": {"dataset": "mnist"}})
        return self.kept / "w1.json"

    def has_data(self, dataset):
        folders = [pathlib.Path(f) for f in [self.environment.get("ELBO_DATA")] if f]
        folders += [] if self.data else [SHARE / "data", pathlib.Path("/usr/share/datasets")]
        return any((f / dataset).is_dir() for f in folders)

    # ---- Running programs, within their time -----------------------------------------------------------------------

    def guarded(self, what):
        """Says to the guard what to clear up should the check be killed, and when that is no more to be."""
        try:
            os.write(self.guard.stdin.fileno(), f"{what}\n".encode())
        except BrokenPipeError:  # somebody has ended it
            pass

    def close(self):
        self.folder.cleanup()
        self.guard.stdin.close()
        self.guard.wait()

    def temporary(self, prefix, parent=None):
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
        self.guarded(folder.name)
        return folder

    def run(self, command, limit, check=True, environment=None):
        """Standard output and errors; Failed with their end where it fails or takes too long."""
        limit = min(limit, self.section_ends - time.monotonic())
        if limit <= 0:
            raise OutOfTime("no time was left")
        # To a file, and in a session of its own: a program that hangs can then be left behind, with all it has started.
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            streams = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": subprocess.STDOUT}
            environment = environment or self.environment
            process = subprocess.Popen(
                list(map(str, command)), cwd=SHARE, env=environment, start_new_session=True, **streams
            )
            self.guarded(process.pid)
            self.processes.add(process)
            try:
                code = None if self.stopped else process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self.end(process)
                self.guarded(process.pid)
            if self.stopped:
                sys.exit(self.stopped)
            said.seek(0)
            text = said.read()
        line = " ".join([pathlib.Path(command[0]).name, *map(str, command[1:])])
        how = f"stopped after {limit:.0f} s" if code is None else f"exit status {code}"
        with (self.kept / "log.txt").open("a") as log:
            shown = text if len(text) <= LOGGED else f"{text[:LOGGED // 2]}\n[...]\n{text[-LOGGED // 2:]}"
            log.write(self.without_folders(f"$ {line}\n{shown.rstrip()}\n({how})\n\n"))
        if code is None or (check and code != 0):
            raise Failed(self.without_folders(f"{line}: {how}: {text[-1500:]}"), code, text)
        return text

    def without_folders(self, text):
        """Those of this machine are of no use elsewhere."""
        for folder in (self.kept, self.out, self.programs, self.plugins, self.elbo.parent, SHARE):
            text = text.replace(f"{folder}/", "")
        return text.replace(str(self.data[1]), "DATA") if self.data else text

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

    def json_of(self, command, limit, environment=None):
        """What the program writes for FILE; of one that fails after it wrote some figures, those and the error."""
        path = self.kept / "figures.tmp"
        path.unlink(missing_ok=True)
        try:
            self.run([part if part != "FILE" else path for part in command], limit, environment=environment)
            return json.loads(path.read_text())
        except Failed as failed:
            result = json.loads(path.read_text()) if path.exists() else None
            if isinstance(result, dict) and {"timings", "figures"} & set(result):
                return {**result, "error": str(failed)}
            if not isinstance(result, list):
                raise
            return result if any("error" in r for r in result) else [*result, {"error": str(failed)}]
        finally:
            path.unlink(missing_ok=True)

    def attempt(self, label, measure):
        """Keeps what it gives under its label, or the error: one that fails leaves the others of its section."""
        result, begin = self.result, time.monotonic()
        try:
            result[label] = measure()
        except RuntimeError as error:
            result[label] = {"error": str(error)}
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:  # output of another form
            result[label] = {"error": f"{type(error).__name__}: {error}"}
        self.attempts.append(result[label])
        print(f"  {label}: {gpu_summary.brief(result[label])} ({time.monotonic() - begin:.1f} s)", flush=True)
        self.save()

    def run_sections(self, names):
        """The summary's text."""
        ends = time.monotonic()
        for name in names:
            begin = time.monotonic()
            ends += SECTIONS[name].seconds
            self.section, self.section_ends = name, min(ends, self.deadline)
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
            if not self.result:
                del self.results[name]
            print(f"{name}: {self.problems.get(name, 'done')[:400]} ({self.seconds[name]:.0f} s)", flush=True)
            self.save()
            if self.stopped:
                break
        return self.text

    def save(self):
        """Writes the archive and the summary again. Neither is ever there in part."""
        try:
            if self.result:
                record.write_json(self.kept / f"{self.section}.json", self.result)
            record.write_json(self.kept / "about.json", self.about())
            replace(self.out / f"{self.name}.tar.gz", archive_of(self.kept))
            self.text = self.summary()
            replace(self.out / f"{self.name}.md", self.text.encode())
        except OSError as error:  # what is printed is left
            print(f"{self.out}: cannot be written: {error}", flush=True)

    def about(self):
        return {
            "call": self.name,
            "version": self.version,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "description": self.description,
            "has_gpu": self.has_gpu,
            "sections": {name: self.problems.get(name, "done") for name in self.seconds},
            "seconds": self.seconds,
        }

    def summary(self):
        try:
            return gpu_summary.text([*self.earlier, (self.about(), self.results)])
        except Exception as error:  # the figures are in the archive: what is left to measure matters more
            self.problems["summary"] = f"failed: {type(error).__name__}: {error}"
            return f"{self.problems['summary']}\n"

    # ---- Sections of the first call --------------------------------------------------------------------------------

    def machine(self):
        self.result |= {"device": self.device, "description": self.description}
        if not self.has_gpu:
            return
        self.attempt("nvidia-smi", self.nvidia_smi)
        self.attempt("ceilings", lambda: self.ceilings(["--only", *QUICK_CEILINGS], 25))

    def nvidia_smi(self):
        fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu"
        said = self.run([self.found("nvidia-smi"), f"--query-gpu={fields}", "--format=csv,noheader"], 20)
        return dict(zip(fields.split(","), map(str.strip, said.splitlines()[0].split(","))))

    def ceilings(self, which, limit):
        program = self.programs / "ceilings"
        if not program.exists():
            raise RuntimeError(f"{program} was not built: that takes nvcc")
        return self.json_of([program, "FILE", *which], limit)

    def steps_and_kernels(self):
        """How steps are timed and traced here: (precision, options of bench, options of profile)."""
        if self.has_gpu:
            return "tf32", ["--steps", 2000], ["--steps", 40]
        return "fp32", ["--steps", 2, "--warmup", 0], ["--steps", 1, "--warmup", 0]

    def or_without_epilogues(self, measure):
        """measure([]); where cuBLASLt objects to an epilogue, measure(["--no-epilogues"]), with what it said: the
        figures behind that objection are worth having."""
        try:
            return measure([])
        except Failed as failed:
            if "--no-epilogues" not in failed.said:
                raise
            said = next(line for line in failed.said.splitlines() if "--no-epilogues" in line)
        return {**measure(["--no-epilogues"]), "objection": said}

    def bench_step(self, name, precision, *how):
        command = [self.elbo, "bench", "step", self.specs[name], "--device", self.device, *self.steps_and_kernels()[1]]
        command += ["--set", f"train.precision={precision}", *how, *self.data, "--json", "FILE"]
        measured = self.or_without_epilogues(lambda more: self.json_of([*command, *more], 40))
        return {"framework": "elbo", "form": self.device, "precision": precision, **measured}

    def kernels_of(self, name, precision, more):
        """Every kernel of a step, by CUPTI; where CUPTI is not to be had, the operations, and why."""
        trace = self.kept / f"{name}-trace.json"
        command = [self.elbo, "profile", self.specs[name], "--device", self.device, *self.steps_and_kernels()[2]]
        command += ["--set", f"train.precision={precision}", "--trace", trace, *self.data, *more]
        without = r"(?m)^no kernels in this trace.*"
        said = self.run(command, 40)
        if self.has_gpu and re.search(without, said):
            # CUDA may open without those folders, and CUPTI lie in one of them.
            said = self.run(command, 40, environment={**self.environment, **self.with_more_folders()})
        step = re.search(r"^([0-9.]+) us a step, (\d+)% of it at work", said, re.M)
        why = re.search(without, said)
        return {
            "spec": name,
            "us_a_step": float(step[1]),
            "at_work": int(step[2]) / 100,
            "kernels": gpu_summary.kernels_of(trace.with_suffix(".csv").read_text(), self.steps_and_kernels()[2][1]),
            **({"no kernels": why[0]} if why else {}),
        }

    def steps(self):
        precision = self.steps_and_kernels()[0]
        for name in self.specs:
            self.attempt(f"{name} {precision}", lambda: self.bench_step(name, precision))
            traced = lambda more: self.kernels_of(name, precision, more)
            self.attempt(f"{name} kernels", lambda: self.or_without_epilogues(traced))

    def bench_loss(self, shape, *which, seconds=0.2, limit=60):
        command = [self.elbo, "bench", "loss", "--device", self.device, "--shape", shape, "--seconds", seconds, *which]
        return self.json_of([*command, "--json", "FILE"], limit)

    def losses(self):
        fused = ["--rival", "fused"]
        if not self.has_gpu:
            self.attempt("20x784", lambda: self.bench_loss("20x784", *fused, seconds=0))
            return
        types = [["--target", "f32", "--output", "f32"], ["--target", "u8", "--output", "f32", "--output", "bf16"]]
        for each in types:
            label = f"{LARGE}, {each[1]} target"
            self.attempt(label, lambda: self.bench_loss(LARGE, "--loss", "bernoulli", *fused, *each))
        latent = ["--loss", "latent", "--latent", 20, "--latent", 128]
        self.attempt("sample and KL", lambda: self.bench_loss(LARGE, *latent, *fused))

    def training(self):
        names = ["mnist-2d", "freyface-8d"]
        if not self.has_gpu:
            names = [name for name, dataset in TRAINED_ON_CPU.items() if self.has_data(dataset)][:1]
        if not names:
            raise NotRun(f"there is none of the data sets {', '.join(TRAINED_ON_CPU.values())}")
        for name in names:
            self.attempt(name, lambda: self.or_without_epilogues(lambda more: self.train(name, more)))

    def train(self, name, more):
        device, few = (self.device, []) if self.has_gpu else ("cpu", ["--set", "train.epochs=1"])
        with self.temporary("elbo-run-", memory_folder()) as parent:
            folder = pathlib.Path(parent) / name
            command = [self.elbo, "run", SHARE / f"experiments/{name}.json", "--out", folder, "--device", device]
            begin = time.monotonic()
            self.run([*command, *few, *self.data, *more], 60)
            seconds = time.monotonic() - begin
            epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            batch = json.loads((folder / "spec.json").read_text())["train"]["batch_size"]
        reached = gpu_summary.time_to_elbo(epochs, batch, gpu_summary.cpu_elbo(SHARE / "results", name))
        return {**reached, "process_seconds": seconds, "files_in": memory_folder()}

    def tests(self):
        for name in ("ops_test", "trainer_test"):
            self.attempt(name, lambda: self.test(name))

    def test(self, name):
        if not (self.programs / name).exists():
            raise NotRun(f"{self.programs / name} was not built")
        report = self.kept / f"{name}.tmp"
        # Without a GPU a part of them is enough: this is a test of the script, they have runs of their own.
        only = f"*/{self.device}*" if self.has_gpu else f"*Noise*/{self.device}:*TwoRuns*/{self.device}"
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

    # ---- Sections of the second call -------------------------------------------------------------------------------

    def frameworks(self):
        """Those that this Python has and that see the GPU. They find their libraries without help."""
        if self.known_frameworks is None:
            tried = len(self.attempts)
            for name, probe in PROBES.items():
                command = [self.python, "-c", probe]
                self.attempt(name, lambda: self.run(command, 60, environment=os.environ).splitlines()[-1])
            del self.attempts[tried:]  # a probe measures nothing
            self.known_frameworks = [name for name in PROBES if isinstance(self.result[name], str)]
        return self.known_frameworks

    def require_frameworks(self):
        if not self.has_gpu:
            raise NotRun(self.no_gpu)
        if not self.frameworks():
            raise NotRun(f"{self.python} has neither PyTorch nor JAX that sees the GPU")

    def steps_in(self, framework, name, forms, limit, precision="tf32"):
        if framework not in self.frameworks():
            return
        script = {"PyTorch": "bench_step.py", "JAX": "bench_step_jax.py"}[framework]
        command = [self.python, COMPARE / script, self.specs[name], "--device", "cuda", "--form", *forms]
        command += ["--precision", precision, "--steps", 1000, "--seconds", 4, *self.data, "--json", "FILE"]
        label = f"{name}, {framework} {' and '.join(forms)}, {precision}"
        self.attempt(label, lambda: self.json_of(command, limit, os.environ))

    def loss_in(self, framework, forms, limit):
        if framework not in self.frameworks():
            return
        command = [self.python, COMPARE / "bench_loss.py", "--framework", framework.lower(), "--device", "cuda"]
        command += ["--form", *forms, "--shape", LARGE, "--seconds", 2, "--json", "FILE"]
        self.attempt(f"loss, {framework} {' and '.join(forms)}", lambda: self.json_of(command, limit, os.environ))

    def step_again(self, name, what, *how):
        """In another form than that which the targets are for, or once more."""
        form = {"framework": f"elbo, {what}"} if how else {"form": f"{self.device}, again"}
        precision = self.steps_and_kernels()[0]
        self.attempt(f"{name}, {what}", lambda: {**self.bench_step(name, precision, "--no-operations", *how), **form})

    def baselines(self):
        self.require_frameworks()
        for name in ("W1", "mnist-2d"):
            self.steps_in("JAX", name, ["scan"], 45)
            self.steps_in("PyTorch", name, ["eager", "eager-fused"], 35)
            self.step_again(name, "again")
        self.loss_in("PyTorch", ["eager", "compile"], 60)
        same = ["--loss", "bernoulli", "--rival", "fused", "--target", "f32", "--output", "f32", "--no-reference"]
        self.attempt("loss, elbo again", lambda: self.bench_loss(LARGE, *same))

    def found(self, tool):
        """Its path, also where that is not on PATH; only its name where it is nowhere."""
        folders = [os.environ.get("PATH", ""), *(f for pattern in TOOLS for f in sorted(glob.glob(pattern)))]
        return shutil.which(tool, path=":".join(folders)) or tool

    def tool(self, name):
        found = self.found(name)
        if not self.has_gpu or found == name:
            raise NotRun(f"there is no {name}" if self.has_gpu else self.no_gpu)
        return found

    def run_in(self, tool, program, arguments):
        """A program in a tool of NVIDIA's. Only the program gets what it needs to find its libraries."""
        needs = [f"{k}={self.environment[k]}" for k in ("LD_LIBRARY_PATH", "ELBO_PLUGINS") if k in self.environment]
        command = [*tool, "--target-processes", "all", "env", *needs, program, *arguments]
        try:
            return self.run(command, 110, environment=os.environ)
        except Failed as failed:
            for said, why in REFUSALS.items():
                if said in failed.said:
                    raise NotRun(f"{why} (docs/first-gpu.md)") from None
            raise

    def ncu(self):
        tool = self.tool("ncu")
        for losses, shape in gpu_summary.NCU.items():
            self.attempt(", ".join(losses), lambda: self.traffic(tool, losses, **shape))

    def traffic(self, tool, losses, rows, pixels, latents):
        metrics = ["gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"]
        kernels = "likelihood_fused|likelihood_gradient|sample_latent|importance_bound"
        # Of each kernel the 50th call, the 150th, ...; ncu empties the caches before each. Clocks are left alone.
        command = [tool, "--csv", "--page", "raw", "--clock-control", "none"]
        command += ["--metrics", ",".join(metrics), "--kernel-id", f"::regex:{kernels}:.*50", "--launch-count", 400]
        # Calls that warm up would use up the launches before the last kernels.
        bench = ["bench", "loss", "--device", "cuda", "--shape", f"{rows}x{pixels}", "--warmup", 0, "--seconds", 0]
        bench += ["--no-reference", "--rival", "fused"]
        bench += [word for latent in latents for word in ("--latent", latent)]
        bench += [word for loss in losses for word in ("--loss", loss)]
        said = self.run_in(command, self.elbo, bench)
        try:
            launches = ncu_table.read(line for line in said.splitlines(keepends=True) if line.startswith('"'))
        except SystemExit:  # what it says is for a terminal
            raise RuntimeError(f"ncu measured no kernel: {said[-1500:]}") from None
        measured = {}
        for launch in launches:
            time, read, written = (launch[m] for m in metrics)
            of = measured.setdefault(launch["Kernel Name"], [])
            of.append({"us": 1e6 * time, "read": read, "written": written})
        return {"rows": rows, "pixels": pixels, "latents": latents, "kernels": measured}

    def sanitizer(self):
        tool = self.tool("compute-sanitizer")

        # Aligned memory alone: a vector access to other faults by itself, in the tests.
        def sanitize(name):
            command = [tool, "--tool", name, "--error-exitcode", 9]
            # Kernels of libraries are their makers' concern, and many. Not initcheck: what they write, ours read.
            command += [] if name == "initcheck" else ["--kernel-name", "kernel_substring=elbo"]
            try:
                said = self.run_in(command, self.programs / "ops_test", ["--gtest_filter=*/cuda-*TooMuchMemory*"])
            except Failed as failed:
                # The first finding names the kernel, the last lines count them all.
                lines = [line for line in failed.said.splitlines() if line.startswith("=========")]
                if failed.code == 9 or any("Invalid" in line or "hazard" in line for line in lines):
                    return {"error": str(failed), "first": lines[:15], "last": lines[15:][-15:]}
                passed = len(re.findall(r"^\[       OK \]", failed.said, re.M))
                return {"error": str(failed), **({"passed": passed} if failed.code is None else {})}
            passed = re.search(r"\[  PASSED  \] (\d+) test", said)
            if not passed or int(passed[1]) == 0:  # where the GPU does not open, all tests are skipped
                raise RuntimeError(f"no test ran: {said[-1500:]}")
            return f"{passed[1]} tests, no error"

        # Two at once: nothing is timed, and each waits for its own processor most of the time.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = {name: pool.submit(sanitize, name) for name in gpu_summary.SANITIZERS}
            for name, future in futures.items():
                self.attempt(name, future.result)

    def variants(self):
        for name in ("W1", "mnist-2d") if self.has_gpu else ("W1",):
            self.step_again(name, "unfused loss", "--set", "objective.kernels=unfused")
            self.step_again(name, "images streamed", "--set", "data.residency=stream")

    def large(self):
        if not self.has_gpu:
            raise NotRun(self.no_gpu)
        fused = ["--loss", "bernoulli", "--rival", "fused", "--no-reference"]
        self.attempt(LARGEST, lambda: self.bench_loss(LARGEST, *fused))

    def twins(self):
        if not self.has_gpu:
            raise NotRun(self.no_gpu)
        rivals = ["--rival", "fused", "--rival", "unfused", "--target", "u8", "--output", "f32"]
        losses = [word for loss in gpu_summary.TWINS for word in ("--loss", loss)]
        self.attempt(LARGE, lambda: self.bench_loss(LARGE, *losses, *rivals))

    def graph(self):
        self.require_frameworks()
        for name in ("W1", "mnist-2d"):
            self.steps_in("PyTorch", name, ["graph"], 40)

    def rest(self):
        """What the design of a persistent step needs first; what takes longest to prepare last."""
        if not self.has_gpu:
            raise NotRun(self.no_gpu)
        self.attempt("ceilings", lambda: self.ceilings([], 60))
        self.steps_in("PyTorch", "freyface-8d", ["eager", "eager-fused"], 30)
        for name in self.specs:
            self.tuned(name)
        for name in self.specs:
            self.step_again(name, "no epilogues", "--no-epilogues")
            self.attempt(f"{name} fp32", lambda: self.bench_step(name, "fp32", "--no-operations"))
        self.attempt("every rival", lambda: self.bench_loss(LARGE, "--no-reference"))
        self.attempt("every rival at batch 100", lambda: self.bench_loss("100x784"))
        self.steps_in("JAX", "freyface-8d", ["scan"], 45)
        for name in ("W1", "mnist-2d"):
            self.steps_in("JAX", name, ["jit"], 45)
            self.steps_in("PyTorch", name, ["eager", "eager-fused"], 30, "fp32")
            self.steps_in("JAX", name, ["scan"], 45, "fp32")
        self.loss_in("JAX", ["jit"], 45)
        for name in self.specs:
            self.steps_in("PyTorch", name, ["reduce-overhead"], 70)
        for name in self.specs:
            self.steps_in("PyTorch", name, ["max-autotune"], 120)

    def tuned(self, name):
        file = self.kept / f"{name}-tuning.json"
        precision = ["--set", "train.precision=tf32"]
        command = [self.elbo, "tune", self.specs[name], "--device", self.device, *precision, "--seconds", 0.2]

        def tune():
            self.run([*command, "--out", file, *self.data], 40)
            return json.loads(file.read_text())

        self.attempt(f"{name}, tuning", tune)
        if file.exists():
            self.step_again(name, "tuned", "--tuning", file)


# ---- Archives --------------------------------------------------------------------------------------------------------


def archive_of(folder):
    """The bytes of a .tar.gz with its files."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            if path.suffix != ".tmp":
                archive.add(path, path.name)
    return written.getvalue()


def replace(path, content):
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(content)
    unfinished.rename(path)


def read_archive(path):
    """(about, results) of what an earlier call left."""
    try:
        with tarfile.open(path) as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and m.name.endswith(".json")}
        about = json.loads(files["about.json"])
        return about, {n: json.loads(files[f"{n}.json"]) for n in SECTIONS if f"{n}.json" in files}
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise SystemExit(f"gpu_check.sh: {path}: not what a call left: {said}") from None


def memory_folder():
    """A folder in memory, where there is one with room for a run: a disk's time is not training's."""
    folder = "/dev/shm"
    room = os.path.isdir(folder) and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 48 << 20
    return folder if room else tempfile.gettempdir()


def seconds(text):
    """Of --limit."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds greater than 0")
    return float(text)


def parse_arguments():
    epilog = "".join(
        f"{call}, at most {limit} s:\n"
        + "".join(f"  {n:<10} {s.seconds:>4} s  {s.what}\n" for n, s in SECTIONS.items() if s.call == call)
        for call, limit in CALLS.items()
    )
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0], epilog=epilog)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("call", nargs="?", choices=[*CALLS, "targets"], help="one of the two, or what both came to")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[], help="these sections, of either")
    parser.add_argument("--out", default="gpu-check", help="folder of the results (default: gpu-check)")
    parser.add_argument("--with", nargs="+", default=[], dest="archives", help="what earlier calls left")
    parser.add_argument("--data", help="folder of the data sets")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="of a source tree (default: build)")
    parser.add_argument("--python", default=sys.executable, help="with PyTorch and JAX (default: of this script)")
    parser.add_argument("--limit", type=seconds, help="seconds, all in all (default: 200 and 330)")
    # Of what unpacks this before: then the call began earlier, in seconds since 1970.
    parser.add_argument("--began", type=float, default=BEGAN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call == "targets" and not options.archives:
        parser.error("targets are judged by what calls left: --with ARCHIVE...")
    if not options.call and not options.only:
        parser.error("one of first, second, targets, or --only SECTION...")
    strangers = [n for n in options.only if options.call and SECTIONS[n].call != options.call]
    if strangers:
        parser.error(f"{', '.join(strangers)}: not of this call")
    return options


def main():
    options = parse_arguments()
    earlier = [read_archive(path) for path in options.archives]
    if options.call == "targets":
        print(gpu_summary.text(earlier))
        return 0
    names = options.only or [n for n, s in SECTIONS.items() if s.call == options.call]
    try:
        check = Check(options, earlier)
    except (RuntimeError, OutOfTime, OSError) as error:
        raise SystemExit(f"gpu_check.sh: {error}") from None
    try:
        print("\n" + check.run_sections(names))
    finally:
        check.close()
    if check.stopped:
        return check.stopped
    wrong = any(p.startswith("failed") for p in check.problems.values())
    wrong |= bool(check.closed)
    wrong |= any(t.get("failed") or t.get("error") for t in check.results.get("tests", {}).values())
    wrong |= any("first" in said for said in check.results.get("sanitizer", {}).values())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
