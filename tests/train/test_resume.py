#!/usr/bin/env python3
"""Going on from a checkpoint: the same bits as without the interruption, on 1 and 2 ranks.

Limits (train.max_steps) and signals interrupt; a signal comes at any time, so each run that one
stopped says itself where. Part "bits": cuts inside an epoch and at its end. Part "signals": every
signal, through mpirun too. Part "reshard": written by P ranks, continued by Q.
"""
import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time

import harness as h

STEPS = 40  # 17 batches an epoch: cuts at 17 and 34 are ends of epochs
STATE = ("step", "epoch", "batch_in_epoch", "rows_seen", "best_metric", "best_epoch", "best_step",
         "bad_evals", "skipped_in_row")


def whole(name, model, ranks):
    h.train(name, "small.h5", "--model.name=" + model, "--train.max_steps=%d" % STEPS, ranks=ranks)
    return h.checkpoint(name), h.losses(name)


def compare(name, reference, what):
    """Tensors, moments, state and the losses of all steps against the run without a break."""
    (tensors, state), losses = reference
    got, after = h.checkpoint(name)
    bad = h.same_tensors(tensors, got)
    h.check(not bad, "%s: %d tensors differ: %s" % (what, len(bad), bad[:3]))
    h.check("m/item.weight" in got and "v/item.weight" in got, what + ": no moments")
    bad = [k for k in STATE if state[k] != after[k]]
    h.check(not bad, "%s: state differs: %s" % (what, [(k, state[k], after[k]) for k in bad]))
    h.check(losses == h.losses(name), what + ": losses of the record differ")


def bits():
    for model, ranks, cuts in (("mealrec", 0, (13,)), ("sasrec", 0, (17, 34)),
                               ("cl4srec", 2, (5, 17)), ("mealrec", 2, (13, 33))):
        reference = whole("whole-%s-%d" % (model, ranks), model, ranks)
        name = "cut-%s-%d" % (model, ranks)
        for limit in cuts + (STEPS,):
            r = h.train(name, "small.h5", "--model.name=" + model, "--train.max_steps=%d" % limit,
                        ranks=ranks)
            h.check(limit == cuts[0] or "going on from" in r.stderr, "did not resume: " + r.stderr)
        # A limit inside an epoch makes an extra validation, which is no part of the weights; it may
        # move the best epoch, so state is compared only where every cut was the end of an epoch.
        if all(c % 17 == 0 for c in cuts):
            compare(name, reference, "%s, %d ranks, cuts %s" % (model, ranks, cuts))
        else:
            bad = h.same_tensors(reference[0][0], h.checkpoint(name)[0])
            h.check(not bad, "%s, %d ranks, cuts %s: %s" % (model, ranks, cuts, bad[:3]))
            h.check(reference[1] == h.losses(name), "%s, cuts %s: losses" % (model, cuts))
    # A finished run only tests again.
    before, n = h.checkpoint("cut-mealrec-0"), len(h.events("cut-mealrec-0", "test"))
    r = h.train("cut-mealrec-0", "small.h5", "--model.name=mealrec", "--train.max_steps=%d" % STEPS)
    h.check(not h.same_tensors(before[0], h.checkpoint("cut-mealrec-0")[0]), "re-run trained")
    tests = h.events("cut-mealrec-0", "test")
    h.check(len(tests) == n + 1 and all(
        {k: v for k, v in t.items() if k != "seconds"} ==
        {k: v for k, v in tests[-1].items() if k != "seconds"} for t in tests[-2:]),
        "re-run: tests %s" % tests)
    # Steps 34 to 40 are of the third epoch; the number is that of the run, not of this start.
    h.check(re.search(r"best epoch \d of 3,", r.stdout), "re-run: " + r.stdout)


