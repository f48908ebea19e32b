#!/usr/bin/env python3
"""Scoring of trained checkpoints against the PyTorch twin: every user's rank, the metrics,
recommendations.

The twin computes user vectors from exported weights and the data set file, ranks by brute force
and derives hit, ndcg and mrr itself. Float64 and no posterior noise, so that ranks are integers
to be met exactly. Also: the same integers for any block size and number of ranks. Exit 77 without
torch or h5py.
"""
import os
import re
import sys

import harness as h

try:
    import h5py
    import numpy as np
    import torch
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

import json  # noqa: E402

import mealrec_torch as twin  # noqa: E402
import safetensors_io  # noqa: E402

torch.set_num_threads(1)
EXACT = ["--run.device=cpu64", "--diffusion.noise=false", "--diffusion.start=x0"]
VARIANTS = [
    ("sasrec", ["--model.name=sasrec"]),
    ("cl4srec", ["--model.name=cl4srec", "--train.mask_seen=true"]),
    ("tedrec", ["--model.name=tedrec"]),
    ("mealrec", ["--model.backbone=tedrec"]),
    ("mealrec-mix", ["--model.backbone=sasrec", "--diffusion.mix=0.3", "--train.mask_seen=true"]),
    ("no-tcd", ["--model.backbone=cl4srec", "--tcd.enabled=false"]),
    ("no-npd", ["--model.backbone=sasrec", "--npd.enabled=false"]),
    ("horizon", ["--model.backbone=sasrec", "--npd.block=horizon", "--data.max_len=7"]),
]


class Data:
    def __init__(self, name):
        with h5py.File(os.path.join(h.folder, name), "r") as f:
            offset, items = f["offset"][:], f["items"][:]
            self.users = [items[a:b].astype(np.int64) for a, b in zip(offset[:-1], offset[1:])]
            self.n_items = len(f["item_ids"])
            self.feature = {n: np.concatenate([np.zeros_like(f[n][:1]), f[n][:]]).astype(np.float64)
                            for n in ("visual", "frames", "text")}
            self.user_id, self.item_id = ([bytes(r).rstrip(b"\0").decode() for r in f[n][:]]
                                          for n in ("user_ids", "item_ids"))


def inputs(data, histories, L):
    """The twin's inputs for a list of histories."""
    ids = np.zeros((len(histories), L), np.int64)
    length = np.array([min(len(s), L) for s in histories])
    for i, s in enumerate(histories):
        ids[i, :length[i]] = s[-L:]
    last = ids[np.arange(len(ids)), length - 1]
    out = {"history": ids, "length": length, "text_history": data.feature["text"][ids],
           "visual": data.feature["visual"][ids], "frames": data.feature["frames"][last],
           "text": data.feature["text"][last]}
    return {n: torch.from_numpy(a) for n, a in out.items()}


def scores(name, data, histories):
    """[rows, n_items + 1] by the twin, from the exported weights of the best checkpoint."""
    out = os.path.join(h.folder, name + ".safetensors")
    if not os.path.exists(out):
        h.must(["export", "--checkpoint", "runs/" + name, "--data.path=" + DATA, "--out", out])
    params, meta = safetensors_io.load(out)
    cfg = twin.resolve(json.loads(meta["config"]))
    model = twin.Model(cfg, {n: torch.from_numpy(a.copy()) for n, a in params.items()})
    with torch.no_grad():
        x = model.infer(inputs(data, histories, cfg["data"]["max_len"]))
        return model.scores(x).numpy()


def expected_ranks(score, targets, seen):
    """Rank of each target; an equal score counts before it only with a lower id, seen items never.
    """
    out = np.zeros(len(targets), np.int64)
    for r, t in enumerate(targets):
        s = score[r].copy()
        s[0] = -np.inf
        for i in seen[r]:
            if i != t:
                s[i] = -np.inf
        out[r] = 1 + np.sum(s[1:] > s[t]) + np.sum(s[1:t] == s[t])
    return out


def metrics(ranks):
    out = {}
    for k in (10, 20):
        r = ranks[ranks <= k]
        out["hit@%d" % k] = len(r) / len(ranks)
        out["ndcg@%d" % k] = float(np.sum(1 / np.log2(r + 1.0))) / len(ranks)
        out["mrr@%d" % k] = float(np.sum(1.0 / r)) / len(ranks)
    return out


