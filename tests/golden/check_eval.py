#!/usr/bin/env python3
"""Recompute the ranks of a trained model in PyTorch:
  check_eval.py WEIGHTS DATA RANKS [--split test]

WEIGHTS  what `mealrec-dist export --out` wrote (its metadata hold the configuration)
DATA     the data set file (HDF5; needs h5py)
RANKS    what `mealrec-dist eval --per-user` wrote with the same checkpoint and split

With TCD or NPD the reverse chains draw noise that only the program knows, so the evaluation must
have run with --diffusion.noise=false --diffusion.start=x0; give the same keys here. Variants
without both need nothing.

A rank r is accepted when it is possible for scores that differ from the twin's (float64) by at
most delta: 1 + #(s_i > s + delta) <= r <= 1 + #(s_i >= s - delta), i other than the target;
delta = 1e-4 of the spread (standard deviation) of the user's scores, 1e-10 after cpu64. How many
ranks are equal to the twin's own is printed too.

Exit: 0 all accepted, 1 some are not, 2 the files cannot be used, 77 torch or h5py is missing.
"""
import argparse
import json
import os
import sys

try:
    import h5py
    import numpy as np
    import torch
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mealrec_torch as twin  # noqa: E402
import safetensors_io  # noqa: E402


class Data:
    """Histories, targets and features of a data set file; ids 1..I, row 0 of a feature is PAD."""

    def __init__(self, path):
        with h5py.File(path, "r") as f:
            self.offset, self.items = f["offset"][:], f["items"][:].astype(np.int64)
            self.n_items = int(f.attrs["n_items"])
            self.features = {}
            for name in ("visual", "frames", "text"):
                if name in f:
                    a = f[name][:].astype(np.float64)
                    self.features[name] = torch.from_numpy(
                        np.concatenate([np.zeros((1,) + a.shape[1:]), a]))

    def rows(self, split, L):
        """(users, history [n, L], length [n], target [n]) of all users with n >= 3."""
        cut = 1 if split == "test" else 2
        users = np.flatnonzero(np.diff(self.offset) >= 3)
        end = self.offset[users + 1] - cut
        length = np.minimum(end - self.offset[users], L)
        history = np.zeros((len(users), L), dtype=np.int64)
        for k, (e, n) in enumerate(zip(end, length)):
            history[k, :n] = self.items[e - n:e]
        return users, history, length, self.items[end]

    def inputs(self, history, length):
        h, n = torch.from_numpy(history), torch.from_numpy(length)
        last = h.gather(1, (n - 1)[:, None]).squeeze(1)
        out = {"history": h, "length": n}
        if "text" in self.features:
            out["text"], out["text_history"] = (self.features["text"][i] for i in (last, h))
        if "frames" in self.features:
            out["frames"] = self.features["frames"][last]
        if "visual" in self.features:
            out["visual"] = self.features["visual"][h]
        return out


def unusable(text):
    print("check_eval: " + text, file=sys.stderr)
    sys.exit(2)


def configuration(meta, overrides):
    if "config" not in meta:
        unusable("the metadata of the weights have no 'config'")
    config = json.loads(meta["config"])
    for word in overrides:
        key, _, value = word.lstrip("-").partition("=")
        section, _, key = key.partition(".")
        config.setdefault(section, {})[key] = \
            json.loads(value) if value in ("true", "false") or value[:1].isdigit() else value
    cfg = twin.resolve(config)
    v, s = twin.Variant(cfg), cfg["diffusion"]
    if (v.tcd or v.npd) and (s.get("noise", True) or s.get("start") != "x0"):
        unusable("the reverse chains of this run draw noise; evaluate with "
                 "--diffusion.noise=false --diffusion.start=x0 and give the same keys here")
    return cfg


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("weights")
    ap.add_argument("data")
    ap.add_argument("ranks")
    ap.add_argument("--split", default="test", choices=("test", "valid"))
    ap.add_argument("--users", type=int, default=0, help="only the first N users; 0 = all")
    args, overrides = ap.parse_known_args()
    torch.set_num_threads(1)
    tensors, meta = safetensors_io.load(args.weights)
    cfg = configuration(meta, overrides)
    data = Data(args.data)
    ranks = np.load(args.ranks)
    if ranks.shape != (len(data.offset) - 1,):
        unusable("%s has shape %s, the data set %d users" % (
            args.ranks, ranks.shape, len(data.offset) - 1))
    model = twin.Model(cfg, {n: torch.from_numpy(np.array(a)).double()
                             for n, a in tensors.items()})
    exact = cfg.get("run", {}).get("device") == "cpu64"
    mask_seen = bool(cfg.get("train", {}).get("mask_seen", False))
    users, history, length, target = data.rows(args.split, cfg["data"]["max_len"])
    if args.users:
        users, history, length, target = (
            a[:args.users] for a in (users, history, length, target))
    bad, equal = [], 0
    for i in range(0, len(users), 256):
        block = slice(i, i + 256)
        with torch.no_grad():
            x = model.infer(data.inputs(history[block], length[block]))
            scores = model.scores(x).numpy()
        for u, s, y in zip(users[block], scores, target[block]):
            delta = (1e-10 if exact else 1e-4) * float(s[1:].std())
            own, seen = s[y], np.zeros(len(s), dtype=bool)
            seen[0] = seen[y] = True
            if mask_seen:
                cut = 1 if args.split == "test" else 2
                seen[data.items[data.offset[u]:data.offset[u + 1] - cut]] = True
            rest = s[~seen]
            low, high = 1 + int(np.sum(rest > own + delta)), 1 + int(np.sum(rest >= own - delta))
            ids = np.flatnonzero(~seen)
            mine = 1 + int(np.sum(rest > own)) + int(np.sum((rest == own) & (ids < y)))
            equal += mine == ranks[u]
            if not low <= ranks[u] <= high:
                bad.append("user %d: rank %d, the twin has %d (%d..%d)" % (
                    u, ranks[u], mine, low, high))
    outside = np.ones(len(ranks), dtype=bool)
    outside[data.rows(args.split, 1)[0]] = False
    if np.any(ranks[outside] != 0):
        bad.append("%d users without a row have a rank" % int(np.sum(ranks[outside] != 0)))
    for text in bad[:10]:
        print("FAIL " + text)
    print("%s: %d users, %d ranks equal, %d outside their bounds" % (
        "DIFFERENT" if bad or not len(users) else "EQUAL", len(users), equal, len(bad)))
    return 1 if bad or not len(users) else 0


if __name__ == "__main__":
    sys.exit(main())
