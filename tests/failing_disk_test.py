"""A disk that fails at each moment at which a run writes: the run ends with the true reason, leaves nothing half-written,
and goes on later to the same bits.

    failing_disk_test.py LIBRARY    that of tests/failing_disk.cpp
"""

import concurrent.futures
import errno
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

import program

LIBRARY = sys.argv.pop(1)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
TEMPORARY = re.compile(r"\.[a-z0-9]{6}\.elbo-tmp$")


class FailingDisk(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name).resolve()
        program.make_data(self.folder / "data", train=40, test=20, side=4)
        spec = json.loads(program.make_spec(self.folder / "spec.json", checkpoint_epochs=2).read_text())
        spec["model"]["latent"] = 4
        spec["model"]["encoder"][0]["units"] = spec["model"]["decoder"][0]["units"] = 8
        (self.folder / "spec.json").write_text(json.dumps(spec))
        result, self.calls = self.run_on_disk("whole", 2)
        self.assertEqual(result.returncode, 0, result.stderr)

    def run_on_disk(self, out, epochs, fails_at=0, error=0):
        """A run that goes on where there is one; the result, and the calls that were counted."""
        log = self.folder / f"{out}-{epochs}.log"
        log.unlink(missing_ok=True)
        result = program.run(
            "run", "spec.json", "--data", "data", "--device", "cpu", "--threads", "1", "--out", out, "--resume",
            "--set", f"train.epochs={epochs}", cwd=self.folder,
            env={**os.environ, "LD_PRELOAD": os.path.abspath(LIBRARY), "ELBO_DISK_FOLDER": str(self.folder / out),
                 "ELBO_DISK_LOG": str(log), "ELBO_DISK_FAILS_AT": str(fails_at), "ELBO_DISK_ERROR": str(error)})
        return result, log.read_text().splitlines()

    def fail_and_go_on(self, out, fails_at, error):
        result, calls = self.run_on_disk(out, 2, fails_at, error)
        [(call, path)] = [line.split()[1:] for line in calls if line.startswith("failed")]
        where = f"call {fails_at}: {call} {path}: {os.strerror(error)}\n{result.stderr}"
        if call == "linkat" or (call == "flock" and TEMPORARY.search(path)):  # a copy, and one without a lock, do as well
            self.assertEqual(result.returncode, 0, where)
        elif not (call == "open" and path.endswith("/best.safetensors") and result.returncode == 0):  # it is made anew
            self.assertEqual(result.returncode, 1, where)
            path = TEMPORARY.sub("", path)
            named = f"(?:{path}|{pathlib.Path(path).relative_to(self.folder)})"
            self.assertRegex(result.stderr, f"^elbo: {named}: ([^;]*: )?{os.strerror(error)}(; .*)?\n$", where)
        self.assertEqual([p.name for p in (self.folder / out).rglob("*.elbo-tmp")], [], where)

        self.go_on(out, where)
        for name in ("last", "best", "epoch-2"):
            self.assertEqual(program.weights(self.folder / "whole", name), program.weights(self.folder / out, name), where)
        self.assertEqual(program.figures(self.folder / "whole"), program.figures(self.folder / out), where)
        shutil.rmtree(self.folder / out)
        return call, error

    def go_on(self, out, where):
        """To the end. Where there was no report yet, none is made, since that takes nearly all of the time."""
        run = self.folder / out
        reports = not (run / "spec.json").exists() or (run / "figures").exists()
        if not reports:
            (run / "figures").symlink_to("nowhere")
        result, _ = self.run_on_disk(out, 2)
        if reports:
            self.assertEqual(result.returncode, 0, f"{where}{result.stderr}")
            self.assertEqual(self.names_in(out), self.names_in("whole"), where)
        else:
            self.assertIn("figures: this folder cannot be made", result.stderr, where)

    def names_in(self, out):
        return sorted(str(p.relative_to(self.folder / out)) for p in (self.folder / out).rglob("*"))

    def walk(self, name, calls, prepare=lambda out: None):
        """Fails at each of these calls, those of a kind with one error after the other; the kinds and errors."""
        jobs, seen = [], {}
        for number, line in enumerate(calls, 1):
            call = line.split()[0]
            seen[call] = seen.get(call, -1) + 1
            # The other pictures are written as the first is.
            if not re.search(r"/figures/(?!curves)", line):
                jobs.append((f"{name}-{number}", number, ERRORS[seen[call] % len(ERRORS)]))

        def work(out, number, error):
            prepare(out)
            return self.fail_and_go_on(out, number, error)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = [pool.submit(work, *job) for job in jobs]
        failed = []
        for job, future in zip(jobs, futures):
            with self.subTest(out=job[0]):
                failed.append(future.result())
        print(f"{name}: failed at {len(failed)} of {len(calls)} calls, all ended alike")
        return set(failed)

    def test_a_run(self):
        failed = self.walk("run", self.calls)
        for call in ("open", "write", "fsync", "close", "rename"):
            self.assertEqual({error for c, error in failed if c == call}, set(ERRORS), call)
        self.assertIn("flock", {call for call, _ in failed})

    def test_a_folder_that_cannot_be_locked(self):
        """Only one that another process has locked is said to be in use."""
        number = self.calls.index(f"flock {self.folder}/whole") + 1
        for error, words in ((errno.ENOLCK, f"cannot be locked: {os.strerror(errno.ENOLCK)}"),
                             (errno.EWOULDBLOCK, "another process")):
            result, _ = self.run_on_disk("locked", 2, number, error)
            self.assertEqual(result.returncode, 1)
            self.assertTrue(result.stderr.startswith("elbo: locked: "), result.stderr)
            self.assertIn(words, result.stderr)
            shutil.rmtree(self.folder / "locked")

    def test_a_run_that_goes_on(self):
        """Up to its first epoch; what follows is as in a run that begins."""
        self.run_on_disk("begun", 1)

        def prepare(out):
            shutil.copytree(self.folder / "begun", self.folder / out)

        prepare("again")
        calls = self.run_on_disk("again", 2)[1]
        first = next(i for i, line in enumerate(calls) if line == f"write {self.folder}/again/metrics.jsonl")
        self.assertGreater(first, 15)
        self.walk("again", calls[:first], prepare)


if __name__ == "__main__":
    unittest.main(verbosity=2)
