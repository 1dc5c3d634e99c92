"""What tools/gpu_check.py measured, judged: every target with its figure, and met, missed or not run.

Everything here is a function of the sections' results alone: a section's name -> what it measured.
"""

import itertools
import json
import math
import re

import record

SANITIZERS = ["memcheck", "racecheck", "initcheck", "synccheck"]
LARGE = (65536, 784)  # rows and pixels of the loss that the targets speak of
OUTPUTS = {"bernoulli": 1, "gaussian": 1, "gaussian_learned": 2}  # of a pixel, by likelihood
DRAWS = 4  # of an image in the importance-weighted head, `iwae` of `bench loss`: a row each
# Losses -> the shape in which ncu looks at them: more than a cache holds, and quickly made up. The head has u8 targets
# and the first of the latents; many rows, since its smaller kernels move some bytes a row.
NCU = {
    ("bernoulli", "gaussian", "latent"): {"rows": 32768, "pixels": 784, "latents": (20, 128)},
    ("gaussian_learned", "iwae"): {"rows": 131072, "pixels": 192, "latents": (20,)},
}
# A loss -> what it is called, and how many times as fast as unfused its fused kernels are to be: by their contracts'
# bytes 2.9 and 2.5.
TWINS = {
    "gaussian_learned": ("fused Gaussian loss of a learned variance", 2.7),
    "iwae": ("fused importance-weighted head", 2.2),
}
NAMES = {"w1": "W1", "mnist-2d": "mnist-2d", "freyface-8d": "freyface-8d"}  # a spec's name, and the workload's
STEP_TARGETS = {"w1": 40, "mnist-2d": 25, "freyface-8d": 25}  # microseconds, TF32
L2_BYTES = 60 << 20  # of an H200, where the machine section could not ask


# ---- Looking up what was measured ----------------------------------------------------------------------------------


def everything(results):
    """Every dictionary in them, however deep in, those that are around before those that are within."""
    left = [results]
    while left:
        item = left.pop(0)
        if isinstance(item, dict):
            yield item
        if isinstance(item, (dict, list)):
            left += item.values() if isinstance(item, dict) else item


def step_times(results):
    return [r for r in everything(results) if "median_us" in r and "spec" in r]


def loss_times(results):
    """Of elbo's loss kernels, each with the bytes a second of its program's copy."""
    return [
        {**t, "copy": program["copy_bytes_per_second"]}
        for program in everything(results)
        if "copy_bytes_per_second" in program
        for t in program.get("timings", [])
    ]


def framework_losses(results):
    return [r for r in everything(results) if "median_us" in r and "framework" in r and r.get("loss") == "bernoulli"]


def quickest(records, **wanted):
    """The record of least median among those with these values; None where there is none. For the others' forms."""
    found = [r for r in records if all(r.get(k) == v for k, v in wanted.items())]
    return min(found, key=lambda r: r["median_us"], default=None)


def slowest(records, **wanted):
    """The same of the greatest. For what elbo was timed at more than once: a target is met each time or not at all."""
    found = [r for r in records if all(r.get(k) == v for k, v in wanted.items())]
    return max(found, key=lambda r: r["median_us"], default=None)


def ceilings(results):
    """The rest of them were measured later, with those of the machine once more: the first of each name."""
    figures = {}
    for section in ("machine", "rest"):
        for f in results.get(section, {}).get("ceilings", {}).get("figures", []):
            figures.setdefault(f["name"], f)
    return list(figures.values())


def copy_ceiling(results):
    """Bytes a second, of the quicker of the two copies; 0 where there was none."""
    return max(
        (1e9 * f["median"] for f in ceilings(results) if f["name"].startswith("copy") and "median" in f), default=0
    )


def errors(results):
    """(where, what) of everything that was tried and failed, or took a way round what failed."""
    found, left = [], [(name, results[name]) for name in results]
    while left:
        where, item = left.pop(0)
        if isinstance(item, dict) and (said := item.get("error", item.get("objection"))):
            form = " ".join(str(item[k]) for k in ("name", "form", "precision", "rows") if k in item)
            found.append((f"{where}: {form}" if form else where, " ".join(str(said).split())))
        elif isinstance(item, dict):
            left += [(f"{where}: {key}", value) for key, value in item.items()]
        elif isinstance(item, list):
            left += [(where, value) for value in item]
    return found


