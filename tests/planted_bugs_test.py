"""Runs every planted bug (planted_bugs.cpp) in every configuration of the simulated device, and fails where a bug
slips through a net that must hold it, or where a control raises an alarm.

    planted_bugs_test.py PLAIN ASAN TSAN    the program, built plainly, with ASan and UBSan, with ThreadSanitizer
"""
import concurrent.futures
import os
import subprocess
import sys

ORDERS = "forward", "reverse", "random"
SEEDS = range(1, 9)
TSAN_SEEDS = 4

# Bug -> the nets that must catch it; whether others do is not asked. The first three are orders in which threads, and
# blocks in turn, run in the plain build; in "together" and "apart" its blocks let each other go on, in any order
# (tests/sim/executor.h); the sanitizers have some of each.
ANY = "forward reverse random together apart asan tsan"
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
    "last_block_without_its_first_fence": "apart tsan",
    "last_block_without_its_second_fence": "apart tsan",
    "last_block_without_an_atomic": "apart tsan",
    # What its last block reads of others' stores they make with atomics: its fences keep their loads from coming after
    # its stores.
    "finish_step_without_its_first_fence": "tsan",
    "finish_step_without_its_second_fence": "tsan",
    "finish_step_without_an_atomic": "apart tsan",
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


def alarm(program, bug, order, blocks="in_turn"):
    """What was noticed, in a word; empty: nothing."""
    environment = dict(
        os.environ, ELBO_SIM_ORDER=order, ELBO_SIM_BLOCKS=blocks, ASAN_OPTIONS="exitcode=99:detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1:exitcode=99", TSAN_OPTIONS="exitcode=99:halt_on_error=1"
    )
    run = subprocess.run([program, bug], env=environment, capture_output=True, text=True, errors="replace", timeout=300)
    return {0: "", 1: "wrong", 2: "refused", 99: "sanitizer"}.get(run.returncode, f"exit {run.returncode}")


def main():
    plain, asan, tsan = sys.argv[1:]
    names = subprocess.run([plain], capture_output=True, text=True, check=True).stdout.split()
    failures = [f"{name}: not in the table" for name in names
                if name not in MUST_CATCH and not name.startswith("control_")]
    failures += [f"{name}: in the table, but there is no such bug" for name in MUST_CATCH if name not in names]

    seeds = [f"random:{seed}" for seed in SEEDS]
    every = [*ORDERS[:2], *seeds]
    nets = {"forward": (plain, {"in_turn": ORDERS[:1]}), "reverse": (plain, {"in_turn": ORDERS[1:2]}),
            "random": (plain, {"in_turn": seeds}), "together": (plain, {"together": every}),
            "apart": (plain, {"apart": every}), "asan": (asan, {"in_turn": ORDERS, "apart": seeds[:1]}),
            "tsan": (tsan, {"in_turn": ORDERS, "together": seeds[:TSAN_SEEDS]})}

    def first_alarm(name, program, schedules):
        alarms = (alarm(program, name, order, blocks) for blocks, orders in schedules.items() for order in orders)
        return next(filter(None, alarms), "")

    def alarms(name):
        """Net -> what it noticed: those that must, and every one of a control."""
        asked = nets if name.startswith("control_") else MUST_CATCH.get(name, "").split()
        return {net: first_alarm(name, *nets[net]) for net in asked}

    print(f"{'':40}" + "".join(f"{net:11}" for net in nets))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, noticed in zip(names, pool.map(alarms, names)):
            print(f"{name:40}" + "".join(f"{noticed.get(net, '.') or '-':11}" for net in nets), flush=True)
            if name.startswith("control_"):
                failures += [f"{name}: false alarm, {net}: {what}" for net, what in noticed.items() if what]
            else:
                failures += [f"{name}: not caught, {net}" for net, what in noticed.items() if not what]
    print("\n".join(failures) or "every bug was caught, and no control")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
