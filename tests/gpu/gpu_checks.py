#!/usr/bin/env python3
"""What a GPU must prove, in order of value; each check names what it compares and prints one line.

Usage: gpu_checks.py BUILD [--device cuda] [--json FILE] [--only NAME ...] [--again] [--bench]
                     [--keep FOLDER] [--budget SECONDS] [--python PYTHON_WITH_TORCH]
The JSON file keeps the result of every check; a check that passed for this commit is not repeated
unless --again is given, so a run that was cut off goes on where it stopped. --budget begins no
check that may not end in that time. --keep leaves machine, log, results and figures in one folder.
--only takes beginnings of names: `--only figures` is all of figures.py. --device guard runs the
same checks on the CPU: a test of the checks, which says nothing about a GPU. --device emulated runs
them on the emulated GPU of tests/emulate (BUILD is then the folder emulated/ of a build): a test of
the CUDA backend's logic, which says nothing about a GPU's speed or memory model.
Exit: 0 all passed, 1 a failure, 77 there is no such device.
"""
import argparse
import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "train"))
sys.path.insert(0, HERE)
import harness as h  # noqa: E402
import safetensors_io  # noqa: E402  (harness puts its folder on the path)
import figures  # noqa: E402
import journal  # noqa: E402
from compare import ALLOWED, Failed, need, rounded_apart, worst_of  # noqa: E402

CHECKS = []


def check(f):
    CHECKS.append(f)
    return f


def every(args, cases, f):
    """f of every case, so that one run tells all that is wrong and not only the first of it."""
    bad = []
    for case in cases:
        try:
            f(*case)
        except (Failed, subprocess.TimeoutExpired) as e:
            bad.append(str(e))
        except SystemExit:
            bad.append("%s: a run failed: %s" % (case[0], args.journal.last_failure[-300:]))
    need(not bad, "%d of %d: %s" % (len(bad), len(cases), " | ".join(bad)))


def program(args, path, *words, env=None):
    """Output of a program that has to succeed."""
    begin = time.time()
    command = (["env"] + ["%s=%s" % kv for kv in env.items()] if env else []) + [path, *words]
    r = subprocess.run(command, env=h.environment(), text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=args.now, cwd=h.folder)
    h.tell(r.args, r.returncode, time.time() - begin, r.stdout, "")
    need(r.returncode == 0, "exit %d: %s" % (r.returncode, r.stdout[-800:]))
    return r.stdout


def data(name, **sizes):
    """A synthetic data set, made once."""
    return name if os.path.exists(os.path.join(h.folder, name)) else h.synth(name, **sizes)


def on(args, *more):
    return ["--run.device=" + args.device, *more]


def some_steps(args):
    """As many as a run takes here; an emulated GPU does about one a second."""
    return 5 if args.emulated else 20


def steps(args):
    return "--train.max_steps=%d" % some_steps(args)


def short(args):
    """A run of some steps, of the smallest model where it is slow."""
    return [steps(args)] + (["--model.name=sasrec"] if args.emulated else [])


@check
def kernels(args):
    """every kernel of the table against the CPU's"""
    path = os.path.join(args.build, "tests", "test_kernels_cuda")
    words = [] if args.device == "cuda" else ["dry"]
    if not os.path.exists(path):
        return "not compiled (no nvcc)"
    return program(args, path, *words).strip().splitlines()[-1]


@check
def ops(args):
    """every op forward and backward: float32 on the device against float64 on the CPU"""
    names = [os.path.join(args.build, "tests", "test_" + n)
             for n in ("ops_basic", "ops_a", "ops_b", "ops_c", "ops_bf16")]
    every(args, [(p,) for p in names],
          lambda p: program(args, p, env={"MR_TEST_DEVICE": args.device}))
    return "%d programs" % len(names)


def dump(args, name, device, keys, ranks=0):
    out = os.path.join(h.folder, "%s-%s.safetensors" % (name, device))
    if os.path.exists(out):
        os.unlink(out)
    h.must(["dump-step", "--out", out, "--data.path=small.h5", "--run.device=" + device] + h.SMALL
           + keys, ranks)
    return safetensors_io.load(out)[0]


