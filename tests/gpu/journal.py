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


def commit():
    """Of the sources; $MR_COMMIT where they came without their history."""
    r = subprocess.run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe",
                        "--always", "--dirty"], text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL)
    return r.stdout.strip() or os.environ.get("MR_COMMIT", "unknown")


def doctor_lines():
    return [x.split() for x in said([h.BINARY, "doctor", "--run.device=cuda"], 60).splitlines()]


def is_emulated():
    return any(x[1:3] == ["gpu", "emulated"] for x in doctor_lines())


def gpu_name():
    """Name and driver of the first GPU, or None: by nvidia-smi, else by the program itself."""
    if shutil.which("nvidia-smi"):
        r = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version",
                            "--format=csv,noheader"], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
        if r.returncode == 0 and r.stdout.strip():
            return r.stdout.strip().splitlines()[0]
    return next((" ".join(x[2:6]) for x in doctor_lines() if x[:2] == ["ok", "gpu"]), None)


def cut(text):
    if len(text) <= ONE:
        return text
    return text[:ONE // 2] + "\n[... %d characters ...]\n" % (len(text) - ONE) + text[-ONE // 2:]


def where_it_hangs(p):
    """(what the threads of a program that did not end wait for, their stacks): of the process and
    its children, as far as they are the program."""
    pids, own, text, stacks = [p.pid], [], "", ""
    for pid in pids:
        for task in list_of("/proc/%d/task" % pid):
            top = "/proc/%d/task/%s/" % (pid, task)
            pids += [int(x) for x in read(top + "children").split()]
            if read("/proc/%d/comm" % pid)[:8] == os.path.basename(h.BINARY)[:8]:
                own += [pid] if pid not in own else []
                text += "thread %s wchan %s syscall %s\n" % tuple(
                    [task] + [read(top + f).strip()[:40] for f in ("wchan", "syscall")])
    tool = shutil.which("gdb") or shutil.which("cuda-gdb")
    for pid in own[:4] if tool else []:
        stacks += said([tool, "-p", str(pid), "-batch", "-ex", "thread apply all bt 20"], 40)
    return text, stacks


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
        self.bytes, self.last_command = 0, None
        h.listeners.append(self.heard)
        h.on_timeout = self.hung
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

    def hung(self, p):
        text, stacks = where_it_hangs(p)
        self.write(stacks)
        return text

    def heard(self, command, code, seconds, out, err):
        text = "$ %s\nexit %s, %.1f s, %.0f s after the start\n" % (
            " ".join(command), code, seconds, time.time() - self.begin)
        if code != 0:
            self.last_command = list(command)
            self.last_failure = "exit %s: %s" % (code, (out + err).strip()[-1500:])
        self.write(text + cut(out) + cut(err) + "\n")

    def sanitize(self, text, limit=100):
        """After a kernel with a bad address: the failed command once more under memcheck."""
        tool = shutil.which("compute-sanitizer")
        bad = any(w in text.lower() for w in ("illegal", "misaligned", "launch failure"))
        if not (bad and tool and self.last_command) or "mpirun" in self.last_command[0]:
            return
        begin = time.time()
        out = said([tool, "--tool", "memcheck", "--print-limit", "20"] + self.last_command, limit)
        self.write("---- under memcheck, %.0f s:\n%s\n" % (time.time() - begin, cut(out)))

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
