#!/usr/bin/env python3
"""What clusters do to a run, again and again; prints "N of M" for each part.
  soak.py PART [--count N]      parts: kills cuts pairs disk mismatch

kills     kill -9 of a random rank of 4 at a random time, every second time while a checkpoint is
          being written: the job is gone within 5 s without orphans or shared memory, and the next
          start goes on from a checkpoint at most one interval old. In the end the weights are those
          of a run that nobody killed.
cuts      N random cut points on 1, 2 and 4 ranks: the same bits as without the cut.
pairs     P ranks write a checkpoint, Q ranks load equal tensors, P and Q in {1, 2, 3, 4, 8}.
disk      a full tmpfs during training, N fill levels: training goes on, the older checkpoint loads,
          and with room again the run continues.
mismatch  N kinds of ranks that do not agree are refused within 5 s, with the ranks named.
Needs MR_BINARY, and MR_WRITER (test_write_files) for pairs. tests/soak.sh sets them.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
import harness as h  # noqa: E402

SOON = 5 * h.SCALE  # seconds
INTERVAL = 17  # steps of an epoch of small.h5: a checkpoint each
ENDLESS = ["--train.epochs=1000000", "--train.patience=1000000", "--checkpoint.every_epochs=1"]
SASREC = ["--model.name=sasrec"]


def path(*parts):
    return os.path.join(h.folder, *parts)


def start(args, ranks):
    return subprocess.Popen(h.words(args, ranks), cwd=h.folder, env=h.environment(), text=True,
                            stdout=subprocess.DEVNULL, stderr=open(path("stderr.txt"), "w"))


def said():
    with open(path("stderr.txt")) as f:
        return f.read()


def last_step(name):
    """Largest step of the record; 0 when there is none."""
    try:
        with open(path("runs", name, "metrics.jsonl")) as f:
            lines = [x for x in f if '"step":' in x]
    except FileNotFoundError:
        return 0
    return max([int(x.split('"step":')[-1].split(",")[0].split("}")[0]) for x in lines] or [0])


def children(pid):
    out = []
    for p in os.listdir("/proc"):
        if not p.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % p) as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            out.append(int(p))
    return out


def alive_with(word):
    """Processes of this run: its name is in the command line."""
    out = []
    for p in os.listdir("/proc"):
        if not p.isdigit() or int(p) == os.getpid():
            continue
        try:
            with open("/proc/%s/cmdline" % p, "rb") as f:
                line = f.read()
            with open("/proc/%s/stat" % p) as f:
                state = f.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if word.encode() in line and state != "Z":
            out.append(int(p))
    return out


def left_of(word):
    """Processes and files of shared memory."""
    return alive_with(word) + (os.listdir(h.segments) if h.segments != h.folder else [])


# ---- kills ----

def wait_for_writing(name, p, limit):
    """Until a checkpoint is being written; False when the time is over."""
    top, end = path("runs", name, "checkpoints"), time.time() + limit
    while time.time() < end and p.poll() is None:
        try:
            if any(".tmp-" in n for n in os.listdir(top)):
                return True
        except FileNotFoundError:
            pass
    return False


def is_async(trial):
    """Does this job write its checkpoints beside the training? Half of them do."""
    return trial % 4 >= 2


def kill_once(name, ranks, trial):
    """(gone in time, no orphan, resumed in time, was during a write). A checkpoint that is being
    written does not count yet: beside it go on at most the steps to the next one."""
    before = last_step(name)
    bound = INTERVAL * (2 if trial and is_async(trial - 1) else 1)
    p = start(h.train_args(name, "small.h5", *SASREC, *ENDLESS, "--checkpoint.async=%s" % (
        "true" if is_async(trial) else "false")), ranks)
    end = time.time() + h.LIMIT
    first = trial == 0
    while p.poll() is None and time.time() < end and "going on from" not in said():
        if first and last_step(name) > INTERVAL:
            break
        time.sleep(0.01)
    text = said()
    resumed = first or ("going on from" in text and
                        int(text.split(", step ")[1].split()[0]) >= before - bound)
    if not resumed:
        print("resumed wrongly: before %d\n%s" % (before, text), flush=True)
    time.sleep(random.uniform(0, 1.0))
    in_write = trial % 2 == 1 and wait_for_writing(name, p, 10 * h.SCALE)
    victims = children(p.pid)
    if not victims:
        return False, False, False, False
    os.kill(random.choice(victims), signal.SIGKILL)
    began = time.time()
    try:
        code = p.wait(timeout=h.LIMIT)
    except subprocess.TimeoutExpired:
        p.kill()
        code = 0
    took = time.time() - began
    orphans = left_of(name)
    while orphans and time.time() - began < SOON:
        time.sleep(0.02)
        orphans = left_of(name)
    if took >= SOON or code == 0 or orphans:
        print("trial %d: code %s after %.1f s, orphans %s" % (trial, code, took, orphans))
    return took < SOON and code != 0, not orphans, resumed, in_write


def kills(count):
    ranks, name = 4, "killed-%d" % os.getpid()
    gone = quiet = resumed = writing = 0
    for trial in range(count):
        a, b, c, d = kill_once(name, ranks, trial)
        gone, quiet, resumed, writing = gone + a, quiet + b, resumed + c, writing + d
        h.check(a and b and c, "kill %d" % trial)
    print("kills: %d of %d jobs gone within %d s, %d of %d without orphans, %d of %d starts went "
          "on at most one interval back (two after asynchronous writing); %d kills during the "
          "write of a checkpoint" % (
              gone, count, SOON, quiet, count, resumed, count, writing), flush=True)
    last = "--train.max_steps=%d" % (last_step(name) + 3)
    h.train(name, "small.h5", *SASREC, *ENDLESS, last, ranks=ranks)
    h.train("whole", "small.h5", *SASREC, *ENDLESS, last, ranks=ranks)
    bad = h.same_tensors(h.checkpoint("whole")[0], h.checkpoint(name)[0])
    h.check(not bad, "after all kills: %d tensors differ" % len(bad))
    h.check(h.losses("whole") == h.losses(name), "after all kills: losses differ")
    print("kills: weights and losses after all of them %s" % (
        "differ" if bad else "equal a run without"), flush=True)


# ---- cuts ----

def cuts(count, ranks=(1, 2, 4), steps=40):
    done = good = 0
    for n in ranks:
        whole = "whole-%d" % n
        end = "--train.max_steps=%d" % steps
        h.train(whole, "small.h5", "--model.name=mealrec", end, ranks=n)
        want = h.checkpoint(whole)[0], h.losses(whole)
        for cut in sorted(random.sample(range(1, steps), count)):
            name = "cut-%d-%d" % (n, cut)
            h.train(name, "small.h5", "--model.name=mealrec", "--train.max_steps=%d" % cut, ranks=n)
            r = h.train(name, "small.h5", "--model.name=mealrec", end, ranks=n)
            same = (not h.same_tensors(want[0], h.checkpoint(name)[0]) and
                    want[1] == h.losses(name) and "going on from" in r.stderr)
            h.check(same, "cut at step %d on %d ranks" % (cut, n))
            done, good = done + 1, good + same
            shutil.rmtree(path("runs", name))
    print("cuts: %d of %d equal bit for bit (ranks %s)" % (good, done, list(ranks)), flush=True)


# ---- pairs ----

def pairs(count):
    sizes = [1, 2, 3, 4, 8] if count >= 25 else [1, 3]
    done = good = 0
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np"]
    for p in sizes:
        top = path("pairs-%d" % p)
        os.mkdir(top)

        def call(n, what, folder=top):
            return subprocess.run(launch + [str(n), os.environ["MR_WRITER"], folder, what, "10"],
                                  env=h.environment(), capture_output=True, text=True)
        r = call(p, "save")
        h.check(r.returncode == 0, "%d ranks save: %s" % (p, r.stderr[-300:]))
        for q in sizes:
            r = call(q, "load")
            done, good = done + 1, good + (r.returncode == 0)
            h.check(r.returncode == 0, "%d to %d ranks: %s" % (p, q, r.stderr[-300:]))
    print("pairs: %d of %d (P, Q) load equal tensors" % (good, done), flush=True)


# ---- disk ----

def disk(count):
    """Inside a private mount, see soak.sh."""
    good, full = 0, path("full")
    os.mkdir(full)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", full],
                             capture_output=True).returncode == 0
    if not mounted:
        print("no private mounts here")
        sys.exit(77)
    for i in range(count):
        shutil.rmtree(os.path.join(full, "runs"), ignore_errors=True)
        keys = [*SASREC, *ENDLESS, "--run.dir=" + os.path.join(full, "runs"),
                "--checkpoint.keep=2"]
        p = start(h.train_args("r", "small.h5", *keys, "--train.max_steps=%d" % (INTERVAL * 60)), 0)
        top, filler = os.path.join(full, "runs", "r", "checkpoints"), os.path.join(full, "filler")
        end = time.time() + h.LIMIT
        while not os.path.exists(os.path.join(top, "latest")) and time.time() < end:
            time.sleep(0.005)
        with open(os.path.join(top, "latest")) as f:
            name = f.read().strip()
        size = sum(os.path.getsize(os.path.join(top, name, n))
                   for n in os.listdir(os.path.join(top, name)))
        v = os.statvfs(full)
        fill = v.f_bavail * v.f_frsize - size * i // count
        try:
            with open(filler, "wb") as f:
                f.write(bytes(max(fill, 0)))
        except OSError:
            pass  # the run wrote meanwhile: fuller still
        code = p.wait(timeout=h.LIMIT)
        text = said()
        latest = os.path.join(full, "runs", "r")
        # 74 when it was the best epoch's save that failed
        lost = "does not hold the best epoch" in text
        ok = code == (74 if lost else 0) and "was not written" in text and "No space left" in text
        r = h.run(["eval", "--checkpoint", latest], 0)
        ok &= r.returncode == 0 and not any(".tmp-" in n for n in os.listdir(top))
        os.unlink(filler)
        more = h.run(h.train_args("r", "small.h5", *keys,
                                  "--train.max_steps=%d" % (INTERVAL * 61)), 0)
        lost = "does not hold the best epoch" in more.stderr
        ok &= more.returncode == (74 if lost else 0) and "going on from" in more.stderr
        h.check(ok, "fill level %d: exit %s, eval %s, then %s\n%s%s" % (
            i, code, r.returncode, more.returncode, text[-600:], r.stderr[-300:]))
        good += ok
    subprocess.run(["umount", full])
    print("disk: training went on and the older checkpoint was intact at %d of %d fill levels" % (
        good, count), flush=True)


# ---- mismatch ----

KINDS = [["--train.lr=0.1"], ["--train.max_steps=2"], ["--model.hidden=24"],
         ["--train.topk=[10,30]"], ["--run.seed=7"], ["--train.batch=32"], ["--model.layers=3"],
         ["--model.dropout=0.5"], ["--model.name=cl4srec"], ["--data.max_len=20"],
         ["--train.epochs=7"], ["--train.clip=3"], ["--train.weight_decay=0.5"],
         ["--dist.item_shard=1"], ["--checkpoint.keep=9"], ["--run.name=other"],
         ["--train.patience=3"], ["--data.path=other.h5"], ["--data.path=cut.h5"],
         ["--data.path=nowhere.h5"]]


def mismatch(count):
    h.synth("other.h5", "--seed", "3")
    with open(path("small.h5"), "rb") as f, open(path("cut.h5"), "wb") as g:
        g.write(f.read()[:-9])
    good = 0
    kinds = KINDS[:count] if count >= len(KINDS) else random.sample(KINDS, count)
    for more in kinds:
        args = h.train_args("mixed", "small.h5", *SASREC, "--train.max_steps=3")
        line = h.words(args, 1) + [":", "-np", "1", h.BINARY] + args + more
        began = time.time()
        r = subprocess.run(line, cwd=h.folder, env=h.environment(), text=True,
                           capture_output=True, timeout=h.LIMIT)
        took = time.time() - began
        lines = [x for x in r.stderr.splitlines() if " error: " in x and "ends the job" not in x]
        key = more[0].split("=")[0][2:]
        named = len(lines) == 1 and "rank 1" in lines[0] and (
            key in lines[0] if key != "data.path" else more[0].split("=")[1] in lines[0])
        ok = r.returncode in (65, 66, 78) and named and took < SOON
        h.check(ok and not os.path.exists(path("runs", "mixed")),
                "%s: exit %d after %.1f s: %s" % (more, r.returncode, took, r.stderr[-500:]))
        good += ok
    print("mismatch: %d of %d kinds refused within %d s with key or file and rank named" % (
        good, len(kinds), SOON), flush=True)


def nothing_left():
    h.check(h.segments == h.folder or not os.listdir(h.segments),
            "in shared memory: %s" % os.listdir(h.segments))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("part", choices=["kills", "cuts", "pairs", "disk", "mismatch"])
    ap.add_argument("--count", type=int, default=3)
    ap.add_argument("--seed", type=int, default=int(time.time()))
    a = ap.parse_args()
    random.seed(a.seed)
    print("seed %d" % a.seed, flush=True)
    if a.part != "pairs":
        h.synth("small.h5")
    globals()[a.part](a.count)
    nothing_left()
    h.finish()


if __name__ == "__main__":
    main()
