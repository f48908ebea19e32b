#!/usr/bin/env python3
"""What checkpoints cost a training: the same training with and without them.

For each kind (a checkpoint every epoch, a checkpoint every --minutes), synchronous
(checkpoint.async=false) and asynchronous, trainings run alternately: with, without, with, without.
The time of a training goes from the first line of its record (metrics.jsonl) to the end of the
process, evaluation and the wait for the last checkpoint included. The ratio with / without is
taken pair by pair, so that a slow spell of the machine meets both, and its median is printed.

Both trainings write the checkpoints of epochs that were the best so far, and of the last, which
cannot be turned off. A learning rate of 0.3 makes most epochs worse than an early one; both see
the same numbers, so the difference in the number of checkpoints, which is printed with their size,
is what the ratio is about.

For figures: a quiet machine, a data set of the size in question, and trainings that last at least
some minutes; a kind whose interval was never due is said to be so.
What it is not: a test. It fails only when a program does.

Usage: checkpoint_cost.py BINARY DATA.h5 [--pairs 5] [--epochs 10] [--ranks 1] [--minutes 1]
                          [--only async|sync] [--folder DIR] [--json FILE] [--section.key=value ...]
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary")
    ap.add_argument("data", help="data set file; the model's text vectors included where needed")
    ap.add_argument("--pairs", type=int, default=5, help="trainings with and without, each kind")
    ap.add_argument("--epochs", type=int, default=10)
    ap.add_argument("--ranks", type=int, default=1, help="more than 1: under mpirun")
    ap.add_argument("--minutes", type=int, default=1, help="interval of the second kind; 0: none")
    ap.add_argument("--only", choices=["async", "sync"], help="one of the two ways alone")
    ap.add_argument("--folder", help="where checkpoints go: the file system counts (a new folder "
                    "of the temporary one)")
    ap.add_argument("--json", help="also write all times as JSON")
    a, keys = ap.parse_known_args()
    bad = [k for k in keys if not (k.startswith("--") and "." in k and "=" in k)]
    if bad:
        ap.error("neither an option nor --section.key=value: %s" % " ".join(bad))
    return a, keys


def folder_bytes(top):
    return sum(os.path.getsize(os.path.join(d, n)) for d, _, names in os.walk(top) for n in names)


def train(a, keys, folder, more):
    """(seconds, checkpoints, bytes of one)"""
    command = [os.path.abspath(a.binary), "train", "--data.path=" + os.path.abspath(a.data),
               "--run.dir=" + folder, "--run.name=run", "--train.lr=0.3",
               "--train.epochs=%d" % a.epochs, "--train.patience=1000000",
               "--checkpoint.keep=1000000"] + keys + more
    if a.ranks > 1:
        command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-np", str(a.ranks)] + command
    run = os.path.join(folder, "run")
    shutil.rmtree(run, ignore_errors=True)
    with tempfile.TemporaryFile("w+") as said:
        p = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while p.poll() is None and not os.path.exists(os.path.join(run, "metrics.jsonl")):
            time.sleep(0.001)
        began = time.monotonic()
        code = p.wait()
        seconds = time.monotonic() - began
        said.seek(0)
        if code != 0:
            sys.exit("%s\nexit code %d\n%s" % (" ".join(command), code, said.read()))
    top = os.path.join(run, "checkpoints")
    steps = [n for n in os.listdir(top) if n.startswith("step-")]
    size = folder_bytes(os.path.join(top, steps[0]))
    shutil.rmtree(run)
    return seconds, len(steps), size


def measure(a, keys, folder, name, on, is_async):
    mode = "--checkpoint.async=%s" % ("true" if is_async else "false")
    off = [mode, "--checkpoint.every_epochs=0", "--checkpoint.every_minutes=0"]
    pairs = []
    for _ in range(a.pairs):
        with_them = train(a, keys, folder, [mode] + on)
        without = train(a, keys, folder, off)
        pairs.append((with_them, without))
    ratio = statistics.median(w[0] / o[0] for w, o in pairs)
    extra = pairs[0][0][1] - pairs[0][1][1]
    note = "" if extra > 0 else "; none was due, so this says nothing"
    print("%-13s %-12s ratio %.4f (median of %d), %.3f s with %d checkpoints of %.1f MB, %.3f s "
          "with %d%s" % (name, "async" if is_async else "synchronous", ratio, a.pairs,
                         statistics.median(w[0] for w, _ in pairs), pairs[0][0][1],
                         1e-6 * pairs[0][0][2], statistics.median(o[0] for _, o in pairs),
                         pairs[0][1][1], note), flush=True)
    return {"kind": name, "async": is_async, "ratio": ratio, "checkpoints": pairs[0][0][1],
            "checkpoints_without": pairs[0][1][1], "bytes": pairs[0][0][2],
            "seconds": [[w[0], o[0]] for w, o in pairs]}


def main():
    a, keys = arguments()
    folder = tempfile.mkdtemp(prefix="checkpoint-cost-", dir=a.folder)
    kinds = [("every epoch", ["--checkpoint.every_epochs=1", "--checkpoint.every_minutes=0"])]
    if a.minutes:
        kinds.append(("every %d min" % a.minutes, ["--checkpoint.every_epochs=0",
                                                    "--checkpoint.every_minutes=%d" % a.minutes]))
    try:
        out = [measure(a, keys, folder, name, on, is_async)
               for name, on in kinds for is_async in (True, False)
               if a.only != ("sync" if is_async else "async")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(out, f, indent=1)


if __name__ == "__main__":
    main()
