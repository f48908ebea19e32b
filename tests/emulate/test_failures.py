#!/usr/bin/env python3
"""What the program says and does when a GPU is not there, too old, too small, or lost.

Usage: test_failures.py FOLDER: the folder with the program that has an emulated GPU. Each case sets
MR_EMULATE (tests/emulate/settings.cc) and expects one sentence and an exit code of
docs/exit-codes.md.
"""
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "train"))
import harness as h  # noqa: E402

LAUNCHES = 500  # of kernels: more than an epoch, less than three
GPU = ["--run.device=cuda", "--model.name=sasrec"]


def errors(r):
    return [x for x in r.stderr.splitlines() if "error:" in x]


def run(emulate, name, *args, ranks=0):
    """A training on an emulated GPU that behaves as `emulate` says."""
    os.environ["MR_EMULATE"] = emulate
    try:
        return h.run(h.train_args(name, "small.h5", *GPU, *args), ranks)
    finally:
        del os.environ["MR_EMULATE"]


def refused(emulate, *parts, args=(), ranks=0):
    """Ends with 70 and one sentence that holds the parts."""
    shutil.rmtree(os.path.join(h.folder, "runs", "x"), ignore_errors=True)
    r = run(emulate, "x", "--train.max_steps=2", *args, ranks=ranks)
    said = errors(r)
    h.check(r.returncode == 70, "%s: exit %s: %s" % (emulate, r.returncode, r.stderr[-300:]))
    h.check(len(said) == 1 and all(p in said[0] for p in parts),
            "%s: expected %s in one line: %s" % (emulate, parts, said))


def not_there():
    refused("driver=none", "no NVIDIA driver", "--run.device=cpu")
    refused("devices=0", "no CUDA GPU", "--run.device=cpu")
    refused("chip=75", "compute capability 7.5", "needs 8.0", "emulated")


def too_small():
    refused("memory=33", "emulated GPU", "are free")
    for n in (1, 2, 4, 7):
        refused("fail_alloc=%d" % n, "has no ", " bytes on ", "lower train.batch")


def lost():
    """In the third epoch: the checkpoints are whole, and the same command goes on from the last."""
    more = ("--train.epochs=3", "--train.max_steps=0")
    h.check(run("seed=1", "whole", *more).returncode == 0, "three epochs")
    r = run("fail_launch=%d" % LAUNCHES, "lost", *more)
    said = errors(r)
    h.check(r.returncode == 70, "lost: exit %s" % r.returncode)
    h.check(len(said) == 1 and "lost its GPU" in said[0] and "illegal memory access" in said[0]
            and "start again from the last checkpoint" in said[0], "lost: %s" % said)
    done = [e["epoch"] for e in h.events("lost", "epoch")]
    h.check(done and done[-1] < 2, "lost after the epochs %s" % done)
    r = run("seed=1", "lost", *more)
    h.check(r.returncode == 0, "going on: exit %s: %s" % (r.returncode, r.stderr[-300:]))
    h.check(h.losses("whole") == h.losses("lost"), "going on gives other losses")
    bad = h.same_tensors(h.checkpoint("whole")[0], h.checkpoint("lost")[0])
    h.check(not bad, "%d tensors differ after going on" % len(bad))


def one_of_two():
    """Rank 1 loses its GPU, or NCCL fails: the job ends, and says who and what."""
    for fault, part in (("fail_launch=60", "rank 1"), ("fail_collective=4", "NCCL")):
        wrapper = os.path.join(h.folder, "one.sh")
        with open(wrapper, "w") as f:
            f.write('#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && export MR_EMULATE=devices=2,%s\n'
                    'exec "%s" "$@"\n' % (fault, REAL))
        os.chmod(wrapper, 0o755)
        h.BINARY = wrapper
        shutil.rmtree(os.path.join(h.folder, "runs", "x"), ignore_errors=True)
        r = run("devices=2", "x", "--train.max_steps=2", "--dist.comm=nccl", ranks=2)
        h.BINARY = REAL
        h.check(r.returncode == 70, "%s: exit %s: %s" % (fault, r.returncode, r.stderr[-300:]))
        h.check(any(part in x for x in errors(r)), "%s: %s" % (fault, errors(r)))


REAL = h.BINARY = os.path.join(os.path.abspath(sys.argv[1]), "mealrec-dist")
if not os.path.exists(REAL):
    sys.exit(77)
h.synth("small.h5", users=60, items=40, interactions=560)
not_there()
too_small()
lost()
one_of_two()
h.finish()
