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
    refused("memory=41", "emulated GPU", "are free")
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


def two_ranks(name, fault, *args, both=False):
    """The program as it runs when rank 1, or both, has this fault."""
    wrapper = os.path.join(h.folder, "one.sh")
    rank = "$OMPI_COMM_WORLD_RANK" if not both else "1"
    with open(wrapper, "w") as f:
        f.write('#!/bin/sh\n[ "%s" = 1 ] && export MR_EMULATE=devices=2%s\nexec "%s" "$@"\n'
                % (rank, fault, REAL))
    os.chmod(wrapper, 0o755)
    h.BINARY = wrapper
    shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
    os.environ["MR_EMULATE"] = "devices=2"
    return h.train_args(name, "small.h5", *GPU, "--dist.comm=nccl", *args)


def alone():
    h.BINARY = REAL
    del os.environ["MR_EMULATE"]


def one_of_two():
    """Rank 1 loses its GPU, or NCCL fails: the job ends, and says who and what."""
    for fault, part in ((",fail_launch=60", "rank 1"), (",fail_collective=4", "NCCL")):
        r = h.run(two_ranks("x", fault, "--train.max_steps=2"), 2)
        alone()
        h.check(r.returncode == 70, "%s: exit %s: %s" % (fault, r.returncode, r.stderr[-300:]))
        h.check(any(part in x for x in errors(r)), "%s: %s" % (fault, errors(r)))


def recording_fails():
    """On one rank, while the other starts what it recorded and waits for it; or on both."""
    more = ("--run.capture=true", "--train.max_steps=6", "--train.batch=16",
            "--dist.item_shard=all")
    for fault, both in ((",fail_record=4", True), (",fail_record=9", False)):
        r = h.run(two_ranks("x", fault, *more, both=both), 2)
        alone()
        said = errors(r)
        what = "%s on %s: " % (fault, "both" if both else "one")
        h.check(r.returncode == 70, what + "exit %s: %s" % (r.returncode, r.stderr[-300:]))
        h.check(any("NCCL: " in x and "unhandled cuda error" in x for x in said), what + str(said))
        h.check(len(said) == 1 or not both, what + str(said))
    refused_staged()


def refused_staged():
    """Exchange through host memory cannot be recorded."""
    args = two_ranks("x", "", "--run.capture=true")
    r = h.run(args + ["--dist.comm=mpi"], 2)
    alone()
    h.check(r.returncode == 78 and len(errors(r)) == 1 and "needs NCCL" in errors(r)[0]
            and "--dist.comm=nccl" in errors(r)[0], "staged: exit %s: %s" % (
                r.returncode, errors(r)))


REAL = h.BINARY = os.path.join(os.path.abspath(sys.argv[1]), "mealrec-dist")
if not os.path.exists(REAL):
    sys.exit(77)
h.synth("small.h5", users=60, items=40, interactions=560)
not_there()
too_small()
lost()
one_of_two()
recording_fails()
h.finish()
