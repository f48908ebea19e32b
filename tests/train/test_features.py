#!/usr/bin/env python3
"""data.features=shard: features spread over ranks by item change no bit of anything.

Usage: test_features.py MODEL | paths
MODEL: steps, metrics and the last checkpoint against data.features=replicate on as many ranks, and
the bytes of the fetches against their formula. paths: the other commands and settings that read
features, both ways of reading the file, damage, and data that fit only when spread.
"""
import os
import subprocess
import sys
import time

import harness as h

MODEL = {"tedrec": ["--model.name=tedrec"], "mealrec": ["--model.name=mealrec"],
         "mealrec-sasrec": ["--model.name=mealrec", "--model.backbone=sasrec"],
         "mealrec-cl4srec": ["--model.name=mealrec", "--model.backbone=cl4srec"]}
FETCHES = {"FEATURE_COUNTS", "FEATURE_IDS", "FEATURES"}


def everything(name):
    return ([[(k, v) for k, v in sorted(e.items()) if k not in ("time", "seconds", "rows_per_s")]
             for e in h.events(name) if e["event"] in ("step", "valid", "test")],
            h.checkpoint(name)[0])


def pair(where, data, keys, ranks):
    """The same training, whole and spread; both must give the same bits."""
    result = []
    for mode in ("replicate", "shard"):
        name = "%s-%d-%s" % (where, ranks, mode)
        r = h.train(name, data, *keys, "--data.features=" + mode, ranks=ranks)
        spread = "features: spread" in r.stderr
        h.check(spread == (mode == "shard" and ranks > 1), "%s: %s" % (name, r.stderr))
        result.append(everything(name))
    (events, tensors), (got, values) = result
    h.check(len(events) > 3 and len(tensors) > 5, "%s: %s" % (where, events))
    h.check(events == got, "%s, %d ranks: events differ:\n  %s\n  %s" % (where, ranks, events, got))
    differ = h.same_tensors(tensors, values)
    h.check(not differ, "%s, %d ranks: bits differ in %s" % (where, ranks, differ))
    print("%s, %d ranks: the same bits" % (where, ranks), flush=True)


def model(name):
    data = h.synth("small.h5")
    keys = MODEL[name] + ["--train.max_steps=20", "--dist.virtual_shards=16"]
    for ranks in (1, 2, 3, 4, 8):
        pair(name, data, keys, ranks)
    for ranks, shard in ((2, "all"), (3, "1"), (4, "2"), (8, "all")):
        r = h.run(["bench", "comm", "--check", "--steps=3", "--data.path=" + data,
                   "--data.features=shard", "--dist.item_shard=" + shard] + h.SMALL + MODEL[name],
                  ranks)
        seen = {line.split()[1] for line in r.stdout.splitlines() if line[:4].strip().isdigit()}
        h.check(r.returncode == 0 and FETCHES <= seen and "difference 0 bytes" in r.stdout,
                "bytes of %s on %d ranks: exit %s %s%s" % (name, ranks, r.returncode, r.stdout,
                                                           r.stderr))


def same_file(a, b, where):
    with open(os.path.join(h.folder, a), "rb") as f, open(os.path.join(h.folder, b), "rb") as g:
        h.check(f.read() == g.read(), "%s: %s and %s differ" % (where, a, b))


def commands(data, keys):
    """eval, recommend and dump-step with features whole and spread."""
    h.train("kept", data, *keys, "--train.max_steps=4", ranks=2)
    for mode in ("replicate", "shard"):
        more = ["--data.path=" + data, "--data.features=" + mode]
        at = ["--checkpoint", "runs/kept"] + more
        h.must(["eval", "--per-user", mode + ".npy"] + at, 3)
        h.must(["recommend", "--topk=5", "--out", mode + ".tsv"] + at, 3)
        h.must(["dump-step", "--out", mode + ".st"] + more + h.SMALL + keys, 3)
    for end in ("npy", "tsv"):
        same_file("replicate." + end, "shard." + end, "3 ranks")
    import safetensors_io
    a, b = [safetensors_io.load(os.path.join(h.folder, m + ".st"))[0] for m in
            ("replicate", "shard")]
    differ = h.same_tensors(a, b)
    h.check(not differ and any(n.startswith("input.frames") for n in a),
            "dump-step: %s differ of %s" % (differ, sorted(a)))