# ---- The CPU's ELBO ------------------------------------------------------------------------------------------------


def cpu_elbo(folder, experiment):
    """Mean and deviation over the seeds of the newest CPU run in results/; None where there is none."""
    runs = sorted(folder.glob(f"cpu-*/*/elbo/{experiment}-*-elbo.json"), key=lambda p: (p.parts[-3], p.name))
    runs = [p for p in runs if p.parts[-3] == runs[-1].parts[-3]]
    if not runs:
        return None
    mean, deviation = record.mean_and_deviation([json.loads(p.read_text())["test"]["elbo"] for p in runs])
    return {"mean": mean, "deviation": deviation, "runs": [str(p.relative_to(folder)) for p in runs]}


def time_to_elbo(epochs, batch, cpu):
    """What a run's metrics.jsonl says of speed. Training seconds leave out evaluation and checkpoints."""
    training, step, reached = 0.0, 0, None
    for epoch in epochs:
        training += (epoch["step"] - step) * batch / epoch["images_per_second"]
        step = epoch["step"]
        if cpu and not reached and epoch["test"]["elbo"] >= cpu["mean"] - cpu["deviation"]:
            reached = {"epoch": epoch["epoch"], "seconds": epoch["seconds"], "training_seconds": training}
    return {
        "epochs": len(epochs),
        "test_elbo": epochs[-1]["test"]["elbo"],
        "seconds": epochs[-1]["seconds"],
        "training_seconds": training,
        "images_per_second": step * batch / training,
        "cpu": cpu,
        "reached": reached,
    }


# ---- Memory traffic ------------------------------------------------------------------------------------------------


