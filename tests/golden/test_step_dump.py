#!/usr/bin/env python3
"""Step dumps of mealrec-dist against the twin: every backbone and variant, float32 and float64.

Usage: test_step_dump.py [--binary FILE] [--ranks 0 2] [--rows 24] [--only TEXT] [-- key=value ...]
--binary defaults to the environment variable MR_BINARY. --ranks: numbers of MPI ranks; 0 runs the
program without a launcher. Every dump must be found equal by check_dump.py, and dumps of different
numbers of ranks must have the same inputs and draws, and activations and gradients equal up to
rounding. Uses the built-in synthetic set, unless a data.path is given. Exit 77 without torch.
"""
import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_dump  # noqa: E402
import safetensors_io  # noqa: E402

WIDTHS = ["--model.hidden=24", "--model.inner=40", "--tcd.unet_width=16", "--tcd.heads=4",
          "--npd.inner=40"]


def variants():
    for b in ("sasrec", "cl4srec", "tedrec"):
        yield b, ["--model.name=" + b]
        for tcd, npd in itertools.product(("true", "false"), repeat=2):
            yield ("mealrec/%s%s%s" % (b, "" if tcd == "true" else " -TCD",
                                       "" if npd == "true" else " -NPD"),
                   ["--model.name=mealrec", "--model.backbone=" + b, "--tcd.enabled=" + tcd,
                    "--npd.enabled=" + npd])
    yield "horizon", ["--npd.block=horizon"]
    yield "horizon -TCD", ["--npd.block=horizon", "--tcd.enabled=false"]
    yield "detach", ["--tcd.detach_target=true", "--npd.detach_target=true"]
    yield "detach TCD only", ["--tcd.detach_target=true"]
    yield "lambda 0", ["--tcd.lambda=0", "--npd.lambda=0"]
    yield "t_set", ["--diffusion.t_set=[5,10,15]"]
    for name, steps in (("cosine", 10), ("sqrt", 10), ("trunc_lin", 20), ("scaled", 25),
                        ("linear", 1)):
        yield ("%s T=%d" % (name, steps),
               ["--diffusion.schedule=" + name, "--diffusion.steps=%d" % steps])
    yield "one layer, 3 heads, L 7", ["--model.layers=1", "--model.heads=3", "--data.max_len=7"]
    yield "one channel a group", ["--tcd.unet_width=8"]


def same(a, b, dtype):
    """First difference between two dumps of the same step, or None."""
    tol = check_dump.TOLERANCE[dtype]
    if set(a) != set(b):
        return "names differ: %s" % sorted(set(a) ^ set(b))[:4]
    sizes = check_dump.scales({n[5:]: x for n, x in a.items() if n.startswith("grad.")},
                              1e-5 if dtype == "float32" else 1e-10)
    for n, x in a.items():
        y = b[n]
        if n.startswith(("input.", "draw.", "param.")):
            if not np.array_equal(x, y):
                return n + " differs"
            continue
        scale = check_dump.rms(x)
        if n.startswith("grad."):
            scale = sizes[n[5:]][0]
        worst = float(np.max(np.abs(x - y))) if x.size else 0.0
        if not worst <= tol[n.split(".")[0]] * scale:
            return "%s differs by %.3g of its size" % (n, worst / scale if scale else worst)
    return None


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", default=os.environ.get("MR_BINARY"))
    ap.add_argument("--ranks", type=int, nargs="+", default=[0])
    ap.add_argument("--rows", type=int, default=24)
    ap.add_argument("--device", nargs="+", default=["cpu", "cpu64"])
    ap.add_argument("--only", default="")
    ap.add_argument("keys", nargs="*", help="further key=value for the program")
    args = ap.parse_args()
    if not args.binary or not os.path.exists(args.binary):
        ap.error("no program: give --binary or set MR_BINARY")
    torch.set_num_threads(1)
    failures = count = 0
    folder = tempfile.mkdtemp(prefix="step-dump-")
    try:
        for (label, keys), device in itertools.product(variants(), args.device):
            if args.only not in label:
                continue
            first = None
            for np_ in args.ranks:
                path = os.path.join(folder, "dump.safetensors")
                if os.path.exists(path):
                    os.unlink(path)
                command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(np_)] \
                    if np_ else []
                command += [args.binary, "dump-step", "--out", path, "--rows", str(args.rows),
                            "--steps", "4", "--run.device=" + device] + WIDTHS + keys
                command += ["--" + k.lstrip("-") for k in args.keys]
                r = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
                what = "%-26s %-6s ranks %d" % (label, device, np_)
                count += 1
                try:
                    if r.returncode != 0 or not os.path.exists(path):
                        raise check_dump.Unusable("exit %d: %s" % (r.returncode, r.stdout[-600:]))
                    report = check_dump.check(path)
                    bad = report.failures[:6]
                    tensors, _ = safetensors_io.load(path)
                    dtype = "float64" if device == "cpu64" else "float32"
                    if tensors["loss.total"].dtype != np.dtype(dtype):
                        bad.append("dtype is %s" % tensors["loss.total"].dtype)
                    if first is None:
                        first = tensors
                    else:
                        bad += [t for t in [same(first, tensors, dtype)] if t]
                except check_dump.Unusable as e:
                    bad = [str(e)]
                failures += bool(bad)
                if bad:
                    print("FAIL %s\n     %s" % (what, "\n     ".join(bad)), flush=True)
                else:
                    print("ok   %s  %d tensors, worst %.3f of what is allowed" % (
                        what, len(report.rows), max(x[3] / x[4] for x in report.rows)), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("%d dumps, %d failures" % (count, failures))
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