def start(name, *keys, ranks=0):
    return subprocess.Popen(h.words(h.train_args(name, "small.h5", *keys), ranks), cwd=h.folder,
                            env=h.environment(), text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def wait_for_step(p, name, step):
    """Return when the record holds a step >= step or the program ended."""
    path = os.path.join(h.folder, "runs", name, "metrics.jsonl")
    end = time.time() + h.LIMIT
    while p.poll() is None and time.time() < end:
        try:
            with open(path) as f:
                text = f.read()
        except FileNotFoundError:
            text = ""
        if '"step":%d,' % step in text:
            return True
        time.sleep(0.002)
    return False


def signals():
    random.seed(1)
    long = ["--model.name=mealrec", "--train.max_steps=%d" % STEPS]
    for ranks, sig in ((0, signal.SIGUSR1), (0, signal.SIGTERM), (0, signal.SIGINT),
                       (2, signal.SIGUSR1), (2, signal.SIGUSR2)):
        reference = whole("whole-signals-%d" % ranks, "mealrec", ranks) \
            if not os.path.exists(os.path.join(h.folder, "runs", "whole-signals-%d" % ranks)) \
            else (h.checkpoint("whole-signals-%d" % ranks), h.losses("whole-signals-%d" % ranks))
        name, what = "stopped-%d-%s" % (ranks, sig.name), "%s, %d ranks" % (sig.name, ranks)
        # Two stops, so that a run is also stopped after it was resumed.
        done = 0
        for round_, at in enumerate((random.randint(1, 16), random.randint(17, 34))):
            at = max(at, done + 1)  # a step of this start: before its main a signal ends a program
            p = start(name, *long, ranks=ranks)
            wait_for_step(p, name, at)
            if p.poll() is None:
                p.send_signal(sig)
            out, err = p.communicate(timeout=h.LIMIT)
            last = h.events(name)[-1]
            if last["event"] == "end" and last["exit"] == 0 and p.returncode in (0, -sig):
                continue  # the end came before the signal
            if not h.check(p.returncode == 75, "%s at step %d: exit %s\n%s" % (
                    what, at, p.returncode, err)):
                break
            h.check(err.count("stopped on request") == 1, what + ": " + err)
            _, state = h.checkpoint(name)
            done = state["step"]
            h.check(at <= state["step"] < STEPS, "%s at %d: checkpoint of step %d" % (
                what, at, state["step"]))
            h.check(h.events(name)[-1] == {"event": "end", "step": state["step"], "exit": 75},
                    "%s: last event %s" % (what, h.events(name)[-1]))
            print("%s, stop %d: at step %d of epoch %d" % (what, round_, state["step"],
                                                           state["epoch"]), flush=True)
        h.train(name, "small.h5", *long, ranks=ranks)
        compare(name, reference, what)


def reshard():
    (_, _), alone = whole("whole-reshard", "mealrec", 0)
    for p, q in ((2, 1), (2, 3), (1, 2)):
        name = "from-%d-to-%d" % (p, q)
        for ranks, limit in ((p, 19), (q, STEPS)):
            h.train(name, "small.h5", "--model.name=mealrec", "--train.max_steps=%d" % limit,
                    ranks=ranks)
        worst = h.worst_difference(alone, h.losses(name))
        h.check(worst <= 1e-6, "%s: losses differ by %.3g" % (name, worst))
        print("%s: worst relative difference of a loss %.2e" % (name, worst), flush=True)
    elsewhere()


def elsewhere():
    """checkpoint.resume=DIR: the best weights before that are in DIR; what is tested is said."""
    keys = ["--model.name=sasrec", "--train.epochs=3"]
    for name, more in (("old", []), ("new", ["--checkpoint.resume=runs/old"])):
        for ranks in (0, 2):
            r = h.train("%s-%d" % (name, ranks), "small.h5", *keys,
                        *[x + "-%d" % ranks for x in more], ranks=ranks)
            h.check(r.stderr.count("the last weights are tested") == (name == "new"),
                    "%s, %d ranks: %s" % (name, ranks, r.stderr))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("part", choices=["bits", "signals", "reshard"])
    part = ap.parse_args().part
    h.synth("small.h5")
    {"bits": bits, "signals": signals, "reshard": reshard}[part]()
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
