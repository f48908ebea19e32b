"""The program starts itself again, once, when a library wants a setting: OpenBLAS that does not
know an AVX-512 CPU, libgomp that would spin."""
import os
import subprocess
import sys

with open("/proc/cpuinfo") as f:
    flags = next((line for line in f if line.startswith("flags")), "").split()
if not {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
    print("no AVX-512 here")
    sys.exit(77)


SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))
SETTINGS = ("OPENBLAS_CORETYPE", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def starts(**env):
    e = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    e.update(LD_PRELOAD=sys.argv[1], ASAN_OPTIONS="verify_asan_link_order=0", **env)
    r = subprocess.run([os.environ["MR_BINARY"], "--version"], env=e, capture_output=True,
                       text=True, timeout=SCALE * 20)
    assert r.returncode == 0 and r.stdout.startswith("mealrec-dist "), (r.returncode, r.stderr)
    return [line[11:] for line in r.stderr.splitlines() if line.startswith("start with ")]


def expect(got, want):
    assert got == want, f"{got} instead of {want}"


expect(starts(FAKE_CORE="Haswell"), ["- -", "SkylakeX 1000"])
expect(starts(FAKE_CORE="SkylakeX"), ["- -", "- 1000"])
for quiet in {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}:
    spins = quiet.get("GOMP_SPINCOUNT", "-")
    expect(starts(FAKE_CORE="Haswell", **quiet), [f"- {spins}", f"SkylakeX {spins}"])
    expect(starts(FAKE_CORE="Zen", **quiet), [f"- {spins}", f"SkylakeX {spins}"])
    expect(starts(FAKE_CORE="SkylakeX", **quiet), [f"- {spins}"])
    expect(starts(FAKE_CORE="Cooperlake", **quiet), [f"- {spins}"])
    expect(starts(FAKE_CORE="Haswell", OPENBLAS_CORETYPE="Haswell", **quiet), [f"Haswell {spins}"])
