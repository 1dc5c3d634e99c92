#!/usr/bin/env python3
"""What a GPU will issue for a loss kernel, counted in its machine code (SASS). Needs no GPU: nothing here is measured.

    sass.py [--nvcc NVCC] [--nvdisasm NVDISASM] [--csv FILE] [--table FILE] [--path KERNEL]

Each source of kernels/ that has cases is compiled for sm_90 (H100, H200) as the build does, and disassembled; CASES
says which kernel does what. --csv writes what tests/sass_budget.csv is, --table the page of results/, --path the
instructions that were counted of a kernel.

The path. Counted is the longest way through the code from its entry to an EXIT (one that some lanes may pass, only if
none other will do), an instruction once for each time that a warp issues it. It is an upper bound for every warp,
divided or not: of an `if` the longer side is taken, a predicated instruction counts whether or not any lane executes
it, and what one warp of a block does for the others counts for all.
  - A loop (a branch back) counts as often as the case says, in `trips`, by the order of the loops in the code; what it
    covers is the code between the branch and its target. A loop of which a case does not know is an error.
  - How far into unrolled code a warp gets, and which side of a branch that all its lanes take alike, is said by
    `issues`: how many of an opcode are on the path.
  - Off the path is what a full warp with ordinary numbers does not do: a block that calls a subroutine (CALL.REL: the
    slow way of a division, a root, an exp), and BRA.DIV's way for a divided warp. Calls are counted by themselves.

Lane slots an element: instructions issued x 32 lanes x warps / elements, so that idle lanes count. The issue floor is
the time in which the four schedulers of each multiprocessor issue them, one a cycle each; a special function (MUFU:
ex2, rcp, lg2, ...) holds its unit for 8 cycles, so that no kernel is faster than 8 slots for each either. Loads before
use: how many global loads are issued before the first instruction that reads what one of them loaded.
"""

import argparse
import csv
import datetime
import functools
import itertools
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import resources

ROOT = resources.ROOT
FETCHED = ROOT / "build" / "nvdisasm" / "nvidia" / "cu13" / "bin" / "nvdisasm"  # where tools/test.sh puts it
COLUMNS = ["kernel", "shape", "does", "slots", "loads", "before_use", "load_bits", "store_bits"]


# ---- The code -----------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    address: int
    predicate: str  # "@!P0", or empty
    opcode: str  # "LDG.E.128"
    operands: str

    def __str__(self):
        return f"/*{self.address:04x}*/ {self.predicate:>5} {self.opcode} {self.operands}"


class Kernel(NamedTuple):
    name: str  # demangled: likelihood_fused_bernoulli_kernel<true, float, float>
    source: str
    code: list
    labels: dict  # -> address

    def count(self, *opcodes):
        return sum(i.opcode.startswith(opcodes) for i in self.code)


def find_nvdisasm(nvcc, given=None):
    """nvdisasm as given, as tools/test.sh fetched it, beside nvcc or on PATH; None if there is none."""
    beside = pathlib.Path(shutil.which(nvcc) or nvcc).resolve().parent / "nvdisasm"
    if given:
        return shutil.which(given)
    return next((str(p) for p in (FETCHED, beside) if shutil.which(p)), shutil.which("nvdisasm"))


def parse(text):
    """Instructions and labels of a function, as nvdisasm prints them."""
    code, labels, waiting = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            waiting.append(label[1])
        elif parts := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
            code.append(Instruction(int(parts[1], 16), (parts[2] or "").strip(), parts[3], parts[4]))
            labels.update((label, code[-1].address) for label in waiting)
            waiting = []
    return code, labels