def models():
    yield from ((m, ["--model.name=" + m]) for m in h.MODELS)
    yield "mealrec-sasrec", ["--model.backbone=sasrec"]
    yield "mealrec-cl4srec", ["--model.backbone=cl4srec"]
    yield "horizon", ["--npd.block=horizon"]


@check
def step(args):
    """gradients, activations and losses of one step of every model against the CPU's"""
    data("small.h5")
    worst = [(0.0, "none")]

    def one(name, keys):
        all_of_them = worst_of(dump(args, name, "cpu", keys), dump(args, name, args.device, keys))
        args.journal.write("%s: %s\n" % (name, ", ".join(
            "%s %.2g" % (n, d) for d, n in all_of_them[:60])))
        worst.append((all_of_them[0][0], name + " " + all_of_them[0][1]))
        need(all_of_them[0][0] <= 2e-4, "%s differs by %.3g of its size" % worst[-1][::-1])
    every(args, list(models()), one)
    return "worst %.2g of RMS (%s)" % max(worst)


@check
def precision(args):
    """one step in each arithmetic of products: close to the CPU's, and not float32 in disguise"""
    if args.device != "cuda":
        r = h.run(["train", "--run.precision=bf16", *on(args)])
        need(r.returncode == 78 and "needs a GPU" in r.stderr, "not refused: %s" % r.stderr[-300:])
        a = dump(args, "same", "cpu", ["--model.name=sasrec"])
        need(rounded_apart(a, a)[:4] == (0.0, 0.0, 0.0, 0.0), "a dump differs from itself")
        return "refused without a GPU"
    data("small.h5")
    said = []

    def one(name, keys, mode, worst):
        got = rounded_apart(dump(args, name, "cpu", keys),
                            dump(args, name, "cuda", keys + ["--run.precision=" + mode]))
        args.journal.write("%s %s: %s\n" % (name, mode, got))
        for i, what in enumerate(("a loss", "the gradient", "activations", got[4])):
            worst[i] = max(worst[i], got[i])
            need(got[i] <= ALLOWED[mode][i], "%s, %s: %s differs by %.3g, allowed %.3g" % (
                mode, name, what, got[i], ALLOWED[mode][i]))
        need(got[1] > 1e-5, "%s, %s: as exact as float32" % (mode, name))
    worst = {mode: [0.0] * 4 for mode in ALLOWED}
    every(args, [(name, keys, mode, worst[mode]) for mode in ALLOWED for name, keys in models()],
          one)
    for mode in ALLOWED:
        said.append("%s within %.1g, %.1g, %.1g, %.1g" % (mode, *worst[mode]))
    return "loss, gradient, activations, one tensor: " + "; ".join(said)


@check
def repeat(args):
    """two runs give the same bytes"""
    data("small.h5")
    for name in ("a", "b"):
        shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
        h.train(name, "small.h5", *short(args), *on(args))
    need(h.losses("a") == h.losses("b"), "losses differ")
    bad = h.same_tensors(h.checkpoint("a")[0], h.checkpoint("b")[0])
    need(not bad, "%d tensors differ, the first is %s" % (len(bad), bad[:1]))
    return "%d steps, all losses equal, checkpoints equal" % len(h.losses("a"))


def recorded_or_not(what, path, ranks, *keys):
    """The same bits with run.capture and without."""
    for name in ("eager", "captured"):
        shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
        h.train(name, path, *keys, "--run.capture=" + str(name == "captured").lower(), ranks=ranks)
    need(h.losses("eager") == h.losses("captured"), what + ": losses differ")
    need(h.scores("eager") == h.scores("captured"), what + ": metrics differ")
    bad = h.same_tensors(h.checkpoint("eager")[0], h.checkpoint("captured")[0])
    need(not bad, "%s: %d tensors differ, the first is %s" % (what, len(bad), bad[:1]))


@check
def capture(args):
    """a step recorded as a CUDA graph gives the bits of one that is not"""
    data("small.h5")
    names = h.MODELS[::3] if args.emulated and not args.long else h.MODELS
    runs = [(model, "auto") for model in names]
    if args.device == "cuda":
        runs.append(("sasrec", "bf16"))
    every(args, runs, lambda model, mode: recorded_or_not(
        model, "small.h5", 0, steps(args), "--model.name=" + model, "--run.precision=" + mode,
        *on(args)))
    return "%d steps of %d runs, checkpoints equal" % (some_steps(args), len(runs))


