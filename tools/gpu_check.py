"""Proves and measures elbo on the GPU of this machine, section by section.

    gpu_check.sh [--out FOLDER] [--only SECTION...] [--data FOLDER] [--limit SECONDS] [--build FOLDER]

Sections, the most valuable first; each has a time limit, and what one leaves is kept when another fails:

    machine    GPU, driver, clocks
    tests      every operation against the CPU and float64, graph against eager, two runs and a resumed one bitwise equal
    bench      the loss kernels against a copy; the steps of W1, mnist-2d and freyface-8d
    baselines  the same steps in PyTorch, eager and compiled
    training   mnist-2d and freyface-8d in full
    sanitizer  compute-sanitizer's four tools on the tests of every operation
    ncu        bytes that each loss kernel moves to and from memory, against its contract

FOLDER gets one JSON file a section and summary.md: every target, its figure, and met, missed or not run.
"""

import argparse
import csv
import datetime
import io
import json
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
IN_TREE = (HERE.parent / "CMakeLists.txt").exists()
SHARE = HERE.parent  # experiments/ and tools/ are here

W1 = SHARE / "tools/compare/w1.json"
STEPS = {"W1": W1, "mnist-2d": SHARE / "experiments/mnist-2d.json", "freyface-8d": SHARE / "experiments/freyface-8d.json"}


class NotRun(Exception):
    """A section that this machine cannot do; the words say why."""


