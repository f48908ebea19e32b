#!/usr/bin/env python3
"""What checkpoints cost a training, a checkpoint after every epoch.

The program tells for how long it trained, evaluated, and waited for checkpoints. With synchronous
writing (checkpoint.async=false) all that a checkpoint takes is waited for, and nothing is written
while the program computes. With asynchronous writing it waits for a copy in memory, and the thread
that writes takes its time from the computing ones. So the cost of

  synchronous   = waiting / (training + evaluation)
  asynchronous  = (waiting + training + evaluation) / (training + evaluation of the other) - 1

Both kinds run alternately, and ratios are taken pair by pair, so that a slow spell of the machine
meets both. For figures: a quiet machine, and a data set of the size in question.
What it is not: a test. It fails only when a program does.

Usage: checkpoint_cost.py BINARY DATA.h5 [--pairs 3] [--epochs 3] [--ranks 1] [--folder DIR]
                          [--json FILE] [--section.key=value ...]
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

SAID = (r"training ([\d.]+) s, evaluation ([\d.]+) s, waiting for checkpoints ([\d.]+) s")


def arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary")
    ap.add_argument("data", help="data set file; the model's text vectors included where needed")
    ap.add_argument("--pairs", type=int, default=3, help="trainings of each kind")
    ap.add_argument("--epochs", type=int, default=3)
    ap.add_argument("--ranks", type=int, default=1, help="more than 1: under mpirun")
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


def train(a, keys, folder, is_async):
    command = [os.path.abspath(a.binary), "train", "--data.path=" + os.path.abspath(a.data),
               "--run.dir=" + folder, "--run.name=run", "--train.epochs=%d" % a.epochs,
               "--train.patience=1000000", "--checkpoint.keep=1000000",
               "--checkpoint.async=%s" % ("true" if is_async else "false")] + keys
    if a.ranks > 1:
        command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-np", str(a.ranks)] + command
    run = os.path.join(folder, "run")
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = re.search(SAID, r.stdout)
    if r.returncode != 0 or not said:
        sys.exit("%s\nexit code %d\n%s" % (" ".join(command), r.returncode, r.stdout))
    top = os.path.join(run, "checkpoints")
    steps = [n for n in os.listdir(top) if n.startswith("step-")]
    size = folder_bytes(os.path.join(top, steps[0]))
    shutil.rmtree(run)
    training, evaluation, waiting = map(float, said.groups())
    return {"async": is_async, "computing": training + evaluation, "waiting": waiting,
            "checkpoints": len(steps), "bytes": size}


def main():
    a, keys = arguments()
    folder = tempfile.mkdtemp(prefix="checkpoint-cost-", dir=a.folder)
    try:
        pairs = [[train(a, keys, folder, is_async) for is_async in (True, False)]
                 for _ in range(a.pairs)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    cost = {"asynchronous": [(one["waiting"] + one["computing"]) / other["computing"] - 1
                             for one, other in pairs],
            "synchronous": [other["waiting"] / other["computing"] for _, other in pairs]}
    for i, name in enumerate(cost):
        one = pairs[0][i]
        print("%-12s  %.2f %% of the time (median of %d: %s); waited %s s, computed %s s, for %d "
              "checkpoints of %.1f MB" % (
                  name, 100 * statistics.median(cost[name]), a.pairs,
                  ", ".join("%.2f" % (100 * c) for c in cost[name]),
                  ", ".join("%.2f" % p[i]["waiting"] for p in pairs),
                  ", ".join("%.1f" % p[i]["computing"] for p in pairs),
                  one["checkpoints"], 1e-6 * one["bytes"]), flush=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"cost": cost, "pairs": pairs}, f, indent=1)


if __name__ == "__main__":
    main()
