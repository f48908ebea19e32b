"""The figures of a GPU, beside PyTorch on the same card: parts that gpu_checks.py runs one by one.

A part returns rows: a figure, its value, its target where there is one, and whether it is met. It
fails only where something could not be measured, never because a figure is not met. figures.json
and figures.txt hold the rows of all parts that ran on this commit and GPU.
On anything but a GPU the sizes are tiny, and the table says that it is no measurement.

What is compared with PyTorch (tests/golden/torch_peer.py): the same model at the same sizes with
random batches of the same lengths, features resident, Adam; our program's steps end when its host
has read the losses, PyTorch's are asked for one behind the other and waited for once. Before a
ratio counts, both train the same weights on the same batch with the same draws, dropout off, and
their losses have to agree.
"""
import json
import os
import select
import shutil
import statistics
import subprocess
import threading
import time

import flops
import harness as h

HERE = os.path.dirname(os.path.abspath(__file__))
PEER = os.path.join(HERE, "..", "golden", "torch_peer.py")
RATES = os.path.join(HERE, "torch_rates.py")
PARTS = []
BACKBONES = ("tedrec", "sasrec")
MANY = 122845  # items of the larger figure
AGREE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 1e-2}  # relative difference of every loss
TINY = dict(flops.FIGURES, rows=32, K=3, D=16, text=10, d=12, inner=16, temporal=32, C=16, npd=16,
            items=90)
# Seconds that a part takes on a GPU, guessed; gpu_checks.py begins none that does not fit.
EXPECT = {"figures_data": 20, "figures_rates": 25, "figures_step": 60, "figures_kernels": 50,
          "figures_memory": 15, "figures_epoch": 40, "figures_start": 15, "figures_agree": 100,
          "figures_agree_compiled": 120, "figures_eager": 110, "figures_graph_tedrec": 160,
          "figures_graph_sasrec": 160}


class Unmeasured(Exception):
    pass


def part(f):
    PARTS.append(f)
    return f


def row(figure, value, unit, least=None, most=None, note=""):
    """One figure; least, most: its target."""
    good = None
    if value is not None and (least is not None or most is not None):
        good = value >= least if least is not None else value <= most
    return {"figure": figure, "value": value, "unit": unit, "least": least, "most": most,
            "met": good, "note": note}


