"""What is left of a run of the checks when its machine is gone: every command with its exit code,
time and words, the machine, and where a program hung; a few small files in one folder.
"""
import json
import os
import platform
import shutil
import subprocess
import time

import harness as h

MOST = 12 << 20   # bytes of the log
ONE = 200 << 10   # bytes of one program's words; the middle is left out
ASKED = (["nvidia-smi"], ["nvidia-smi", "-q", "-d", "CLOCK,MEMORY,ECC,PERFORMANCE"],
         ["nvcc", "--version"], ["lscpu"], ["free", "-m"], ["df", "-h", "."])


def said(words, limit=20):
    """Output of a command, or why there is none."""
    try:
        r = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=limit, cwd=h.folder, env=h.environment(), errors="replace")
        return r.stdout
    except (OSError, subprocess.TimeoutExpired) as e:
        return "(%s)\n" % e


def cut(text):
    if len(text) <= ONE:
        return text
    return text[:ONE // 2] + "\n[... %d characters ...]\n" % (len(text) - ONE) + text[-ONE // 2:]


def where_it_hangs(p):
    """What the threads of a process and of its children do; for a program that did not end."""
    pids, text = [p.pid], ""
    for pid in pids:
        for task in list_of("/proc/%d/task" % pid):
            top = "/proc/%d/task/%s/" % (pid, task)
            text += "thread %s %s wchan %s syscall %s\n" % tuple(
                [task] + [read(top + f).strip() for f in ("comm", "wchan", "syscall")])
            pids += [int(x) for x in read(top + "children").split()]
    for tool in ("gdb", "cuda-gdb"):
        if shutil.which(tool):
            for pid in pids[:4]:
                text += said([tool, "-p", str(pid), "-batch", "-ex", "thread apply all bt 20"], 40)
            break
    return text


def list_of(path):
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def read(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


class Journal:
    """Writes at once, so that what was done is there when the run is killed. folder None: nothing
    is kept but the last failure's words."""

    def __init__(self, folder):
        self.folder, self.last_failure, self.begin = folder, "", time.time()
        self.bytes = 0
        h.listeners.append(self.heard)
        h.on_timeout = where_it_hangs
        if folder:
            os.makedirs(folder, exist_ok=True)
            self.machine()

    def path(self, name):
        return os.path.join(self.folder, name)

    def machine(self):
        with open(self.path("machine.txt"), "w") as f:
            f.write("%s\n%s\n\n" % (time.strftime("%Y-%m-%d %H:%M:%S"), platform.platform()))
            for words in list(ASKED) + [[h.BINARY, "--version"],
                                        [h.BINARY, "doctor", "--run.device=cuda"]]:
                f.write("$ %s\n%s\n" % (" ".join(words), said(words)))
            for key in sorted(os.environ):
                if key.startswith(("CUDA", "NCCL", "OMPI_", "OMP_", "LD_", "MR_")):
                    f.write("%s=%s\n" % (key, os.environ[key]))

    def heard(self, command, code, seconds, out, err):
        text = "$ %s\nexit %s, %.1f s, %.0f s after the start\n" % (
            " ".join(command), code, seconds, time.time() - self.begin)
        if code != 0:
            self.last_failure = "exit %s: %s" % (code, (out + err).strip()[-1500:])
        self.write(text + cut(out) + cut(err) + "\n")

    def write(self, text):
        if not self.folder or self.bytes > MOST:
            return
        self.bytes += len(text.encode(errors="replace"))
        with open(self.path("log.txt"), "a", errors="replace") as f:
            f.write(text if self.bytes <= MOST else "[the log is full]\n")

    def results(self, results):
        if self.folder:
            with open(self.path("checks.json"), "w") as f:
                json.dump(results, f, indent=1)