@functools.lru_cache(maxsize=None)
def kernels(nvcc, nvdisasm, source):
    """The kernels of a source in kernels/, by their names, without those that Thrust brings along."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernel.cubin"
        resources.assemble(nvcc, resources.make_ptx(nvcc, source), cubin)
        text = subprocess.run([nvdisasm, "-c", cubin], stdout=subprocess.PIPE, text=True, check=True).stdout
    sections = [s for s in re.split(r"^\s*\.section\s+\.text\.", text, flags=re.M)[1:] if not s.startswith("_ZN3cub")]
    names = resources.demangle([re.match(r"\w+", s)[0] for s in sections])
    return {name: Kernel(name, source, *parse(section)) for name, section in zip(names, sections)}


# ---- The path -----------------------------------------------------------------------------------------------


class Path(NamedTuple):
    code: list  # in the order of the first time
    times: list  # that each is issued

    def issued(self, *opcodes):
        return sum(n for i, n in zip(self.code, self.times) if not opcodes or i.opcode.startswith(opcodes))


def successors(kernel):
    """For each instruction, the positions of those that may come next; -1 is the end."""
    at = {instruction.address: n for n, instruction in enumerate(kernel.code)}
    joins, following = {}, []  # joins: barrier register -> where the lanes that wait there go on
    for n, i in enumerate(kernel.code):
        target = re.search(r"`\((\.L\w+)\)", i.operands)
        target = at[kernel.labels[target[1]]] if target and target[1] in kernel.labels else None
        always = not i.predicate and not re.match(r"!?U?P\d", i.operands)
        if i.opcode.startswith("CALL"):
            following.append([])
        elif i.opcode.startswith(("EXIT", "RET")):
            following.append([-1] if always else [-1, n + 1])
        elif i.opcode.startswith("BRA") and ".DIV" not in i.opcode:
            following.append([target] if always else [target, n + 1])
        elif i.opcode.startswith("BSYNC"):
            following.append([joins.get(i.operands, n + 1)])
        else:
            if i.opcode.startswith("BSSY"):
                joins[i.operands.split(",")[0]] = target
            following.append([n + 1])
    return following


def longest_path(kernel, trips=(), issues=None):
    """The module's comment says which. trips: how often each loop runs; issues: opcode -> how many of it."""
    following = successors(kernel)
    reachable, todo = set(), [0]
    while todo:
        n = todo.pop()
        if n >= 0 and n < len(kernel.code) and n not in reachable:
            reachable.add(n)
            todo += following[n]
    loops = {}  # head -> the last branch back to it
    for n in reachable:
        for target in following[n]:
            if 0 <= target <= n:
                loops[target] = max(n, loops.get(target, n))
    if len(loops) != len(trips):
        raise ValueError(f"{kernel.name} has {len(loops)} loops, and the case knows how often {len(trips)} run")
    times = [1] * len(kernel.code)
    for (head, last), count in zip(sorted(loops.items()), trips):
        for n in range(head, last + 1):
            times[n] *= count

    # best[n]: how many of each opcode so far -> (instructions issued before n, the position and the numbers before)
    opcodes, wanted = tuple(issues or ()), tuple((issues or {}).values())
    best = [{} for _ in kernel.code]
    best[0][(0,) * len(opcodes)] = (0, None)
    ends = []
    for n in sorted(reachable):
        for numbers, (issued, _) in best[n].items():
            so_far = issued + times[n]
            now = tuple(k + kernel.code[n].opcode.startswith(o) for k, o in zip(numbers, opcodes))
            if any(k > w for k, w in zip(now, wanted)):
                continue
            for target in following[n]:
                if target == -1:
                    if now == wanted:
                        ends.append((len(following[n]) == 1, so_far, n, numbers))
                elif target > n and so_far > best[target].get(now, (-1,))[0]:
                    best[target][now] = (so_far, (n, numbers))
    if not ends:
        raise ValueError(f"{kernel.name} has no path to its end that calls nothing and issues {issues}")
    _, _, n, numbers = max(ends)
    path = []
    while True:
        path.append(n)
        before = best[n][numbers][1]
        if before is None:
            break
        n, numbers = before
    path.reverse()
    return Path([kernel.code[n] for n in path], [times[n] for n in path])


def registers(text, count=1):
    """The registers that are named in operands; count: how many the first of a name stands for, unless it says .64."""
    return {int(n) + k for n, wide in re.findall(r"\bR(\d+)(\.64)?", text) for k in range(2 if wide else count)}