class Check:
    def __init__(self, options):
        if IN_TREE:
            build = pathlib.Path(options.build).resolve()
            self.elbo, self.programs, self.plugins = build / "elbo", build / "tests", build
        else:
            root = HERE.parents[2]
            self.elbo, self.programs, self.plugins = root / "bin/elbo", root / "lib/elbo/tests", root / "lib/elbo"
        if not self.elbo.exists():
            raise SystemExit(f"gpu_check.sh: {self.elbo} is missing: build it first (tools/quickstart.sh), or name --build")
        self.out = pathlib.Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + options.limit
        self.environment = {**os.environ, "ELBO_PLUGINS": str(self.plugins)}
        # CUDA's libraries may lie in a Python's packages, as PyTorch and JAX bring them.
        folders = [p for base in {*site.getsitepackages(), site.getusersitepackages()}
                   for p in pathlib.Path(base).glob("nvidia/*/lib")]
        folders += [p for p in map(pathlib.Path, self.environment.get("LD_LIBRARY_PATH", "").split(":")) if p.name]
        self.environment["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
        self.data = ["--data", str(pathlib.Path(options.data).resolve())] if options.data else []
        if options.data:
            self.environment["ELBO_DATA"] = self.data[1]
        devices = self.run([self.elbo, "devices"], 60)
        self.has_gpu = re.search(r"^cuda +available", devices, re.M) is not None
        self.device = "cuda" if self.has_gpu else "sim" if (self.plugins / "libelbo_sim.so").exists() else "cpu"
        self.description = next(line for line in devices.splitlines() if line.startswith("cuda" if self.has_gpu else "cpu"))

    def run(self, command, limit, cwd=SHARE, check=True):
        """Standard output and errors; an exception with their end where it fails or takes too long."""
        left = max(1.0, min(limit, self.deadline - time.monotonic()))
        try:
            done = subprocess.run(list(map(str, command)), cwd=cwd, env=self.environment, timeout=left, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{pathlib.Path(command[0]).name}: stopped after {left:.0f} s") from None
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}: {done.stdout[-1500:]}")
        return done.stdout

    def json_of(self, command, limit):
        path = self.out / "figures.tmp"
        self.run([*command, "--json", path.resolve()], limit)
        result = json.loads(path.read_text())
        path.unlink()
        return result

    @staticmethod
    def attempt(measure):
        """What it gives, or the error: one that fails leaves the others of its section."""
        try:
            return measure()
        except RuntimeError as error:  # a data set that is not here, most likely
            return {"error": str(error)}

    # ---- Sections ------------------------------------------------------------------------------------------------

    def machine(self):
        result = {"device": self.device, "description": self.description,
                  "version": self.run([self.elbo, "--version"], 20).strip()}
        if self.has_gpu and shutil.which("nvidia-smi"):
            fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
            said = self.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], 20)
            result["nvidia-smi"] = dict(zip(fields.split(","), map(str.strip, said.splitlines()[0].split(","))))
        return result

    def tests(self):
        result = {}
        for name in ("ops_test", "trainer_test"):
            program = self.programs / name
            if not program.exists():
                raise NotRun(f"{program} was not built")
            report = (self.out / f"{name}.tmp").resolve()
            # Without a GPU a part of them is enough: this is a test of the script, they have runs of their own.
            only = f"*/{self.device}" if self.has_gpu else f"*Noise*/{self.device}:*TwoRuns*/{self.device}"
            said = self.run([program, f"--gtest_filter={only}", f"--gtest_output=json:{report}"], 150, check=False)
            if not report.exists():
                raise RuntimeError(f"{name} ended early: {said[-1500:]}")
            cases = [case for suite in json.loads(report.read_text())["testsuites"] for case in suite["testsuite"]]
            report.unlink()
            failed = [c["name"] for c in cases if c.get("failures")]
            skipped = [c["name"] for c in cases if c["result"] == "SKIPPED"]
            result[name] = {"passed": len(cases) - len(failed) - len(skipped), "failed": failed, "skipped": skipped}
        return result

    def bench(self):
        few = [] if self.has_gpu else ["--shape", "20x784", "--seconds", "0"]
        result = {"loss": self.json_of([self.elbo, "bench", "loss", "--device", self.device, *few], 120), "step": {}}
        steps = ["--steps", "500" if self.has_gpu else "2", "--warmup", "50" if self.has_gpu else "1"]
        for name, spec in STEPS.items():
            for precision in ("fp32", "tf32") if self.has_gpu else ("fp32",):
                command = [self.elbo, "bench", "step", spec, "--device", self.device, "--set",
                           f"train.precision={precision}", *steps, *self.data]
                result["step"][f"{name} {precision}"] = self.attempt(lambda: self.json_of(command, 60))
        return result

    def baselines(self):
        if not self.has_gpu:
            raise NotRun("there is no GPU")
        probe = "import torch; assert torch.cuda.is_available()"
        if subprocess.run([sys.executable, "-c", probe], env=self.environment, stderr=subprocess.DEVNULL).returncode != 0:
            raise NotRun(f"{sys.executable} has no PyTorch that sees the GPU")
        result = {}
        script = SHARE / "tools/compare/bench_step.py"
        for name, spec in STEPS.items():
            for mode in (["--optimizer", "default"], ["--optimizer", "fused"], ["--optimizer", "fused", "--compile"]):
                for precision in ("fp32", "tf32"):
                    label = f"{name} {precision} {' '.join(m.lstrip('-') for m in mode)}"
                    command = [sys.executable, script, spec, "--device", "cuda", "--precision", precision, *mode,
                               *self.data]
                    result[label] = self.attempt(lambda: self.json_of(command, 90))
        return result

    def training(self):
        def train(name):
            folder = self.out / f"{name}.tmp"
            shutil.rmtree(folder, ignore_errors=True)
            device, few = (self.device, []) if self.has_gpu else ("cpu", ["--set", "train.epochs=1"])
            try:
                self.run([self.elbo, "run", SHARE / f"experiments/{name}.json", "--out", folder.resolve(), "--device", device,
                          *few, *self.data], 120)
                return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        names = ["mnist-2d", "freyface-8d"] if self.has_gpu else ["fashion-2d"]
        return {name: self.attempt(lambda: train(name)) for name in names}

    def sanitizer(self):
        if not self.has_gpu:
            raise NotRun("there is no GPU")
        tool = shutil.which("compute-sanitizer", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
        if not tool:
            raise NotRun("there is no compute-sanitizer")
        def check(name):
            said = self.run([tool, "--tool", name, "--error-exitcode", "9", self.programs / "ops_test",
                             "--gtest_filter=*/cuda-*TooMuchMemory*"], 90)
            return said.strip().splitlines()[-1]

        return {name: self.attempt(lambda: check(name)) for name in SANITIZERS}

    def ncu(self):
        if not self.has_gpu:
            raise NotRun("there is no GPU")
        tool = shutil.which("ncu", path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")
        if not tool:
            raise NotRun("there is no ncu")
        metrics = "gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum"
        said = self.run([tool, "--csv", "--page", "raw", "--metrics", metrics, "--kernel-name",
                         "regex:bernoulli|gaussian|scaled_gradients|pixel_|chunk_sums|scale_gradients", "--launch-count",
                         "60", self.elbo, "bench", "loss", "--device", "cuda", "--shape", "65536x784", "--seconds", "0"], 120)
        lines = said[said.index('"ID"'):]
        kernels = {}
        for row in csv.DictReader(io.StringIO(lines)):
            if row.get("Kernel Name") and row["ID"]:
                kernels.setdefault(row["Kernel Name"], []).append({m: row.get(m) for m in metrics.split(",")})
        return {"kernels": kernels}

    # ---- The summary ---------------------------------------------------------------------------------------------

    def targets(self, results):
        """(what, target, figure or None, met or None)"""
        loss = {}
        for t in results.get("bench", {}).get("loss", {}).get("timings", []):
            copy = results["bench"]["loss"]["copy_bytes_per_second"]
            loss[t["loss"], t["rows"], t["rival"], t["target"]] = 1e6 * t["bytes"] / t["median_us"] / copy
        steps = results.get("bench", {}).get("step", {})
        eager = results.get("baselines", {})
        rows = []

        def add(what, target, figure, met):
            rows.append((what, target, figure, met if self.has_gpu and figure is not None else None))

        tests = results.get("tests", {})
        if self.has_gpu and all(isinstance(t, dict) and "failed" in t for t in tests.values()) and tests:
            failed = [n for t in tests.values() for n in t["failed"]]
            add("tests on the GPU", "all pass", f"{sum(t['passed'] for t in tests.values())} passed, {len(failed)} failed",
                not failed)
        else:
            add("tests on the GPU", "all pass", None, None)
        for name in SANITIZERS:
            said = results.get("sanitizer", {}).get(name)
            add(f"compute-sanitizer {name}", "no error", said if isinstance(said, str) else None, isinstance(said, str))
        for target in ("f32", "u8"):
            part = loss.get(("bernoulli", 65536, "fused", target))
            add(f"fused Bernoulli loss, {target} target, 65536x784", "95% of copy bandwidth",
                f"{part:.1%}" if part else None, bool(part and part >= 0.95))
        for name, most in (("W1", 40), ("mnist-2d", 25), ("freyface-8d", 25)):
            median = steps.get(f"{name} tf32", {}).get("median_us")
            add(f"step of {name}, TF32", f"at most {most} us", f"{median:.1f} us" if median else None,
                bool(median and median <= most))
        ours, theirs = (steps.get("W1 tf32", {}).get("median_us"),
                        eager.get("W1 tf32 optimizer default", {}).get("median_us"))
        ratio = theirs / ours if ours and theirs else None
        add("step of W1 against PyTorch eager, TF32", "10 times as fast", f"{ratio:.1f}" if ratio else None,
            bool(ratio and ratio >= 10))
        return rows

    def summary(self, results, problems):
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        text = f"# GPU check\n\n{self.description.strip()}; {results.get('machine', {}).get('version', 'elbo')}; {date}\n\n"
        text += "| what | target | figure | |\n|---|---|---|---|\n"
        for what, target, figure, met in self.targets(results):
            verdict = "not run" if met is None else "met" if met else "**missed**"
            text += f"| {what} | {target} | {figure if met is not None else ''} | {verdict} |\n"
        steps = results.get("bench", {}).get("step", {})
        if any("median_us" in s for s in steps.values()):
            text += "\n| step | median us | p10 | p90 | device |\n|---|---|---|---|---|\n"
            for name, s in steps.items():
                if "median_us" in s:
                    text += f"| {name} | {s['median_us']:.1f} | {s['p10_us']:.1f} | {s['p90_us']:.1f} | {s['device']} |\n"
            for name, s in results.get("baselines", {}).items():
                if "median_us" in s:
                    text += f"| {name} | {s['median_us']:.1f} | {s['p10_us']:.1f} | {s['p90_us']:.1f} | {s['framework']} |\n"
        text += "\n| section | |\n|---|---|\n"
        for name in SECTIONS:
            text += f"| {name} | {problems.get(name, 'done') if name in results or name in problems else 'not asked for'} |\n"
        (self.out / "summary.md").write_text(text)
        return text


SANITIZERS = ["memcheck", "racecheck", "initcheck", "synccheck"]
SECTIONS = ["machine", "tests", "bench", "baselines", "training", "sanitizer", "ncu"]


def main():
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="gpu-check", help="folder of the results (default: gpu-check)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections")
    parser.add_argument("--data", help="folder of the data sets")
    parser.add_argument("--build", default=str(HERE.parent / "build"), help="of a source tree (default: build)")
    parser.add_argument("--limit", type=float, default=530, help="seconds for all of it (default: 530)")
    options = parser.parse_args()
    check, results, problems = Check(options), {}, {}
    for name in options.only or SECTIONS:
        begin = time.monotonic()
        try:
            if begin > check.deadline:
                raise NotRun("no time was left")
            results[name] = getattr(check, name)()
        except NotRun as why:
            problems[name] = f"not run: {why}"
        except Exception as error:  # whatever it is, the other sections are worth having
            problems[name] = "failed: " + " ".join(str(error).split())[-300:].replace("|", "/")
        if name in results:
            (check.out / f"{name}.json").write_text(json.dumps(results[name], indent=2) + "\n")
        print(f"{name}: {problems.get(name, 'done')} ({time.monotonic() - begin:.0f} s)", flush=True)
    print("\n" + check.summary(results, problems))
    failed = any(p.startswith("failed") for p in problems.values())
    failed |= any(t.get("failed") for t in results.get("tests", {}).values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
