#!/usr/bin/env python3
"""Every variant through the program: gradients against differences, and the guard device.

Part "gradcheck": all backbones x {full, -TCD, -NPD, -TCD -NPD, alone} and the options of both
modules, a few elements of every tensor. Part "guard": five steps and both scorings on the device
whose memory the host cannot touch give the digits of the plain CPU, and the same checkpoint bytes.
"""
import argparse
import itertools
import re
import sys

import harness as h


def variants():
    for b in h.MODELS[:3]:
        yield b, ["--model.name=" + b]
        for tcd, npd in itertools.product(("true", "false"), repeat=2):
            yield "mealrec-%s-tcd-%s-npd-%s" % (b, tcd, npd), [
                "--model.backbone=" + b, "--tcd.enabled=" + tcd, "--npd.enabled=" + npd]
    yield "horizon", ["--npd.block=horizon"]
    yield "horizon-no-tcd", ["--npd.block=horizon", "--tcd.enabled=false"]
    yield "detach", ["--tcd.detach_target=true", "--npd.detach_target=true"]
    yield "lambda-0", ["--tcd.lambda=0", "--npd.lambda=0"]
    yield "t-set", ["--diffusion.t_set=[2,5]"]
    yield "one-layer", ["--model.layers=1", "--model.heads=3", "--data.max_len=7"]


def gradcheck(per_tensor):
    for name, keys in variants():
        if name == "detach":
            continue  # differences follow the target too; the step dumps compare this one
        r = h.run(["gradcheck", "--per-tensor", str(per_tensor), "--data.path=small.h5"] + h.SMALL
                  + ["--train.batch=24"] + keys)
        good = h.check(r.returncode == 0, "%s: exit %s: %s" % (name, r.returncode, r.stderr[-500:]))
        worst = re.findall(r"^gradcheck passed: worst relative difference (\S+)$", r.stdout, re.M)
        tensors = len(re.findall(r"^\S+ +worst ", r.stdout, re.M))
        h.check(not good or (len(worst) == 1 and tensors >= 30), "%s: %s" % (name, r.stdout[-300:]))
        print("%-34s %3d tensors, worst %s" % (name, tensors, " ".join(worst)), flush=True)
    r = h.run(["gradcheck", "--data.path=small.h5", "--npd.detach_target=true"] + h.SMALL)
    h.check(r.returncode == 78 and "cannot see a detached target" in r.stderr,
            "detach: exit %s: %s" % (r.returncode, r.stderr))
    r = h.run(["gradcheck", "--per-tensor", "9", "--step", "0.1", "--data.path=small.h5"]
              + h.SMALL)
    h.check(r.returncode == 70 and "gradcheck: " in r.stderr,
            "far too long a step: exit %s: %s" % (r.returncode, r.stderr))


def guard():
    more = [("mask-seen", ["--train.mask_seen=true", "--model.name=sasrec"]),
            ("start-x0", ["--diffusion.start=x0", "--diffusion.mix=0.5"]),
            ("start-noise", ["--diffusion.start=noise", "--diffusion.noise=false"]),
            ("clip", ["--train.clip=0.1", "--train.weight_decay=0.01"])]
    for name, keys in list(variants()) + more:
        keys = keys + ["--train.max_steps=5"]
        for device in ("cpu", "guard"):
            h.train(name + "-" + device, "small.h5", "--run.device=" + device, *keys)
        a, b = h.losses(name + "-cpu"), h.losses(name + "-guard")
        h.check(len(a) == 5 and a == b, "%s: losses %s and %s" % (name, a, b))
        h.check(h.scores(name + "-cpu") == h.scores(name + "-guard"), name + ": metrics differ")
        bad = h.same_tensors(h.checkpoint(name + "-cpu")[0], h.checkpoint(name + "-guard")[0])
        h.check(not bad, "%s: checkpoints differ in %s" % (name, bad[:3]))
    # And where ranks exchange rows.
    for ranks, shard in ((2, "all"), (2, "1")):
        for device in ("cpu", "guard"):
            h.train("two-%s-%s" % (shard, device), "small.h5", "--model.backbone=cl4srec",
                    "--train.max_steps=5", "--run.device=" + device, "--dist.item_shard=" + shard,
                    ranks=ranks)
        a, b = ("two-%s-%s" % (shard, d) for d in ("cpu", "guard"))
        h.check(h.losses(a) == h.losses(b) and h.scores(a) == h.scores(b),
                "2 ranks, item_shard %s: guard differs" % shard)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("part", choices=["gradcheck", "guard"])
    ap.add_argument("--per-tensor", type=int, default=3)
    args = ap.parse_args()
    h.synth("small.h5", users=60, interactions=500, items=50)
    if args.part == "gradcheck":
        gradcheck(args.per_tensor)
    else:
        guard()
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
