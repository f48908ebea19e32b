"""mealrec-dist bench kernels: every kernel of the table is there, with the work it does."""
import glob
import json
import os
import re
import subprocess
import tempfile
import unittest

BINARY, SOURCE = os.environ["MR_BINARY"], os.environ["MR_SOURCE"]
SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))
SMALL = ["--model.hidden=12", "--model.inner=20", "--train.batch=32", "--tcd.heads=4",
         "--tcd.unet_width=16", "--data.max_len=6", "--ms", "1"]


def kernel_names():
    names = []
    for path in glob.glob(os.path.join(SOURCE, "src", "kernels", "family_*.h")):
        with open(path) as f:
            names += re.findall(r"^    X\((\w+),", f.read(), re.MULTILINE)
    return set(names)


class Kernels(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.json = os.path.join(tmp.name, "k.json")

    def run_it(self, *args, code=0):
        r = subprocess.run([BINARY, "bench", "kernels", *SMALL, "--json", self.json, *args],
                           capture_output=True, text=True, timeout=SCALE * 120)
        self.assertEqual(r.returncode, code, r.stdout + r.stderr)
        self.out, self.err = r.stdout, r.stderr
        if code == 0:
            with open(self.json) as f:
                return json.load(f)

    def test_every_kernel(self):
        o = self.run_it()
        self.assertGreater(len(kernel_names()), 60)
        self.assertEqual({k["kernel"] for k in o["kernels"]}, kernel_names())
        for k in o["kernels"]:
            self.assertGreater(k["seconds_min"], 0, k)
            self.assertLess(k["seconds_max"], 10, k)
            self.assertTrue(k["seconds_min"] <= k["seconds"] <= k["seconds_max"], k)
            self.assertGreater(k["gb_per_s"], 0, k)
            name = (k["kernel"] + " " + k["variant"]).strip()
            self.assertIn("\n" + name + " ", self.out)

    def test_work(self):
        o = self.run_it()
        n = o["tokens"]
        self.assertEqual((o["rows"], o["hidden"]), (32, 12))
        self.assertTrue(32 <= n <= 6 * 32)
        row = {(k["kernel"], k["variant"]): k for k in o["kernels"]}
        up = row["gemm", "y = x W^T"]
        self.assertEqual(up["shape"], "%d x 20 x 12" % n)
        self.assertAlmostEqual(up["gflops"] * up["seconds"] * 1e9, 2 * n * 20 * 12, delta=1)
        add = row["axpy", "+="]
        self.assertAlmostEqual(add["gb_per_s"] * add["seconds"] * 1e9, 4 * 3 * n * 12, delta=1)
        wide = self.run_it("--run.device=cpu64", "--filter", "axpy")["kernels"]
        self.assertEqual([k["kernel"] for k in wide], ["axpy"])
        self.assertAlmostEqual(wide[0]["gb_per_s"] * wide[0]["seconds"] * 1e9, 8 * 3 * n * 12,
                               delta=1)

    def test_guard(self):
        """No case reads or writes outside its buffers, or on the host."""
        o = self.run_it("--run.device=guard")
        self.assertEqual({k["kernel"] for k in o["kernels"]}, kernel_names())

    def test_absent_features(self):
        o = self.run_it("--model.name=sasrec")
        have = {k["kernel"] for k in o["kernels"]}
        self.assertFalse(have & {"conv3_fwd", "moe_mix_fwd", "fuse_fwd", "feature_gather"}, have)
        self.assertIn("attention_bwd", have)

    def test_refusals(self):
        self.run_it("--filter", "softmaxx", code=2)
        self.assertIn("--filter softmaxx", self.err)
        self.run_it("--steps", "3", code=2)
        self.assertIn("does not take --steps", self.err)
        self.json = "/nowhere/k.json"
        self.run_it("--filter", "axpy", code=2)
        self.assertIn("/nowhere/k.json", self.err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
