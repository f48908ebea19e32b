"""What the end-to-end tests of this folder share: a small data set, runs of the program, their
events.

The program is $MR_BINARY. Widths are tiny and the data synthetic: these tests are about equality of
numbers and about behaviour, never about accuracy.
"""
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
sys.dont_write_bytecode = True

BINARY = os.environ.get("MR_BINARY", "")
SCALE = int(os.environ.get("MR_TIME_SCALE", "1"))  # tests/CMakeLists.txt
LIMIT = 120 * SCALE  # seconds for one run of the program; a hang is a failure

# Dropout 0.5 would now and then drop all 12 elements of a row, and the norm of a row of zeros (eps
# 1e-12) makes gradients of 1e6 and more: true, but no place for comparing rounding.
SMALL = ["--model.dropout=0.2", "--model.attention_dropout=0.2", "--model.hidden=12",
         "--model.inner=16", "--tcd.unet_width=16", "--tcd.heads=4", "--npd.inner=16",
         "--diffusion.steps=3", "--train.batch=64", "--train.log_every=1"]
MODELS = ["sasrec", "cl4srec", "tedrec", "mealrec"]

folder = tempfile.mkdtemp(prefix="mealrec-train-")
atexit.register(shutil.rmtree, folder, ignore_errors=True)
# Where ranks share memory: mpirun leaves these files behind when it is killed.
segments = tempfile.mkdtemp(prefix="mealrec-mpi-", dir="/dev/shm") if os.path.isdir(
    "/dev/shm") else folder
atexit.register(shutil.rmtree, segments, ignore_errors=True)
THREADS = "1"  # of each rank
failures = []
checks = 0
listeners = []      # f(command, exit code or None, seconds, output, error output) of every run
on_timeout = None   # f(process that did not end) -> text, added to its error output


def check(good, text):
    """Count a check; keep and show the text of a failed one."""
    global checks
    checks += 1
    if not good:
        failures.append(text)
        print("FAIL " + text, flush=True)
    return bool(good)


def finish():
    print("%d checks, %d failures" % (checks, len(failures)))
    sys.exit(1 if failures or not checks else 0)


def environment():
    env = dict(os.environ, OMP_NUM_THREADS=THREADS, OMPI_ALLOW_RUN_AS_ROOT="1",
               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_mpi_yield_when_idle="1",
               OMPI_MCA_btl_vader_single_copy_mechanism="none",
               OMPI_MCA_btl_vader_backing_directory=segments)
    return env


def words(args, ranks=0):
    """The command line; ranks 0 runs the program without a launcher."""
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    return (launcher if ranks else []) + [BINARY] + list(args)


def tell(*what):
    for f in listeners:
        f(*what)


def run(args, ranks=0, limit=None):
    """CompletedProcess with text output; a run over the limit has returncode None."""
    limit, begin = limit or LIMIT, time.time()
    p = subprocess.Popen(words(args, ranks), cwd=folder, env=environment(), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    code = 0
    try:
        out, err = p.communicate(timeout=limit)
        code = p.returncode
    except subprocess.TimeoutExpired:
        where = on_timeout(p) if on_timeout else ""
        os.killpg(p.pid, signal.SIGKILL)
        out, err = p.communicate()
        code, err = None, err + "\nno end within %d s\n%s" % (limit, where)
    tell(p.args, code, time.time() - begin, out, err)
    return subprocess.CompletedProcess(p.args, code, out, err)


def must(args, ranks=0):
    """A run that has to succeed."""
    r = run(args, ranks)
    if r.returncode != 0:
        command = " ".join(words(args, ranks))
        print("%s\nexit %s\n%s%s" % (command, r.returncode, r.stdout, r.stderr))
        sys.exit(1)
    return r


def synth(name, *args, users=150, items=90, interactions=1500):
    """A synthetic data set file in the folder; its name."""
    must(["synth", "--out", name, "--users", str(users), "--items", str(items), "--interactions",
          str(interactions), "--frames", "3", "--width", "16", "--text-width", "10", *args])
    return name


def address_space(args):
    """Most KiB of address space that a run takes; CUDA's libraries alone are some gigabytes."""
    p = subprocess.Popen(words(args), cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    most = 0
    while p.poll() is None:
        try:
            with open("/proc/%d/status" % p.pid) as f:
                most = max([most] + [int(x.split()[1]) for x in f if x.startswith("VmPeak")])
        except OSError:
            pass
        time.sleep(0.002)
    return most


def limited_words(args, ranks, kib):
    """The same as words, every rank with at most so much address space."""
    return words([], ranks)[:-1] + ["bash", "-c", "ulimit -v %d; exec \"$@\"" % kib, "x",
                                    BINARY] + args


def train_args(name, data, *args):
    return ["train", "--data.path=" + data, "--run.name=" + name] + SMALL + list(args)


def train(name, data, *args, ranks=0):
    return must(train_args(name, data, *args), ranks)


def events(name, kind=None):
    with open(os.path.join(folder, "runs", name, "metrics.jsonl")) as f:
        all_of_them = [json.loads(line) for line in f]
    return [e for e in all_of_them if kind is None or e["event"] == kind]


def losses(name, key="loss"):
    """{step: loss}"""
    return {e["step"]: e[key] for e in events(name, "step")}


def worst_difference(a, b):
    """Largest relative difference of two {step: loss}, or infinity when the steps differ."""
    if set(a) != set(b) or not a:
        return float("inf")
    worst = 0.0
    for s in a:
        d = abs(a[s] - b[s]) / max(abs(a[s]), abs(b[s]), 1e-300)
        worst = d if not d <= worst else worst  # a NaN stays
    return worst


def scores(name):
    """Everything of the validation and test events except the time they took."""
    return [{k: v for k, v in e.items() if k != "seconds"}
            for e in events(name) if e["event"] in ("valid", "test")]


def checkpoint(name, which="latest"):
    """({"value/item.weight": array, ...}, the state) of a run's checkpoint, put together from its
    files."""
    import numpy as np
    import safetensors_io
    top = os.path.join(folder, "runs", name, "checkpoints")
    with open(os.path.join(top, which)) as f:
        top = os.path.join(top, f.read().strip())
    with open(os.path.join(top, "MANIFEST.json")) as f:
        m = json.load(f)
    shards = [safetensors_io.load(os.path.join(top, f["name"]))[0] for f in m["files"]]
    out = {}
    for t in m["tensors"]:
        for section in m["sections"]:
            key = section + "/" + t["name"]
            out[key] = np.concatenate([shards[p["file"]][key] for p in t["parts"]])
            assert list(out[key].shape) == t["shape"], key
    return out, m["state"]


def same_tensors(a, b):
    """Names whose bytes differ between two checkpoints (all of them when the names differ)."""
    if set(a) != set(b):
        return sorted(set(a) ^ set(b))
    return [n for n in a if a[n].tobytes() != b[n].tobytes()]
