#!/usr/bin/env python3
"""How many kernels and library products a training step starts on a GPU: never more than now.

Usage: test_launches.py FOLDER: the folder with the program that has an emulated GPU, which counts
as the CUDA backend does everywhere. Widths are tiny; the count does not depend on them.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "train"))
import harness as h  # noqa: E402

# What docs/gpu.md tells; whoever saves launches lowers them.
MOST = {("sasrec", "sasrec"): 60, ("mealrec", "sasrec"): 250, ("mealrec", "tedrec"): 279}


def launches(model, backbone, precision="auto"):
    out = os.path.join(h.folder, "step.json")
    h.must(["bench", "step", "--steps", "1", "--warmup", "1", "--json", out, "--run.device=cuda",
            "--data.path=small.h5", "--model.name=" + model, "--model.backbone=" + backbone,
            "--run.precision=" + precision, *h.SMALL])
    with open(out) as f:
        return json.load(f)["launches"]


def main():
    h.BINARY = os.path.join(os.path.abspath(sys.argv[1]), "mealrec-dist")
    h.synth("small.h5")
    for (model, backbone), most in MOST.items():
        n = launches(model, backbone)
        print("%s on %s: %d launches" % (model, backbone, n))
        h.check(most - 10 < n <= most, "%s on %s: %d launches, at most %d (lower the number here "
                "when it fell by 10)" % (model, backbone, n, most))
    # The item loss in bf16: x comes as bf16 and its gradient goes so; the table and x times its
    # norm and times its factors are rounded; TedRec's norms come with the table's copy.
    for model, more in (("sasrec", 5), ("tedrec", 4)):
        n = launches(model, model, "bf16") - launches(model, model)
        h.check(n == more, "%s in bf16: %d launches more, not %d" % (model, n, more))
    # Parts of a recorded step, and memory as the emulator counts it.
    out = os.path.join(h.folder, "parts.json")
    h.must(["bench", "step", "--parts", "--steps", "1", "--warmup", "3", "--json", out,
            "--run.device=cuda", "--run.capture=true", "--data.path=small.h5", *h.SMALL])
    with open(out) as f:
        o = json.load(f)
    parts = {p["part"]: p for p in o["parts"]}
    h.check({"tedrec", "encoder.0", "tcd.encoder", "tcd.unet", "npd.block", "rank", "update"} <=
            set(parts), "parts are %s" % sorted(parts))
    h.check(all(p["forward_s"] + p["backward_s"] > 0 for p in parts.values()) and
            parts["tcd.unet"]["backward_s"] > 0 and parts["rank"]["scratch_bytes"] > 0, "times")
    h.check(abs(o["own_device_mib"] - o["device_mib"]) < 1e-6 * o["device_mib"],
            "%s MiB are allocated, the GPU says %s" % (o["own_device_mib"], o["device_mib"]))
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