def damaged(data):
    """One byte changed in the middle of the frames: found whoever reads it, on all ranks."""
    import h5py
    with h5py.File(os.path.join(h.folder, data)) as f:
        at = {n: (f[n].id.get_offset(), f[n].id.get_storage_size()) for n in ("frames", "text")}
    for name, share in (("frames", 0.1), ("frames", 0.9), ("text", 0.5)):
        where, size = at[name]
        with open(os.path.join(h.folder, data), "rb") as f:
            b = bytearray(f.read())
        b[where + int(share * size) // 4 * 4] ^= 1
        with open(os.path.join(h.folder, "damaged.h5"), "wb") as f:
            f.write(b)
        for read in ("parallel", "rank0"):
            r = h.run(h.train_args("damaged", "damaged.h5", "--data.features=shard",
                                   "--data.read=" + read), 3)
            h.check(r.returncode == 65 and "the checksum of %s does not match" % name in r.stderr,
                    "%s at %s, %s: exit %s %s" % (name, share, read, r.returncode, r.stderr))


WIDE = ["--model.name=tedrec", "--tedrec.experts=2", "--train.batch=4", "--train.eval_batch=8",
        "--train.max_steps=2", "--train.epochs=1"]


def limited(data, space, *args, ranks=4):
    began = time.monotonic()
    r = subprocess.run(h.limited_words(h.train_args("l%d" % began, data, *WIDE, *args), ranks,
                                       space),
                       cwd=h.folder, env=h.environment(), text=True, capture_output=True)
    r.seconds = time.monotonic() - began
    return r


def memory():
    """640 MiB of texts in 420 MiB: whole they do not fit, in four parts they do."""
    h.must(["synth", "--out", "large.h5", "--users", "60", "--items", "20000", "--interactions",
            "24000", "--frames", "2", "--width", "2", "--text-width", "8192"])
    peak = h.address_space(h.train_args("peak", "small.h5", *WIDE))
    if peak > 1 << 30:  # KiB: a sanitizer, which keeps what was freed
        print("memory: not measured, the program takes %d GiB of address space" % (peak >> 20))
        return
    space = peak + 420 * 1024
    r = limited("large.h5", space)
    h.check(r.returncode == 0 and "features: spread over 4 ranks by item, 163.8 MB" in r.stderr,
            "auto on 4 ranks: exit %s %s" % (r.returncode, r.stderr))
    refused = [(4, "replicate", space, ["MiB on every rank", "rank ", " of 4 ", "may take",
                                        "data.features=shard"]),
               (1, "auto", space, ["rank 0 of 1", "start several ranks"])]
    for mode in ("auto", "shard"):
        refused.append((2, mode, space - 320 * 1024,
                        ["with its features spread over all ranks", "MiB on every rank", " of 2 ",
                         "start more ranks"]))
    for ranks, mode, room, texts in refused:
        r = limited("large.h5", room, "--data.features=" + mode, ranks=ranks)
        h.check(r.returncode == 70 and r.seconds < 5 and all(
            t in r.stderr for t in texts + ["large.h5 does not fit", "ulimit -v"]),
            "%s on %d ranks: exit %s after %.1f s %s" % (mode, ranks, r.returncode, r.seconds,
                                                         r.stderr))


def paths():
    data = h.synth("small.h5")
    keys = ["--model.name=mealrec", "--dist.virtual_shards=16"]
    few = keys + ["--train.max_steps=4"]
    pair("noise", data, few + ["--data.frames_noise=0.5"], 3)
    pair("rank0", data, few + ["--data.read=rank0"], 3)
    pair("guard", data, few + ["--run.device=guard"], 3)
    pair("world", data, few + ["--dist.deterministic=world"], 3)
    h.synth("tiny.h5", users=60, items=17, interactions=300)  # for 6 of 8 ranks
    pair("tiny", "tiny.h5", few, 8)
    commands(data, keys)
    damaged(data)
    memory()


if __name__ == "__main__":
    if sys.argv[1] == "paths":
        paths()
    else:
        model(sys.argv[1])
    h.finish()