class Bench:
    """What the parts share: sizes, runs of both programs, rows of earlier parts."""

    def __init__(self, args, earlier):
        self.args, self.earlier = args, earlier
        self.real = args.device == "cuda" and not args.emulated
        self.z = flops.FIGURES if self.real else TINY
        self.many = MANY if self.real else 120
        self.torch_device = "cuda" if self.real else "cpu"
        if self.real:
            h.THREADS = str(min(8, os.cpu_count() or 1))
        self.can_compile = self.real  # on a CPU that takes minutes; test_twin.py holds the forms
        # An idle GPU runs at a sixth of its clock and takes some tens of milliseconds to change.
        self.steps, self.warmup = (100, 100) if self.real else (2, 3)

    def row(self, figure):
        return next((r for r in self.earlier if r["figure"] == figure), None)

    def value(self, figure):
        found = self.row(figure)
        if found is None or found["value"] is None:
            raise Unmeasured("needs %s, which was not measured on this commit and GPU" % figure)
        return found["value"]

    def model(self, backbone, file="big.h5"):
        """The model's keys, those that both programs take."""
        z = self.z
        return ["--model.backbone=" + backbone, "--model.hidden=%d" % z["d"],
                "--model.inner=%d" % z["inner"], "--model.layers=%d" % z["layers"],
                "--tcd.inner=%d" % z["temporal"], "--tcd.unet_width=%d" % z["C"],
                "--npd.inner=%d" % z["npd"], "--data.max_len=%d" % z["L"]] + (
                    [] if self.real else ["--tcd.heads=4", "--diffusion.steps=3"])

    def precision(self, mode):
        """A CPU has float32 alone."""
        return "--run.precision=" + (mode if self.args.device == "cuda" else "auto")

    def torch_precision(self, mode):
        """So has PyTorch here: on a CPU bf16 takes a newer one than some systems have."""
        return mode if self.real else "fp32"

    def ours(self, command, backbone, mode, *more, file="big.h5"):
        """Words of a run of the program; the data set has to be there."""
        return list(command) + [
            "--data.path=" + file, "--train.batch=%d" % self.z["rows"],
            "--run.device=" + self.args.device, self.precision(mode)] + self.model(
                backbone) + list(more)

    def json_of(self, words):
        out = os.path.join(h.folder, "out.json")
        if os.path.exists(out):
            os.unlink(out)
        h.must(words + ["--json", out])
        with open(out) as f:
            return json.load(f)

    def step(self, backbone, mode, *more, file="big.h5", steps=None):
        """JSON of `bench step`, recorded unless `more` says otherwise."""
        words = ["bench", "step", "--steps", str(steps or self.steps), "--warmup", str(self.warmup)]
        captured = [] if any("run.capture" in m for m in more) else ["--run.capture=true"]
        return self.json_of(self.ours(words, backbone, mode, *captured, *more, file=file))

    def torch(self, script, *words, limit=170):
        """The JSON object that a Python program with torch prints last."""
        begin = time.time()
        r = subprocess.run([self.args.python, "-W", "ignore", script, "--device",
                            self.torch_device, *words], cwd=h.folder, text=True, timeout=limit,
                           env=peer_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        h.tell(r.args, r.returncode, time.time() - begin, r.stdout, r.stderr)
        if r.returncode != 0:
            raise Unmeasured("%s: exit %d: %s" % (os.path.basename(script), r.returncode,
                                                  r.stderr[-600:]))
        return json.loads(r.stdout.strip().splitlines()[-1])

    def peer(self, mode, precision, backbone):
        """A Peer whose first answer is there."""
        z = self.z
        words = [self.args.python, "-W", "ignore", PEER, "--device", self.torch_device, "--mode",
                 mode, "--precision", precision, "--rows", str(z["rows"]), "--items",
                 str(z["items"]), "--frames", str(z["K"]), "--visual", str(z["D"]), "--text",
                 str(z["text"]), "--warmup", str(self.warmup), "--ways",
                 "auto" if self.real or mode == "eager" else "first"]
        return Peer(words + self.model(backbone), 140)


def peer_environment():
    """All cores for compiling, and no cache that an earlier run may have left."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return dict(env, TORCHINDUCTOR_CACHE_DIR=os.path.join(h.folder, "inductor"))


class Peer:
    """The PyTorch process, asked line by line; its last words when it fails."""

    def __init__(self, words, limit):
        self.words, self.begin = words, time.time()
        self.err = open(os.path.join(h.folder, "peer.err"), "w+")
        self.p = subprocess.Popen(words, cwd=h.folder, env=peer_environment(), text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err,
                                  bufsize=1)
        self.said = []
        self.first = self.read(limit)

    def read(self, limit):
        ready, _, _ = select.select([self.p.stdout], [], [], limit)
        line = self.p.stdout.readline() if ready else ""
        if not line:
            why = "no answer within %d s" % limit if not ready else "it ended"
            raise Unmeasured("torch_peer.py: %s: %s" % (why, self.close()[-600:]))
        self.said.append(line)
        return json.loads(line)

    def ask(self, text, limit=60):
        self.p.stdin.write(text + "\n")
        self.p.stdin.flush()
        return self.read(limit)

    def close(self):
        """Its standard error."""
        if self.p.poll() is None:
            try:
                self.p.communicate(timeout=5)
            except (subprocess.TimeoutExpired, OSError):
                self.p.kill()
                self.p.wait()
        self.err.seek(0)
        err = self.err.read()
        h.tell(self.words, self.p.returncode, time.time() - self.begin, "".join(self.said), err)
        return err


# ---- the parts ---------------------------------------------------------------------------------

@part
def figures_data(b):
    """data sets of the shapes of the figures"""
    z = b.z
    own = [] if b.real else ["--frames", str(z["K"]), "--width", str(z["D"]), "--text-width",
                             str(z["text"])]
    sets = [("big.h5", ["--shape", "microlens-big"], 60, z["items"], 400),
            ("small.fig.h5", ["--shape", "microlens-small"], 40, 80, 300),
            ("many.h5", ["--shape", "shortvideo-big", "--text-width", str(z["text"])], 40, b.many,
             300)]
    rows = []
    for name, words, users, items, clicks in sets:
        begin = time.time()
        if not b.real:
            words = own + ["--users", str(users), "--items", str(items), "--interactions",
                           str(clicks)]
        h.must(["synth", "--out", name, "--force", "--feature-dtype", "f16"] + words)
        rows.append(row("made " + name, time.time() - begin, "s"))
    return rows


def have_data(b):
    if not os.path.exists(os.path.join(h.folder, "many.h5")):
        figures_data(b)


@part
def figures_rates(b):
    """ceilings, by PyTorch: products, copies; and its item loss"""
    z = b.z
    heads = []
    for items in (z["items"], b.many):
        heads += ["--head", str(z["rows"]), str(z["d"]), str(items)]
    o = b.torch(RATES, *([] if b.real else ["--size", "64", "--mib", "1"]), *heads)
    rows = [row("rate " + k, v, "Tflop/s", note="torch, %d^3, random numbers" % o["size"])
            for k, v in o["tflops"].items()]
    rows.append(row("rate copy", o["copy_gb_s"], "GB/s", note="read and written"))
    for name, one in zip(("18,700", "122,845"), o["heads"]):
        rows.append(row("torch item head " + name, 1e3 * one["seconds"], "ms", note="eager bf16"))
        rows.append(row("torch item head bytes " + name, one["extra_bytes"], "B"))
    return rows


@part
def figures_step(b):
    """time of a step, as a share of the matrix rate on the unpruned count"""
    have_data(b)
    rows = []
    for backbone in BACKBONES:
        for mode, file, items in (("bf16", "big.h5", b.z["items"]), ("tf32", "big.h5",
                                  b.z["items"]), ("bf16", "many.h5", b.many)):
            o = b.step(backbone, mode, file=file)
            size = "18,700" if file == "big.h5" else "122,845"
            name = "%s %s %s" % (mode, size, backbone)
            count = flops.total(dict(b.z, items=items), backbone)
            share = 1e-10 * count / o["step_s_median"] / b.value("rate " + mode)
            least = 50.0 if mode == "bf16" and size == "18,700" else None
            rows += [row("step " + name, 1e3 * o["step_s_median"], "ms",
                         note="min %.3f, max %.3f" % (1e3 * o["step_s_min"],
                                                      1e3 * o["step_s_max"])),
                     row("share " + name, share, "%", least=least,
                         note="%.0f GFLOP unpruned" % (1e-9 * count))]
            if file == "big.h5" and mode == "bf16":
                rows.append(row("launches " + backbone, o["launches"], "", most=150))
                rows.append(row("host time " + backbone, 1e6 * o["host_start_s_median"], "us",
                                most=20, note="%d recorded, %d started again" % (
                                    o["recorded"], o["replayed"])))
        eager = b.step(backbone, "bf16", "--run.capture=false")
        rows.append(row("step bf16 18,700 %s, not recorded" % backbone,
                        1e3 * eager["step_s_median"], "ms"))
    return rows


@part
def figures_kernels(b):
    """parts of a step: item head, temporal encoder, U-Net, Adam"""
    have_data(b)
    rows = []
    for size, file, most in (("18,700", "big.h5", 0.17), ("122,845", "many.h5", 0.95)):
        parts = {p["part"]: p for p in b.step("tedrec", "bf16", "--parts", file=file)["parts"]}
        ms = {n: 1e3 * (p["forward_s"] + p["backward_s"]) for n, p in parts.items()}
        slower = b.value("torch item head " + size) / ms["rank"]
        rows += [row("item head " + size, ms["rank"], "ms", most=most, note="cosines"),
                 row("item head, torch eager / ours " + size, slower, "x", least=2.5),
                 row("item head bytes " + size, parts["rank"]["scratch_bytes"], "B",
                     note="torch: %s" % b.row("torch item head bytes " + size)["value"])]
        if file == "big.h5":
            rows += [row("temporal encoder", ms["tcd.encoder"] + ms["tcd"], "ms", most=0.85,
                         note="with gather, position, norm, context and noise"),
                     row("U-Net", ms["tcd.unet"], "ms", most=0.55)]
            rows += [row("part " + n, v, "ms") for n, v in sorted(ms.items())]
        o = b.json_of(b.ours(["bench", "kernels", "--filter", "adam", "--ms", "200"], "tedrec",
                             "bf16", file=file))
        gb = next(k["gb_per_s"] for k in o["kernels"] if k["kernel"].startswith("adam"))
        rows.append(row("Adam %s, share of copy rate" % size, 100 * gb / b.value("rate copy"), "%",
                        least=85, note="%.0f GB/s" % gb))
    return rows


class Watch(threading.Thread):
    """The most GPU memory in use by nvidia-smi while something runs, in MiB; None without it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.is_over = None, threading.Event()

    def now(self):
        r = subprocess.run(["nvidia-smi", "--query-gpu=memory.used",
                            "--format=csv,noheader,nounits"], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
        return int(r.stdout.split()[0]) if r.returncode == 0 and r.stdout.strip() else None

    def run(self):
        while not self.is_over.is_set():
            try:
                used = self.now()
            except (OSError, ValueError):
                return
            self.most = max(self.most or 0, used or 0)
            self.is_over.wait(0.2)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.join()


@part
def figures_memory(b):
    """most device memory of training, alone on the GPU"""
    have_data(b)
    rows = []
    for name, file, most in (("MicroLens-small", "small.fig.h5", 1.0),
                             ("MicroLens-big", "big.h5", 1.2)):
        with Watch() as w:
            o = b.step("tedrec", "bf16", file=file)
        own = o["own_device_mib"] * 2 ** 20 / 1e9
        rows.append(row("device memory " + name, own, "GB", most=most,
                        note="own allocations; cudaMemGetInfo %.0f MiB, nvidia-smi %s MiB" % (
                            o["device_mib"], w.most)))
    return rows


PAPER = ("paper: %s on an A100, in float32; of the difference about 3x is hardware (A100 to H200) "
         "and about 2x precision (bf16 for float32)")


def train(b, name, *more, file="big.h5", backbone="tedrec"):
    shutil.rmtree(os.path.join(h.folder, "runs", name), ignore_errors=True)
    h.must(b.ours(["train", "--run.name=" + name, "--run.capture=true"], backbone, "bf16", *more,
                  file=file))
    return h.events(name)


def seconds(events, kind):
    return [e["seconds"] for e in events if e["event"] == kind]


@part
def figures_epoch(b):
    """an epoch, and the ranking of all users with T = 25"""
    have_data(b)
    T = "--diffusion.steps=%d" % (25 if b.real else 3)
    rows = []
    for name, file, most, paper in (("MicroLens-big", "big.h5", 0.37, "24.94 s"),
                                    ("MicroLens-small", "small.fig.h5", 0.030, "1.87 s")):
        events = train(b, "epoch", T, "--train.epochs=%d" % (4 if b.real else 2), file=file)
        later = seconds(events, "epoch")[1:]
        rows.append(row("epoch " + name, statistics.median(later), "s", most=most,
                        note=PAPER % paper))
        own = next((e.get("device_bytes", 0) for e in events if e["event"] == "end"), 0)
        rows.append(row("device memory with evaluation " + name, own / 1e9, "GB",
                        note="own allocations"))
    for block in (4096, 16384) if b.real else (64,):
        events = train(b, "rank", T, "--train.eval_batch=%d" % block, "--train.max_steps=5")
        tests = seconds(events, "test")
        rows.append(row("evaluation, blocks of %d" % block, tests[-1], "s", most=0.40,
                        note="%d users, the second one of a process (the first %.3f s); %s" % (
                            next(e["users"] for e in events if e["event"] == "test"),
                            seconds(events, "valid")[0], PAPER % "22.08 s")))
    return rows


@part
def figures_start(b):
    """from the start of the program to its steps, data file warm"""
    have_data(b)
    shutil.rmtree(os.path.join(h.folder, "runs", "start"), ignore_errors=True)
    path = os.path.join(h.folder, "runs", "start", "metrics.jsonl")
    words = h.words(b.ours(["train", "--run.name=start", "--run.capture=true",
                            "--train.log_every=1", "--train.max_steps=6"], "tedrec", "bf16"))
    log = open(os.path.join(h.folder, "start.log"), "w+")
    begin, at = time.time(), {}
    p = subprocess.Popen(words, cwd=h.folder, env=h.environment(), stdout=log, stderr=log)
    while len(at) < 4 and time.time() - begin < 60 and (p.poll() is None or not at):
        try:
            with open(path) as f:
                steps = sum('"event":"step"' in line for line in f)
        except OSError:
            steps = 0
        for k in range(1, min(steps, 4) + 1):
            at.setdefault(k, time.time() - begin)
        if p.poll() is not None and not steps:
            break
        time.sleep(0.002)
    try:
        p.wait(60)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()
    log.seek(0)
    text = log.read()
    h.tell(words, p.returncode, time.time() - begin, text, "")
    if p.returncode or 4 not in at:
        raise Unmeasured("no steps: %s" % text[-600:])
    return [row("start to first step", at[1], "s", most=3.0),
            row("start to first recorded step", at[3], "s", most=3.0),
            row("start to second recorded step", at[4], "s")]


def agree(b, backbone, mode, peer_mode):
    """Row: how far apart the losses of both programs' steps are at most."""
    dump, steps = os.path.join(h.folder, "agree-%s.st" % backbone), 50 if b.real else 8
    if os.path.exists(dump):
        os.unlink(dump)
    h.must(b.ours(["dump-step", "--out", dump, "--steps", str(steps)], backbone, mode,
                  *([] if b.real else ["--train.lr=0.01"])))
    import safetensors_io
    own = [float(x) for x in safetensors_io.load(dump)[0]["curve.total"]]
    o = b.torch(PEER, "--replay", dump, "--losses", str(steps), "--mode", peer_mode, "--precision",
                b.torch_precision(mode),
                *(["--bug", b.args.bug] if b.args.bug else []))
    apart = [abs(x - y) / abs(x) if x == x and y == y else float("inf")
             for x, y in zip(own, o["losses"])]
    # Later the batch is known by heart, and roundings of bf16 stand beside a loss near 0.
    counted = len(apart) * 2 // 5 if mode == "bf16" else len(apart)
    if not abs(own[-1] - own[0]) > 3 * AGREE[mode] * abs(own[0]):
        raise Unmeasured("%d steps move the loss only from %.6g to %.6g" % (steps, own[0], own[-1]))
    return row("losses agree, %s %s %s" % (mode, backbone, peer_mode), max(apart[:counted]),
               "relative", most=AGREE[mode],
               note="%d steps on one batch (all %d: %.2g), %.4f to %.4f and %.4f; torch %s, %s" % (
                   counted, steps, max(apart), own[0], own[-1], o["losses"][-1], peer_mode,
                   "; ".join(o["said"]) or "as asked"))


@part
def figures_agree(b):
    """losses of both programs from the same weights, batch and draws"""
    have_data(b)
    ways = [("fp32", "eager"), ("tf32", "eager"), ("bf16", "graph")]
    if b.args.bug:
        del ways[1:]  # the others allow a difference that may hide it
    return [agree(b, backbone, *way) for backbone in BACKBONES for way in ways]


@part
def figures_agree_compiled(b):
    """the same with what torch compiled; both backbones at once, to save the machine's time"""
    have_data(b)
    threads, rows = [], []

    def one(backbone):
        try:
            rows.append(agree(b, backbone, "bf16", "compiled" if b.can_compile else "graph"))
        except (Exception, SystemExit) as e:
            rows.append("%s: %s" % (backbone, e))
    for backbone in BACKBONES:
        threads.append(threading.Thread(target=one, args=(backbone,)))
        threads[-1].start()
    for t in threads:
        t.join()
    bad = [r for r in rows if isinstance(r, str)]
    if bad:
        raise Unmeasured("; ".join(bad))
    return rows


def may_count(b, mode, backbone, peer_mode):
    """Why a ratio does not count, or ''."""
    found = b.row("losses agree, %s %s %s" % (mode, backbone, peer_mode))
    if found is None:
        return "VOID: losses were not compared before (figures_agree); "
    return "" if found["met"] else "VOID: losses do not agree; "


def pairs(b, peer, backbone, modes):
    """Ours and theirs by turns: {mode: [(our seconds, their seconds)]}."""
    out = {m: [] for m in modes}
    for _ in range(5 if b.real else 2):
        for mode in modes:
            own = b.step(backbone, mode)["step_s_median"]
            out[mode].append((own, peer.ask("steps %d" % b.steps)["seconds"]))
    return out


def beside(b, backbone, peer_mode, precision, modes, least):
    """Rows of one peer. modes: our precisions."""
    peer = b.peer(peer_mode, b.torch_precision(precision), backbone)
    try:
        first, rows = peer.first, []
        for mode, got in pairs(b, peer, backbone, modes).items():
            ratios = [y / x for x, y in got]
            void = may_count(b, precision, backbone, peer_mode) or may_count(
                b, mode, backbone, "eager" if mode == "tf32" else "graph")
            one = row("torch %s %s / ours %s, %s" % (peer_mode, precision, mode, backbone),
                      statistics.median(ratios), "x", least=least, note="%sratios %s" % (
                          void, " ".join("%.2f" % r for r in ratios)))
            if void:
                one["met"] = None
            rows.append(one)
        note = "torch %s, Adam %s, ways %s" % (first["torch"], first["adam"],
                                               " ".join(first["ways"].values()))
        if first["compiled"]:
            note += ", compiled in %.0f s" % first["compile_s"]
        rows.append(row("torch step %s %s, %s" % (peer_mode, precision, backbone),
                        1e3 * statistics.median(y for _, y in got), "ms",
                        note="; ".join([note] + first["said"])))
        o = peer.ask("kernels")
        rows.append(row("torch kernels %s, %s" % (peer_mode, backbone), o["kernels"], "",
                        note=o.get("said", "")))
        if o["busy"] is not None:
            rows.append(row("torch GPU idle %s, %s" % (peer_mode, backbone), 100 - 100 * o["busy"],
                            "%"))
        return rows
    finally:
        peer.close()


@part
def figures_eager(b):
    """beside eager PyTorch in TF32 with fused Adam, by turns"""
    have_data(b)
    rows = []
    for backbone in BACKBONES:
        rows += beside(b, backbone, "eager", "tf32", ("bf16", "tf32"), 3.5)
    return rows


def graph(b, backbone):
    """Where compiling does not end in time, a graph alone: a row that no target stands beside."""
    have_data(b)
    try:
        return beside(b, backbone, "compiled" if b.can_compile else "graph", "bf16", ("bf16",), 1.5)
    except Unmeasured as e:
        rows = beside(b, backbone, "graph", "bf16", ("bf16",), None)
        rows[0]["note"] += "; torch.compile: %s" % str(e)[-300:]
        return rows


@part
def figures_graph_tedrec(b):
    """beside torch.compile with a hand-captured graph in bf16, by turns"""
    return graph(b, "tedrec")


@part
def figures_graph_sasrec(b):
    """the same with SASRec as backbone"""
    return graph(b, "sasrec")


# ---- the table ---------------------------------------------------------------------------------

def shown(v):
    return "-" if v is None else "%.4g" % v if abs(v) < 1e6 else "%.4e" % v


def table(rows, title, is_real):
    """The table as text."""
    width = max([len(r["figure"]) for r in rows] + [10])
    lines = [title]
    if not is_real:
        lines.append("NO MEASUREMENT: tiny sizes without a GPU. This shows that the figures can be "
                     "taken, and nothing about any of them; targets are those of an H200.")
    lines.append("%-*s %11s %-8s %9s %-4s %s" % (width, "figure", "value", "unit", "target", "met",
                                                 "note"))
    for r in rows:
        target = ">= %g" % r["least"] if r["least"] is not None else \
            "<= %g" % r["most"] if r["most"] is not None else ""
        met = {True: "yes", False: "NO", None: ""}[r["met"]] if is_real else ""
        lines.append("%-*s %11s %-8s %9s %-4s %s" % (width, r["figure"], shown(r["value"]),
                                                     r["unit"], target, met, r["note"]))
    lines.append("left out: the GPU's idle share in our own steps, which no counter here tells")
    return "\n".join(lines) + "\n"


def write(folder, rows, key, is_real):
    """figures.json and figures.txt in `folder`; the path of the text."""
    title = "commit %s, %s, %s" % (key["commit"], key["gpu"], time.strftime("%Y-%m-%d %H:%M"))
    if not is_real:
        rows = [dict(r, met=None) for r in rows]
    with open(os.path.join(folder, "figures.json"), "w") as f:
        json.dump({"key": key, "is_measurement": is_real, "rows": rows}, f, indent=1)
    path = os.path.join(folder, "figures.txt")
    with open(path, "w") as f:
        f.write(table(rows, title, is_real))
    return path
