#!/usr/bin/env python3
"""Hangs outside of training steps: a rank stopped during `eval`, a rank of `recommend` that waits
for a file, and a rank of `train` stopped before there is a run folder. Exit code 76 and the rank
named, by one sentence; nothing stays in shared memory.
Usage: test_hang_commands.py HANG_JOB
"""
import os
import random
import re
import signal
import subprocess
import sys
import time

import harness as h

RANKS = 3


def hang_limit(seconds):
    return "--dist.hang_limit=%g" % (seconds * h.SCALE)


def start(args):
    return subprocess.Popen(h.words(args, RANKS), cwd=h.folder, env=h.environment(), text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def rank_pids(p):
    """{rank: process}, by what the launcher told each."""
    r = subprocess.run(["ps", "-o", "pid=", "--ppid", str(p.pid)], text=True, capture_output=True)
    out = {}
    for pid in map(int, r.stdout.split()):
        try:
            with open("/proc/%d/environ" % pid, "rb") as f:
                m = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", f.read())
        except OSError:
            continue
        if m:
            out[int(m.group(1))] = pid
    return out


def wait_for_line(p, word):
    """Standard error up to the line that holds `word`."""
    text = ""
    for line in p.stderr:
        text += line
        if word in line:
            break
    return text


def wait_until(condition):
    end = time.time() + h.LIMIT
    while not condition() and time.time() < end:
        time.sleep(0.001)


def judge(what, p, rank, phase, text, since, late=2):
    """Ended by the watchdog within the limit that it tells and so many seconds; `rank` alone is to
    blame."""
    try:
        text += p.communicate(timeout=h.LIMIT)[1]
    except subprocess.TimeoutExpired:
        p.kill()
        text += p.communicate()[1] + "\nno end"
    took = time.time() - since
    said = [x.split("error: ", 1)[1] for x in text.splitlines()
            if "mealrec-dist:" in x and "error: " in x and "ends the job with" not in x]
    h.check(p.returncode == 76 and len(said) == 1, "%s: exit %s: %s" % (what, p.returncode, text))
    if len(said) != 1:
        return
    told = re.search(r"limit ([0-9.]+) s in the phase '([a-z ]+)'", said[0])
    named = re.search(r": (?:behind: )?ranks? ([0-9, ]+)", said[0])
    ranks = [int(x) for x in named.group(1).split(",") if x.strip()] if named else []
    h.check(ranks == [rank], "%s: rank %d is not named: %s" % (what, rank, said[0]))
    h.check(told and told.group(2) == phase and took <= float(told.group(1)) + late * h.SCALE,
            "%s: after %.1f s: %s" % (what, took, said[0]))
    print("%s: %.1f s: %s" % (what, took, said[0]), flush=True)


def stopped_in_eval():
    """A run that nobody disturbs tells when a rank is in the middle of its blocks."""
    args = ["eval", "--checkpoint", "runs/r", "--train.eval_batch=1", "--dist.item_shard=all",
            hang_limit(2)]
    p = start(args)
    wait_for_line(p, "map: ")
    began = time.time()
    p.communicate(timeout=h.LIMIT)
    h.check(p.returncode == 0, "eval: exit %s" % p.returncode)
    some, rank, pids = 0.4 * (time.time() - began), random.randrange(RANKS), {}
    while rank not in pids and some > 0.01:  # it may have been faster this time
        p = start(args)
        text = wait_for_line(p, "map: ")
        time.sleep(some)
        pids = rank_pids(p)
        some *= 0.7
    os.kill(pids[rank], signal.SIGSTOP)
    judge("eval, rank %d stopped" % rank, p, rank, "evaluation", text, time.time())


def recommend_waits():
    """Rank 0 reads the list of users from a pipe that nobody writes to."""
    os.mkfifo(os.path.join(h.folder, "pipe"))
    p = start(["recommend", "--checkpoint", "runs/r", "--out", "new", "--users", "pipe",
               hang_limit(0.2)])
    wait_until(lambda: os.path.exists(os.path.join(h.folder, "new")))
    judge("recommend, rank 0 waits", p, 0, "other work", "", time.time())


def before_the_run_folder(job):
    rank = random.randrange(RANKS)
    words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(RANKS), job, "stop",
             str(rank), "-1", "data.path=small.h5", "run.name=early", hang_limit(0.5)[2:]]
    words += [k[2:] for k in h.SMALL] + ["model.name=sasrec"]
    p = subprocess.Popen(words, cwd=h.folder, env=h.environment(), text=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    judge("train, rank %d stopped early" % rank, p, rank, "start", wait_for_line(p, "FAULT"),
          time.time())
    h.check(not os.path.exists(os.path.join(h.folder, "runs", "early")), "a run folder was made")


def main():
    random.seed(1)
    h.synth("small.h5")
    h.synth("users.h5", users=30000, interactions=150000)
    h.train("r", "users.h5", "--model.name=sasrec", "--train.max_steps=1", "--train.batch=512",
            "--train.eval_batch=10000")
    stopped_in_eval()
    recommend_waits()
    before_the_run_folder(os.path.abspath(sys.argv[1]))
    left = [n for n in os.listdir("/dev/shm") if n.startswith("mealrec-") and n[8:9].isdigit()]
    h.check(not left, "left in shared memory: %s" % left)
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
