#!/usr/bin/env python3
"""What the program refuses: one sentence with the place, the documented exit code, no file touched.

Every case runs alone, and those that several ranks can meet also under mpirun -np 2, where the
sentence must still appear once. Details of single files and of the configuration have their
own tests.
"""
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import harness as h

USAGE, DATA, NO_INPUT, INTERNAL, IO, STOPPED, CONFIG = 2, 65, 66, 70, 74, 75, 78


def path(*parts):
    return os.path.join(h.folder, *parts)


def snapshot():
    """{file: hash of its bytes}; a lock is rewritten by everybody who asks."""
    out = {}
    for top, _, names in os.walk(h.folder):
        for n in names:
            if n == "lock":
                continue
            with open(os.path.join(top, n), "rb") as f:
                out[os.path.relpath(os.path.join(top, n), h.folder)] = hashlib.sha1(
                    f.read()).hexdigest()
    return out


def judge(what, r, code, texts, before):
    # A rank that comes more than 2 s late is ended by another one, which says so.
    said = [line for line in r.stderr.splitlines()
            if re.match(r"mealrec-dist:.*error: ", line) and "ends the job with" not in line]
    h.check(r.returncode == code, "%s: exit %s instead of %d: %s" % (
        what, r.returncode, code, r.stderr[-600:]))
    h.check(len(said) == 1 and all(t in said[0] for t in texts), "%s: says %s, not once %s" % (
        what, said or r.stderr[-600:], texts))
    after = snapshot()
    touched = sorted(n for n in set(before) | set(after) if before.get(n) != after.get(n))
    h.check(not touched, "%s: touched %s" % (what, touched))


def refused(code, texts, *args, ranks=(0, 2), **limits):
    for n in ranks:
        before = snapshot()
        what = "%s, %d ranks" % (" ".join(args), n)
        judge(what, timed(what, lambda: h.run(args, n), n, **limits), code, texts, before)


def timed(what, run, n, soon=False):
    """soon: all ranks end within 5 seconds of a start that does nothing."""
    if not soon:
        return run()
    at = time.time()
    h.run(["--version"], n)
    middle = time.time()
    r = run()
    took = time.time() - middle - (middle - at)
    h.check(took <= 5 * h.SCALE, "%s: took %.1f s" % (what, took))
    return r


def no_train(code, texts, *keys, data="small.h5", ranks=(0, 2), name="refused", **limits):
    refused(code, texts, *h.train_args(name, data, "--train.max_steps=3", *keys), ranks=ranks,
            **limits)
    if name == "refused":
        h.check(not os.path.exists(path("runs", name)), "%s: left a run folder" % (keys,))


