#!/usr/bin/env python3
"""Popularity and Markov ranks against tests/golden/oracles.py: random logs through `import`,
and the real
one (MR_DATA, or ../shared/data beside the source folder) when it is there.

Usage: test_baselines.py PROGRAM   (baseline_ranks)
"""
import glob
import os
import subprocess
import sys

import harness as h

try:
    import numpy as np
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

import oracles  # noqa: E402


def compare(what, log, k_core):
    """Import the log, rank, and compare every user's integers with the oracle's."""
    data = os.path.join(h.folder, "log.h5")
    h.must(["import", "--interactions", log, "--k-core", str(k_core), "--out", data, "--force"])
    out = [os.path.join(h.folder, n) for n in ("pop.npy", "markov.npy")]
    for path in out:
        if os.path.exists(path):
            os.unlink(path)
    r = subprocess.run([sys.argv[1], data] + out, stderr=subprocess.PIPE, text=True)
    if not h.check(r.returncode == 0, "%s: exit %s: %s" % (what, r.returncode, r.stderr)):
        return
    log = oracles.read_log(log)
    users, items = oracles.numbered(oracles.k_core(log, k_core) if k_core else log)
    want = oracles.ranks(users, items, "test")
    has_test = np.array([len(s) >= 3 for s in users])
    for name, path in zip(("pop", "markov"), out):
        got = np.load(path)
        good = len(got) == len(users) and not got[~has_test].any()
        bad = np.sum(got[has_test] != want[name]) if good else len(users)
        h.check(bad == 0, "%s, %s: ranks of %d of %d users differ" % (what, name, bad, len(users)))
        if good:
            figures = oracles.figures(got[has_test].astype(np.int64))
            h.check(figures == oracles.figures(want[name]), "%s, %s: figures" % (what, name))


def random_log(path, seed):
    """Users of 1 to 12 clicks on few items, so that ties and repeats are common;
    raw ids with gaps."""
    rng = np.random.default_rng(seed)
    items = rng.permutation(1000)[:rng.integers(3, 40)]
    with open(path, "w") as f:
        for u in rng.permutation(500)[:rng.integers(3, 120)]:
            clicks = items[np.minimum(rng.geometric(0.15, rng.integers(1, 13)), len(items)) - 1]
            f.write("%d\t%s\n" % (u, " ".join(str(i) for i in clicks)))


def main():
    path = os.path.join(h.folder, "log.tsv")
    for seed in range(8):
        random_log(path, seed)
        compare("random log %d" % seed, path, 0)
    real = os.environ.get("MR_DATA") or os.path.join(
        os.path.dirname(os.path.abspath(__file__)), *[".."] * 3, "shared", "data")
    found = sorted(glob.glob(os.path.join(real, "microlens-50k", "*pairs*.tsv*")))
    for log in found[:1]:
        compare("microlens-50k", log, 0)
    print("real log: %s" % (os.path.basename(found[0]) if found else "absent, not compared"))
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
