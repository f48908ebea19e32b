#!/usr/bin/env python3
"""One training step of mealrec-dist beside the PyTorch twin: time, rows a second, memory.

Both programs run alternately (ours, twin, ours, twin, ...) with the same shape and the same number of
threads; the ratio is taken pair by pair, so that a slow spell of the machine meets both, and its
median counts. Memory is the highest resident size less what the process held at start-up: ours after
MPI has started, the twin's after its imports.

What it is not: a test. It fails only when a program does.

Usage: step_vs_torch.py BINARY DATA.h5 [--python PYTHON_WITH_TORCH] [--pairs 3] [--json FILE]
                        [--section.key=value ...]
DATA.h5 is made with `synth` when it does not exist; it has to have the twin's shape (--items,
--frames, --visual, --text below; the defaults are those of the shape microlens-big).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TWIN = os.path.join(HERE, "..", "golden", "bench_twin.py")


def arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary")
    ap.add_argument("data")
    ap.add_argument("--python", default=sys.executable, help="interpreter with torch")
    ap.add_argument("--shape", default="microlens-big", help="synth's shape when DATA is made")
    ap.add_argument("--rows", type=int, default=256)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--pairs", type=int, default=3)
    ap.add_argument("--steps", type=int, default=10)
    ap.add_argument("--warmup", type=int, default=3)
    ap.add_argument("--items", type=int, default=18700)
    ap.add_argument("--frames", type=int, default=5)
    ap.add_argument("--visual", type=int, default=768)
    ap.add_argument("--text", type=int, default=768)
    ap.add_argument("--lengths", default="microlens", help="the twin's history lengths")
    ap.add_argument("--json", help="write the figures here too")
    args, model = ap.parse_known_args()
    if args.pairs < 1 or args.steps < 1:
        ap.error("--pairs and --steps must be at least 1")
    for word in model:
        if not word.startswith("--") or "=" not in word or "." not in word:
            ap.error("unknown argument %r" % word)
    return args, model


def measure(command, threads, path):
    """Run a program that writes its figures to `path`."""
    env = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    if done.returncode:
        sys.exit("%s\nended with code %d:\n%s" % (" ".join(command), done.returncode, done.stdout))
    with open(path) as f:
        return json.load(f)


def ours(args, model, path):
    out = measure([args.binary, "bench", "step", "--data.path=" + args.data,
                   "--train.batch=%d" % args.rows, "--steps", str(args.steps), "--warmup",
                   str(args.warmup), "--json", path] + model, args.threads, path)
    return {"step_s": out["step_s_median"], "mib": out["whole_mib"], "rows": out["rows"]}


def twin(args, model, path):
    out = measure([args.python, TWIN, "--rows", str(args.rows), "--items", str(args.items),
                   "--frames", str(args.frames), "--visual", str(args.visual), "--text",
                   str(args.text), "--lengths", args.lengths, "--threads", str(args.threads),
                   "--steps", str(args.steps), "--warmup", str(args.warmup), "--json", path] + model,
                  args.threads, path)
    return {"step_s": out["median_s"], "mib": out["whole_mib"], "rows": out["rows"],
            "torch": out["torch"], "mean_length": out["mean_length"]}


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def main():
    args, model = arguments()
    if not os.path.exists(args.data):
        subprocess.check_call([args.binary, "synth", "--shape", args.shape, "--out", args.data])
    a, b = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "figures.json")
        for _ in range(args.pairs):
            a.append(ours(args, model, path))
            b.append(twin(args, model, path))
            if a[-1]["rows"] != b[-1]["rows"]:
                sys.exit("the programs took different batches: %d and %d rows" %
                         (a[-1]["rows"], b[-1]["rows"]))
    faster = statistics.median(y["step_s"] / x["step_s"] for x, y in zip(a, b))
    memory = statistics.median(x["mib"] / y["mib"] for x, y in zip(a, b))
    print("%-14s %10s %10s %16s" % ("", "step s", "rows/s", "MiB above start"))
    for name, runs in (("mealrec-dist", a), ("torch " + b[0]["torch"], b)):
        s = median(runs, "step_s")
        print("%-14s %10.4f %10.0f %16.0f" % (name[:14], s, args.rows / s, median(runs, "mib")))
    print("%-14s %9.2fx %10s %15.2fx" % ("ratio", faster, "", memory))
    out = {"rows": args.rows, "threads": args.threads, "pairs": args.pairs, "steps": args.steps,
           "model": model, "ours": a, "twin": b, "times_faster": faster, "memory_ratio": memory}
    if args.json:
        with open(args.json, "w") as f:
            json.dump(out, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
