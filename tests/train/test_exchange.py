#!/usr/bin/env python3
"""dist.exchange=fixed: the same bits as exact, bytes by formula, and steps that do not fit.

Usage: test_exchange.py MODEL
"""
import re
import sys

import harness as h
from test_features import MODEL, everything

MODELS = dict(MODEL, sasrec=["--model.name=sasrec"], cl4srec=["--model.name=cl4srec"])
RUNS = [(2, "all"), (3, "all"), (4, "all"), (4, "2"), (8, "all"), (8, "4")]
FIXED = "--dist.exchange=fixed"


def check_bytes(where, data, keys, ranks, shard, fits):
    r = h.run(["bench", "comm", "--check", "--steps=3", "--data.path=" + data, FIXED,
               "--dist.item_shard=" + shard] + h.SMALL + keys, ranks)
    h.check(r.returncode == 0 and "difference 0 bytes" in r.stdout,
            "%s: exit %s %s%s" % (where, r.returncode, r.stdout, r.stderr))
    rows = [line.split() for line in r.stdout.splitlines() if " ROWS " in line]
    same = {line[5] for line in rows}
    h.check(len(rows) == ranks and (len(same) == 1 and all(line[5] == line[7] for line in rows))
            == fits or fits is None, "%s: bytes of rows %s" % (where, rows))


def main():
    model = MODELS[sys.argv[1]]
    data = h.synth("small.h5")
    keys = model + ["--train.max_steps=12", "--dist.virtual_shards=16"]
    for ranks, shard in RUNS:
        where = "%s, %d ranks, %s" % (sys.argv[1], ranks, shard)
        name = "%d-%s" % (ranks, shard)
        at = keys + ["--dist.item_shard=" + shard]
        r = h.train(name + "-exact", data, *at, ranks=ranks)
        h.check("row exchange:" not in r.stderr, where + ": " + r.stderr)
        events, tensors = everything(name + "-exact")
        h.check(len(events) > 3 and len(tensors) > 5, "%s: %s" % (where, events))
        for rows, fits in ((0, True), (5, False), (14, None)):
            r = h.train("%s-%d" % (name, rows), data, *at, FIXED,
                        "--dist.exchange_rows=%d" % rows, ranks=ranks)
            found = re.search(r"row exchange: (\d+) rows", r.stderr)
            late = re.search(r"(\d+) row exchanges of this run did not fit", r.stderr)
            h.check(found and (fits is None or bool(late) == (not fits)),
                    "%s, %d rows: %s" % (where, rows, r.stderr))
            h.check(fits is not False or int(late.group(1)) >= 12, "%s: %s" % (where, r.stderr))
            got, values = everything("%s-%d" % (name, rows))
            h.check(got == events, "%s, %d rows: events differ:\n  %s\n  %s" % (
                where, rows, events, got))
            differ = h.same_tensors(tensors, values)
            h.check(not differ, "%s, %d rows: bits differ in %s" % (where, rows, differ))
            more = model + ["--dist.exchange_rows=%d" % rows]
            check_bytes("%s, %d rows" % (where, rows), data, more,
                        ranks, shard, fits)
        print(where + ": the same bits", flush=True)
    guard = keys + ["--run.device=guard", "--train.max_steps=3"]
    h.train("guard", data, *guard, ranks=3)
    h.train("guard-fixed", data, *guard, FIXED, ranks=3)
    h.check(everything("guard")[0] == everything("guard-fixed")[0], "guard: events differ")
    h.finish()


if __name__ == "__main__":
    main()
