#!/usr/bin/env python3
"""Requests to stop that come at awkward times: while a job starts, twice, and from a clock.

Each of them ends with a checkpoint and exit code 75, but a second signal, which leaves at once.
"""
import os
import shutil
import signal
import subprocess
import sys
import time

import harness as h

LONG = ["--model.name=mealrec", "--train.max_steps=1000000", "--train.epochs=1000000",
        "--train.patience=1000000"]


def start(name, *keys, ranks=0, **more):
    return subprocess.Popen(h.words(h.train_args(name, "small.h5", *LONG, *keys), ranks),
                            cwd=h.folder, env=dict(h.environment(), **more), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ranks_of(p, n):
    """Processes of the program below p (p itself without a launcher)."""
    if n == 0:
        return [p.pid]
    end = time.time() + h.LIMIT
    while time.time() < end:
        r = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(p.pid)], text=True,
                           stdout=subprocess.PIPE)
        pids = [int(x.split()[0]) for x in r.stdout.splitlines() if h.BINARY in x]
        if len(pids) == n:
            return pids
        time.sleep(0.005)
    raise RuntimeError("no ranks")


def is_caught(pid, sig):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (sig - 1) & 1)
    return False


def wait_until(condition, what):
    end = time.time() + h.LIMIT
    while not condition():
        if time.time() > end:
            raise RuntimeError("no " + what)
        time.sleep(0.001)


def path(name, *parts):
    return os.path.join(h.folder, "runs", name, *parts)


def stopped(name, p, what):
    out, err = p.communicate(timeout=h.LIMIT)
    h.check(p.returncode == 75, "%s: exit %s\n%s" % (what, p.returncode, err))
    h.check(err.count("stopped on request") == 1, "%s: %s" % (what, err))
    return h.checkpoint(name)[1]["step"], err


def start_and_signal(name, ranks, sig):
    """A job that got the signal as soon as it catches it, and before it has a run folder."""
    for _ in range(10):
        p = start(name, ranks=ranks)
        pids = ranks_of(p, ranks)
        wait_until(lambda: all(is_caught(pid, sig) for pid in pids), "handler")
        os.kill(pids[-1], sig)
        if not os.path.exists(path(name)):
            return p
        p.communicate(timeout=h.LIMIT)  # on a busy machine this script came too late
        shutil.rmtree(path(name))
    return None


def early():
    """Long before the first step and the run folder."""
    for ranks, sig in ((0, signal.SIGUSR1), (0, signal.SIGTERM), (2, signal.SIGUSR1)):
        name = "early-%d-%s" % (ranks, sig.name)
        p = start_and_signal(name, ranks, sig)
        if h.check(p, name + ": caught only after the start, ten times"):
            step, _ = stopped(name, p, name)
            h.check(step == 0, "%s: stopped at step %d" % (name, step))


def second():
    p = start("twice")
    wait_until(lambda: is_caught(p.pid, signal.SIGTERM), "handler")
    p.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=h.LIMIT)
    h.check(p.returncode == 130, "second signal: exit %s" % p.returncode)


def clock():
    """A SLURM job that ends in a few seconds; and one whose end nobody can read."""
    for ranks in (0, 2):
        name = "clock-%d" % ranks
        began = time.time()
        p = start(name, "--checkpoint.stop_before=100", ranks=ranks,
                  SLURM_JOB_END_TIME="%d" % (began + 100 + 4 * h.SCALE))
        step, err = stopped(name, p, name)
        took = time.time() - began
        h.check(3 * h.SCALE <= took < 30 * h.SCALE, "%s: after %.1f s" % (name, took))
        h.check(step > 0 and "before the end of the SLURM job" in err, "%s: step %d: %s" % (
            name, step, err))
    for value, key in (("tomorrow", 100), ("%d" % (time.time() + 50), 0)):
        p = start("clock-none", "--checkpoint.stop_before=%d" % key, "--train.max_steps=3",
                  SLURM_JOB_END_TIME=value)
        _, err = p.communicate(timeout=h.LIMIT)
        h.check(p.returncode == 0 and ("tomorrow" in err) == (value == "tomorrow"),
                "%s: exit %s: %s" % (value, p.returncode, err))


def others_die():
    """A command with nothing to save is ended by the first signal."""
    p = subprocess.Popen([h.BINARY, "synth", "--shape", "shortvideo-big", "--out", "big.h5"],
                         cwd=h.folder, env=h.environment(), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    time.sleep(1.0)
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=h.LIMIT)
    h.check(p.returncode == -signal.SIGTERM, "synth: exit %s" % p.returncode)


def main():
    h.synth("small.h5")
    early()
    second()
    clock()
    others_die()
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
