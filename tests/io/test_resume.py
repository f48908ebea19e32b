"""A run that was killed or stopped, and then started again with the same command, ends with the
same weights and the same losses as one that was left alone, bit for bit; also when another number
of ranks takes over, up to rounding. A second start of a finished run changes nothing.
usage: test_resume.py MPIEXEC PROGRAM"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

MPIEXEC, PROGRAM = sys.argv[1:]
SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))
OPTIONS = ["train", "--model.hidden=16", "--model.inner=32", "--tcd.unet_width=16",
           "--train.batch=512", "--train.epochs=3", "--train.log_every=1", "--checkpoint.keep=5",
           "--run.device=cpu"]


def command(folder, name, ranks):
    launch = [MPIEXEC, "-np", str(ranks)] if ranks > 1 else []
    return launch + [PROGRAM] + OPTIONS + [f"--run.dir={folder}", f"--run.name={name}"]


def events(folder, name, kind):
    try:
        lines = open(f"{folder}/{name}/metrics.jsonl").read().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def train(folder, name, ranks=1):
    p = subprocess.run(command(folder, name, ranks), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return p.stderr


def interrupt(folder, name, after, sig, ranks=1):
    """Send sig once `after` steps are recorded; the exit status."""
    p = subprocess.Popen(command(folder, name, ranks), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    end = time.time() + 60
    while len(events(folder, name, "step")) < after and p.poll() is None:
        assert time.time() < end, "no progress"
        time.sleep(0.01)
    p.send_signal(sig)
    status = p.wait(timeout=SCALE * 60)
    done = len(events(folder, name, "step"))
    assert done < 18, "the run was over before it could be interrupted"
    return status


def outcome(folder, name):
    """Steps and test metrics without what only says how fast it was, and the last weights."""
    def strip(e):
        return {k: v for k, v in e.items() if k not in ("seconds", "rows_per_s")}
    steps = [strip(e) for e in events(folder, name, "step")]
    assert [e["step"] for e in steps] == list(range(1, 19)), "each step is recorded once"
    last = f"{folder}/{name}/checkpoints/" + open(
        f"{folder}/{name}/checkpoints/latest").read().strip()
    weights = [open(f"{last}/{n}", "rb").read() for n in sorted(os.listdir(last))
               if n.startswith("shard-")]
    return steps, [strip(e) for e in events(folder, name, "test")][-1], weights


def main():
    with tempfile.TemporaryDirectory() as folder:
        train(folder, "whole")
        whole = outcome(folder, "whole")

        assert interrupt(folder, "killed", 9, signal.SIGKILL) == -signal.SIGKILL
        assert "going on from" in train(folder, "killed")
        assert outcome(folder, "killed") == whole

        assert interrupt(folder, "stopped", 3, signal.SIGUSR1) == 75
        assert "going on from" in train(folder, "stopped")
        assert outcome(folder, "stopped") == whole

        assert interrupt(folder, "moved", 8, signal.SIGUSR1, ranks=2) == 75
        assert "going on from" in train(folder, "moved", ranks=3)
        for a, b in zip(outcome(folder, "moved")[0], whole[0]):
            assert abs(a["loss"] - b["loss"]) < 1e-4 * abs(b["loss"]), (a, b)

        best = open(f"{folder}/whole/checkpoints/best").read()
        train(folder, "whole")
        assert outcome(folder, "whole") == whole
        assert open(f"{folder}/whole/checkpoints/best").read() == best
    print("resumed runs agree")


main()
