#!/usr/bin/env python3
"""Failures in the middle of a step that starts again as one graph, on two ranks.

Usage: test_replay_failures.py FOLDER: the folder with the program that has an emulated GPU.
One run is ended again and again, each time in the middle of such a step while the other rank waits
in its own (fail_again of tests/emulate/settings.cc): by SIGTERM, by a rank that stops, by one that
is killed, by a lost GPU. At its end it has the losses and weights of a run that nobody disturbed,
although its room for tokens was another: a batch of the second epoch needs more than those of the
first, and each new start begins with the room of the first.
"""
import os
import re
import signal
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "train"))
import harness as h  # noqa: E402

RUN = ["--run.device=cuda", "--model.name=sasrec", "--dist.comm=nccl", "--run.capture=true",
       "--dist.virtual_shards=2", "--dist.item_shard=all", "--model.hidden=4", "--model.inner=4",
       "--model.layers=1", "--model.heads=1", "--data.max_len=20", "--train.batch=16",
       "--train.eval_batch=60", "--train.epochs=3", "--run.seed=40", "--checkpoint.every_epochs=1",
       "--checkpoint.async=false"]
EPOCH = 14  # steps
HOST = socket.gethostname()
MORE_ROOM = "it gets more"


def left_behind(seconds):
    """Does a process still work in the folder of this test, so long after the launcher's end?"""
    end = time.time() + seconds * h.SCALE
    while time.time() < end:
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) != os.getpid() and os.readlink("/proc/%s/cwd" % pid) == h.folder:
                    out.append(pid)
            except OSError:
                pass
        if not out:
            return False
        time.sleep(0.05)
    return True


class Start:
    """A start of the run `name`; rank 1 has this fault. How it ended, and what it said."""

    def __init__(self, name, fault, *args):
        with open(h.BINARY, "w") as f:
            f.write('#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && export MR_EMULATE=devices=2%s\n'
                    'exec "%s" "$@"\n' % (fault and "," + fault, REAL))
        os.chmod(h.BINARY, 0o755)
        r = h.run(h.train_args(name, "small.h5", *RUN, *args), 2)
        self.what, self.code, self.text = fault or name, r.returncode, r.stderr
        at = re.search(r"emulated GPU: fails at ([0-9.]+)", r.stderr)
        self.took = time.time() - float(at.group(1)) if at else 0
        self.errors = [x.split("error: ", 1)[1] for x in r.stderr.splitlines()
                       if "error: " in x and "ends the job with" not in x]
        self.saved = h.checkpoint(name)[1]["step"]
        self.steps = max(h.losses(name))
        ends = [e for e in h.events(name) if e["event"] in ("start", "end")]
        self.end = ends[-1] if ends[-1]["event"] == "end" else {}
        print("%s: exit %s, step %d, saved %d, %.1f s after the failure, replayed %s: %s" % (
            self.what, self.code, self.steps, self.saved, self.took, self.end.get("replayed"),
            self.errors), flush=True)
        self.need(not left_behind(2), "processes are left")
        known = h.losses("whole")  # nothing of a step that did not end is told
        self.need(all(known.get(k) == v for k, v in h.losses(name).items()), "other losses")

    def need(self, good, text):
        return h.check(good, "%s: %s\n%s" % (self.what, text, self.text))

    def ended(self, code, seconds, *parts):
        """One sentence, which holds the parts, and this exit code, in time."""
        self.need(self.code == code, "exit %s" % self.code)
        self.need(0 < self.took < seconds * h.SCALE, "%.1f s" % self.took)
        self.need(len(self.errors) == 1 and all(re.search(p, self.errors[0]) for p in parts),
                  "expected %s in one line: %s" % (parts, self.errors))


def asked_to_stop():
    """SIGTERM for one rank in the second epoch: the step is done, and a checkpoint written."""
    s = Start("cut", "fail_again=6,signal=%d" % signal.SIGTERM)
    s.need(s.code == 75 and not s.errors, "exit %s" % s.code)
    s.need(s.text.count("stopped on request") == 1 and s.end.get("exit") == 75, "not in order")
    s.need(EPOCH < s.saved < 2 * EPOCH and s.saved == s.steps, "saved at %d" % s.saved)


def stops():
    s = Start("cut", "fail_again=5,signal=%d" % signal.SIGSTOP, "--dist.hang_limit=2")
    s.ended(76, 8, r"limit 2\.\d s in the phase 'training step'",
            r"rank 1 \(process \d+ on %s\) is stopped" % HOST,
            r"rank 1 on %s is in 'update' \(training step\) after #\d+ \w+" % HOST)
    s.need(s.saved == 2 * EPOCH < s.steps, "saved at %d" % s.saved)


def is_killed():
    s = Start("cut", "fail_again=3,signal=%d" % signal.SIGKILL)
    s.ended(128 + signal.SIGKILL, 5, r"rank 1 \(process \d+ on %s\) was the first to die" % HOST)
    s.need(s.saved == 2 * EPOCH < s.steps, "saved at %d" % s.saved)


def is_lost():
    s = Start("cut", "fail_again=3")
    s.ended(70, 8, r"rank 1 on %s lost its GPU \(cuda:1 " % HOST, "illegal memory access",
            "start again from the last checkpoint")
    s.need(s.saved == 2 * EPOCH < s.steps, "saved at %d" % s.saved)


def goes_on(whole):
    s = Start("cut", "")
    for one in (whole, s):
        one.need(one.code == 0 and one.steps == 3 * EPOCH, "exit %s" % one.code)
        one.need(one.end.get("replayed", 0) > 2, "replayed: %s" % one.end)
    grown = [x.text.split("epoch 1: loss")[-1].count(MORE_ROOM) for x in (whole, s)]
    s.need(grown == [0, 1] and MORE_ROOM in whole.text, "the same room: %s" % whole.text)
    bad = h.same_tensors(h.checkpoint("whole")[0], h.checkpoint("cut")[0])
    s.need(not bad, "%d tensors differ: %s" % (len(bad), bad[:3]))


REAL = os.path.join(os.path.abspath(sys.argv[1]), "mealrec-dist")
if not os.path.exists(REAL):
    sys.exit(77)
h.BINARY = REAL
h.synth("small.h5", users=60, items=40, interactions=400)
h.BINARY = os.path.join(h.folder, "one.sh")
os.environ["MR_EMULATE"] = "devices=2"
undisturbed = Start("whole", "")
asked_to_stop()
stops()
is_killed()
is_lost()
goes_on(undisturbed)
h.finish()
