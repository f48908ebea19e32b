#!/usr/bin/env python3
"""Every exit code of docs/exit-codes.md: produced here, and its row names tests that exist.

Codes in LATER are made by tests of their own, since they take long or several processes; the table
must name such a test. The table is compared with the statuses of src/base/status.h too.
"""
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
import harness as h  # noqa: E402

SOURCE = os.environ["MR_SOURCE"]
LATER = {76}


def table():
    """{code: names of tests in its row}"""
    rows = {}
    with open(os.path.join(SOURCE, "docs", "exit-codes.md")) as f:
        for line in f:
            m = re.match(r"\| (\d+) \|", line)
            if m:
                rows[int(m.group(1))] = re.findall(r"`([a-z_0-9]+)`", line.split("|")[-2])
    return rows


def statuses():
    with open(os.path.join(SOURCE, "src", "base", "status.h")) as f:
        return {int(c) for c in re.findall(r"X\([A-Z_]+, (\d+), ", f.read())}


def registered():
    build = os.path.dirname(h.BINARY)
    r = subprocess.run(["ctest", "--test-dir", build, "-N"], capture_output=True, text=True)
    return set(re.findall(r"Test +#\d+: (\S+)", r.stdout))


def wait_for_step(name):
    record, end = os.path.join(h.folder, "runs", name, "metrics.jsonl"), time.time() + h.LIMIT
    while time.time() < end:
        if os.path.exists(record):
            with open(record) as f:
                if '"event":"step"' in f.read():
                    return
        time.sleep(0.01)


