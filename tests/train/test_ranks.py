#!/usr/bin/env python3
"""The same training on any number of ranks: losses up to rounding, metrics to the last digit.

Usage: test_ranks.py MODEL [--device cpu64] [--ranks 2 4/2] [--steps 20]
A rank count may be given as P/G: P ranks of which every G share one copy of the item table.
"""
import argparse

import harness as h

TOLERANCE = {"cpu": 1e-5, "cpu64": 1e-10}
RANKS = {"cpu": ["1", "2", "3", "4", "8"], "cpu64": ["3", "8", "2/1", "4/1", "4/2"]}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model", choices=h.MODELS + ["mealrec-cl4srec"])
    ap.add_argument("--device", nargs="+", default=["cpu", "cpu64"])
    ap.add_argument("--ranks", nargs="+", help="default: 1 2 3 4 8, in float64 3 8 2/1 4/1 4/2")
    ap.add_argument("--steps", type=int, default=20)
    args = ap.parse_args()
    data = h.synth("small.h5")
    model = ["--model.name=" + args.model]
    if args.model == "mealrec-cl4srec":
        model = ["--model.name=mealrec", "--model.backbone=cl4srec"]
    for device in args.device:
        keys = model + ["--train.max_steps=%d" % args.steps, "--run.device=" + device]
        h.train("alone-" + device, data, *keys)
        alone, metrics = h.losses("alone-" + device), h.scores("alone-" + device)
        h.check(sorted(alone) == list(range(1, args.steps + 1)), "one rank: steps %s" % list(alone))
        h.check([m["event"] for m in metrics] == ["valid", "valid", "test"],
                "one rank: %s" % metrics)
        for ranks in args.ranks or RANKS[device]:
            p, _, group = ranks.partition("/")
            name = "%s-%s" % (device, ranks.replace("/", "-"))
            h.train(name, data, *keys, "--dist.item_shard=" + (group or "all"), ranks=int(p))
            worst = h.worst_difference(alone, h.losses(name))
            h.check(worst <= TOLERANCE[device], "%s, %s ranks: losses differ by %.3g" % (
                device, ranks, worst))
            h.check(h.scores(name) == metrics, "%s, %s ranks: metrics differ:\n  %s\n  %s" % (
                device, ranks, metrics, h.scores(name)))
            print("%s %s ranks: worst relative difference of a loss %.2e" % (device, ranks, worst),
                  flush=True)
    h.finish()


if __name__ == "__main__":
    main()
