"""Copies a kernel's source for the simulated device, with its launch bounds where a C++ compiler can read them.

    kernel_source.py KERNEL.cu OUT.cpp

`__launch_bounds__(threads, blocks)` stands where C++ knows no expression, so it moves: from the head of a kernel to the
first line of its body, as CUSIM_LAUNCH_BOUNDS(kernel, (threads, blocks)), whose mention makes the promise known before
the first launch (tests/sim/cuda_runtime.h). Lines keep their numbers. No other file may have such bounds: there the
simulated device's headers know no such name.
"""
import re
import sys
from pathlib import Path

PAIRS = {"(": ")", "<": ">", "{": "}", "[": "]"}


def end_of(text, begin):
    """The index behind the bracket that closes the one at `begin`."""
    depth = 0
    for i in range(begin, len(text)):
        depth += (text[i] == text[begin]) - (text[i] == PAIRS[text[begin]])
        if depth == 0:
            return i + 1
    sys.exit(f"unbalanced {text[begin]} in: {text[begin:begin + 80]}")


def template_arguments(head):
    """"<aligned, Target>" for a head that ends with "template <bool aligned, class Target>"; "" for no template."""
    last = head.rfind("template")
    if last < 0 or not head.rstrip().endswith(">") or end_of(head, head.index("<", last)) != len(head.rstrip()):
        return ""
    inside = head[head.index("<", last) + 1:head.rstrip().rindex(">")]
    names = [re.sub(r"\s*=.*", "", one, flags=re.S).split()[-1] for one in inside.split(",")]
    return f"<{', '.join(names)}>"


def with_bounds_inside(source):
    out, done = "", 0
    for found in re.finditer(r"__global__\s+void\s+(__launch_bounds__\s*)\(", source):
        begin, opening = found.start(1), found.end() - 1
        bounds_end = end_of(source, opening)
        name = re.compile(r"\s*(\w+)\s*(?=\()").match(source, bounds_end)
        if not name:
            sys.exit(f"no kernel's name after: {source[begin:bounds_end]}")
        body = re.compile(r"\s*\{").match(source, end_of(source, name.end()))
        if not body:
            sys.exit(f"{name[1]}: its launch bounds belong where its body is")
        kernel = name[1] + template_arguments(source[:found.start()])
        bounds = " ".join(source[opening:bounds_end].split())
        out += source[done:begin] + re.sub(r"[^\n]", "", source[begin:bounds_end]) + source[bounds_end:body.end()]
        out += f" CUSIM_LAUNCH_BOUNDS(({kernel}), {bounds});"
        done = body.end()
    return out + source[done:]


if __name__ == "__main__":
    path, target = sys.argv[1:]
    Path(target).write_text(f'#line 1 "{path}"\n' + with_bounds_inside(Path(path).read_text()))
