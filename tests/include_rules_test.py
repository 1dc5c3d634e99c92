"""Who may include whom: reads every #include of the rooms and fails on one that the rules do not allow.

The rules are the table ROOMS below. A breach is planted for each of them as well, so that the net is known to hold.
And two rules of the house about the arguments of require(). None looks up why the call in the condition has failed. None
takes work to make: all of them are evaluated where the condition holds, too.
"""
import pathlib
import re
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = {".h", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

STANDARD = r"[a-z_]+"  # <vector>, <cmath>
SYSTEM = r"(cxxabi|dlfcn|fcntl|pthread|sched|signal|time|unistd|cpuid|immintrin)\.h|sys/\w+\.h|linux/\w+\.h"
CUDA_RUNTIME = r"cuda_(runtime|runtime_api|profiler_api|fp16|bf16)\.h|nvtx3/.*"
THRUST = r"thrust/(iterator/)?\w+\.h"
CONTRACT = r"elbo/.*"

# Room -> the includes it may have, each a pattern for the whole of what stands between <> or "". The first room
# that a file lies in is the one that counts.
ROOMS = {
    "include/elbo/math": [STANDARD, r"elbo/math/.*", r"elbo/types\.h"],
    "include": [STANDARD, CONTRACT],
    "kernels": [STANDARD, CONTRACT, CUDA_RUNTIME, THRUST, r"kernels/.*"],
    "cuda": [STANDARD, SYSTEM, CONTRACT, CUDA_RUNTIME, r"kernels/.*", r"cuda/.*", r"cuda\.h", r"cupti\.h",
             r"cu(blas|blasLt|dnn)\w*\.h"],
    "cpu": [STANDARD, SYSTEM, CONTRACT, r"cpu/.*", r"oneapi/dnnl/.*", r"omp\.h"],
}
# The rooms of host/, lowest first: each may include itself, those named before it, and these libraries.
HOST = {
    "base": [r"fmt/.*", r"nlohmann/.*", r"openssl/.*"],
    "spec": [r"nlohmann/.*"],
    "data": [r"zlib\.h"],
    "graph": [],
    "model": [],
    "train": [r"fmt/.*", r"nlohmann/.*"],
    "report": [r"fmt/.*", r"nlohmann/.*", r"cairo(-ft)?\.h", r"ft2build\.h"],
    "lab": [r"fmt/.*", r"nlohmann/.*"],
    "commands": [r"fmt/.*", r"nlohmann/.*", r"CLI/.*"],
}
for number, (room, libraries) in enumerate(HOST.items(), 1):
    lower = "|".join(list(HOST)[:number])
    ROOMS[f"host/{room}"] = [STANDARD, SYSTEM, CONTRACT, rf"host/({lower})/.*", *libraries]
# The one file of the host that names a concrete device, and the one that asks what this process may use.
EXCEPTIONS = {"host/base/devices.cpp": [r"cpu/backend\.h"], "host/base/memory.cpp": [r"cpu/limits\.h"]}


def breaches(root):
    """Lines `file:line: what` for every include under `root` that its room does not allow."""
    found = []
    for path in sorted(p for room in ROOMS for p in (root / room).rglob("*") if p.suffix in SOURCES):
        name = path.relative_to(root).as_posix()
        room = next(r for r in ROOMS if name.startswith(r + "/"))
        allowed = ROOMS[room] + EXCEPTIONS.get(name, [])
        for number, line in enumerate(path.read_text().splitlines(), 1):
            include = INCLUDE.match(line)
            if not include:
                continue
            # "backend.h" would slip past the table; a name that starts at a room does not.
            bare = include[1] == '"' and "/" not in include[2]
            if bare or not any(re.fullmatch(pattern, include[2]) for pattern in allowed):
                found.append(f"{name}:{number}: {room}/ may not include {include[2]}")
    return sorted(set(found))


# What tells why the call before has failed, or what a call has left in its std::error_code.
REASON = re.compile(r"\b(errno\b|dlerror\(|reason\(\))|\.message\(\)")


def arguments(text, begin):
    """Those of a call, whose first character after the parenthesis is at `begin`."""
    found, depth = [""], 1
    for c in text[begin:]:
        depth += (c in "([{") - (c in ")]}")
        if depth == 0:
            break
        if c == "," and depth == 1:
            found.append("")
        else:
            found[-1] += c
    return found


def checks(root):
    """`file:line`, the condition and the other arguments of each require()."""
    for path in sorted(p for room in ROOMS for p in (root / room).rglob("*") if p.suffix in SOURCES):
        text = re.sub(r'"(\\.|[^"\\\n])*"', '""', path.read_text())  # texts are empty, there are no single characters
        text = re.sub(r"//.*", "", re.sub(r"'(\\.|[^'\\])'", "0", text))
        for check in re.finditer(r"\brequire\(", text):
            condition, *message = arguments(text, check.end())
            yield f"{path.relative_to(root)}:{text.count(chr(10), 0, check.start()) + 1}", condition, message


def stale_reasons(root):
    """Each require() that makes a call and says why it failed: arguments are evaluated before the condition or after it,
    as the compiler likes. check_call() of host/base/files.h looks when the call is over."""
    return [where for where, condition, message in checks(root)
            if re.search(r"\w\(", condition) and any(REASON.search(part) for part in message)]


CALL = re.compile(r"(\w+)\s*(?:<[^<>()]*>)?\(")
# Calls that only look at what is there, or copy a short text.
CHEAP = {"S_ISDIR", "cairo_status_to_string", "cairo_surface_status", "columns", "count", "empty", "get", "left", "message",
         "name_of", "position", "rows", "size", "sizeof", "static_cast", "string"}


def eager_messages(root):
    """Each require() whose message takes work to make: another call, or texts that are joined. `if (...) fail(...)` makes
    it where it is wanted."""
    return [where for where, _, message in checks(root)
            if any(set(CALL.findall(part)) - CHEAP or re.search(r'"" \+|\+ ""', part) for part in message)]


class ArgumentsOfRequire(unittest.TestCase):
    def planted(self, rule, cases):
        """Of each line whether the rule finds it."""
        self.assertEqual(rule(ROOT), [])
        for line, wrong in cases:
            with self.subTest(line=line), tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "host/base/x.cpp")
                path.parent.mkdir(parents=True)
                path.write_text(f"// A comment.\n{line}\n")
                self.assertEqual(rule(pathlib.Path(folder)), ["host/base/x.cpp:2"] if wrong else [])

    def test_none_looks_up_why_the_condition_failed(self):
        self.planted(stale_reasons, (
            ('require(::fsync(fd) == 0, path, ": ", std::strerror(errno));', True),
            ('require(\n    ::rename(a, b) == 0, a, ": (",\n    reason());', True),
            ('require(fs::remove(path, error), path, error.message());', True),
            ('require(dlopen(file, 1), file, dlerror());', True),
            ('require(!error, path, ": ", error.message());', False),
            ('require(has(path), path, ": is \\"errno\\" (, ", name);', False),
            ('require(locked == 0 || errno != EAGAIN, path);', False),
            ('check_call(::fsync(fd), path, "cannot be written");', False)))

    def test_none_takes_work_to_make(self):
        self.planted(eager_messages, (
            ('require(data, "no memory on ", backend.info().name);', True),
            ('require(is(a),\n    "expected ",\n    any_of(words));', True),
            ('require(is(a), read<int>(path), ": no");', True),
            ('require(is(a), folder + "/x", ": no");', True),
            ('require(!t.empty(), path, ": ", t.size(), " of ", name_of(t.dtype), ", not any(one)");', False),
            ('if (!data) fail("no memory on ", backend.info().name);', False)))


