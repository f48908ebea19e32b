#!/usr/bin/env python3
"""Train a few steps, export, evaluate, and let check_eval.py recompute every user's rank.

Usage: test_eval.py [--binary FILE] [--only TEXT] [--device cpu]; --binary defaults to MR_BINARY.
Also: the same ranks on two MPI ranks. Exit 77 without torch or h5py.
"""
import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = ["--model.hidden=24", "--model.inner=40", "--tcd.unet_width=16", "--tcd.heads=4",
         "--npd.inner=40", "--train.batch=128", "--train.epochs=1", "--train.max_steps=8",
         "--diffusion.steps=4"]
VARIANTS = [("mealrec/tedrec", []),
            ("horizon", ["--npd.block=horizon", "--model.backbone=sasrec"]),
            ("-TCD, mix", ["--tcd.enabled=false", "--diffusion.mix=0.3"]),
            ("-NPD, cosine", ["--npd.enabled=false", "--diffusion.schedule=cosine"]),
            ("cl4srec", ["--model.name=cl4srec"])]
CHAIN = ["--diffusion.noise=false", "--diffusion.start=x0"]


class Failed(Exception):
    pass


def call(command, folder):
    r = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT)
    if r.returncode == 77:
        print(r.stdout)
        sys.exit(77)
    if r.returncode != 0:
        raise Failed("%s\n     exit %d: %s" % (" ".join(command), r.returncode, r.stdout[-800:]))
    return r.stdout.strip()


def one(binary, folder, label, keys, device):
    name = "run%d" % len(os.listdir(folder))
    ranks, weights = name + ".npy", name + ".safetensors"
    keys = keys + CHAIN
    call([binary, "train", "--data.path=data.h5", "--run.name=" + name, "--run.device=" + device]
         + SMALL + keys, folder)
    where = ["--checkpoint", os.path.join("runs", name)]
    call([binary, "export"] + where + ["--out", weights], folder)
    for split in ("test", "valid"):
        call([binary, "eval", "--split", split, "--per-user", ranks] + where + CHAIN, folder)
        text = call([sys.executable, os.path.join(HERE, "check_eval.py"), weights, "data.h5", ranks,
                     "--split", split] + CHAIN, folder)
        print("ok   %-16s %-6s %-5s %s" % (label, device, split, text.splitlines()[-1]), flush=True)
        if split == "test":
            os.replace(os.path.join(folder, ranks), os.path.join(folder, "one.npy"))
    call(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", binary, "eval",
          "--per-user", ranks] + where + CHAIN, folder)
    if device == "cpu64" and not filecmp.cmp(os.path.join(folder, ranks),
                                             os.path.join(folder, "one.npy"), shallow=False):
        raise Failed("two MPI ranks give other ranks of items than one")
    call([sys.executable, os.path.join(HERE, "check_eval.py"), weights, "data.h5", ranks] + CHAIN,
         folder)
    for f in (ranks, "one.npy"):
        os.unlink(os.path.join(folder, f))


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--binary", default=os.environ.get("MR_BINARY"))
    ap.add_argument("--device", nargs="+", default=["cpu64", "cpu"])
    ap.add_argument("--only", default="")
    args = ap.parse_args()
    if not args.binary or not os.path.exists(args.binary):
        ap.error("no program: give --binary or set MR_BINARY")
    binary = os.path.abspath(args.binary)
    folder = tempfile.mkdtemp(prefix="golden-eval-")
    failures = count = 0
    try:
        call([binary, "synth", "--shape", "demo", "--out", "data.h5"], folder)
        for label, keys in VARIANTS:
            if args.only not in label:
                continue
            # both precisions once; the others in double, where ranks must be equal
            for device in args.device if label == VARIANTS[0][0] else args.device[:1]:
                count += 1
                try:
                    one(binary, folder, label, keys, device)
                except Failed as e:
                    failures += 1
                    print("FAIL %s %s\n     %s" % (label, device, e), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("%d variants, %d failures" % (count, failures))
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