def interrupted(*signals):
    """Exit code of a run that gets signals in a row after its first step."""
    name = "signal-%d" % len(signals)
    p = subprocess.Popen(h.words(h.train_args(name, "small.h5", "--model.name=sasrec",
                                              "--train.epochs=1000000",
                                              "--train.patience=1000000")),
                         cwd=h.folder, env=h.environment(), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    wait_for_step(name)
    for s in signals:
        p.send_signal(s)
    return p.wait(timeout=h.LIMIT)


def twice():
    """The second signal ends the program while the first is being served: only a stopped process
    has both pending in this order for certain."""
    for _ in range(20):
        code = interrupted(signal.SIGSTOP, signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT)
        if code == 130:
            return code
    return code


def killed_rank():
    """Exit code of mpirun when one of its ranks is killed."""
    p = subprocess.Popen(h.words(h.train_args("killed", "small.h5", "--model.name=sasrec",
                                              "--train.epochs=1000000",
                                              "--train.patience=1000000"), 2),
                         cwd=h.folder, env=h.environment(), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    wait_for_step("killed")
    r = subprocess.run(["ps", "-o", "pid=", "--ppid", str(p.pid)], text=True, capture_output=True)
    os.kill(int(r.stdout.split()[-1]), signal.SIGKILL)
    return p.wait(timeout=h.LIMIT)


def diverged():
    """Three steps are skipped; the fourth in a row ends the training and names what is not
    finite."""
    r = h.run(h.train_args("diverges", "small.h5", "--model.name=mealrec", "--tcd.lambda=1e300"))
    said = [x for x in r.stderr.splitlines() if "error: " in x]
    h.check(len(said) == 1 and re.search(r"step 3: (loss|the gradient of) \S+ .*4th step in a row",
                                         said[0]), "diverged: %s" % r.stderr)
    for step in range(3):
        h.check(re.search(r"warning: step %d: .* the step is skipped" % step, r.stderr),
                "step %d: %s" % (step, r.stderr))
    return r.returncode


def without_room(args, ranks):
    """Run where no checkpoint fits."""
    command = h.words([], ranks)[:-1] + [
        "bash", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "x", h.BINARY] + args
    # MPI's own shared files would not fit either.
    env = dict(h.environment(), OMPI_MCA_btl="self,tcp", OMPI_MCA_osc="pt2pt")
    return subprocess.run(command, cwd=h.folder, env=env, text=True, capture_output=True,
                          timeout=h.LIMIT)


def unsaved(ranks):
    """No checkpoint fits: training ends, shows its results, and says that they were not saved."""
    name = "unsaved-%d" % ranks
    args = h.train_args(name, "small.h5", "--train.max_steps=3")
    r = without_room(args, ranks)
    said = [x for x in r.stderr.splitlines() if "holds no checkpoint" in x]
    h.check(len(said) == 1 and "error: runs/%s/checkpoints" % name in said[0] and
            "not saved" in said[0] and "test    hit@10" in r.stdout and
            "was not written" in r.stderr, "unsaved, %d ranks: %s%s" % (ranks, r.stdout, r.stderr))
    again = h.run(args, ranks)
    h.check(again.returncode == 0, "unsaved, again: %s" % again.stderr)
    return r.returncode


def lost_best():
    """The first epoch is saved, a better one is not: the test is of the first, and that is said."""
    keys = ["--train.lr=0.01", "--train.patience=100"]
    first = h.run(h.train_args("lost", "small.h5", "--train.epochs=1", *keys))
    args = h.train_args("lost", "small.h5", "--train.epochs=6", *keys)
    r = without_room(args, 1)
    best = re.search(r"best epoch (\d+) of 6", r.stdout)
    h.check(best and int(best[1]) > 0, "lost best: no better epoch: " + r.stdout + r.stderr)
    said = [x for x in r.stderr.splitlines() if "does not hold the best epoch, " in x]
    h.check(len(said) == 1 and "best epoch, %s," % (best and best[1]) in said[0] and
            "the test above is of epoch 0;" in said[0] and
            first.stdout.splitlines()[-1] == r.stdout.splitlines()[-1],
            "lost best: %s%s%s" % (first.stdout, r.stdout, r.stderr))
    again = h.run(args)
    h.check(again.returncode == 0 and "going on from" in again.stderr and
            best and best[0] in again.stdout, "lost best, again: %s%s" % (again.stdout,
                                                                          again.stderr))
    return r.returncode


def codes():
    with open(os.path.join(h.folder, "text.h5"), "w") as f:
        f.write("user item\n")
    small = h.train_args("x", "small.h5", "--train.max_steps=2")
    made = {0: h.run(["--version"]).returncode,
            2: h.run(["train", "--no-such-option"]).returncode,
            65: h.run(h.train_args("x", "text.h5")).returncode,
            66: h.run(h.train_args("x", "nowhere.h5")).returncode,
            70: h.run(small + ["--run.device=cuda"]).returncode,
            74: h.run(small + ["--run.dir=text.h5/runs"]).returncode,
            75: interrupted(signal.SIGUSR1),
            77: diverged(),
            78: h.run(small + ["--train.batch=none"]).returncode,
            130: twice(),
            137: killed_rank()}
    return made


def main():
    rows, tests = table(), registered()
    h.check(set(rows) == statuses(), "table %s, statuses %s" % (sorted(rows), sorted(statuses())))
    for code, names in rows.items():
        h.check(names, "code %d names no test" % code)
        missing = [n for n in names if n not in tests]
        h.check(not missing, "code %d names tests that do not exist: %s" % (code, missing))
    h.synth("small.h5")
    made = codes()
    for ranks in (1, 2):  # without mpirun MPI starts a helper, which the limit would end
        code = unsaved(ranks)
        h.check(code == 74, "nothing saved, %d ranks: exit %s" % (ranks, code))
    code = lost_best()
    h.check(code == 74, "best epoch not saved: exit %s" % code)
    for code, got in made.items():
        # A machine with a GPU trains.
        h.check(got == code or (code == 70 and got == 0), "exit %s instead of %d" % (got, code))
    h.check(set(rows) - set(made) == LATER, "not produced here: %s" % sorted(set(rows) - set(made)))
    print("codes produced: %s; by other tests: %s" % (sorted(made), sorted(LATER)))
    h.finish()


if __name__ == "__main__":
    main()
