"""Stands in for elbo, its tests, NVIDIA's tools and a Python with PyTorch and JAX on a machine with a GPU, so that
gpu_check_test.py walks through every section of tools/gpu_check.py. Figures are made up. Called with the name of what
it stands in for and that one's arguments.

FAKE_SLOW=1: everything of elbo's takes 100 times as long, but for unfused kernels. FAKE_HANG, FAKE_FAIL: a part of the
command line of what hangs, or fails (elbo --version never does). FAKE_PID: a file for the number of a process that the hanging one has
started, and its own command line; FAKE_PASSED: how many tests it passed before. FAKE_CUT=1: what measures losses fails
on its way. FAKE_LIBRARIES: what LD_LIBRARY_PATH must begin with for elbo to open the GPU, and be with "=" in front.
FAKE_CUPTI: a folder that must be in it for elbo to trace kernels. FAKE_UNSEEN: a part of the name of the kernels that
ncu does not come to. FAKE_REFUSED=1: the machine does not let NVIDIA's tools work. FAKE_OBJECTS=1: cuBLASLt objects to
epilogues.
"""

import argparse
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time

COPY = 3e12  # bytes a second
SLOW = 100 if os.environ.get("FAKE_SLOW") else 1
STEP_US = {"w1": 35.0, "mnist-2d": 20.0, "freyface-8d": 15.0}
BF16, BERNOULLI = "elbo::math::Bf16", "elbo::math::Bernoulli<elbo::math::Approximate>"
KERNELS = {  # loss -> kernels as ncu may write them -> megabytes read and written
    "bernoulli": {
        "likelihood_fused_bernoulli_kernel<true, unsigned char>(LikelihoodLoss<x>)": (128.5, 90.0),
        "likelihood_fused_bernoulli_kernel<(bool)1, float>(LikelihoodLoss<x>)": (205.6, 100.0),
        f"likelihood_fused_bernoulli_kernel<true, unsigned char, {BF16}>(LikelihoodLoss<x>)": (77.1, 51.0),
        f"likelihood_fused_bernoulli_kernel<true, float, {BF16}>(LikelihoodLoss<x>)": (154.1, 51.0),
    },
    "gaussian": {
        "likelihood_fused_gaussian_kernel<true, unsigned char, float>(GaussianLoss)": (128.5, 90.0),
        "likelihood_fused_gaussian_kernel<true, float, float>(GaussianLoss)": (205.6, 100.0),
        f"likelihood_fused_gaussian_kernel<true, unsigned char, {BF16}>(GaussianLoss)": (77.1, 51.0),
        f"likelihood_fused_gaussian_kernel<true, float, {BF16}>(GaussianLoss)": (154.1, 51.0),
    },
    "gaussian_learned": {
        "likelihood_fused_gaussian_learned_kernel<true, 0, unsigned char, float>(LikelihoodLoss<x>)": (226.5, 150.0),
        "likelihood_fused_gaussian_learned_kernel<(bool)1, (PixelMean)0, float, float>(x)": (302.0, 150.0),
        f"likelihood_fused_gaussian_learned_kernel<true, 0, unsigned char, {BF16}>(x)": (125.8, 90.0),
        f"likelihood_fused_gaussian_learned_kernel<true, 0, float, {BF16}>(x)": (201.3, 90.0),
    },
    "latent": {
        "sample_latent_kernel<true, 0, 2>(SampleLatent)": (5.25, 1.3),
        "sample_latent_kernel<true, 0, 8>(SampleLatent)": (33.6, 16.5),
        "sample_latent_backward_kernel<true, 0, 1, false>(SampleLatentBackward)": (7.87, 5.2),
        "sample_latent_backward_kernel<(bool)1, (Posterior)0, (unsigned int)2, (bool)0>(x)": (50.4, 33.0),
    },
    "iwae": {
        "likelihood_fused_bernoulli_kernel<true, unsigned char, float>(LikelihoodLoss<x>)": (107.0, 0.5),
        f"likelihood_fused_bernoulli_kernel<(bool)1, unsigned char, {BF16}>(LikelihoodLoss<x>)": (56.6, 0.5),
        f"likelihood_gradient_kernel<true, {BERNOULLI}, unsigned char, float>(x)": (107.5, 60.0),
        f"likelihood_gradient_kernel<true, {BERNOULLI}, unsigned char, {BF16}>(x)": (57.1, 20.0),
        "sample_latent_sampled_kl_kernel<true, 0>(SampleLatent)": (5.25, 3.0),
        "sample_latent_backward_kernel<(bool)1, (Posterior)0, (unsigned int)2, (bool)1>(x)": (16.3, 5.0),
        "importance_bound_kernel(ImportanceBound)": (1.06, 0.2),
    },
}