def contracts(losses, rows, pixels, latents):
    """what -> (bytes read, written) by the contracts in the headers of the kernels that ncu is to look at."""
    found, sizes = {}, {"f32": 4, "bf16": 2, "u8": 1}
    count, partial_sums = rows * pixels, 4 * rows * -(-pixels // 4096)
    for loss, target, output in itertools.product(losses, ("f32", "u8"), ("f32", "bf16")):
        if loss in OUTPUTS:
            outputs = OUTPUTS[loss] * sizes[output] * count
            read, written = outputs + sizes[target] * count, outputs + partial_sums
            found[f"likelihood_fused_{loss}_kernel, {target} target, {output}"] = read, written
    if "latent" in losses:
        for latent in latents:
            sums = 4 * -(-rows // 32) * latent
            found[f"sample_latent_kernel, {latent} dimensions"] = 8 * rows * latent, 4 * rows * latent + sums
            found[f"sample_latent_backward_kernel, {latent} dimensions"] = 12 * rows * latent, 8 * rows * latent
    if "iwae" in losses:
        images, latent = rows // DRAWS, latents[0]
        stats, draws, weights = 8 * images * latent, 4 * rows * latent, 4 * rows
        for output in ("f32", "bf16"):
            types, outputs = f"u8 target, {output}", sizes[output] * count
            read = outputs + images * pixels
            found[f"likelihood_fused_bernoulli_kernel, {types}, value alone"] = read, partial_sums
            found[f"likelihood_gradient_kernel, {types}"] = read + partial_sums, outputs
        found[f"sample_latent_sampled_kl_kernel, {latent} dimensions"] = stats, draws + weights
        found[f"sample_latent_backward_kernel, weighed, {latent} dimensions"] = stats + draws + weights, stats
        found["importance_bound_kernel"] = partial_sums + weights, partial_sums + weights + 4 * images
    return found


def with_contract(kernel):
    """How the names of its contracts begin: a likelihood's has one, a latent variable's one of each size; None of
    another kernel.

    kernel: as ncu writes it, `void elbo::kernels::<unnamed>::sample_latent_kernel<true, 0, 4>(...)`."""
    short = re.search(r"\w+<.*?>(?=\()", kernel)
    name = short[0] if short else kernel
    if likelihood := re.match(r"likelihood_(fused_(bernoulli|gaussian(_learned)?)|gradient)_kernel\b", name):
        target = "u8" if "unsigned char" in name else "f32"
        return f"{likelihood[0]}, {target} target, {'bf16' if re.search('bf(loat)?16', name, re.I) else 'f32'}"
    if latent := re.match(r"sample_latent(_backward|_sampled_kl)?_kernel\b", name):
        weighed = latent[1] == "_backward" and re.search(r"(true|\(bool\)1)>$", name)
        return f"{latent[0]}, weighed, " if weighed else f"{latent[0]}, "
    bound = re.search(r"\bimportance_bound_kernel\b", name)
    return bound and bound[0]


def traffic(results):
    """contract -> (bytes read, written, by contract read, written, whether within 5%), None of one of which ncu saw no
    launch. What was written last is still in the L2 cache when the kernel ends: so much may be missing."""
    seen = results.get("ncu", {})
    if not any("kernels" in run for run in seen.values()):
        return {}
    cache = results.get("machine", {}).get("ceilings", {}).get("gpu", {}).get("l2_bytes", L2_BYTES)
    found = {}
    for losses, shape in NCU.items():
        promised = contracts(losses, **shape)
        launches = {what: [] for what in promised}
        for kernel, each in seen.get(", ".join(losses), {}).get("kernels", {}).items():
            begin = with_contract(kernel)
            of = [what for what in promised if begin and what.startswith(begin)]
            for launch in each if of else []:  # of which size it was is not known: of the nearest
                launches[min(of, key=lambda w: abs(math.log(max(launch["read"], 1) / promised[w][0])))].append(launch)
        for what, each in launches.items():
            found[what] = moved(each, *promised[what], cache) if each else None
    return found


def moved(launches, to_read, to_write, cache):
    """The median of what they read and wrote, what they should have, and whether that is so within 5%."""
    read, written = (sorted(x[k] for x in launches)[len(launches) // 2] for k in ("read", "written"))
    met = abs(read - to_read) <= 0.05 * to_read and 0.95 * to_write - cache <= written <= 1.05 * to_write
    return read, written, to_read, to_write, met


# ---- Targets ---------------------------------------------------------------------------------------------------------


def targets(results, has_gpu):
    """(what, target, figure, "met", "missed" or "not run") of everything that is claimed of a GPU."""
    rows = []

    def add(what, target, figure=None, met=False):
        known = has_gpu and figure is not None
        rows.append((what, target, figure if known else "", ("met" if met else "missed") if known else "not run"))

    tests = list(results.get("tests", {}).values())
    complete = len(tests) == 2 and not any("error" in t for t in tests)
    passed = sum(t["passed"] for t in tests) if complete else 0
    failed, skipped = (sum(len(t[k]) for t in tests) if complete else 0 for k in ("failed", "skipped"))
    said = f"{passed} passed, {failed} failed, {skipped} skipped" if complete else None
    add("tests on the GPU", "all pass", said, passed > 0 and failed == 0)

    losses, others, steps = loss_times(results), framework_losses(results), step_times(results)
    large = dict(rows=LARGE[0], pixels=LARGE[1])
    fused = slowest(losses, loss="bernoulli", rival="fused", target="f32", output="f32", **large)
    add("fused Bernoulli loss, f32, 65536x784", "95% of copy bandwidth", *of_copy(results, fused, 0.95))
    for form, name, times in (("eager", "PyTorch eager", 5.5), ("compile", "torch.compile", 1.6)):
        compared = ratio(quickest(others, form=form, **large), fused, times)
        add(f"the same against {name}", f"{times} times as fast", *compared)
    half = slowest(losses, loss="bernoulli", rival="fused", target="u8", output="bf16", **large)
    half = half and {**half, "bytes": 5 * LARGE[0] * LARGE[1]}
    target = "within 10% of 5 bytes an element at copy bandwidth"
    add("fused Bernoulli loss, bf16 with u8 target, 65536x784", target, *of_copy(results, half, 1 / 1.1))
    latent = [t for t in losses if t["loss"] == "latent" and t["rival"] == "fused"]
    latent = slowest(latent, bytes=max((t["bytes"] for t in latent), default=0))
    add("sample and KL, fused", "within 10% of its bytes at copy bandwidth", *of_copy(results, latent, 1 / 1.1))

    types = {"target": "u8", "output": "f32", **large}  # those of training
    for loss, (what, times) in TWINS.items():
        fused = slowest(losses, loss=loss, rival="fused", **types)
        if loss in OUTPUTS:
            each = 8 * OUTPUTS[loss] + 1
            target = f"within 10% of {each} bytes an element at copy bandwidth"
            add(f"{what}, u8 target, 65536x784", target, *of_copy(results, fused, 1 / 1.1))
        compared = ratio(quickest(losses, loss=loss, rival="unfused", **types), fused, times)
        add(f"{what} against unfused, 65536x784", f"{times} times as fast", *compared)

    eager = [s for s in steps if s["framework"].startswith("PyTorch") and s["form"].startswith("eager")]
    for spec, most in STEP_TARGETS.items():
        ours = slowest(steps, spec=spec, framework="elbo", precision="tf32")
        median = ours and ours["median_us"]
        add(f"step of {NAMES[spec]}, TF32", f"at most {most} us", ours and f"{median:.1f} us", ours and median <= most)
        compared = ratio(quickest(eager, spec=spec, precision="tf32"), ours, 10)
        add(f"step of {NAMES[spec]} against PyTorch eager, TF32", "10 times as fast", *compared)

    ours = slowest(steps, spec="w1", framework="elbo", precision="tf32")
    nodes = ours and ours.get("graph_nodes")
    add("nodes in the graph of W1's step", "at most 16", nodes and str(nodes), bool(nodes and nodes <= 16))

    for name in ("mnist-2d", "freyface-8d"):
        run = results.get("training", {}).get(name, {})
        add(f"{name} in full", "the CPU's test ELBO, less its spread over the seeds", *reached(run))

    kernels = traffic(results)
    for name, seen in kernels.items():
        read, written, to_read, to_write = (1e-6 * bytes for bytes in (seen or 4 * [0])[:4])
        said = f"read {read:.1f} MB of {to_read:.1f}, wrote {written:.1f} of {to_write:.1f}" if seen else None
        add(f"memory traffic of {name}", "within 5% of its contract", said, seen and seen[4])
    if not kernels:
        add("memory traffic of the fused loss kernels", "within 5% of their contract")

    for name in SANITIZERS:
        said = results.get("sanitizer", {}).get(name)
        if isinstance(said, dict) and "passed" in said:  # its time was over
            so_far = f"none in the first {said['passed']} tests"
            rows.append((f"compute-sanitizer {name}", "no error", so_far, "not run"))
            continue
        if isinstance(said, dict):
            said = "errors" if "first" in said else None
        add(f"compute-sanitizer {name}", "no error", said, said != "errors")
    return rows


def of_copy(results, timing, least):
    """Figure and verdict of a rate against copies, its own program's and the machine section's. The quicker judges."""
    if not timing:
        return None, False
    rate, ceiling = 1e6 * timing["bytes"] / timing["median_us"], copy_ceiling(results)
    figure = f"{timing['median_us']:.1f} us: {rate / timing['copy']:.1%} of the copy beside it"
    if ceiling:
        figure += f", {rate / ceiling:.1%} of the quickest copy"
    return figure, rate / max(timing["copy"], ceiling) >= least


def ratio(theirs, ours, least):
    if not theirs or not ours:
        return None, False
    times = theirs["median_us"] / ours["median_us"]
    return f"{times:.2f} ({theirs['median_us']:.1f} us and {ours['median_us']:.1f} us)", times >= least


def reached(run):
    if not run.get("cpu"):
        return None, False
    goal = f"{run['cpu']['mean']:.2f} ± {run['cpu']['deviation']:.2f}"
    if not run["reached"]:
        return f"{run['test_elbo']:.2f} after {run['epochs']} epochs; the CPU's: {goal}", False
    r = run["reached"]
    return (
        f"epoch {r['epoch']} of {run['epochs']}, after {r['seconds']:.2f} s ({r['training_seconds']:.2f} of training); "
        f"at the end {run['test_elbo']:.2f}; the CPU's: {goal}"
    ), True


# ---- The page ------------------------------------------------------------------------------------------------------

FAILURES = 5000  # characters of them: with the targets they are what the end of a terminal's output shows


def text(calls):
    """Of calls, each (about, results): what they came to, the targets last."""
    results, has_gpu = {}, False
    for about, of_call in calls:
        results |= of_call
        has_gpu |= about["has_gpu"]
    page = "# GPU check\n\n" + "".join(
        f"- {about['call']}: {' '.join(about['description'].split())}; {about['version']}; {about['date']}\n"
        for about, _ in calls
    )
    page += "\n## Sections\n\n" + record.markdown(
        ["section", "", "seconds"],
        [(n, said, f"{about['seconds'][n]:.0f}") for about, _ in calls for n, said in about["sections"].items()],
    )
    for heading, table in (
        ("Ceilings", ceilings_table),
        ("Loss kernels", loss_table),
        ("Steps", steps_table),
        *((f"Kernels of {k['spec']}'s step", lambda _, k=k: kernels_table(k)) for k in traces(results)),
        ("Training", training_table),
    ):
        header, rows = table(results)
        if rows:
            page += f"\n## {heading}\n\n" + record.markdown(header, rows)
    if failed := [(where, shortened(what.replace("|", "/"))) for where, what in errors(results)]:
        shown = []
        while failed and sum(len(where + what) for where, what in [*shown, failed[0]]) < FAILURES:
            shown.append(failed.pop(0))
        page += "\n## What failed\n\n" + record.markdown(["where", "what"], shown)
        page += f"\nand {len(failed)} more, in the archive\n" if failed else ""
    rows = [
        (what, target, figure, "**missed**" if verdict == "missed" else verdict)
        for what, target, figure, verdict in targets(results, has_gpu)
    ]
    return page + "\n## Targets\n\n" + record.markdown(["what", "target", "figure", ""], rows)


def brief(result):
    """What a measurement gave, in a few words."""
    if isinstance(result, str):
        return result[:100]
    if isinstance(result, list):
        return "; ".join(f"{r.get('form', '')} {brief(r)}" for r in result if isinstance(r, dict))[:200]
    if "error" in result and not result.get("timings"):
        said = " ".join(str(result["error"]).split())
        return "failed: " + re.sub(r"^.*?: (?=exit status|stopped after)", "", said)[:100]
    if "median_us" in result:
        return f"{result['median_us']:.1f} us"
    if isinstance(result.get("timings"), list):
        each = [f"{t['rival']} {t['target']}/{t['output']} {t['median_us']:.1f}" for t in result["timings"][:4]]
        return f"{', '.join(each)} us" + (", and more" if len(result["timings"]) > 4 else "")
    if "us_a_step" in result:
        return f"{result['us_a_step']:.1f} us a step, {result['at_work']:.0%} of it at work"
    if "passed" in result:
        return f"{result['passed']} passed, {len(result['failed'])} failed, {len(result['skipped'])} skipped"
    return f"test ELBO {result['test_elbo']:.2f}, {result['seconds']:.2f} s" if "test_elbo" in result else "done"


# ---- Kernels of a step ---------------------------------------------------------------------------------------------


def kernels_of(csv, steps):
    """The table that `elbo profile` writes, summed by name: [{"name", "a_step", "median_us", "us_a_step", ...}], the
    longest first. A name may have commas."""
    found = {}
    for line in csv.splitlines()[1:]:
        _, duration, kind, rest = line.split(",", 3)
        name, _, grid, block, registers, shared, _ = rest.rsplit(",", 6)
        of = {"name": name, "kind": kind, "grid": grid, "block": block, "registers": registers, "shared_bytes": shared}
        found.setdefault(name, {**of, "us": []})["us"].append(float(duration))
    kernels = []
    for kernel in found.values():
        times = sorted(kernel.pop("us"))
        of_step = {"a_step": len(times) / steps, "kernel_us": times[len(times) // 2], "us_a_step": sum(times) / steps}
        kernels.append({**kernel, **of_step})
    return sorted(kernels, key=lambda k: -k["us_a_step"])


def traces(results):
    return [r for r in everything(results) if "kernels" in r and "at_work" in r]


def kernels_table(trace):
    rows = [
        (k["name"], f"{k['a_step']:g}", f"{k['kernel_us']:.2f}", f"{k['us_a_step']:.2f}", k["grid"], k["block"])
        for k in trace["kernels"]
    ]
    launches = sum(k["a_step"] for k in trace["kernels"])
    at_work = f"{trace['us_a_step']:.1f}, {trace['at_work']:.0%} of it at work"
    rows.append((trace.get("no kernels", "all"), f"{launches:g}", "", at_work, "", ""))
    return ["", "a step", "median us", "us a step", "grid", "block"], rows


# ---- The other tables ----------------------------------------------------------------------------------------------


def shortened(what):
    """Begin and end: the command, and what it said last."""
    return what if len(what) < 600 else f"{what[:250]} [...] {what[-300:]}"


def ceilings_table(results):
    return ["", "median", "p10", "p90", "", "SM MHz"], [
        (f["name"], f"{f['median']:.4g}", f"{f['p10']:.4g}", f"{f['p90']:.4g}", f["unit"], megahertz(f))
        for f in ceilings(results)
        if "median" in f
    ]


def loss_table(results):
    ceiling, timed = copy_ceiling(results), loss_times(results)

    def row(who, loss, target, output, t, copy):
        rate = 1e6 * t["bytes"] / t["median_us"]
        same = {k: t.get(k, 0) for k in ("loss", "rows", "pixels", "latent")}
        fused = slowest(timed, rival="fused", target=target, output=output, **same)
        return (
            who,
            loss,
            f"{t['rows']}x{t['pixels'] or t['latent']}",
            target,
            output,
            f"{t['median_us']:.1f}",
            f"{t['p10_us']:.1f}",
            f"{t['p90_us']:.1f}",
            f"{t['median_us'] / fused['median_us']:.2f}" if fused else "",
            megahertz(t),
            f"{1e-9 * rate:.0f}",
            f"{rate / copy:.1%}" if copy else "",
            f"{rate / ceiling:.1%}" if ceiling else "",
            *(f"{t[error]:.1e}" if error in t else "" for error in ("value_error", "gradient_error")),
        )

    rows = []
    for t in timed:
        loss = f"{t['loss']} {t['latent']}" if t["latent"] else t["loss"]
        rows.append(row(t["rival"], loss, t["target"], t["output"], t, t["copy"]))
    rows += [
        row(f"{t['framework']} {t['form']}", t["loss"], "f32", "f32", t, None) for t in framework_losses(results)
    ]
    header = "|loss|shape|target|logits|median us|p10|p90|times fused|SM MHz|GB/s of its contract"
    return [*header.split("|"), "of the copy beside it", "of the quickest copy", "error", "of the gradient"], rows


def steps_table(results):
    rows, order = [], {spec: i for i, spec in enumerate(NAMES)}  # specs without a target come last
    for s in sorted(step_times(results), key=lambda s: (order.get(s["spec"], len(order)), s["precision"] != "tf32")):
        ours = slowest(step_times(results), framework="elbo", spec=s["spec"], precision=s["precision"])
        rows.append(
            (
                NAMES.get(s["spec"], s["spec"]),
                s["precision"],
                f"{s['framework']}, {s['form']}",
                f"{s['median_us']:.1f}",
                f"{s['p10_us']:.1f}",
                f"{s['p90_us']:.1f}",
                f"{s['median_us'] / ours['median_us']:.2f}" if ours else "",
                s.get("graph_nodes", ""),
                s.get("dependent_launches", ""),
                megahertz(s),
            )
        )
    header = "step|precision||median us|p10|p90|times elbo's|nodes|one after another|SM MHz"
    return header.split("|"), rows


def megahertz(timing):
    """The clock while it was timed, where that is known."""
    return f"{timing['sm_clock_mhz']:.0f}" if timing.get("sm_clock_mhz") else ""


def training_table(results):
    return ["", "epochs", "test ELBO", "seconds", "of training", "of the process", "images a second"], [
        (
            name,
            r["epochs"],
            f"{r['test_elbo']:.2f}",
            f"{r['seconds']:.2f}",
            f"{r['training_seconds']:.2f}",
            f"{r['process_seconds']:.1f}",
            f"{r['images_per_second']:.0f}",
        )
        for name, r in results.get("training", {}).items()
        if "epochs" in r
    ]