DEVICE = re.compile(r'[!=]= "(cpu|cuda|sim)"|"(cpu|cuda|sim)" [!=]=')


def names_of_devices(root):
    """Lines `file:line` of the host that ask for a device by its name. What a device is like, DeviceInfo tells."""
    return [f"{path.relative_to(root)}:{number}" for path in sorted((root / "host").rglob("*.cpp"))
            if path.relative_to(root).as_posix() != "host/base/devices.cpp"
            for number, line in enumerate(path.read_text().splitlines(), 1) if DEVICE.search(line)]


class NamesOfDevices(unittest.TestCase):
    def test_tree_has_none(self):
        self.assertEqual(names_of_devices(ROOT), [])

    def test_planted_ones_are_found(self):
        for name, line, wrong in (("lab/x.cpp", 'if (info.name == "cuda") return 1;', True),
                                  ("base/x.cpp", 'if ("sim" != name) return 1;', True),
                                  ("base/devices.cpp", 'if (request == "cpu") return 1;', False),
                                  ("lab/x.cpp", 'folders_in("/usr/local", "cuda")', False)):
            with self.subTest(line=line), tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "host", name)
                path.parent.mkdir(parents=True)
                path.write_text(f"// A comment.\n{line}\n")
                self.assertEqual(names_of_devices(pathlib.Path(folder)), [f"host/{name}:2"] if wrong else [])


