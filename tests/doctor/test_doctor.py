"""mealrec-dist doctor: verdicts, exit codes, time limit, and that it leaves nothing behind."""
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
import unittest

BINARY = os.environ["MR_BINARY"]
SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))
ORDER = ["mpi", "program", "cores", "limits", "blas", "gpu", "nccl", "hdf5", "data", "memory",
         "run folder"]
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none"]


class Doctor(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)
        self.env = dict(os.environ)

    def run_it(self, *args, ranks=None, limits=()):
        def limit():
            for what, n in limits:
                resource.setrlimit(what, (n, n))
        start = MPIRUN + ["-np", str(ranks)] if ranks else []
        r = subprocess.run([*start, BINARY, "doctor", *args], capture_output=True, text=True,
                           timeout=SCALE * 120, cwd=self.dir, env=self.env, preexec_fn=limit)
        self.lines = {}
        for line in r.stdout.splitlines():
            m = re.match(r"(ok|warn|fail) +(%s) +(.+)" % "|".join(ORDER), line)
            if m:
                self.assertNotIn(m.group(2), self.lines, "a check spoke twice:\n" + r.stdout)
                self.lines[m.group(2)] = (m.group(1), m.group(3))
        self.out, self.err, self.code = r.stdout, r.stderr, r.returncode
        return self.lines

    def expect(self, check, level, pattern):
        self.assertIn(check, self.lines, self.out + self.err)
        self.assertEqual(self.lines[check][0], level, self.out)
        self.assertRegex(self.lines[check][1], pattern)

    def data(self):
        path = os.path.join(self.dir, "d.h5")
        subprocess.run([BINARY, "synth", "--users", "60", "--items", "50", "--interactions", "400",
                        "--out", path], check=True, capture_output=True)
        return path

    def test_good_machine(self):
        self.run_it("--run.dir=new/runs")
        self.assertEqual(self.code, 0, self.out + self.err)
        self.assertEqual(list(self.lines), ORDER)
        levels = [v[0] for v in self.lines.values()]
        self.assertEqual(self.out.splitlines()[-1], "doctor: %d ok, %d to look at, 0 failed" % (
            levels.count("ok"), levels.count("warn")))
        self.expect("memory", "ok", r"need [0-9.]+ GiB")
        self.expect("data", "ok", "SYNTHETIC")
        self.expect("hdf5", "ok", r"written to \. ")
        self.assertEqual(os.listdir(self.dir), [], "files were left")

    def test_ranks(self):
        path = self.data()
        self.run_it("--data.path", path, ranks=2)
        self.assertEqual(self.code, 0, self.out + self.err)
        self.expect("mpi", "ok", "2 ranks on 1 host.*sums right")
        self.expect("hdf5", "ok", "by 2 rank")
        self.expect("data", "ok", "60 users, 50 items, 400 interactions")
        self.assertEqual(os.listdir(self.dir), ["d.h5"])

    def test_data(self):
        path = self.data()
        self.run_it("--data.path=absent.h5")
        self.expect("data", "fail", "absent.h5")
        self.assertEqual(self.code, 66)
        self.assertIn("the check 'data' failed", self.err)
        self.expect("memory", "warn", "not known without its data")
        with open(path, "r+b") as f:
            f.seek(os.path.getsize(path) - 900)
            f.write(b"\xa5" * 200)
        self.run_it("--data.path", path, ranks=2)
        self.expect("data", "fail", re.escape(path))
        self.assertEqual(self.code, 65)

    def test_folder(self):
        with open(os.path.join(self.dir, "file"), "w") as f:
            f.write("kept")
        self.run_it("--run.dir=file")
        self.expect("run folder", "fail", "no file can be made in file")
        self.expect("hdf5", "fail", "--run.dir")
        self.assertEqual(self.code, 74)
        with open(os.path.join(self.dir, "file")) as f:
            self.assertEqual(f.read(), "kept")

    def test_memory(self):
        self.run_it("--model.hidden=8192", "--model.inner=65536", "--model.layers=8",
                    "--model.name=sasrec")
        self.expect("memory", "fail", r"need [0-9.]+ GiB each .*left")
        self.assertEqual(self.code, 70)

    def test_a_model_that_cannot_be_built(self):
        self.run_it("--tcd.heads=5")
        self.expect("memory", "fail", "tcd.heads")
        self.assertEqual(self.code, 78)

    def test_limits(self):
        self.run_it(limits=[(resource.RLIMIT_NOFILE, 64)])
        self.expect("limits", "warn", "only 64 open files.*ulimit -n")
        self.run_it(limits=[(resource.RLIMIT_FSIZE, 1 << 28)])
        self.expect("limits", "warn", "files may not exceed 268.4 MB")
        self.env["TMPDIR"] = "/nowhere"
        self.run_it("--dist.comm=self")
        self.expect("limits", "warn", "/nowhere cannot be written.*TMPDIR")

    def test_cores(self):
        self.env["OMP_NUM_THREADS"] = "512"
        self.run_it()
        self.expect("cores", "warn", "OMP_NUM_THREADS asks for 512")
        self.assertEqual(self.code, 0)

    @unittest.skipUnless("avx512vl" in open("/proc/cpuinfo").read(), "no AVX-512")
    def test_blas(self):
        self.env["OPENBLAS_CORETYPE"] = "Haswell"
        self.run_it()
        self.expect("blas", "warn", "Haswell.*unset OPENBLAS_CORETYPE")
        del self.env["OPENBLAS_CORETYPE"]
        self.run_it()
        self.assertRegex(self.lines["blas"][1], "GFLOP/s")
        self.assertNotIn("unset", self.lines["blas"][1])

    def test_asked_for_and_not_there(self):
        self.run_it("--dist.comm=nccl")
        self.expect("nccl", "fail", "nccl")
        self.assertEqual(self.code, 78)
        if not os.path.exists("/dev/nvidiactl"):
            self.run_it("--run.device=cuda")
            self.expect("gpu", "fail", "cuda")
            self.assertEqual(self.code, 70)

    def test_ranks_disagree(self):
        args = ["-np", "1", BINARY, "doctor", ":", "-np", "1", BINARY, "doctor", "--train.batch=7"]
        r = subprocess.run([*MPIRUN, *args], capture_output=True, text=True, timeout=SCALE * 120,
                           cwd=self.dir)
        self.assertRegex(r.stdout, r"fail +mpi .*train.batch is .*7 on rank 1")
        self.assertEqual(r.returncode, 78, r.stderr)

    def test_hang(self):
        started = time.monotonic()
        r = subprocess.run([*MPIRUN, "-np", "1", BINARY, "doctor", "--limit", "2", ":", "-np", "1",
                            "sleep", "60"], capture_output=True, text=True, timeout=SCALE * 60,
                           cwd=self.dir)
        self.assertRegex(r.stdout, r"fail +mpi +no answer within 2 s: not all ranks came up")
        self.assertEqual(r.returncode, 76)
        self.assertLess(time.monotonic() - started, 30)


if __name__ == "__main__":
    unittest.main(verbosity=2)
