"""The program starts itself again, once, when OpenBLAS does not know an AVX-512 CPU."""
import os
import subprocess
import sys

with open("/proc/cpuinfo") as f:
    flags = next((line for line in f if line.startswith("flags")), "").split()
if not {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
    print("no AVX-512 here")
    sys.exit(77)


def starts(**env):
    e = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    e.update(LD_PRELOAD=sys.argv[1], ASAN_OPTIONS="verify_asan_link_order=0", **env)
    r = subprocess.run([os.environ["MR_BINARY"], "--version"], env=e, capture_output=True,
                       text=True, timeout=20)
    assert r.returncode == 0 and r.stdout.startswith("mealrec-dist "), (r.returncode, r.stderr)
    return [line for line in r.stderr.splitlines() if line.startswith("start with ")]


def expect(got, want):
    assert got == want, f"{got} instead of {want}"


TWICE = ["start with nothing", "start with SkylakeX"]
expect(starts(FAKE_CORE="Haswell"), TWICE)
expect(starts(FAKE_CORE="Zen"), TWICE)
expect(starts(FAKE_CORE="SkylakeX"), ["start with nothing"])
expect(starts(FAKE_CORE="Cooperlake"), ["start with nothing"])
expect(starts(FAKE_CORE="Haswell", OPENBLAS_CORETYPE="Haswell"), ["start with Haswell"])
