#!/usr/bin/env python3
"""Tests of oracles.py: a log worked by hand, and random logs against a slow second way of counting.

With real data (MR_DATA, or ../shared/data beside the source folder) also the recorded figures.
"""
import json
import os
import sys
import tempfile

try:
    import numpy as np
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import oracles  # noqa: E402

FAILURES = []


def expect(got, want, text):
    if got != want:
        FAILURES.append(text)
        print("FAIL %s: %s, expected %s" % (text, got, want))


def by_hand(folder):
    """Raw items 5 7 10 30 are 1 2 3 4: numeric order, not that of strings."""
    path = os.path.join(folder, "log.tsv")
    with open(path, "wt") as f:
        f.write("2\t7 5 7 10 30\n"   # training part 7 5 7
                "10\t5 7 30 5\n"     # training part 5 7
                "3\t30 7\n"          # too short: no row, no training part
                "1\t10 7 5\n")       # training part 10
    users, items = oracles.numbered(oracles.read_log(path))
    expect(items, 4, "items")
    expect([s.tolist() for s in users], [[3, 2, 1], [2, 1, 2, 3, 4], [4, 2], [1, 2, 4, 1]],
           "users in numeric order")
    expect(oracles.popularity(users, items).tolist(), [0, 2, 3, 1, 0], "popularity")
    follow = {a: dict(zip(b.tolist(), c.tolist()))
              for a, (b, c) in oracles.transitions(users, items).items()}
    expect(follow, {1: {2: 2}, 2: {1: 1}}, "transitions")
    r = oracles.ranks(users, items, "test")
    # targets 1, 4, 1; popularity order 2 1 3 4
    expect(r["pop"].tolist(), [2, 4, 2], "popularity ranks")
    # last 2 -> 1 first: rank 1; last 3 -> popularity: rank 4; last 4 -> popularity: rank 2
    expect(r["markov"].tolist(), [1, 4, 2], "Markov ranks")
    # validation: last 3, target 2; last 2, target 3 (behind 1 2); last 2, target 4 (last)
    r = oracles.ranks(users, items, "valid")
    expect(r["pop"].tolist(), [1, 3, 4], "popularity ranks, validation")
    expect(r["markov"].tolist(), [1, 3, 4], "Markov ranks, validation")
    expect(oracles.rank(np.array([9, 1, 1, 2, 1]), 2), 3, "tie: the lower id is first, PAD is out")
    f = oracles.figures(np.array([1, 2, 10, 11, 20, 21]))
    expect((f["hits@10"], f["hits@20"], f["rank_sum"]), (3, 5, 65), "hits")
    expect(round(f["ndcg@10"] * 6, 9), round(1 + 1 / np.log2(3) + 1 / np.log2(11), 9), "ndcg")


def inter_is_stable(folder):
    path = os.path.join(folder, "log.inter")
    with open(path, "wt") as f:
        f.write("user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
                "1\t8\t1\t893286638\n1\t3\t1\t893286637\n1\t9\t1\t893286638\n1\t2\t1\t893286638\n")
    expect(oracles.read_log(path), {"1": ["3", "8", "9", "2"]}, "equal time stamps, order of file")


def second_way(users, items, split):
    cut = 1 if split == "test" else 2
    pop = [0] * (items + 1)
    pair = {}
    for s in users:
        part = list(s[:-2]) if len(s) > 2 else []
        for i in part:
            pop[i] += 1
        for a, b in zip(part, part[1:]):
            pair[a, b] = pair.get((a, b), 0) + 1
    out = {"pop": [], "markov": []}
    for s in users:
        if len(s) < 3:
            continue
        a, target = s[-1 - cut], s[-cut]
        by_pop = sorted(range(1, items + 1), key=lambda i: (-pop[i], i))
        by_pair = sorted(range(1, items + 1), key=lambda i: (-pair.get((a, i), 0), -pop[i], i))
        out["pop"].append(by_pop.index(target) + 1)
        out["markov"].append(by_pair.index(target) + 1)
    return out


def random_logs():
    rng = np.random.default_rng(3)
    for trial in range(30):
        items = int(rng.integers(2, 15))
        users = [rng.integers(1, items + 1, rng.integers(1, 12)) for _ in range(20)]
        for split in ("test", "valid"):
            r = oracles.ranks(users, items, split)
            want = second_way([s.tolist() for s in users], items, split)
            expect({n: a.tolist() for n, a in r.items()}, want, "random log %d %s" % (trial, split))


def recorded():
    data = os.environ.get("MR_DATA") or os.path.join(HERE, "..", "..", "..", "shared", "data")
    with open(os.path.join(HERE, "oracles.json")) as f:
        for case in json.load(f):
            path = os.path.join(data, case["file"])
            if not os.path.exists(path):
                print("no %s: recorded figures not checked" % case["file"])
                continue
            users, items = oracles.numbered(oracles.read_log(path))
            r = oracles.ranks(users, items, case["split"])
            for name in ("pop", "markov"):
                expect(oracles.figures(r[name])["histogram"], case[name]["histogram"],
                       "%s %s %s" % (case["file"], case["split"], name))
                expect(int(r[name].sum()), case[name]["rank_sum"], "sum of ranks")


def main():
    with tempfile.TemporaryDirectory() as folder:
        by_hand(folder)
        inter_is_stable(folder)
    random_logs()
    recorded()
    print("%d failures" % len(FAILURES))
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
