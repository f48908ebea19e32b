#!/usr/bin/env python3
"""Jobs in which one rank goes wrong: stopped, gone, in an endless loop, a collective left out.

Each must end with exit code 76 within the limit and 2 seconds, and name the rank; afterwards
`inspect hang` must name it too, and no process may be left.
Usage: test_hang.py HANG_JOB [TRIALS [SEED]]; prints how many of how many were right. Another seed
has other ranks and other collectives.
"""
import os
import random
import re
import signal
import subprocess
import sys
import time

import harness as h

RANKS = 4
crashes = []  # jobs at whose end mpirun itself crashed, in PMIx, having told their exit code
LIMIT = 2.0  # seconds without progress


def run_job(job, name, mode, rank, call, *keys):
    words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(RANKS), job, mode,
             str(rank), str(call), "data.path=small.h5", "run.name=" + name,
             "dist.hang_limit=%g" % LIMIT, "train.max_steps=1000000", "train.epochs=1000000",
             "train.patience=1000000", "checkpoint.every_epochs=10"]
    words += [k[2:] for k in h.SMALL] + ["model.name=sasrec"] + list(keys)
    p = subprocess.Popen(words, cwd=h.folder, env=h.environment(), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, err = p.communicate(timeout=h.LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        _, err = p.communicate()
        err += "\nno end"
    code = p.returncode
    told = re.findall(r"^ *Exit code: *(\d+)$", err, re.M)
    if code == -signal.SIGSEGV and "PMIx_server_finalize" in err and told:
        crashes.append(name)  # launch/mpirun.sh does the same
        code = int(told[-1])
    return code, time.time(), err


def is_alive(run):
    """Processes whose command line has the name of the run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if ("run.name=" + run).encode() in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def trial(job, mode, rank, call, i):
    name = "%s-%d" % (mode, i)
    what = "%s of rank %d at allreduce %d" % (mode, rank, call)
    before = len(h.failures)
    code, end, err = run_job(job, name, mode, rank, call)
    fault = re.search(r"FAULT rank \d+ ([0-9.]+)", err)
    said = [x.split("error: ", 1)[1] for x in err.splitlines()
            if "mealrec-dist:" in x and "error: " in x and "ends the job with" not in x]
    h.check(code == 76, "%s: exit %s\n%s" % (what, code, err[-1500:]))
    if not h.check(fault and said, "%s: %s" % (what, err[-1500:])):
        return False
    # The limit in force is told; a collective that all see to be wrong needs no limit.
    told = re.search(r"limit ([0-9.]+) s", said[0])
    limit = float(told.group(1)) if told else LIMIT
    took = end - float(fault.group(1))
    h.check(took <= limit + 2 * h.SCALE, "%s: %.1f s after the fault, limit %.1f s" % (
        what, took, limit))
    named = re.search(r": (?:behind: )?ranks? ([0-9, ]+)", said[0])
    ranks = [int(x) for x in named.group(1).split(",") if x.strip()] if named else []
    h.check(ranks == [rank], "%s: says %s" % (what, said))
    h.check(len(said) == 1, "%s: %d sentences: %s" % (what, len(said), said))
    gone_by = time.time() + 2 * h.SCALE
    while is_alive(name) and time.time() < gone_by:
        time.sleep(0.05)
    h.check(not is_alive(name), "%s: processes %s are left" % (what, is_alive(name)))
    r = h.run(["inspect", "hang", "runs/" + name])
    h.check(r.returncode == 0 and re.search(r"ranks?;? .*rank[s]? %d\b" % rank,
                                            r.stdout.splitlines()[0]),
            "%s: inspect: %s %s" % (what, r.stdout[:400], r.stderr))
    ok = len(h.failures) == before
    print("%s %s: %.1f s: %s" % ("ok  " if ok else "FAIL", what, took, said[0][:200]), flush=True)
    return ok


def undisturbed(job):
    """The same job without a fault ends well and leaves no files of the watchdog."""
    code, _, err = run_job(job, "well", "none", 0, 0, "train.max_steps=30")
    h.check(code == 0 and "error" not in err, "no fault: exit %s: %s" % (code, err))
    h.check(not os.path.exists(os.path.join(h.folder, "runs", "well", "hang")),
            "no fault: files of the watchdog are left")
    r = h.run(["inspect", "hang", "runs/well"])
    h.check(r.returncode == 66 and "ended in order" in r.stderr, "no fault: %s" % r.stderr)


def main():
    job = os.path.abspath(sys.argv[1])
    trials = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    h.synth("small.h5")
    undisturbed(job)
    good = 0
    for i in range(trials):
        for mode in ("stop", "leave", "loop", "skip"):
            good += trial(job, mode, random.randrange(RANKS), random.randint(60, 400), i)
    print("%d of %d hangs ended in time with the right rank named" % (good, 4 * trials))
    if crashes:
        print("mpirun itself crashed after %d of them, having told the exit code" % len(crashes))
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