@check
def curve(args):
    """training follows the CPU's loss curve, and scores as well"""
    few = 4 if args.emulated else 1
    data("curve.h5", users=600 // few, items=300, interactions=6000 // few)
    for name, device in (("curve-cpu", "cpu"), ("curve-device", args.device)):
        shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
        h.train(name, "curve.h5", "--train.epochs=2", "--run.device=" + device)
    a, b = h.losses("curve-cpu"), h.losses("curve-device")
    first = {s: a[s] for s in sorted(a)[:20]}
    worst = h.worst_difference(first, {s: b.get(s, float("nan")) for s in first})
    need(worst <= 1e-3, "losses of the first 20 steps differ by %.3g" % worst)
    last = h.worst_difference(a, b)
    need(last <= 2e-2, "losses differ by %.3g" % last)
    return "%d steps, first 20 within %.2g, all within %.2g" % (len(a), worst, last)


@check
def curve_bf16(args):
    """training in bf16 follows the CPU's losses; its users are ranked the same shard by shard"""
    if args.device != "cuda":
        return "not applicable: bf16 is a GPU's"
    data("small.h5")
    keys = ["--model.name=sasrec", "--train.epochs=%d" % (1 if args.emulated else 3)]
    ours = ["--run.precision=bf16", "--run.capture=true", *on(args)]
    for name, more in (("bf16-cpu", ["--run.device=cpu"]), ("bf16-device", ours)):
        shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
        h.train(name, "small.h5", *keys, *more)
    worst = h.worst_difference(h.losses("bf16-cpu"), h.losses("bf16-device"))
    need(1e-6 < worst <= 1e-2, "losses differ by %.3g" % worst)
    said = [h.must(["eval", "--checkpoint", "runs/bf16-device", "--data.path=small.h5", *ours,
                    "--dist.deterministic=" + way]).stdout.splitlines()[-1]
            for way in ("run", "world")]
    need(said[0] == said[1], "by shards the metrics differ: %s and %s" % tuple(said))
    return "%d steps within %.2g, metrics by shards equal" % (len(h.losses("bf16-cpu")), worst)


def byte_counts(args, comm, ranks):
    """The bytes of a step's collectives are those of the formula, whatever carries them."""
    for model, shared in (("sasrec", ranks), ("cl4srec", 1)):
        r = h.run(["bench", "comm", "--check", "--steps=2", "--data.path=small.h5",
                   "--model.name=" + model, "--dist.comm=" + comm, *h.SMALL,
                   *on(args, "--dist.item_shard=%d" % shared)], ranks)
        need(r.returncode == 0 and "difference 0 bytes" in r.stdout,
             "bytes of %s: %s%s" % (model, r.stdout, r.stderr))


def ranks_equal(args, comm, ranks, env):
    data("small.h5")
    old = {k: os.environ.get(k) for k in env}
    os.environ.update(env)
    try:
        for name, n in (("one", 0), ("many", ranks)):
            shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
            more = ["--dist.comm=" + comm] if n else []
            h.train(name, "small.h5", *short(args), *on(args, *more), ranks=n)
    finally:
        for k, v in old.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
    worst = h.worst_difference(h.losses("one"), h.losses("many"))
    need(worst <= 1e-5, "losses differ by %.3g" % worst)
    need(h.scores("one") == h.scores("many"), "metrics differ")
    byte_counts(args, comm, ranks)
    return "%d ranks, %d steps within %.2g, metrics equal, bytes as by formula" % (
        ranks, some_steps(args), worst)


@check
def ranks_staged(args):
    """three ranks on one device, exchanging through the host, against one"""
    return ranks_equal(args, "mpi", 3, {})


@contextlib.contextmanager
def own_hosts():
    """Ranks that NCCL takes for different hosts, so that they may share a GPU."""
    wrapper = os.path.join(h.folder, "own-host.sh")
    with open(wrapper, "w") as f:
        f.write('#!/bin/sh\nexport NCCL_HOSTID=host$OMPI_COMM_WORLD_RANK\nexec "%s" "$@"\n'
                % h.BINARY)
    os.chmod(wrapper, 0o755)
    real, h.BINARY = h.BINARY, wrapper
    try:
        yield
    finally:
        h.BINARY = real


@check
def ranks_nccl(args):
    """two ranks on one GPU through NCCL, which takes them for different hosts"""
    if args.device != "cuda":
        return "only on a GPU"
    with own_hosts():
        return ranks_equal(args, "nccl", 2, {"NCCL_HOSTID": "host0"})


@contextlib.contextmanager
def emulating(args, how):
    """MR_EMULATE for the runs inside, where there is an emulated GPU."""
    if args.emulated:
        os.environ["MR_EMULATE"] = how
    try:
        yield
    finally:
        if args.emulated:
            del os.environ["MR_EMULATE"]


def started_again():
    """How many steps and blocks of the run that recorded were recordings from before."""
    end = h.events("captured", "end")[-1]
    need(end["replayed"] > 0, "nothing started again")
    return "%d of %d" % (end["replayed"], end["recorded"] + end["replayed"])


def counts_recorded(*keys):
    """Recorded collectives are counted as they are made: exactly what the formulas say. The batches
    come twice, so that recordings start again."""
    out = os.path.join(h.folder, "counts.json")
    h.must(["bench", "comm", "--check", "--steps", "9", "--json", out, "--data.path=pair.h5",
            "--run.capture=true"] + h.SMALL + list(keys), 2)
    with open(out) as f:
        o = json.load(f)
    need(o["difference"] == 0, "counts of collectives differ by %d" % o["difference"])
    made = {c["purpose"] for c in o["counts"] if c["calls"]}
    need({"ROWS", "ROW_GRADS", "DENSE_GRADS", "LOSS_ROWS"} <= made, "counted are only %s" % made)


@check
def capture_nccl(args):
    """two ranks through NCCL: a step recorded by both gives the bits of one that is not"""
    if args.device != "cuda":
        return "only on a GPU"
    data("pair.h5", users=16, items=30, interactions=128)
    both = on(args, "--dist.comm=nccl", "--dist.virtual_shards=2")
    some = ["--train.max_steps=%d" % (9 if args.emulated else 40), "--train.batch=16",
            "--train.eval_batch=6", "--train.epochs=9"]
    names = h.MODELS[1:2] if args.emulated and not args.long else h.MODELS
    with own_hosts():
        # One row a step: the other ranks have none, their graphs change, and two of four exchange
        # rows for the first time in a recording.
        with emulating(args, "when=mixed,seed=3,update=refused"):
            recorded_or_not("ranks without rows", "pair.h5", 4 if args.emulated else 2,
                            "--train.max_steps=4", "--train.batch=1", "--train.eval_batch=2",
                            "--model.name=sasrec", "--dist.item_shard=all",
                            *on(args, "--dist.comm=nccl", "--dist.virtual_shards=4"))
            again = [started_again()]
        for i, model in enumerate(names):
            recorded_or_not(model, "pair.h5", 2, "--model.name=" + model,
                            "--dist.item_shard=%s" % (1, "all")[i % 2], *some, *both)
            again.append(started_again())
        counts_recorded("--model.name=sasrec", "--train.batch=16", "--dist.item_shard=all", *both)
    return "2 ranks, %d models, checkpoints and metrics equal, counts exact; again: %s" % (
        len(names), ", ".join(again))


def sanitizer(args):
    """compute-sanitizer finds nothing in a small step: memcheck, then racecheck"""
    tool = shutil.which("compute-sanitizer")
    if args.emulated:
        return "not applicable: the emulator looks at every load and store of every run"
    if args.device != "cuda" or not tool:
        return "only on a GPU, with compute-sanitizer"
    data("small.h5")
    for kind in ("memcheck", "racecheck"):
        out = os.path.join(h.folder, kind)
        shutil.rmtree(os.path.join(h.folder, "runs", kind), ignore_errors=True)
        program(args, tool, "--tool", kind, "--error-exitcode", "9", "--log-file", out, h.BINARY,
                *h.train_args(kind, "small.h5", "--train.max_steps=1", *on(args)))
    return "memcheck and racecheck clean"


def big_data():
    path = os.path.join(h.folder, "big.h5")
    if not os.path.exists(path):
        h.must(["synth", "--shape", "microlens-big", "--feature-dtype", "f16", "--out", path])
    return path


def bench(args):
    """time of a training step"""
    path = big_data()
    said = []
    for mode, more in (("fp32", []), ("tf32", []), ("bf16", []), ("bf16", ["--run.capture=true"])):
        out = os.path.join(h.folder, "bench-%s.json" % mode)
        h.must(["bench", "step", "--data.path=" + path, "--steps", "50", "--warmup", "100",
                "--json", out, "--run.precision=" + mode, *more, *on(args)])
        with open(out) as f:
            o = json.load(f)
        said.append("%s %.3f ms, product %.0f GFLOP/s" % (
            " ".join([mode] + ["captured"] * len(more)), 1e3 * o["step_s_median"],
            o["gemm_gflops"]))
    return "a step of 2,048 rows, %d launches, %.0f MiB: %s" % (
        o["launches"], o["device_mib"], "; ".join(said))


def bench_kernels(args):
    """time of every kernel, beside the results file"""
    name = "kernels.json" if args.keep else "gpu.kernels"
    out = os.path.join(args.keep or os.path.dirname(args.json or "") or h.folder, name)
    h.must(["bench", "kernels", "--data.path=" + big_data(), "--ms", "20", "--json", out] +
           on(args))
    with open(out) as f:
        rows = json.load(f)["kernels"]
    slow = sorted(rows, key=lambda k: -k["seconds"])[:5]
    return "%d lines in %s; slowest: %s" % (
        len(rows), out, ", ".join("%s %.0f us" % (k["kernel"], 1e6 * k["seconds"]) for k in slow))


def gpu_name(args):
    if args.emulated:
        need(journal.is_emulated(), h.BINARY + " has no emulated GPU")
        return "emulated"
    if args.device != "cuda":
        return args.device
    if journal.is_emulated():
        print("%s has an emulated GPU; say --device emulated" % h.BINARY)
        sys.exit(1)
    return journal.gpu_name()


def rows_of(results, key):
    """Rows of all figures of this commit and GPU, in the order of the parts."""
    found = [results.get(p.__name__, {}) for p in figures.PARTS]
    return [r for one in found if all(one.get(k) == key[k] for k in key) for r in one["rows"]]


def run_figures(f, args, results, key):
    """(sentence, rows) of one part of figures.py."""
    rows = f(figures.Bench(args, rows_of(results, key)))
    aimed = [r for r in rows if r["least"] is not None or r["most"] is not None]
    if not (args.device == "cuda" and not args.emulated):
        return "%d figures, no measurement without a GPU" % len(rows), rows
    missed = ["%s is %s" % (r["figure"], figures.shown(r["value"])) for r in aimed if not r["met"]]
    return "%d figures, %d of %d targets met%s" % (
        len(rows), len(aimed) - len(missed), len(aimed),
        "; not: " + ", ".join(missed) if missed else ""), rows


def write_figures(args, results, key):
    """The path of the table of all figures so far, or None."""
    rows = rows_of(results, key)
    folder = args.keep or (os.path.dirname(args.json) if args.json else h.folder)
    is_real = args.device == "cuda" and not args.emulated
    return figures.write(folder, rows, key, is_real) if rows else None


def run_one(f, args, results, key):
    begin, rows = time.time(), []
    args.journal.write("==== %s\n" % f.__name__)
    args.journal.last_failure = ""
    try:
        if f in figures.PARTS:
            text, rows = run_figures(f, args, results, key)
        else:
            text = f(args)
        good = True
    except subprocess.TimeoutExpired as e:
        text, good = "%s\n%s" % (e, e.stdout or ""), False
    except SystemExit:
        text, good = "a run of the program failed: " + args.journal.last_failure, False
    except Exception as e:  # one check more or less must not cost the others
        text, good = "%s: %s" % (type(e).__name__, e), False
    results[f.__name__] = dict(key, passed=good, result=text, seconds=round(time.time() - begin, 1),
                               date=time.strftime("%Y-%m-%d"), what=f.__doc__)
    if f in figures.PARTS:
        results[f.__name__]["rows"] = rows
    if not good and args.device == "cuda" and not args.emulated:
        args.journal.sanitize(text)
    args.journal.write("==== %s: %s: %s\n\n" % (f.__name__, "ok" if good else "FAIL", text))
    args.journal.results(results)
    if rows and args.keep:
        write_figures(args, results, key)
    print("%-4s %-20s %s (%.0f s)" % ("ok" if good else "FAIL", f.__name__, text,
                                      time.time() - begin), flush=True)
    if args.json:
        with open(args.json + ".new", "w") as out:
            json.dump(results, out, indent=1)
        os.replace(args.json + ".new", args.json)
    return good


# What may not end in time is not begun: seconds that a check takes on a GPU, guessed.
EXPECT = {"kernels": 40, "ops": 60, "step": 45, "precision": 90, "curve": 30,
          "curve_bf16": 30, "capture": 40,
          "ranks_nccl": 60, "capture_nccl": 60, "bench": 40, "sanitizer": 240}


def chosen(args):
    """The checks of this run in order of value: is it right, how fast, several ranks, tools."""
    several = [ranks_staged, ranks_nccl, capture_nccl]
    timed = [] if args.emulated else [bench_kernels] + figures.PARTS
    last = [bench] if timed else []
    every = [c for c in CHECKS if c not in several] + timed + several + last + [sanitizer]
    if args.emulated and args.bench:
        print("bench, bench_kernels, figures: not applicable, an emulator's speed says nothing")
    if args.only:
        every += [p for p in figures.PARTS if p not in every]
        return [c for c in every if any(c.__name__.startswith(o) for o in args.only)]
    return [c for c in every if args.bench or c not in timed + last]


def arguments():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("build")
    ap.add_argument("--device", default="cuda", choices=["cuda", "guard", "emulated"])
    ap.add_argument("--json")
    ap.add_argument("--only", nargs="+", default=[])
    ap.add_argument("--again", action="store_true")
    ap.add_argument("--bench", action="store_true")
    ap.add_argument("--long", action="store_true", help="all models on an emulated GPU")
    ap.add_argument("--limit", type=int, help="seconds for one program (150; without a GPU 300)")
    ap.add_argument("--budget", type=float, default=1e9, help="seconds for all that is begun")
    ap.add_argument("--keep", help="folder for machine, log, results and figures")
    ap.add_argument("--python", default=sys.executable, help="interpreter with torch, for figures")
    ap.add_argument("--bug", default="", help="for tests: a bug of torch_peer.py")
    args = ap.parse_args()
    args.emulated = args.device == "emulated"
    args.device = "cuda" if args.emulated else args.device
    args.limit = args.limit or (150 if args.device == "cuda" and not args.emulated else 300)
    args.build = os.path.abspath(args.build)
    args.keep = args.keep and os.path.abspath(args.keep)
    args.json = args.json and os.path.abspath(args.json)
    return args


def run_all(args, results, key):
    """True when nothing failed and nothing had to be left for the next run."""
    good, begin, limit = True, time.time(), h.LIMIT
    for f in chosen(args):
        old = results.get(f.__name__, {})
        if old.get("passed") and all(old.get(k) == key[k] for k in key) and not args.again:
            continue
        left = args.budget - (time.time() - begin)
        if left < EXPECT.get(f.__name__, figures.EXPECT.get(f.__name__, 20)):
            print("left %-20s does not fit into %.0f s; the same command goes on" % (f.__name__,
                                                                                     left))
            good = False
            continue
        h.LIMIT, args.now = min(limit, left), min(args.limit, left)
        good &= run_one(f, args, results, key)
    return good


def main():
    args = arguments()
    h.BINARY = os.path.join(args.build, "mealrec-dist")
    need(glob.glob(h.BINARY), h.BINARY + " is missing; build it first")
    name = gpu_name(args)
    if not name:
        print("no GPU here")
        sys.exit(77)
    key = {"commit": journal.commit(), "gpu": name}
    results = {}
    if args.json and os.path.exists(args.json):
        with open(args.json) as f:
            results = json.load(f)
    args.journal = journal.Journal(args.keep)
    good = run_all(args, results, key)
    path = write_figures(args, results, key)
    if path:
        with open(path) as f:
            print(f.read(), end="")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
