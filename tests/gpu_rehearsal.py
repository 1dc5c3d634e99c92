"""Rehearses what tools/gpu_pack.sh says to run on a borrowed machine with a GPU, in the folder that it made, moved to
an empty directory, with nothing in the environment but PATH and RESULTS. Without a GPU the calls do what they can on a CPU.

    tools/gpu_pack.sh FOLDER > LINES; gpu_rehearsal.py FOLDER LINES

The limits are those that such a machine is likely to have: what may be brought, how long a command is and lasts, how
much of its output is seen, what may be taken home.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

MOST_BROUGHT, MOST_FILES, MOST_OF_A_FILE = 64 << 20, 8, 16 << 20  # bytes, files, bytes
MOST_OF_A_LINE, SEEN = 2000, 12000  # characters
SECONDS = {"first": 200, "second": 330}
FOLDER = LINES = None


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


class Rehearsal(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        root = pathlib.Path(cls.temporary.name)
        cls.here, cls.out = root / "empty", root / "out"
        cls.here.mkdir()
        cls.out.mkdir()
        shutil.move(FOLDER, cls.here / FOLDER.name)
        cls.environment = {"PATH": os.environ["PATH"], "RESULTS": str(cls.out)}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_1_it_can_be_brought(self):
        self.assertLess(sum(path.stat().st_size for path in files_below(self.here)), MOST_BROUGHT)
        self.assertEqual([path for path in self.here.rglob("*") if path.is_symlink()], [])
        self.assertEqual([line.split()[2] for line in LINES], list(SECONDS))

    def test_2_a_folder_that_may_not_be_written_to(self):
        """Twice: what the first has unpacked is the second's. Root may write everywhere, so it is somebody else."""
        folder = self.here / FOLDER.name
        with tempfile.TemporaryDirectory() as elsewhere:
            os.chmod(elsewhere, 0o777)
            os.chmod(self.here.parent, 0o755)
            os.chmod(folder, 0o555)
            other = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
            try:
                for _ in range(2):
                    done = subprocess.run(
                        ["sh", folder / "check.sh", "first", elsewhere, "--help"],
                        env={**self.environment, "TMPDIR": elsewhere},
                        text=True,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        **other,
                    )
                    self.assertEqual(done.returncode, 0, done.stdout)
                    self.assertIn("usage: gpu_check.sh", done.stdout)
                self.assertEqual([path.name for path in pathlib.Path(elsewhere).glob("*/*")], ["elbo"])
                self.assertFalse((folder / "elbo").exists())
            finally:
                os.chmod(folder, 0o755)

    def test_3_each_call(self):
        total = 0
        for call, line in zip(SECONDS, LINES):
            with self.subTest(call):
                begin = time.monotonic()
                total += self.rehearse(call, line)
                print(f"{call}: {time.monotonic() - begin:.0f} s", flush=True)
        self.assertLess(total, MOST_FILES + 1)
        self.assertEqual([path.name for path in self.here.iterdir()], [FOLDER.name])

    def rehearse(self, call, line):
        """The number of its files."""
        self.assertLessEqual(len(line), MOST_OF_A_LINE)
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.here,
            env=self.environment,
            timeout=SECONDS[call],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        seen = done.stdout[-SEEN:]
        targets = seen[seen.index("## Targets") :]
        self.assertEqual(seen.index("## Targets"), seen.rindex("## "), "something comes after the targets")
        for target in ("tests on the GPU", "step of W1, TF32", "mnist-2d in full", "compute-sanitizer memcheck"):
            self.assertRegex(targets, rf"(?m)^\| {target} \|")
        summary = (self.out / f"{call}.md").read_text()
        self.assertTrue(done.stdout.rstrip().endswith(summary.rstrip()))
        for section in {"first": ["machine", "steps", "losses", "training", "tests"], "second": ["variants"]}[call]:
            if section != "training" or (self.here / FOLDER.name / "freyface").exists():
                self.assertIn(f"| {section} | done |", summary)
        files = files_below(self.out)
        for path in files:
            self.assertLess(path.stat().st_size, MOST_OF_A_FILE)
            self.assertRegex(str(path.relative_to(self.out)), r"^[A-Za-z0-9._-]+$")  # in no folder
        with tarfile.open(self.out / f"{call}.tar.gz") as archive:
            self.assertIn("log.txt", archive.getnames())
            self.assertEqual(json.load(archive.extractfile("about.json"))["call"], call)
        return len(files)

    def test_4_a_call_that_is_cut_off_leaves_what_it_measured(self):
        out = self.out / "cut"
        process = subprocess.Popen(
            LINES[0],
            shell=True,
            cwd=self.here,
            env={**self.environment, "RESULTS": str(out)},
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            for line in process.stdout:
                if line.startswith("  mnist-2d"):
                    break
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        with tarfile.open(out / "first.tar.gz") as archive:
            self.assertGreater(json.load(archive.extractfile("steps.json"))["W1 fp32"]["median_us"], 0)
        self.assertRegex((out / "first.md").read_text(), r"(?m)^\| W1 \| fp32 \| elbo, ")

    def test_5_both_are_judged_together(self):
        check = self.here / FOLDER.name / "elbo/share/elbo/tools/gpu_check.sh"
        archives = [self.out / f"{call}.tar.gz" for call in SECONDS]
        done = subprocess.run(
            [check, "targets", "--with", *archives], env=self.environment, text=True, stdout=subprocess.PIPE, check=True
        )
        for section in ("tests", "variants"):
            self.assertRegex(done.stdout, rf"(?m)^\| {section} \| done \|")


if __name__ == "__main__":
    LINES = [line for line in pathlib.Path(sys.argv.pop(2)).read_text().splitlines() if line]
    FOLDER = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
