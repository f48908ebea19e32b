#!/usr/bin/env python3
"""The bytes of a step's collectives, counted and by formula: difference 0 for every rank, purpose,
number of ranks and placement of the item table.

Usage: test_bytes.py MODEL
"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
sys.dont_write_bytecode = True
import harness as h  # noqa: E402

# P ranks, of which G share one copy of the item table.
PLACEMENTS = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 2), (4, 4), (8, 1), (8, 2),
              (8, 4), (8, 8)]
# What a step of a sharded table has to count; nothing counted at all would differ by 0 too.
SHARDED = {"ROW_COUNTS", "ROW_IDS", "ROWS", "ROW_GRADS", "LOSS_ROWS", "LOSS_TARGETS",
           "LOSS_PARTIALS", "LOSS_GRADS", "TABLE_NORM"}


def expected(model, p, g):
    purposes = set()
    if p > 1:
        purposes |= {"DENSE_GRADS"}
    if g > 1:
        purposes |= SHARDED
    if g < p:
        purposes |= {"TABLE_GRADS"}
    if model == "cl4srec" and p > 1:
        purposes |= {"VIEWS", "VIEW_GRADS"}
    return purposes


def main():
    model = sys.argv[1]
    data = h.synth("small.h5")
    for p, g in PLACEMENTS:
        out = os.path.join(h.folder, "check.json")
        r = h.run(["bench", "comm", "--check", "--steps=3", "--json=" + out, "--data.path=" + data,
                   "--model.name=" + model, "--dist.item_shard=%d" % g,
                   "--dist.bucket_mb=0.01"] + h.SMALL, p)
        where = "%s, %d ranks, groups of %d" % (model, p, g)
        if not h.check(r.returncode == 0, "%s: exit %s\n%s%s" % (where, r.returncode, r.stdout,
                                                                 r.stderr)):
            continue
        with open(out) as f:
            d = json.load(f)
        h.check(d["difference"] == 0 and d["ranks"] == p and d["group"] == g,
                "%s: %s" % (where, r.stdout))
        for rank in range(p):
            mine = {c["purpose"]: c for c in d["counts"] if c["rank"] == rank}
            h.check(set(mine) == expected(model, p, g), "%s: purposes of rank %d are %s" % (
                where, rank, sorted(mine)))
            for c in mine.values():
                h.check((c["calls"], c["bytes_in"], c["bytes_out"]) == (
                    c["calls_formula"], c["bytes_in_formula"], c["bytes_out_formula"]),
                    "%s: %s" % (where, c))
        total = sum(c["bytes_in"] for c in d["counts"])
        h.check(total == sum(c["bytes_out"] for c in d["counts"]),
                "%s: what is sent is not what is received" % where)
        print("%s: %d bytes received by all ranks in 3 steps" % (where, total), flush=True)
    h.finish()


if __name__ == "__main__":
    main()
