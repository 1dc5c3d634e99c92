"""Runs every planted bug (planted_bugs.cpp) in every configuration of the simulated device, and fails where a bug
slips through a net that must hold it, or where a control raises an alarm.

    planted_bugs_test.py PLAIN ASAN TSAN    the program, built plainly, with ASan and UBSan, with ThreadSanitizer
"""
import os
import subprocess
import sys

ORDERS = "forward", "reverse", "random"
SEEDS = range(1, 9)

# Bug -> the configurations that must catch it. Others may catch it as well.
ANY = "forward reverse random asan tsan"
MUST_CATCH = {
    "missing_barrier": ANY,
    "shared_memory_reused": "random tsan",
    "warp_in_step": "forward tsan",
    "divergent_barrier": ANY,
    "shuffle_after_exit": ANY,
    "shuffle_in_branch": ANY,
    "race_between_blocks": "tsan",
    "race_between_threads": "tsan",
    "race_in_place": "reverse random tsan",
    "float_atomics": "reverse random",
    "last_block_without_a_fence": "tsan",
    "global_written_past_its_end": "asan",
    "global_read_past_its_end": "asan",
    "shared_written_past_its_end": "asan",
    "uninitialised_shared": ANY,
    "uninitialised_global": ANY,
    "misaligned_vector": "asan",
    "integer_overflow": "asan",
    "use_after_free": "asan tsan",
    "freed_twice": ANY,
    "copy_past_the_end": ANY,
    "no_wait_for_the_copy": "reverse random tsan",
    "slot_refilled_too_early": "reverse random tsan",
    "baked_scalar": ANY,
    "missing_edge_in_a_graph": "reverse random tsan",
    "allocation_in_a_capture": ANY,
}


def alarm(program, bug, order):
    """What was noticed, in a word; empty: nothing."""
    environment = dict(os.environ, ELBO_SIM_ORDER=order, ASAN_OPTIONS="exitcode=99:detect_leaks=0",
                       UBSAN_OPTIONS="halt_on_error=1:exitcode=99", TSAN_OPTIONS="exitcode=99:halt_on_error=1")
    run = subprocess.run([program, bug], env=environment, capture_output=True, text=True, errors="replace", timeout=300)
    return {0: "", 1: "wrong", 2: "refused", 99: "sanitizer"}.get(run.returncode, f"exit {run.returncode}")


def main():
    plain, asan, tsan = sys.argv[1:]
    names = subprocess.run([plain], capture_output=True, text=True, check=True).stdout.split()
    failures = [f"{name}: not in the table" for name in names
                if name not in MUST_CATCH and not name.startswith("control_")]
    failures += [f"{name}: in the table, but there is no such bug" for name in MUST_CATCH if name not in names]

    print(f"{'':30}{'forward':12}{'reverse':12}{'random':12}{'asan':12}{'tsan':12}")
    for name in names:
        caught = {order: alarm(plain, name, order) for order in ORDERS[:2]}
        caught["random"] = next(filter(None, (alarm(plain, name, f"random:{seed}") for seed in SEEDS)), "")
        caught["asan"] = next(filter(None, (alarm(asan, name, order) for order in ORDERS)), "")
        caught["tsan"] = next(filter(None, (alarm(tsan, name, order) for order in ORDERS)), "")
        print(f"{name:30}" + "".join(f"{what or '-':12}" for what in caught.values()), flush=True)
        if name.startswith("control_"):
            failures += [f"{name}: false alarm, {net}: {what}" for net, what in caught.items() if what]
        else:
            failures += [f"{name}: not caught, {net}" for net in MUST_CATCH.get(name, "").split() if not caught[net]]
    print("\n".join(failures) or "every bug was caught, and no control")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
