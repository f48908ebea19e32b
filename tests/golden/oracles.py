#!/usr/bin/env python3
"""Two recommenders without parameters, as exact integers: popularity and a first-order Markov
chain.

A second implementation of the same definition must give the same integers.

Log      per user the items s_1..s_n, oldest first. Pairs files are in this order; .inter files are
         sorted by time per user, stably (equal time stamps keep their order in the file).
Ids      raw ids in ascending order (numeric when all are integers, else bytewise) become 1..I.
Split    leave one out. Training part of a user: s_1..s_{n-2} (empty for n < 3).
         test:  last history item s_{n-1}, target s_n.   valid: last history item s_{n-2}, target
         s_{n-1}. Users with n < 3 give neither. The training part is the same for both splits.
pop      popularity(i) = number of occurrences of i in all training parts. Score = popularity.
markov   count(a, b) = number of times b follows a directly inside a training part, i.e. pairs
         (s_j, s_{j+1}), j = 1..n-3. With a the last history item, items are ordered by count(a, i),
         ties by popularity(i), ties by id: score = count(a, i) * (1 + max popularity) + popularity.
         So an item that never followed a falls back to popularity.
Rank     1 + number of items in 1..I with a higher score + number with an equal score and a lower
         id. All items compete, items already seen by the user too (so popularity may well
         recommend one again); PAD does not.
Figures  hits@k = number of users with rank <= k; histogram[r-1] = number of users with rank r,
         r = 1..20; ndcg@k = sum over r <= k of histogram / log2(r + 1), over the number of users;
         mrr@k likewise with 1/r.

Usage: oracles.py LOG [--split test] [--k-core N] [--json FILE] [--ranks PREFIX]
LOG: pairs (user TAB items separated by blanks; .tsv or .tsv.xz) or RecBole .inter[.xz].
--k-core N drops users and items with fewer than N interactions until nothing changes.
--ranks writes PREFIX.pop.npy and PREFIX.markov.npy, int64 ranks in ascending order of user id.
"""
import argparse
import json
import lzma
import math
import sys

import numpy as np

TOP = (10, 20)


def open_text(path):
    if path.endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8")
    return open(path, "rt", encoding="utf-8")


def read_log(path):
    """{raw user: [raw items, oldest first]}"""
    log = {}
    with open_text(path) as f:
        first = f.readline().rstrip("\n")
        if first.startswith("user_id:token"):
            cols = first.split("\t")
            iu, ii, it = (cols.index(c) for c in (
                "user_id:token", "item_id:token", "timestamp:float"))
            for line in f:
                p = line.rstrip("\n").split("\t")
                log.setdefault(p[iu], []).append((float(p[it]), p[ii]))
            return {u: [i for _, i in sorted(r, key=lambda x: x[0])] for u, r in log.items()}
        line = first
        while line:
            user, items = line.rstrip("\n").split("\t")
            log.setdefault(user, []).extend(items.split())
            line = f.readline()
    return log


def k_core(log, n):
    """Users and items with at least n interactions, repeated until stable."""
    while True:
        count = {}
        for r in log.values():
            for i in r:
                count[i] = count.get(i, 0) + 1
        out = {u: [i for i in r if count[i] >= n] for u, r in log.items()}
        out = {u: r for u, r in out.items() if len(r) >= n}
        if out == log:
            return log
        log = out


def ordered(raw):
    raw = set(raw)
    try:
        return sorted(raw, key=int)
    except ValueError:
        return sorted(raw, key=lambda s: s.encode("utf-8"))


def numbered(log):
    """([array of ids 1..I per user, users in ascending order], I)"""
    ids = {raw: k + 1 for k, raw in enumerate(ordered(i for r in log.values() for i in r))}
    return [np.array([ids[i] for i in log[u]], dtype=np.int64) for u in ordered(log)], len(ids)


def rank(score, target):
    """score [I + 1] with entry 0 unused."""
    s = score[target]
    return 1 + int(np.sum(score[1:] > s)) + int(np.sum(score[1:target] == s))


def popularity(users, items):
    count = np.zeros(items + 1, dtype=np.int64)
    for s in users:
        np.add.at(count, s[:max(0, len(s) - 2)], 1)
    return count


def transitions(users, items):
    """{a: (ids b, counts)}"""
    pairs = [s[:-3] * (items + 1) + s[1:-2] for s in users if len(s) > 3]
    if not pairs:
        return {}
    key, count = np.unique(np.concatenate(pairs), return_counts=True)
    a, b = key // (items + 1), key % (items + 1)
    start = np.concatenate([[0], np.flatnonzero(np.diff(a)) + 1, [len(a)]])
    return {int(a[i]): (b[i:j], count[i:j]) for i, j in zip(start[:-1], start[1:])}


def ranks(users, items, split):
    """({"pop": ranks, "markov": ranks}) for the users with n >= 3."""
    pop = popularity(users, items)
    follow = transitions(users, items)
    weight = 1 + int(pop.max())
    of_pop = {}
    out = {"pop": [], "markov": []}
    for s in users:
        if len(s) < 3:
            continue
        last, target = (s[-2], s[-1]) if split == "test" else (s[-3], s[-2])
        if int(target) not in of_pop:
            of_pop[int(target)] = rank(pop, target)
        out["pop"].append(of_pop[int(target)])
        score = pop.copy()
        if int(last) in follow:
            ids, count = follow[int(last)]
            score[ids] += count * weight
        out["markov"].append(rank(score, target))
    return {n: np.array(r, dtype=np.int64) for n, r in out.items()}


def figures(r):
    hist = np.bincount(r[r <= max(TOP)], minlength=max(TOP) + 1)[1:]
    out = {"users": len(r), "histogram": hist.tolist()}
    for k in TOP:
        out["hits@%d" % k] = int(hist[:k].sum())
    for k in TOP:
        out["hit@%d" % k] = out["hits@%d" % k] / len(r)
        out["ndcg@%d" % k] = sum(int(hist[i]) / math.log2(i + 2) for i in range(k)) / len(r)
        out["mrr@%d" % k] = sum(int(hist[i]) / (i + 1) for i in range(k)) / len(r)
    out["rank_sum"] = int(r.sum())
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("log")
    ap.add_argument("--split", default="test", choices=("test", "valid"))
    ap.add_argument("--k-core", type=int, default=0)
    ap.add_argument("--json")
    ap.add_argument("--ranks")
    args = ap.parse_args()
    log = read_log(args.log)
    if args.k_core:
        log = k_core(log, args.k_core)
    users, items = numbered(log)
    out = {"split": args.split, "k_core": args.k_core, "users": len(users), "items": items,
           "interactions": int(sum(len(s) for s in users)),
           "training_rows": int(sum(max(0, len(s) - 3) for s in users))}
    print("%(users)d users, %(items)d items, %(interactions)d interactions, "
          "%(training_rows)d training rows, split %(split)s" % out)
    for name, r in ranks(users, items, args.split).items():
        out[name] = figures(r)
        print("%-7s hits@10 %d  hits@20 %d  of %d users   hit@10 %.6f ndcg@10 %.6f mrr@10 %.6f  "
              "hit@20 %.6f ndcg@20 %.6f mrr@20 %.6f   sum of ranks %d" % (
                  name, *(out[name][k] for k in (
                      "hits@10", "hits@20", "users", "hit@10", "ndcg@10", "mrr@10", "hit@20",
                      "ndcg@20", "mrr@20", "rank_sum"))))
        if args.ranks:
            np.save("%s.%s.npy" % (args.ranks, name), r)
    if args.json:
        with open(args.json, "wt") as f:
            json.dump(out, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