class IncludeRules(unittest.TestCase):
    def test_every_host_file_is_in_a_room_whose_head_names_those_below(self):
        rooms = {p.relative_to(ROOT / "host").parts[0] for p in (ROOT / "host").rglob("*") if p.suffix in SOURCES}
        self.assertEqual(rooms, set(HOST))
        for number, room in enumerate(HOST):
            head = (ROOT / "host" / room / "README.md").read_text()
            lower = ", ".join(list(HOST)[:number]) or "no other room"
            self.assertIn(f"Rests on: {lower}.\n", head, room)

    def test_tree_keeps_the_rules(self):
        files = [p for room in ROOMS for p in (ROOT / room).rglob("*") if p.suffix in SOURCES]
        self.assertGreater(len(files), 20, "the rooms were not found")
        self.assertEqual(breaches(ROOT), [])

    def test_planted_breaches_are_found(self):
        planted = [
            ("include/elbo/math/x.h", '#include "elbo/tensor.h"'),
            ("include/elbo/math/x.h", "#include <cuda_runtime.h>"),
            ("include/elbo/x.h", "#include <cuda_runtime.h>"),
            ("include/elbo/x.h", "#include <oneapi/dnnl/dnnl.hpp>"),
            ("include/elbo/x.h", "#include <nlohmann/json.hpp>"),
            ("include/elbo/x.h", '#include "host/spec/spec.h"'),
            ("kernels/x.cu", "#include <cublas_v2.h>"),
            ("kernels/x.cu", '#include "cuda/memory.h"'),
            ("kernels/x.h", "  #  include <cub/cub.cuh>"),
            ("kernels/x.h", "#include <thrust/detail/config.h>"),
            ("cuda/x.cpp", "#include <thrust/transform.h>"),
            ("cuda/x.cpp", '#include "host/spec/spec.h"'),
            ("cuda/x.cpp", "#include <nlohmann/json.hpp>"),
            ("cuda/x.cpp", "#include <oneapi/dnnl/dnnl.hpp>"),
            ("cpu/x.cpp", '#include "kernels/launch.h"'),
            ("cpu/x.cpp", "#include <cuda_runtime.h>"),
            ("host/train/x.cpp", '#include "cpu/backend.h"'),
            ("host/train/x.cpp", '#include "cuda/backend.h"'),
            ("host/train/x.cpp", "#include <cpu/backend.h>"),
            ("host/data/x.cpp", "#include <oneapi/dnnl/dnnl.hpp>"),
            ("host/base/x.cpp", '#include "host/spec/spec.h"'),
            ("host/data/x.cpp", '#include "host/train/trainer.h"'),
            ("host/report/x.cpp", '#include "host/lab/plan.h"'),
            ("host/base/devices.cpp", '#include "cuda/backend.h"'),
            ("host/base/devices.cpp", '#include "backend.h"'),
        ]
        for name, line in planted:
            with self.subTest(file=name, line=line):
                self.assertEqual(len(self.breaches_of(name, line)), 1)

    def test_what_is_allowed_passes(self):
        allowed = [
            ("include/elbo/math/x.h", '#include "elbo/types.h"'),
            ("kernels/x.cu", "#include <cuda_runtime.h>"),
            ("kernels/x.cu", "#include <thrust/iterator/counting_iterator.h>"),
            ("cuda/x.cpp", "#include <cublasLt.h>"),
            ("cpu/x.cpp", "#include <oneapi/dnnl/dnnl.hpp>"),
            ("host/base/devices.cpp", '#include "cpu/backend.h"'),
            ("host/lab/x.cpp", '#include "host/report/page.h"'),
            ("host/train/x.cpp", '// #include "cpu/backend.h" stands in a comment'),
        ]
        for name, line in allowed:
            with self.subTest(file=name, line=line):
                self.assertEqual(self.breaches_of(name, line), [])

    def breaches_of(self, name, line):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True)
            path.write_text(f"#pragma once\n{line}\n")
            return breaches(pathlib.Path(folder))


if __name__ == "__main__":
    unittest.main()
