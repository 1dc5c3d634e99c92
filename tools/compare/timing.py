"""What the timings of other frameworks have in common: their options, the clock, the file that they leave."""

import argparse
import importlib
import pathlib
import sys
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


def options(doc, forms):
    """A parser that knows the options of every such program; `forms`: in which the framework can do it."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--form", nargs="+", choices=forms, default=forms[:1], help=f"default: {forms[0]}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
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
    parser.add_argument("--warmup", type=int, default=50)
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


def figures(times, each):
    ordered = sorted(times)

    def quantile(q):  # by the nearest rank, as in elbo's bench
        return ordered[round(q * (len(ordered) - 1))]

    return {
        "median_us": quantile(0.5),
        "p10_us": quantile(0.1),
        "p90_us": quantile(0.9),
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
            print(
                f"{', '.join(map(str, what.values()))}: median {result['median_us']:.1f} us   "
                f"p10 {result['p10_us']:.1f}   p90 {result['p90_us']:.1f}   ({result['timings']} timings of "
                f"{result['steps_per_timing']})",
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