def times(median, **more):
    return {"median_us": median, "p10_us": 0.9 * median, "p90_us": 1.1 * median, "timings": 30, **more}


def value_of(option):
    return sys.argv[sys.argv.index(option) + 1]


def write(path, what):
    pathlib.Path(path).write_text(json.dumps(what))


def values_of(option):
    return [value for name, value in zip(sys.argv, sys.argv[1:]) if name == option]


def finds_libraries():
    needed, given = os.environ.get("FAKE_LIBRARIES", ""), os.environ.get("LD_LIBRARY_PATH", "")
    return needed[1:] == given if needed.startswith("=") else given.startswith(needed)


def elbo():
    command = " ".join(sys.argv[1:3])
    if command == "devices" and not finds_libraries():
        print("cuda  not available  libcublasLt.so.13: cannot open shared object file\ncpu   available      some CPU")
    elif command == "devices":
        print("cuda  available  NVIDIA H100 80GB HBM3, compute capability 9.0\ncpu   available  some CPU")
    elif command == "--version":
        print("elbo 0.1.0")
    elif command == "bench loss":
        rows, *rest = map(int, value_of("--shape").split("x"))
        pixels = rest[0] if len(rest) == 1 else rest[0] * rest[1] * rest[2]

        def timing(loss, types, bytes, part, **more):
            record = {"loss": loss, "rows": rows, "pixels": pixels, "latent": 0, "rival": "fused", "bytes": bytes}
            record |= {**types, **more}
            slower = SLOW if record["rival"] == "fused" else 1
            errors = {} if "--no-reference" in sys.argv else {"value_error": 1.5e-9, "gradient_error": 2.5e-8}
            return {**record, **errors, **times(slower * 1e6 * bytes / COPY / part)}

        count, none = rows * pixels, {"target": "none", "output": "none"}
        training, unfused = {"target": "u8", "output": "f32"}, {"rival": "unfused"}
        head, images = {"latent": 20, "samples": 4}, rows // 4
        timings = [
            timing("bernoulli", {"target": "f32", "output": "f32"}, 12 * count, 0.97),
            timing("bernoulli", training, 9 * count, 0.95),
            timing("bernoulli", {"target": "u8", "output": "bf16"}, 5 * count, 0.92),
            timing("gaussian_learned", training, 50 * count, 0.8, **unfused),
            timing("gaussian_learned", training, 17 * count, 0.92),
            timing("latent", none, 32 * rows * 20, 0.5, pixels=0, latent=20),
            timing("latent", none, 32 * rows * 128, 0.93, pixels=0, latent=128),
            timing("iwae", training, 30 * count + 1336 * rows + 672 * images, 0.8, **head, **unfused),
            timing("iwae", training, 12 * count + 184 * rows + images * (2 * pixels + 484), 0.9, **head),
        ]
        for name in ("loss", "rival", "target", "output"):
            wanted = values_of(f"--{name}")
            assert set(wanted) <= {*KERNELS, "fused", "unfused", "f32", "u8", "bf16"}, sys.argv
            timings = [t for t in timings if not wanted or t[name] in wanted]
        timings = timings[:1] if "FAKE_CUT" in os.environ else timings
        if "--json" in sys.argv:
            write(value_of("--json"), {"device": "cuda", "copy_bytes_per_second": COPY, "timings": timings})
        if "FAKE_CUT" in os.environ:
            sys.exit("cut short")
    elif "FAKE_OBJECTS" in os.environ and "--no-epilogues" not in sys.argv:
        sys.exit("elbo: the product [100, 500]: CUBLAS_STATUS_INVALID_VALUE; --no-epilogues does without")
    elif command == "bench step":
        name = json.loads(pathlib.Path(sys.argv[3]).read_text())["name"]
        if "--tuning" in sys.argv:
            assert json.loads(pathlib.Path(value_of("--tuning")).read_text()) == {"tuned": name}
        nodes = 26 if SLOW > 1 or "--no-epilogues" in sys.argv else 16
        graph = {"graph_nodes": nodes, "dependent_launches": nodes - 2, "sm_clock_mhz": 1980}
        write(value_of("--json"), {"spec": name, "device": "cuda", **graph, **times(SLOW * STEP_US[name])})
    elif sys.argv[1] == "tune":
        write(value_of("--out"), {"tuned": json.loads(pathlib.Path(sys.argv[2]).read_text())["name"]})
    elif sys.argv[1] == "profile":
        steps, trace = int(value_of("--steps")), pathlib.Path(value_of("--trace"))
        if os.environ.get("FAKE_CUPTI", "") not in os.environ.get("LD_LIBRARY_PATH", ""):
            print("no kernels in this trace, but ranges, issued call by call: libcupti.so.13: cannot open")
        write(trace, {"traceEvents": []})
        lines = ["start_us,duration_us,kind,name,stream,grid,block,registers,shared_bytes,bytes"]
        for i in range(steps):
            lines.append(f"{10 * i},2.5,kernel,sm90_xmma_gemm<f32, tf32, 64x64>,elbo compute,8x7x1,256x1x1,90,1024,")
            lines += [f"{10 * i + 4},1.5,kernel,likelihood_fused_bernoulli_kernel,elbo compute,100x1x1,64x1x1,40,144,"] * 2
            lines.append(f"{10 * i + 8},0.5,copy,copy device to host,elbo compute,,,,,100")
        trace.with_suffix(".csv").write_text("\n".join(lines) + "\n")
        print("10.0 us a step, 60% of it at work")
    elif sys.argv[1] == "run":
        folder = pathlib.Path(value_of("--out"))
        folder.mkdir()
        write(folder / "spec.json", {"train": {"batch_size": 100}})
        best = {"mnist-2d": -150.0, "freyface-8d": -340.0}[pathlib.Path(sys.argv[2]).stem]
        lines = [
            {
                "epoch": e,
                "step": 600 * e,
                "test": {"elbo": best - 50 / e - (500 if SLOW > 1 else 0)},
                "images_per_second": 3e6,
                "seconds": 0.05 * e,
            }
            for e in range(1, 21)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        sys.exit(f"elbo has no {command}")


def gtest():
    assert finds_libraries(), "elbo's libraries are not where the loader looks"
    tests = [{"name": f"Test{i}/cuda", "result": "COMPLETED"} for i in range(10)]
    tests.append({"name": "Data/cuda", "result": "SKIPPED"})
    if SLOW > 1:
        tests[0]["failures"] = [{}]
    for argument in sys.argv:
        if argument.startswith("--gtest_output=json:"):
            write(argument.split(":", 1)[1], {"testsuites": [{"testsuite": tests}]})
    print("[  PASSED  ] 10 tests.")


def ceilings():
    figure = {"p10": 1.0, "p90": 3.0, "timings": 30, "sm_clock_mhz": 1980}
    figures = [
        {"name": "copy by cudaMemcpyAsync", "unit": "GB/s", "median": 2950.0, **figure},
        {"name": "copy by a kernel", "unit": "GB/s", "median": 3010.0, **figure},
        {"name": "grid barrier", "unit": "us", "median": 1.4, **figure},
        {"name": "product in bf16", "unit": "TFLOP/s", "median": 798.0, **figure},
        {"name": "cluster barrier of 16 blocks", "error": "this GPU has no clusters"},
    ]
    only = sys.argv[3:] if sys.argv[2:3] == ["--only"] else [""]
    figures = [f for f in figures if any(word in f["name"] for word in only)]
    write(sys.argv[1], {"gpu": {"name": "fake", "l2_bytes": 50 << 20}, "figures": figures})


def run_target():
    """As a tool does that brings libraries of its own, other than those of elbo."""
    assert "FAKE_LIBRARIES" not in os.environ or not finds_libraries(), "the tool would load pip's libraries"
    assert value_of("--target-processes") == "all", sys.argv
    return subprocess.run(sys.argv[sys.argv.index("env") :]).returncode


def compute_sanitizer():
    assert sys.argv[1] == "--tool" and value_of("--error-exitcode") == "9", sys.argv
    assert ("--kernel-name" in sys.argv) == (sys.argv[2] != "initcheck"), sys.argv
    if "FAKE_REFUSED" in os.environ:
        sys.exit("========= Error: Device not supported. Please refer to the documentation")
    print("========= COMPUTE-SANITIZER", flush=True)
    code = run_target()
    if SLOW > 1:
        print("========= Invalid read\n=========     at a_kernel" + 50 * "\n=========     called from somewhere")
    print(f"========= ERROR SUMMARY: {1 if SLOW > 1 else 0} errors")
    sys.exit(9 if SLOW > 1 else code)


def ncu():
    assert value_of("--clock-control") == "none" and value_of("--rival") == "fused", sys.argv
    assert value_of("--warmup") == value_of("--seconds") == "0", sys.argv
    if "FAKE_REFUSED" in os.environ:
        sys.exit("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance")
    assert run_target() == 0
    metrics = value_of("--metrics").split(",")
    print("==PROF== Connected to process 1\nbernoulli 65536x784\n==PROF== Disconnected")
    print(",".join(f'"{c}"' for c in ["ID", "Kernel Name", *metrics]))
    print(",".join(f'"{c}"' for c in ["", "", "us", "Mbyte", "Mbyte"]))
    unseen = os.environ.get("FAKE_UNSEEN")
    launches = [(name, *moved) for loss in values_of("--loss") for name, moved in KERNELS[loss].items()]
    launches = [launch for launch in launches if not unseen or unseen not in launch[0]]
    for i, (name, read, written) in enumerate(launches):
        namespace = "(anonymous namespace)" if "(bool)" in name else "<unnamed>"
        name = f"{'void ' * ('<' in name)}elbo::kernels::{namespace}::{name}"
        print(",".join(f'"{c}"' for c in [i, name, "1,234.5", read * (2 if SLOW > 1 else 1), written]))


def nvidia_smi():
    if sys.argv[1:] == ["-L"]:
        return print("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)")
    print(", ".join(["a figure"] * len(sys.argv[1].split(","))))


def framework(options):
    """What a script of tools/compare would write."""
    shared = {"device": "cuda", "framework": "JAX 0.11.2" if "jax" in " ".join(sys.argv) else "PyTorch 2.11.0"}
    if hasattr(options, "shape"):
        forms = options.form or (["jit"] if options.framework == "jax" else ["eager", "compile"])
        per_element = {"eager": 72, "compile": 20, "jit": 12}
        return [
            {
                **shared,
                "loss": "bernoulli",
                "form": f,
                "rows": r,
                "pixels": p,
                "bytes": 12 * r * p,
                **times(1e6 * per_element[f] * r * p / COPY),
            }
            for r, p in options.shape
            for f in forms
        ]
    name = json.loads(pathlib.Path(options.spec).read_text())["name"]
    factor = {"eager": 20, "eager-fused": 12, "scan": 2, "jit": 5, "graph": 3, "reduce-overhead": 6, "max-autotune": 5}
    return [
        {**shared, "spec": name, "form": f, "precision": p, **times(factor[f] * STEP_US[name])}
        for p in options.precision
        for f in options.form
    ]


def python():
    """Scripts run as far as their options are read: wrong ones are an error, right ones decide what is written."""
    if sys.argv[1] != "-c" or "site" not in sys.argv[2]:
        assert "FAKE_LIBRARIES" not in os.environ or not finds_libraries(), "PyTorch would load libraries of elbo's"
    if sys.argv[1] == "-c":
        print("/nowhere/nvidia/cu13/lib" if "site" in sys.argv[2] else "2.11.0")
        return
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, *arguments):
        options = original(parser, *arguments)
        write(options.json, framework(options))
        sys.exit(0)

    argparse.ArgumentParser.parse_args = parse_args
    del sys.argv[0]
    sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def main():
    del sys.argv[0]
    line = " ".join(sys.argv)
    if os.environ.get("FAKE_FAIL") and os.environ["FAKE_FAIL"] in line and line != "elbo --version":
        sys.exit("a made-up failure" + 50 * ", with words")
    if os.environ.get("FAKE_HANG") and os.environ["FAKE_HANG"] in line:
        print(int(os.environ.get("FAKE_PASSED", 0)) * "[       OK ] a test\n", flush=True)
        child = subprocess.Popen(["sleep", "100"])  # holds on to the output
        pathlib.Path(os.environ["FAKE_PID"]).write_text(f"{child.pid} {line}")
        time.sleep(100)
    {
        "elbo": elbo,
        "ops_test": gtest,
        "trainer_test": gtest,
        "ceilings": ceilings,
        "compute-sanitizer": compute_sanitizer,
        "ncu": ncu,
        "nvidia-smi": nvidia_smi,
        "python": python,
    }[sys.argv[0]]()


if __name__ == "__main__":
    main()
