#!/usr/bin/env python3
"""Checkpoints written by a thread hold, byte for byte, what synchronous ones hold, and the training
beside them makes the same numbers."""
import hashlib
import os
import sys

import harness as h


def shards(name):
    """{checkpoint/shard: hash} of everything a run kept."""
    top = os.path.join(h.folder, "runs", name, "checkpoints")
    out = {}
    for folder in sorted(os.listdir(top)):
        if not folder.startswith("step-"):
            with open(os.path.join(top, folder)) as f:
                out[folder] = f.read()
            continue
        for n in sorted(os.listdir(os.path.join(top, folder))):
            if n.endswith(".safetensors"):
                with open(os.path.join(top, folder, n), "rb") as f:
                    out[folder + "/" + n] = hashlib.sha256(f.read()).hexdigest()
    return out


def main():
    h.synth("small.h5")
    keys = ["--model.name=mealrec", "--train.max_steps=60", "--checkpoint.keep=100"]
    for ranks in (0, 3):
        found = []
        for on in ("true", "false"):
            name = "async-%s-%d" % (on, ranks)
            h.train(name, "small.h5", *keys, "--checkpoint.async=" + on, ranks=ranks)
            found.append((shards(name), h.losses(name), h.scores(name)))
        h.check(len(found[0][0]) >= 5, "only %s" % sorted(found[0][0]))
        for what, a, b in zip(("files", "losses", "scores"), *found):
            h.check(a == b, "%d ranks: %s differ: %s and %s" % (ranks, what, a, b))
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