def evaluate(name, split, *keys, ranks=0):
    """(ranks of all users, the printed metrics)"""
    path = os.path.join(h.folder, "ranks.npy")
    if os.path.exists(path):
        os.unlink(path)
    r = h.must(["eval", "--checkpoint", "runs/" + name, "--data.path=" + DATA, "--split", split,
                "--per-user", path, *keys], ranks)
    return np.load(path), {n: float(v) for n, v in re.findall(r"(\w+@\d+) ([0-9.]+)", r.stdout)}


def check_variant(name, data, is_masked):
    for split, cut in (("valid", 2), ("test", 1)):
        histories = [s[:-cut] for s in data.users]
        targets = [int(s[-cut]) for s in data.users]
        seen = [set(x.tolist()) if is_masked else () for x in histories]
        want = expected_ranks(scores(name, data, histories), targets, seen)
        got, printed = evaluate(name, split)
        bad = np.flatnonzero(got != want)
        h.check(len(bad) == 0, "%s %s: %d of %d ranks differ: %s" % (
            name, split, len(bad), len(want), [(u, got[u], want[u]) for u in bad[:5]]))
        m = metrics(want)
        h.check(len(printed) == 6 and all(abs(printed[k] - m[k]) <= 0.5001e-4 for k in m),
                "%s %s: printed %s, not %s" % (name, split, printed, m))
        if split == "test":
            event = h.events(name, "test")[-1]
            h.check(event["users"] == len(want) and all(abs(event[k] - m[k]) < 1e-8 for k in m),
                    "%s: test event %s, not %s" % (name, event, m))


def check_invariance(name):
    first, _ = evaluate(name, "test")
    for ranks, keys in ((0, ["--train.eval_batch=7"]), (0, ["--train.eval_batch=1"]), (3, []),
                        (4, ["--dist.item_shard=2", "--train.eval_batch=13"])):
        again, _ = evaluate(name, "test", *keys, ranks=ranks)
        h.check(np.array_equal(first, again), "%s: %d ranks %s: %d users differ" % (
            name, ranks, keys, np.sum(first != again)))


def check_recommendations(name, data, keys, ranks):
    top, path = 6, os.path.join(h.folder, "top.tsv")
    if os.path.exists(path):
        os.unlink(path)
    h.must(["recommend", "--checkpoint", "runs/" + name, "--data.path=" + DATA, "--topk", str(top),
            "--out", path] + keys, ranks)
    score = scores(name, data, data.users)
    score[:, 0] = -np.inf
    if keys:
        for u, s in enumerate(data.users):
            score[u, s] = -np.inf
    want = []
    for u in range(len(data.users)):
        best = sorted(range(1, data.n_items + 1), key=lambda i: (-score[u, i], i))[:top]
        want += [(data.user_id[u], str(k + 1), data.item_id[i - 1]) for k, i in enumerate(best)]
    with open(path) as f:
        lines = [line.rstrip("\n").split("\t") for line in f]
    h.check(lines[0] == ["user", "rank", "item", "score"], "recommend: %s" % lines[0])
    got = [tuple(x[:3]) for x in lines[1:]]
    bad = [(a, b) for a, b in zip(got, want) if a != b]
    h.check(len(got) == len(want) and not bad,
            "%s recommend %s, %d ranks: %d of %d lines differ: %s" % (
                name, keys, ranks, len(bad), len(want), bad[:3]))


DATA = "small.h5"


def main():
    h.synth(DATA, users=70, items=60, interactions=640)
    data = Data(DATA)
    for name, keys in VARIANTS:
        h.train(name, DATA, "--train.max_steps=12", *EXACT, *keys)
        check_variant(name, data, "--train.mask_seen=true" in keys)
    for name in ("cl4srec", "mealrec"):
        check_invariance(name)
    for ranks in (0, 3):
        check_recommendations("sasrec", data, [], ranks)
        check_recommendations("mealrec", data, ["--exclude-seen"], ranks)
    # With noise the draws belong to the user, not to the block or the rank.
    h.train("noise", DATA, "--train.max_steps=12", "--run.device=cpu64")
    check_invariance("noise")
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
