"""What the timings of other frameworks have in common: their options, the clock, the file that they leave."""

import argparse
import ctypes
import importlib
import pathlib
import statistics
import sys
import threading
import time

import record

TIMINGS = 30  # at least, where time allows


def framework(name):
    """The module `torch` or `jax`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{sys.executable}: {name} cannot be imported: {error}") from None


def compiler(torch):
    if not hasattr(torch, "compile"):
        raise RuntimeError(f"PyTorch {torch.__version__} has no torch.compile")
    return torch.compile


def seconds(text):
    """Of an option: 0 or more."""
    if not 0 <= float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: not a number of seconds")
    return float(text)


def options(doc, forms):
    """A parser that knows the options of every such program; `forms`: in which the framework can do it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--form", nargs="+", choices=forms, default=forms[:1], help=f"default: {forms[0]}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--warmup", type=seconds, help="seconds before the timings of a form, after its first calls "
                        "(default: 0.5 on a GPU, 0.1 on a CPU)")
    parser.add_argument("--seconds", type=float, default=20, help="at most, for each form")
    parser.add_argument("--json", type=record.output, help="write the figures here, a list")
    return parser


def step_options(doc, forms):
    """The same for training steps of a spec."""
    parser = options(doc, forms)
    spec = pathlib.Path(__file__).with_name("w1.json")
    parser.add_argument("spec", nargs="?", default=str(spec), help="a name in experiments/, or the path of a JSON file")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32"], default=["fp32"], help="of matrix products")
    parser.add_argument("--steps", type=record.positive, default=500, help="at least")
    parser.add_argument("--data", help="folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)")
    return parser


def time_blocks(block, each, steps, seconds):
    """Microseconds of a step, by blocks of `each`: until `steps` are timed and there are TIMINGS, or `seconds` over.

    block(): takes `each` steps and waits for the device, once, at the end."""
    times, begin = [], time.perf_counter()
    while not times or ((len(times) < TIMINGS or len(times) * each < steps) and time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        block()
        times.append(1e6 * (time.perf_counter() - start) / each)
    return times


def warm_up(block, seconds):
    """Once, for what is compiled and made at first; then for `seconds`, since a GPU that was idle, or that waited for a
    compiler, runs at a fraction of its clock."""
    block()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        block()


class SmClock:
    """The rate of the first GPU's clock, as frameworks count GPUs: by NVML, the library of nvidia-smi."""

    SM = 1  # NVML_CLOCK_SM

    def __init__(self):
        """OSError where the driver's libraries are missing, or do not know such a GPU."""
        driver, self.nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
        device, bus, self.device = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p()
        # CUDA_VISIBLE_DEVICES renumbers CUDA's GPUs, but not NVML's
        for function, *arguments in (
            (driver.cuInit, 0),
            (driver.cuDeviceGet, ctypes.byref(device), 0),
            (driver.cuDeviceGetPCIBusId, bus, len(bus), device),
            (self.nvml.nvmlInit_v2,),
            (self.nvml.nvmlDeviceGetHandleByPciBusId_v2, bus, ctypes.byref(self.device)),
        ):
            error = function(*arguments)
            if error:
                raise OSError(f"{function.__name__} says {error}")

    def mhz(self):
        """None: unknown."""
        rate = ctypes.c_uint()
        error = self.nvml.nvmlDeviceGetClockInfo(self.device, self.SM, ctypes.byref(rate))
        return rate.value if error == 0 and rate.value > 0 else None

    def while_at(self, work, seconds=0.05):
        """What it says while work() is done, untimed."""
        samples, done = [], threading.Event()

        def watch():
            while not done.is_set():
                samples.append(self.mhz())
                done.wait(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            begin = time.perf_counter()
            while time.perf_counter() - begin < seconds:
                work()
        finally:
            done.set()
            watcher.join()
        return [s for s in samples if s is not None]


def measure(block, each, options, steps=0):
    """The figures of blocks of `each`: warm-up, timings (time_blocks), and the clock's rate before and after them."""
    on_gpu = options.device == "cuda"
    warm_up(block, options.warmup if options.warmup is not None else 0.5 if on_gpu else 0.1)
    try:
        clock = SmClock() if on_gpu else None
    except (OSError, AttributeError):  # without NVML there is no such figure
        clock = None
    rates = clock.while_at(block) if clock else []
    times = time_blocks(block, each, steps, options.seconds)
    rates += clock.while_at(block) if clock else []
    result = figures(times, each)
    if rates:
        result["sm_clock_mhz"] = statistics.median(rates)
    return result


def figures(times, each):
    ordered = sorted(times)

    def quantile(q):  # by the nearest rank, as in elbo's bench
        return ordered[round(q * (len(ordered) - 1))]

    return {
        "median_us": quantile(0.5),
        "p10_us": quantile(0.1),
        "p90_us": quantile(0.9),
        "mean_us": statistics.fmean(times),
        "timings": len(times),
        "steps_per_timing": each,
    }


def run(cases, shared, json):
    """Measures every case, a pair of what it is and a function that gives its figures; 1 where one failed, else 0.

    The file is written again after each: a program that is stopped leaves what it had."""
    results, failed = [], 0
    for what, measure in cases:
        try:
            result = {**what, **measure()}
            clock = f" at {result['sm_clock_mhz']:.0f} MHz" if "sm_clock_mhz" in result else ""
            print(
                f"{', '.join(map(str, what.values()))}: median {result['median_us']:.1f} us   "
                f"p10 {result['p10_us']:.1f}   p90 {result['p90_us']:.1f}   ({result['timings']} timings of "
                f"{result['steps_per_timing']}{clock})",
                flush=True,
            )
        except Exception as error:  # a form that this version or this machine cannot do leaves the others
            result = {**what, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
            print(f"{', '.join(map(str, what.values()))}: {result['error']}", flush=True)
            failed = 1
        results.append({**shared, **result})
        if json:
            record.write_json(json, results)
    return failed


def run_steps(framework, spec, options, measure, **more):
    """run() of measure(form, precision) for every form and precision that `options` ask for."""
    shared = {
        "spec": spec["name"],
        "batch_size": spec["train"]["batch_size"],
        "framework": framework,
        "device": options.device,
        **more,
        **record.origin(),
    }
    cases = [
        ({"form": form, "precision": precision}, lambda f=form, p=precision: measure(f, p))
        for precision in options.precision
        for form in options.form
    ]
    return run(cases, shared, options.json)
