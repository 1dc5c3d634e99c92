"""The table that tools/profile.sh makes of ncu's CSV."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
METRICS = ["gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum",
           "dram__throughput.avg.pct_of_peak_sustained_elapsed", "launch__registers_per_thread",
           "sm__warps_active.avg.pct_of_peak_sustained_active"]


def line(*values):
    return ",".join(f'"{v}"' for v in values) + "\n"


def table(text, *plan):
    return subprocess.run([sys.executable, ROOT / "tools/kernels/ncu_table.py", *plan], input=text, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class NcuTable(unittest.TestCase):
    def test_rows_are_means_in_the_order_of_time(self):
        text = "==PROF== Connected\n" + line("ID", "Kernel Name", *METRICS)
        text += line("", "", "ns", "Mbyte", "Kbyte", "%", "register/thread", "%")
        text += line(0, "small(float *)", "1,000", "0.5", "250", "10", "20", "30")
        text += line(1, "large(const float *)", "3,000", "6", "3,000", "90", "60", "50")
        text += line(2, "small(float *)", "3,000", "1.5", "750", "30", "20", "50")
        rows = [row.split() for row in table(text).stdout.splitlines()]
        self.assertEqual(rows[1:], [["small", "2", "4.0", "2.00", "1.00", "0.50", "-", "750.0", "20.0", "20", "40.0"],
                                    ["large", "1", "3.0", "3.00", "6.00", "3.00", "-", "3000.0", "90.0", "60", "50.0"]])

    def test_contracts_of_a_step_with_importance_weights(self):
        """The likelihood is two calls, which move different bytes: which of them a kernel is, its name does not say."""
        moved = [("sample_latent", 1e4), ("likelihood", 2e4), ("importance_bound", 3e4), ("likelihood", 4e4),
                 ("sample_latent_backward", 5e4)]
        contracts = {"sample_latent_sampled_kl_kernel<true, 0>": "0.01", "importance_bound_kernel": "0.03",
                     "sample_latent_backward_kernel<true, 0, 1, true>": "0.05", "likelihood_gradient_kernel<x>": "-",
                     "likelihood_fused_bernoulli_kernel<x>": "-"}
        text = line("ID", "Kernel Name", *METRICS) + line("", "", "ns", "Mbyte", "Mbyte", "%", "register/thread", "%")
        text += "".join(line(0, f"{kernel}(x)", "1,000", 6, 3, 90, 60, 50) for kernel in contracts)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
            json.dump({"operations": [{"name": name, "bytes": bytes} for name, bytes in moved]}, plan)
            plan.flush()
            rows = table(text, plan.name).stdout.splitlines()[1:]
        self.assertEqual({row[:48].strip(): row.split()[-5] for row in rows}, contracts)

    def test_what_profile_sh_does_with_a_stand_in_for_ncu(self):
        """The contract's bytes beside those counted, of the step as --set has changed it."""
        if "ELBO_PROGRAM" not in os.environ:
            self.skipTest("no program")
        text = line("ID", "Kernel Name", *METRICS) + line("", "", "ns", "Mbyte", "Mbyte", "%", "register/thread", "%")
        kernel = ("void elbo::kernels::(anonymous namespace)::likelihood_fused_bernoulli_kernel<(bool)1, unsigned char, "
                  "float>(LikelihoodLoss<unsigned char>)")
        text += line(0, kernel, "1,000", "0.4", "0.3", "10", "20", "30") + line(1, "sm90_gemm", "1,000", 1, 1, 10, 20, 30)
        with tempfile.TemporaryDirectory() as folder:
            ncu = pathlib.Path(folder) / "ncu"
            ncu.write_text(f"#!/bin/sh\n[ $1 = --import ] && cat <<'END'\n{text}END\nexit 0\n")
            ncu.chmod(0o755)
            done = subprocess.run([ROOT / "tools/profile.sh", "ncu", ROOT / "tools/compare/w1.json", "--steps", "1", "--set",
                                   "train.batch_size=200"], cwd=folder, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE,
                                  env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}",
                                       "ELBO_PROGRAM": os.path.abspath(os.environ["ELBO_PROGRAM"])})
        self.assertEqual(done.returncode, 0, done.stderr)
        # 200 x 784 x 9 bytes, and 200 sums
        self.assertRegex(done.stdout, r"likelihood_fused_bernoulli_kernel<1, unsigned char, float> .* 0\.40 +0\.30 +1\.41 ")
        self.assertRegex(done.stdout, r"sm90_gemm .* 1\.00 +1\.00 +- ")

    def test_something_else_is_refused(self):
        done = table("==ERROR== no kernels were profiled\n")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no output of `ncu", done.stderr)

    def test_what_is_missing_is_said(self):
        done = subprocess.run([ROOT / "tools/profile.sh", "vtune", "x.json"], stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("tools/profile.sh ncu SPEC", done.stderr)


if __name__ == "__main__":
    unittest.main()
