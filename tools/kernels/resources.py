#!/usr/bin/env python3
"""What nvcc makes of the kernels, without a GPU: registers, spills, stack, shared memory, occupancy.

    resources.py [--nvcc NVCC] [--arch sm_90] [--csv FILE] [SOURCE...]

SOURCE: names in kernels/ (default: all). Occupancy is that of sm_90 (H100, H200), at the kernel's largest block, by
cuda_occupancy.h; for another architecture it is left out. --csv writes the table that tests/kernel_budget.csv is.
"""

import argparse
import csv
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = ["source", "kernel", "threads", "registers", "shared", "stack", "spills", "blocks"]


def sources():
    return re.findall(r"\w+\.cu", (ROOT / "kernels" / "sources.cmake").read_text())


def make_ptx(nvcc, source, arch="sm_90"):
    """The code of a source in kernels/, as the build compiles it."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "kernel.ptx"
        subprocess.run([nvcc, "-std=c++20", "--extended-lambda", f"-arch={arch}", "--fmad=false", "-I", ROOT, "-I", ROOT / "include", "-ptx",
                        ROOT / "kernels" / source, "-o", output], check=True)
        return output.read_text()


def assemble(nvcc, ptx, cubin, arch="sm_90"):
    """Writes the machine code of PTX to `cubin`; returns what ptxas says of each kernel."""
    ptxas = pathlib.Path(nvcc).resolve().parent / "ptxas"
    return subprocess.run([ptxas, f"-arch={arch}", "-v", "-", "-o", cubin], input=ptx, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=True).stdout


def enumerators():
    """Posterior -> ["log_variance", "sigma"], and so on, as include/elbo/types.h has them."""
    text = re.sub(r"//.*", "", (ROOT / "include" / "elbo" / "types.h").read_text())
    return {name: re.findall(r"\w+", body) for name, body in re.findall(r"enum class (\w+)[^{]*\{([^}]*)\}", text)}


def demangle(names):
    """`likelihood_fused_bernoulli_kernel<true, unsigned char>`: without namespaces and parameters, enumerators by their names."""
    words = enumerators()
    text = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True).stdout
    short = []
    for name in text.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::|elbo::kernels::|elbo::", "", name)
        name = re.sub(r"^void ", "", name)
        name = re.sub(r"\((\w+)\)(\d+)", lambda m: words[m[1]][int(m[2])] if m[1] in words else m[0], name)
        depth, end = 0, len(name)
        for i, c in enumerate(name):  # the parameter list begins at the first ( outside of <>
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                end = i
                break
        short.append(name[:end])
    return short


def resources(nvcc, source, arch="sm_90", ptx=None):
    """A row for each kernel of a source, by COLUMNS. Those that Thrust brings along (namespace cub) are left out: what
    they take is its makers' choice, and part of what the unfused kernels are a baseline for."""
    ptx = ptx or make_ptx(nvcc, source, arch)
    threads = {name: int(n) for name, n in re.findall(r"\.entry (\w+)\((?:[^{]*?)\.maxntid (\d+)", ptx)}
    with tempfile.TemporaryDirectory() as folder:
        said = assemble(nvcc, ptx, pathlib.Path(folder) / "kernel.cubin", arch)
    rows = []
    for entry in said.split("Compiling entry function '")[1:]:
        name = entry[: entry.index("'")]
        if name.startswith("_ZN3cub"):
            continue
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
                                                  entry).groups())
        registers = int(re.search(r"Used (\d+) registers", entry)[1])
        shared = re.search(r"(\d+) bytes smem", entry)
        rows.append({"source": source, "kernel": name, "threads": threads.get(name, 1), "registers": registers,
                     "shared": int(shared[1]) if shared else 0, "stack": stack, "spills": stores + loads})
    for row, name in zip(rows, demangle([r["kernel"] for r in rows])):
        row["kernel"] = name
    for row, blocks in zip(rows, occupancy(nvcc, rows) if arch.startswith("sm_90") else [""] * len(rows)):
        row["blocks"] = blocks
    return sorted(rows, key=lambda r: r["kernel"])


def occupancy(nvcc, rows):
    """Resident blocks on a multiprocessor of sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "occupancy"
        include = pathlib.Path(nvcc).resolve().parents[1] / "include"
        subprocess.run(["g++", "-I", include, pathlib.Path(__file__).with_name("occupancy.cpp"), "-o", program], check=True)
        lines = "".join(f"{r['threads']} {r['registers']} {r['shared']}\n" for r in rows)
        said = subprocess.run([program], input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout
    return list(map(int, said.split()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--nvcc", default="/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--csv", help="also write the table here")
    options = parser.parse_args()

    rows = [row for source in options.sources or sources() for row in resources(options.nvcc, source, options.arch)]
    width = max(len(r["kernel"]) for r in rows)
    print(f"{'kernel':<{width}} {'threads':>8}{'registers':>10}{'shared':>8}{'stack':>7}{'spills':>8}{'blocks/SM':>11}"
          f"{'occupancy':>11}")
    for r in rows:
        part = f"{r['blocks'] * r['threads'] / 2048:.0%}" if r["blocks"] != "" else ""
        print(f"{r['kernel']:<{width}} {r['threads']:>8}{r['registers']:>10}{r['shared']:>8}{r['stack']:>7}{r['spills']:>8}"
              f"{r['blocks']:>11}{part:>11}")
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
