#!/usr/bin/env python3
"""Turns `ncu --csv --page raw` on standard input into a table: a row for each kernel, in the order of their time.

    ncu_table.py [PLAN]

Columns: launches; microseconds, all together and each; megabytes read from and written to memory, each; those that its
contract moves, both ways, by PLAN (what `elbo plan --json` writes), if it is the one kernel of its operation and all of
that name move as much; GB/s;
percent of the memory's peak; registers a thread; percent of a multiprocessor's warps that were active.
"""

import csv
import json
import pathlib
import re
import sys

UNITS = {"ns": 1e-9, "nsecond": 1e-9, "us": 1e-6, "usecond": 1e-6, "ms": 1e-3, "msecond": 1e-3, "s": 1, "second": 1,
         "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}


def read(lines):
    """A dictionary for each launch: the metric's name -> its value, seconds and bytes where it has such a unit."""
    lines = list(lines)
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        raise SystemExit("this is no output of `ncu --csv --page raw`: there is no header that begins with \"ID\"")
    rows = list(csv.DictReader(lines[begin:]))
    units, launches = rows[0], rows[1:]
    for launch in launches:
        for metric, value in launch.items():
            try:
                launch[metric] = float(value.replace(",", "")) * UNITS.get(units[metric], 1)
            except (ValueError, AttributeError):
                pass
    return launches


def without_arguments(kernel):
    """Other parentheses than the arguments' are those of unnamed namespaces and of values: `f<(bool)1>`."""
    return re.sub(r"\([a-z ]+\)(?=\d)", "", re.sub(r"\(anonymous namespace\)|<unnamed>", "_", kernel)).split("(")[0]


def contract(kernel, plan):
    """Megabytes, as text. A kernel that is all of an operation has its name: add_kernel, likelihood_fused_..._kernel,
    sample_latent_sampled_kl_kernel."""
    name = re.search(r"(\w*)(<.*)?$", kernel)[1]
    of = r"(_fused\w*|_sampled_kl)?_kernel"
    moved = {o["bytes"] for o in plan.get("operations", []) if re.fullmatch(o["name"] + of, name)}
    return f"{1e-6 * moved.pop():.2f}" if len(moved) == 1 else "-"


def table(launches, plan={}):
    kernels = {}
    for launch in launches:
        kernels.setdefault(without_arguments(launch["Kernel Name"]), []).append(launch)

    def mean(of, metric):
        return sum(launch.get(metric) or 0 for launch in of) / len(of)

    rows = []
    for name, of in kernels.items():
        time = mean(of, "gpu__time_duration.sum")
        moved = [mean(of, f"dram__bytes_{way}.sum") for way in ("read", "write")]
        rows.append((time * len(of), f"{name:<48}{len(of):>9}{1e6 * time * len(of):>10.1f}{1e6 * time:>9.2f}"
                     f"{1e-6 * moved[0]:>9.2f}{1e-6 * moved[1]:>9.2f}{contract(name, plan):>10}{1e-9 * sum(moved) / time:>9.1f}"
                     f"{mean(of, 'dram__throughput.avg.pct_of_peak_sustained_elapsed'):>8.1f}"
                     f"{mean(of, 'launch__registers_per_thread'):>6.0f}"
                     f"{mean(of, 'sm__warps_active.avg.pct_of_peak_sustained_active'):>9.1f}"))
    header = (f"{'kernel':<48}{'launches':>9}{'us':>10}{'us each':>9}{'MB read':>9}{'written':>9}{'contract':>10}{'GB/s':>9}{'% peak':>8}"
              f"{'regs':>6}{'% warps':>9}")
    return "\n".join([header, *(line for _, line in sorted(rows, reverse=True))])


if __name__ == "__main__":
    print(table(read(sys.stdin), json.loads(pathlib.Path(sys.argv[1]).read_text()) if sys.argv[1:] else {}))
