#!/usr/bin/env python3
"""dist.deterministic=world: the same bits on any number of ranks and for every placement.

Usage: test_exact.py MODEL
Losses of every step, metrics, and every bit of the last checkpoint (values and moments) against
one rank; losses against the ordinary step; and a stop and a start on other ranks in between.
"""
import sys

import harness as h

STEPS = 6
RUNS = [(2, "1"), (2, "all"), (3, "1"), (3, "all"), (4, "1"), (4, "2"), (4, "all"), (8, "1"),
        (8, "2"), (8, "4"), (8, "all")]  # every placement of 2, 3, 4 and 8 ranks


def everything(name):
    return ([[(k, v) for k, v in sorted(e.items()) if k not in ("time", "seconds", "rows_per_s")]
             for e in h.events(name) if e["event"] in ("step", "valid", "test")],
            h.checkpoint(name)[0])


def main():
    model = sys.argv[1]
    data = h.synth("small.h5")
    keys = ["--model.name=" + model, "--train.max_steps=%d" % STEPS, "--train.epochs=3",
            "--dist.virtual_shards=16", "--train.clip=0.5"]
    if model == "mealrec-cl4srec":
        keys[0:1] = ["--model.name=mealrec", "--model.backbone=cl4srec"]
    world = keys + ["--dist.deterministic=world"]
    h.train("alone", data, *world)
    h.train("usual", data, *keys)
    alone, tensors = everything("alone")
    losses = h.losses("alone")
    h.check(len(losses) == STEPS and len(tensors) > 5, "steps %s" % losses)
    worst = h.worst_difference(losses, h.losses("usual"))
    h.check(worst <= 1e-5, "world and run differ by %.3g" % worst)
    h.check(all(losses[s] > 0 for s in losses), "losses %s" % losses)
    for ranks, shard in RUNS:
        name = "r%d-%s" % (ranks, shard)
        h.train(name, data, *world, "--dist.item_shard=" + shard, ranks=ranks)
        got, values = everything(name)
        h.check(got == alone, "%s, %s: events differ:\n  %s\n  %s" % (model, name, alone, got))
        differ = h.same_tensors(tensors, values)
        h.check(not differ, "%s, %s: bits differ in %s" % (model, name, differ))
        print("%s: %d ranks, item_shard %s: %d tensors" % (model, ranks, shard, len(values)),
              flush=True)
    for ranks, shard in ((1, "all"), (3, "all"), (4, "2")):
        name = "guard%d" % ranks
        h.train(name, data, *world, "--run.device=guard", "--dist.item_shard=" + shard, ranks=ranks)
        got, values = everything(name)
        differ = h.same_tensors(tensors, values)
        h.check(got == alone and not differ, "guard device, %d ranks: bits differ in %s" % (
            ranks, differ))
    h.train("moved", data, *world, "--train.max_steps=2", ranks=2)
    h.train("moved", data, *world, "--dist.item_shard=1", ranks=3)
    h.check(h.losses("moved") == losses, "2 ranks, then 3: %s" % h.losses("moved"))
    differ = h.same_tensors(tensors, h.checkpoint("moved")[0])
    h.check(not differ, "2 ranks, then 3: bits differ in %s" % differ)
    check_bytes(data, world)
    h.finish()


def check_bytes(data, world):
    r = h.run(["bench", "comm", "--check", "--steps=2", "--data.path=" + data,
               "--dist.item_shard=2"] + h.SMALL + world, 4)
    h.check(r.returncode == 0 and "EXACT_SUMS" in r.stdout and "WHOLE_TABLE" in r.stdout
            and "DENSE_GRADS" not in r.stdout, "bytes: exit %s %s%s" % (r.returncode, r.stdout,
                                                                      r.stderr))


if __name__ == "__main__":
    main()