def width(instruction):
    """Bits that a lane moves in an access to memory."""
    if size := re.search(r"\.(128|64|[US]?16|[US]?8)\b", instruction.opcode):
        return int(re.sub(r"\D", "", size[1]))
    return 32


def loads_before_use(path):
    """How many loads from global memory come before the first use of one's result."""
    loaded, loads = set(), 0
    for i in path.code:
        is_load = i.opcode.startswith("LDG")
        words = max(1, width(i) // 32)
        if i.opcode.startswith("ST"):
            address, _, value = i.operands.rpartition(",")
            read = registers(address) | registers(value, words)
        else:
            read = registers(i.operands.partition(",")[2] if "," in i.operands else i.operands)
        if read & loaded:
            break
        if is_load:
            loads += 1
            loaded |= registers(i.operands.partition(",")[0], words)
    return loads


# ---- The work -----------------------------------------------------------------------------------------------


class Gpu(NamedTuple):
    name: str
    slots: float  # lane slots a second: multiprocessors x schedulers x lanes x clock
    bandwidth: float  # bytes a second that a copy reads and writes


# The H200 is the same chip; its boost of 1.98 GHz is not counted on.
GPUS = [Gpu("H100", 132 * 4 * 32 * 1.755e9, 3.0e12), Gpu("H200", 132 * 4 * 32 * 1.755e9, 4.3e12)]


class Case(NamedTuple):
    kernel: str  # its demangled name
    shape: str
    does: str
    elements: int  # of the whole work
    warps: int  # that share it
    bytes: float  # an element that is read or written
    issues: dict = None
    trips: tuple = ()


def likelihood_cases():
    """kernels/likelihood.cu: a warp takes up to 1,024 pixels of a row, a lane 4 at a time."""
    sizes = {"float": 4, "unsigned char": 1, "math::Bf16": 2}
    uses = [("likelihood_fused_bernoulli_kernel", "value and gradient", ""),
            ("likelihood_fused_bernoulli_kernel", "value", ""),
            ("likelihood_fused_log_bernoulli_kernel", "value and gradient", ""),
            ("likelihood_fused_gaussian_kernel", "value and gradient", ""),
            ("likelihood_fused_gaussian_learned_kernel", "value and gradient", "identity, "),
            ("likelihood_fused_gaussian_learned_kernel", "value and gradient", "sigmoid, "),
            ("likelihood_fused_log_gaussian_learned_kernel", "value and gradient", "identity, "),
            ("likelihood_gradient_kernel", "gradient", "math::Bernoulli<math::Approximate>, "),
            ("likelihood_gradient_kernel", "gradient", "math::Gaussian<math::Approximate>, "),
            ("likelihood_gradient_kernel", "gradient", "math::GaussianLearned<math::Approximate, identity>, ")]
    for (kernel, does, loss), target, output, (rows, image) in itertools.product(
            uses, ("float", "unsigned char"), ("float", "math::Bf16"), ((65536, (784,)), (512, (3, 218, 178)))):
        pixels = math.prod(image)
        each = 2 if "learned" in (kernel + loss).lower() else 1  # outputs of a pixel
        quads = min(8, -(-pixels // 128))  # of a lane of a full warp
        issues = {"STG": {"value and gradient": each * quads + 1, "value": 1, "gradient": each * quads}[does]}
        if does != "gradient":
            issues["BAR"] = int(pixels > 1024)
        if does == "value":
            issues |= {"MUFU.EX2": 4 * quads, "MUFU.RCP": 0}
        warps = 1 if pixels <= 1024 else 4 * -(-pixels // 4096)
        yield Case(f"{kernel}<true, {loss}{target}, {output}>", "x".join(map(str, (rows, *image))), does, rows * pixels,
                   rows * warps, sizes[target] + each * sizes[output] * (1 if does == "value" else 2), issues)


def latent_cases():
    """kernels/latent.cu, one sample: a block of 8 warps has 32 rows (and half of them sum its KL), a thread 4 of them;
    backward 2. With the KL of the draws a warp has a draw, and each lane one quad."""
    rows, latent = 65536, 128
    for posterior in ("log_variance", "sigma"):
        yield Case(f"sample_latent_kernel<true, {posterior}, 4u>", "65536x128", "sample and KL", rows * latent,
                   rows // 32 * 8, 12, trips=(1,))
        yield Case(f"sample_latent_backward_kernel<true, {posterior}, 2u, false>", "65536x128", "gradient",
                   rows * latent, rows // 2 * latent // 4 // 32, 20, trips=(1,))
        yield Case(f"sample_latent_sampled_kl_kernel<true, {posterior}>", "65536x128", "sample and its KL",
                   rows * latent, rows, 12 + 4 / latent, trips=(1, 5))
        yield Case(f"sample_latent_backward_kernel<true, {posterior}, 2u, true>", "65536x128", "gradient, weighed",
                   rows * latent, rows // 2 * latent // 4 // 32, 20 + 4 / latent, trips=(1,))


def importance_cases():
    """kernels/importance.cu, rows of 32 draws: a warp has a row, a lane a draw; loss and both gradients."""
    yield Case("importance_bound_kernel", "65536x32", "loss and gradients", 65536 * 32, 65536, 16 + 4 / 32,
               trips=(1,) * 13)


def optimizer_cases():
    """kernels/optimizer.cu, the parameters of experiments/aevb-mnist-20.json: 2 quads a thread. Of finish_step_kernel
    a block that updates: a thread looks at one partial sum of each of two losses, and none is odd. What block 0 and
    the last to end do is one block's work each."""
    parameters = 815_824
    for type, size in (("adam", 28), ("adagrad", 20), ("sgd", 20)):
        work = parameters, -(-parameters // 2048) * 8, size
        yield Case(f"optimizer_step_kernel<true, {type}>", str(parameters), "update", *work, trips=(1,))
        yield Case(f"finish_step_kernel<true, {type}>", str(parameters), "update", *work,
                   {"STG.E.128": 2 * (size - 4) // 8, "ATOMS": 0, "ATOMG.E.MIN": 0, "DADD": 0},
                   trips=(2, 1, 1, 1, 1, 1))


# Source in kernels/ -> its cases. The pages and budgets have them in this order.
CASES = {"likelihood.cu": likelihood_cases, "importance.cu": importance_cases, "latent.cu": latent_cases,
         "optimizer.cu": optimizer_cases}


class Row(NamedTuple):
    case: Case
    kernel: Kernel
    path: Path

    @property
    def slots(self):
        return self.path.issued() * 32 * self.case.warps / self.case.elements

    @property
    def special(self):
        """Slots that its special functions alone are worth."""
        return 8 * self.path.issued("MUFU") * 32 * self.case.warps / self.case.elements

    def budget(self):
        accesses = {what: " ".join(sorted({str(width(i)) for i in self.path.code if i.opcode.startswith(what)}))
                    for what in ("LDG", "STG")}
        loads = sum(i.opcode.startswith("LDG") for i in self.path.code)
        return dict(zip(COLUMNS, (self.case.kernel, self.case.shape, self.case.does, f"{self.slots:.1f}", loads,
                                  loads_before_use(self.path), accesses["LDG"], accesses["STG"])))

    def issue_us(self, gpu):
        return 1e6 * max(self.slots, self.special) * self.case.elements / gpu.slots

    def memory_us(self, gpu):
        return 1e6 * self.case.bytes * self.case.elements / gpu.bandwidth


@functools.lru_cache(maxsize=None)
def rows(nvcc, nvdisasm):
    """A Row for each case."""
    found = []
    for source, cases in CASES.items():
        by_name = kernels(nvcc, nvdisasm, source)
        found += [Row(c, by_name[c.kernel], longest_path(by_name[c.kernel], c.trips, c.issues)) for c in cases()]
    return found


def page(found, nvcc, date):
    """The page of results/ that shows rows."""
    told = subprocess.run([nvcc, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = re.search(r"release [\d.]+, (V[\d.]+)", told)[1]
    h100, h200 = GPUS
    lines = [
        "# The loss kernels on paper",
        "",
        "**Computed from the machine code, not measured: no GPU was used.** Made by",
        "`tools/kernels/sass.py --table results/computed/DATE/loss-kernels.md`, " f"{date}, nvcc {version}, for sm_90.",
        "",
        "Lane slots an element: what a warp issues x 32 lanes / its elements, idle lanes and the work around the loop",
        "included (the module's comment says how they are counted). Issue floor: "
        f"{h100.slots / 1e12:.2f} T slots a second",
        "(132 multiprocessors x 4 schedulers x 32 lanes x 1.755 GHz, for an H200 too). "
        "Memory floor: the bytes that the",
        f"kernel's contract reads and writes, at a copy's {h100.bandwidth / 1e12} TB/s (H100) and",
        f"{h200.bandwidth / 1e12} TB/s (H200). Share: issue floor / memory floor; below 1",
        "memory is what holds the kernel back, if latency is hidden. In a likelihood's name stand: aligned, target,",
        "output. Of `finish_step_kernel` it is a block that updates.",
    ]
    for source, rows_of in itertools.groupby(found, key=lambda row: row.kernel.source):
        lines += ["", f"## {source}", "",
                  "| kernel | does | shape | bytes | slots | loads under way | issue floor us "
                  "| memory floor us, H100 (share) | H200 (share) |",
                  "|---|---|---|---|---|---|---|---|---|"]
        for row in rows_of:
            case, budget = row.case, row.budget()
            memory = [f"{row.memory_us(g):.1f} ({row.issue_us(g) / row.memory_us(g):.2f})" for g in GPUS]
            lines.append(f"| `{case.kernel}` | {case.does} | {case.shape} | {case.bytes:g} | {budget['slots']} | "
                         f"{budget['before_use']} of {budget['loads']} | {row.issue_us(h100):.1f} "
                         f"| {' | '.join(memory)} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", default="/usr/local/cuda/bin/nvcc")
    parser.add_argument("--nvdisasm")
    parser.add_argument("--csv", help="write the budget here")
    parser.add_argument("--table", help="write the page of results/ here")
    parser.add_argument("--path", metavar="KERNEL", help="print what was counted of kernels with this in their names")
    options = parser.parse_args()
    nvdisasm = find_nvdisasm(options.nvcc, options.nvdisasm)
    if not nvdisasm:
        sys.exit("no nvdisasm: it is in CUDA's toolkit and in the Python package nvidia-cuda-nvdisasm; give it with "
                 "--nvdisasm, or run tools/test.sh, which fetches it")

    found = rows(options.nvcc, nvdisasm)
    if options.path:
        for row in found:
            if options.path in row.case.kernel:
                print(f"{row.case.kernel}, {row.case.does}, {row.case.shape}: {row.slots:.1f} slots an element")
                for i, n in zip(row.path.code, row.path.times):
                    print(f"  {n:>4} {i}")
        return
    width = max(len(row.case.kernel) for row in found)
    print(f"{'kernel':<{width}}  {'does':<20}{'shape':<16}{'slots':>7}{'special':>9}{'loads':>7}{'before use':>12}"
          f"{'calls':>7}  {'load bits':<11}{'store bits':<12}{'issue us':>9}"
          + "".join(f"{g.name + ' memory us':>16}" for g in GPUS))
    for row in found:
        b = row.budget()
        print(f"{b['kernel']:<{width}}  {b['does']:<20}{b['shape']:<16}{b['slots']:>7}{row.special:>9.1f}"
              f"{b['loads']:>7}{b['before_use']:>12}{row.kernel.count('CALL'):>7}"
              f"  {b['load_bits']:<11}{b['store_bits']:<12}"
              f"{row.issue_us(GPUS[0]):>9.1f}" + "".join(f"{row.memory_us(g):>16.1f}" for g in GPUS))
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row.budget() for row in found)
    if options.table:
        pathlib.Path(options.table).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(options.table).write_text(page(found, options.nvcc, datetime.date.today()))


if __name__ == "__main__":
    sys.exit(main())