def make_files():
    h.synth("small.h5", users=60, items=50, interactions=500)
    h.synth("other.h5", "--seed", "3", users=60, items=50, interactions=500)
    h.must(["synth", "--out", "bare.h5", "--users", "60", "--items", "50", "--interactions", "500",
            "--width", "0", "--text-width", "0"])
    with open(path("small.h5"), "rb") as f:
        whole = f.read()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    for name, content in (("half.h5", whole[:len(whole) // 2]), ("flipped.h5", bytes(flipped)),
                          ("empty.h5", b""), ("text.h5", b"user item\n1 2\n"), ("empty.tsv", b""),
                          ("one.tsv", b"1\t5 6 7 8\n"), ("short.tsv", b"1\t5 6 7\n2\t6 7 5\n"),
                          ("words.tsv", b"1\t5 6\n2\t\n"), ("bad.yaml", b"train:\n  lr: fast\n")):
        with open(path(name), "wb") as f:
            f.write(content)


def configuration():
    no_train(CONFIG, ["command line", "unknown key 'data.pth'", "data.path"], "--data.pth=x")
    no_train(CONFIG, ["train.batch = '1.5' is not an integer"], "--train.batch=1.5")
    no_train(CONFIG, ["bad.yaml:2: train.lr = 'fast' is not a number"], "--config", "bad.yaml")
    no_train(CONFIG, ["train.valid_metric = ndcg@7"], "--train.valid_metric=ndcg@7", ranks=(0,))
    # Of the evaluation's graph alone: refused before the first epoch, not after it.
    for steps in ("--diffusion.steps=150", "--diffusion.t_set=[5,99]"):
        no_train(CONFIG, ["more than 4096 nodes", "diffusion.steps"], "--model.name=mealrec", steps)
    no_train(CONFIG, ["tcd.heads=3", "visual width 16"], "--tcd.heads=3")
    no_train(CONFIG, ["needs a text vector", "--text"], "--model.name=tedrec", data="bare.h5")
    no_train(CONFIG, ["needs a text vector"], data="bare.h5", ranks=(0,))
    no_train(CONFIG, ["dist.item_shard=2", "3 ranks"], "--dist.item_shard=2", ranks=(3,))
    if "cuda' is not compiled" in h.run(["plan", "--run.device=cuda"]).stderr:
        no_train(CONFIG, ["run.capture=true needs a GPU and this run computes on cpu"],
                 "--run.capture=true")
    no_train(CONFIG, ["run.capture=true on 2 ranks needs NCCL", "dist.comm=auto",
                      "--dist.comm=nccl", "leave run.capture out"],
             "--run.device=guard", "--run.capture=true", ranks=(2,))
    no_train(INTERNAL, ["run.device", "cuda"], "--run.device=cuda", ranks=(0,)) \
        if "cuda' is not compiled" in h.run(["plan", "--run.device=cuda"]).stderr else None


def data_files():
    no_train(NO_INPUT, ["nowhere.h5", "No such file"], data="nowhere.h5")
    no_train(DATA, ["half.h5", "truncated file", "copy or make it again"], data="half.h5")
    no_train(DATA, ["flipped.h5", "damaged", "copy or make it again"], data="flipped.h5")
    no_train(DATA, ["empty.h5 is not an HDF5 file"], data="empty.h5")
    no_train(DATA, ["text.h5 is not an HDF5 file"], data="text.h5", ranks=(0,))
    no_train(DATA, ["not a regular file"], data=".", ranks=(0,))
    for log, texts in (("empty.tsv", ["empty.tsv is empty"]),
                       ("one.tsv", ["one.tsv has 1 user", "at least 2"]),
                       ("words.tsv", ["words.tsv", "line 2"]),
                       ("short.tsv", ["short.tsv: no user has 4 interactions",
                                      "nothing to train on"])):
        refused(DATA, texts, "import", "--interactions", log, "--k-core", "0", "--out", "new.h5",
                ranks=(0,))
    refused(NO_INPUT, ["nowhere.tsv", "No such file"], "import", "--interactions", "nowhere.tsv",
            "--out", "new.h5", ranks=(0,))
    refused(USAGE, ["small.h5", "--force"], "synth", "--out", "small.h5", ranks=(0,))
    try:
        import numpy as np
    except ImportError:
        return
    frames = np.random.default_rng(1).standard_normal((4, 1, 16)).astype(np.float32)
    np.save(path("frames.npy"), frames)
    np.save(path("text.npy"), frames[:, 0])
    with open(path("log.tsv"), "w") as f:
        f.write("1\t5 6 7 8 5\n2\t6 7 5 8 6\n")
    refused(DATA, ["frames.npy", "2"], "import", "--interactions", "log.tsv", "--k-core", "0",
            "--frames", "frames.npy", "--text", "text.npy", "--out", "single.h5", ranks=(0,))


def run_folders():
    keys = ["--model.name=sasrec", "--train.max_steps=3"]
    h.train("mine", "small.h5", *keys)
    same = dict(name="mine")
    no_train(CONFIG, ["runs/mine", "train.lr is 0.001 there and 0.1 here", "--run.name"], *keys,
             "--train.lr=0.1", **same)
    no_train(CONFIG, ["runs/mine", "other data"], *keys, data="other.h5", **same)
    no_train(CONFIG, ["runs/mine", "checkpoint.resume is never"], *keys,
             "--checkpoint.resume=never",
             ranks=(0,), **same)
    no_train(IO, ["one.tsv/x", "Not a directory"], *keys, "--run.dir=one.tsv/x")
    no_train(CONFIG, ["run.name 'nnnn", "too long: 200 bytes"], *keys, name="n" * 200)
    no_train(CONFIG, ["run.name '-x' is not a plain folder name"], *keys, name="-x", ranks=(0,))
    no_train(CONFIG, ["run.name = ../up"], *keys, "--run.name=../up", ranks=(0,))
    os.makedirs(path("runs", "foreign"))
    with open(path("runs", "foreign", "notes.txt"), "w") as f:
        f.write("mine\n")
    no_train(CONFIG, ["runs/foreign holds files but no run.json"], *keys, name="foreign")
    assert os.listdir(path("runs", "foreign")) == ["notes.txt"]
    refused(NO_INPUT, ["nowhere"], "eval", "--checkpoint", "nowhere")
    refused(USAGE, ["--split tset"], "eval", "--checkpoint", "runs/mine", "--split", "tset",
            ranks=(0,))
    refused(USAGE, ["one.tsv", "exists and was not touched"], "dump-step", "--out", "one.tsv",
            "--data.path=small.h5", *h.SMALL)
    for more in (["dump-step", "--out"], ["recommend", "--checkpoint", "runs/mine", "--out"],
                 ["export", "--checkpoint", "runs/mine", "--out"],
                 ["eval", "--checkpoint", "runs/mine", "--per-user"], ["synth", "--out"],
                 ["bench", "step", "--json"]):
        refused(USAGE, ["no folder nowhere/"], *more, "nowhere/new", ranks=(0,))
        refused(USAGE, ["runs"], *more, "runs", ranks=(0,))
    refused(USAGE, ["no tensor 'x'", "inspect"], "export", "--checkpoint", "runs/mine", "--tensor",
            "x", "--npy", "x.npy")
    recommend = ("recommend", "--checkpoint", "runs/mine", "--topk", "3", "--out", "new", "--users")
    for name, text, said in (("none", b"\n", "names no user"), ("nul", b"\0", "line 1 holds a NUL"),
                             ("who", b"1\nnobody\n", "line 2: the data set has no user 'nobody'")):
        with open(path(name), "wb") as f:
            f.write(text)
        refused(DATA, [name, said], *recommend, name, ranks=(0, 2) if name == "who" else (0,))
    resume_from(keys)
    in_use(keys)


def resume_from(keys):
    """checkpoint.resume=DIR: what is no checkpoint of this run is refused; no folder is made."""
    for where, code, texts in (
            ("nowhere", NO_INPUT, ["nowhere"]),
            ("runs/foreign", NO_INPUT, ["runs/foreign", "holds no checkpoint"]),
            ("runs/mine/checkpoints", CONFIG, ["runs/mine", "another configuration"])):
        no_train(code, texts, *keys, "--train.lr=0.1", "--checkpoint.resume=" + where)


def one_process():
    """Commands of one process on two ranks, and --metric with values that are none of ranks."""
    for args in (["import", "--interactions", "log.tsv", "--out", "new.h5"],
                 ["synth", "--out", "new.h5"], ["inspect", "small.h5"],
                 ["compare", "a.npy", "b.npy"], ["config", "show"]):
        refused(USAGE, [args[0] + " runs as one process and was started as 2 ranks"], *args,
                ranks=(2,))
    for more, code in ((dict(SLURM_NTASKS="2", SLURM_STEP_NUM_TASKS="2"), 0),
                       (dict(SLURM_STEP_NUM_TASKS="2", PMIX_RANK="0"), USAGE),
                       (dict(PMI_SIZE="2", PMI_RANK="0"), USAGE),
                       (dict(OMPI_COMM_WORLD_SIZE="1", SLURM_STEP_NUM_TASKS="2", PMIX_RANK="0"),
                        0)):
        r = subprocess.run(h.words(["config", "doc"]), cwd=h.folder, text=True,
                           env=dict(h.environment(), **more), capture_output=True)
        h.check(r.returncode == code, "%s: exit %d: %s" % (more, r.returncode, r.stderr))
    try:
        import numpy as np
    except ImportError:
        return
    np.save(path("a.npy"), np.array([0.5, 1, 0]))
    np.save(path("ranks.npy"), np.array([2, 1, 3]))
    refused(USAGE, ["--metric", "a.npy"], "compare", "a.npy", "a.npy", "--metric", "hit@5",
            ranks=(0,))
    refused(DATA, ["ranks.npy holds ranks and a.npy"], "compare", "a.npy", "ranks.npy", ranks=(0,))
    r = h.run(["compare", "a.npy", "a.npy", "--json"])
    h.check('"metric":"values","users":3' in r.stdout, "compare: %s" % r.stdout)


def in_use(keys):
    long = h.train_args("busy", "small.h5", *keys, "--train.max_steps=1000000",
                        "--train.epochs=1000000", "--train.patience=1000000")
    p = subprocess.Popen(h.words(long), cwd=h.folder, env=h.environment(), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.time() + h.LIMIT
    while not os.path.exists(path("runs", "busy", "metrics.jsonl")) and time.time() < end:
        time.sleep(0.01)
    for n in (0, 2):
        r = h.run(h.train_args("busy", "small.h5", *keys), n)
        said = [x for x in r.stderr.splitlines() if " error: " in x]
        h.check(r.returncode == CONFIG and len(said) == 1 and
                "runs/busy is in use by process %d on " % p.pid in said[0],
                "in use, %d ranks: exit %s: %s" % (n, r.returncode, r.stderr))
    h.check(p.poll() is None, "the first run did not survive the second")
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=h.LIMIT)
    h.check(p.returncode == STOPPED, "first run: exit %s: %s" % (p.returncode, err))


def mixed(code, texts, ranks, *starts):
    """mpirun starts rank 0 as `starts[0]`, and so on: (program, arguments)."""
    command = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for n, (program, args) in zip(ranks, starts):
        command += ["-np", str(n), program] + args + [":"]
    before = snapshot()
    began = time.time()
    r = subprocess.run(command[:-1], cwd=h.folder, env=h.environment(), text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=h.LIMIT)
    judge("ranks with %s" % texts, r, code, texts, before)
    h.check(time.time() - began < 10 * h.SCALE, "ranks with %s: %.1f s" % (
        texts, time.time() - began))


def different_ranks():
    """mpirun starts ranks with different arguments, programs and data."""
    usual = h.train_args("mixed", "small.h5", "--train.max_steps=3")
    for more, texts in (
            (["--train.lr=0.1"], ["train.lr is 0.001 on ranks 0, 1 and 0.1 on rank 2"]),
            (["--train.max_steps=2"], ["train.max_steps is 3 on ranks 0, 1 and 2 on rank 2"]),
            (["--model.hidden=24"], ["model.hidden is 12 on ranks 0, 1 and 24 on rank 2"]),
            (["--train.topk=[10,30]"], ["train.topk is [10, 20] on", "[10, 30] on rank 2"]),
            (["--run.name=b", "--run.seed=1"], ["run.name is mixed", "run.seed is 2020 on ranks"]),
            (["--checkpoint.async=false"], ["checkpoint.async is true on ranks 0, 1 and false"])):
        mixed(CONFIG, texts + ["same arguments"], (2, 1), (h.BINARY, usual),
              (h.BINARY, usual + more))
    mixed(CONFIG, ["the command is train on rank 0 and gradcheck on ranks 1, 2"], (1, 2),
          (h.BINARY, usual), (h.BINARY, ["gradcheck"] + usual[1:]))
    other = [x if x != "--data.path=small.h5" else "--data.path=other.h5" for x in usual]
    mixed(DATA, ["other.h5 on rank 1", "is not the file that rank 0 sees"], (1, 1),
          (h.BINARY, usual), (h.BINARY, other))
    if len(sys.argv) > 1:
        mixed(CONFIG, ["options is ", "unknown on rank 2", "same program"], (2, 1),
              (h.BINARY, usual), (sys.argv[1], usual))


def ranks_and_hosts():
    """Numbers of ranks that do not fit launcher, data or memory."""
    no_train(CONFIG, ["3 ranks but only 2 virtual shards", "2 to 2", "dist.virtual_shards"],
             "--dist.virtual_shards=2", ranks=(3,), soon=True)
    with open(path("few.tsv"), "w") as f:
        f.write("1\t5 6 7 5 6\n2\t6 7 5 6 7\n")
    h.must(["import", "--interactions", "few.tsv", "--k-core", "0", "--out", "few.h5"])
    for placement in ("auto", "1"):
        no_train(CONFIG, ["4 ranks but only 3 items in few", "ranks 3 to 3", "at most 3 ranks"],
                 "--model.name=sasrec", "--dist.item_shard=" + placement, data="few.h5", ranks=(4,),
                 soon=True)
    lone = dict(h.environment(), SLURM_NTASKS="4", SLURM_PROCID="2")
    args = h.train_args("refused", "small.h5")
    before = snapshot()
    judge("SLURM without its MPI", timed("SLURM_NTASKS", lambda: subprocess.run(
        h.words(args), cwd=h.folder, env=lone, text=True, capture_output=True), 0, soon=True),
        CONFIG, ["SLURM_NTASKS=4 promises 4 ranks", "MPI started this process alone"], before)
    h.must(["synth", "--out", "large.h5", "--users", "60", "--items", "5000", "--interactions",
            "5000", "--frames", "20", "--width", "2048", "--text-width", "10"])
    space = h.address_space(h.train_args("space", "small.h5", "--train.max_steps=3")) + 150000
    shutil.rmtree(os.path.join(h.folder, "runs", "space"))
    for read in ("parallel", "rank0"):
        launch = h.limited_words(h.train_args("refused", "large.h5", "--data.read=" + read,
                                              "--data.features=replicate"), 2, space)
        before = snapshot()
        judge("memory, data.read=" + read, timed("memory", lambda: subprocess.run(
            launch, cwd=h.folder, env=h.environment(), text=True, capture_output=True), 2,
            soon=True), INTERNAL, ["large.h5 does not fit", "MiB on every rank", "rank ",
                                   "ulimit -v"], before)


def main():
    make_files()
    configuration()
    data_files()
    run_folders()
    one_process()
    different_ranks()
    ranks_and_hosts()
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
