#!/usr/bin/env python3
"""Tests of the twin and of check_dump.py; needs numpy and torch (exit 77 without).

1. TedRec's parameter count reproduces the three published ones.
2. Every backbone and variant, float32 and float64: a dump of the twin is found equal.
3. Every planted bug, in every variant that can show it: the dump is found different.
4. Diffusion identities, the reverse chains, the circular convolution behind the FFT, the
   safetensors round trip.
"""
import itertools
import os
import sys
import tempfile

try:
    import numpy as np
    import torch
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_dump  # noqa: E402
import make_dump  # noqa: E402
import mealrec_torch as twin  # noqa: E402
import safetensors_io  # noqa: E402
import twin_step  # noqa: E402

FAILURES = []


def expect(ok, text):
    if not ok:
        FAILURES.append(text)
        print("FAIL " + text)


def parameter_counts():
    for rows, L, published in ((3417, 50, 4252702), (3470, 50, 4268602), (25987, 50, 11023702),
                               (8266, 10, 5437642), (18701, 10, 8568142)):
        cfg = twin.resolve({"model": {"name": "tedrec"}, "data": {"max_len": L}})
        shapes = twin.parameter_shapes(cfg, rows - 1, h=768)
        count = sum(int(np.prod(s)) for s in shapes.values())
        expect(count == published, "TedRec with %d rows has %d parameters, published %d" % (
            rows, count, published))


def variants():
    """(label, configuration, sizes)"""
    for b in ("sasrec", "cl4srec", "tedrec"):
        yield b, {"model": {"name": b}}, {}
        for tcd, npd in itertools.product((True, False), repeat=2):
            yield ("mealrec/%s%s%s" % (b, "" if tcd else " -TCD", "" if npd else " -NPD"),
                   {"model": {"name": "mealrec", "backbone": b}, "tcd": {"enabled": tcd},
                    "npd": {"enabled": npd}}, {})
    full = {"name": "mealrec", "backbone": "tedrec"}
    yield "horizon", {"model": full, "npd": {"block": "horizon"}}, {}
    yield "horizon -TCD", {"model": full, "npd": {"block": "horizon"},
                           "tcd": {"enabled": False}}, {}
    yield "detach", {"model": full, "npd": {"detach_target": True},
                     "tcd": {"detach_target": True}}, {}
    yield "lambda 0", {"model": full, "npd": {"lambda": 0.0}, "tcd": {"lambda": 0.0}}, {}
    for s, T in (("linear", 1), ("cosine", 5), ("sqrt", 5), ("trunc_lin", 20), ("trunc_lin", 25),
                 ("scaled", 25)):
        yield "%s T=%d" % (s, T), {"model": full, "diffusion": {"schedule": s, "steps": T}}, {}
    yield "t_set", {"model": full, "diffusion": {"t_set": [5, 10, 15, 20, 25]}}, {}
    yield "K=2", {"model": full}, {"K": 2}
    yield "K=7", {"model": full}, {"K": 7}
    yield "one channel a group", {"model": full, "tcd": {"unet_width": 8}}, {}
    yield "odd L, one layer", {"model": dict(full, layers=1, heads=4), "data": {"max_len": 7}}, {}


def equal_and_different(folder):
    path = os.path.join(folder, "dump.safetensors")
    n_bugs = {}
    for label, config, sizes in variants():
        for dtype in ("float32", "float64"):
            make_dump.make(path, config, dtype, 1, None, **sizes)
            r = check_dump.check(path)
            expect(not r.failures, "%s %s is not equal: %s" % (label, dtype, r.failures[:3]))
            names = {x[0] for x in r.rows}
            t, _ = safetensors_io.load(path)
            left = [n for n in t if n.split(".")[0] in ("grad", "act", "loss") and n not in names]
            expect(not left, "%s: not compared: %s" % (label, left))
            worst = max(x[3] / x[4] for x in r.rows)
            print("%-28s %s worst difference %.3f of what is allowed" % (label, dtype, worst))
        cfg = twin.resolve(config)
        v = twin.Variant(cfg)
        for bug, (_, applies) in make_dump.MODEL_BUGS.items():
            if not applies(v) or not can_show(bug, cfg, sizes):
                continue
            expect(any(is_seen(path, config, bug, seed, sizes) for seed in (1, 2, 3)),
                   "%s: bug %s is not seen" % (label, bug))
            n_bugs[bug] = n_bugs.get(bug, 0) + 1
    for bug in make_dump.FILE_BUGS:
        expect(is_seen(path, {"model": {"name": "sasrec"}}, bug, 1, {}), "bug %s is not seen" % bug)
    unused = set(make_dump.MODEL_BUGS) - set(n_bugs)
    expect(not unused, "bugs that no variant showed: %s" % sorted(unused))
    print("%d kinds of bugs, %d dumps with a bug" % (
        len(n_bugs) + len(make_dump.FILE_BUGS), sum(n_bugs.values()) + len(make_dump.FILE_BUGS)))


def is_seen(path, config, bug, seed, sizes):
    make_dump.make(path, config, "float32", seed, bug, **sizes)
    return bool(check_dump.check(path).failures)


def can_show(bug, cfg, sizes):
    """Some misreadings make no difference under some settings."""
    layers = cfg["model"]["layers"]
    if bug == "resize-by-two":
        return sizes.get("K", 5) != 2
    if bug == "not-causal":
        return layers > 1
    if bug == "wrong-detach":
        return cfg["tcd"]["lambda"] > 0 or cfg["npd"]["lambda"] > 0
    return True


def diffusion():
    for s, T in (("linear", 20), ("linear", 1), ("cosine", 10), ("sqrt", 10), ("trunc_lin", 25),
                 ("scaled", 25)):
        p = twin.schedule(twin.resolve({"diffusion": {"schedule": s, "steps": T}}))
        expect(p["c1"][1] == 1.0 and p["c2"][1] == 0.0 and p["s2"][1] == 0.0, s + ": t = 1")
        for t in range(2, T + 1):  # the posterior mean keeps the mean: c1 + c2 sqrt(abar_t) = ...
            lhs = p["c1"][t] + p["c2"][t] * p["abar"][t] ** 0.5
            expect(abs(lhs - p["abar"][t - 1] ** 0.5) < 1e-12, "%s: identity at t = %d" % (s, t))
    for T, kept in ((5, .975), (10, .951), (15, .927), (20, .904), (25, .881)):
        p = twin.schedule(twin.resolve({"diffusion": {"steps": T}}))
        expect(abs(p["abar"][T] ** 0.5 - kept) < 6e-4, "linear keeps %g at T = %d" % (kept, T))
    for T in (5, 20):
        try:
            twin.schedule(twin.resolve({"diffusion": {"schedule": "scaled", "steps": T}}))
            expect(False, "scaled is not refused at T = %d" % T)
        except ValueError:
            pass


def inference():
    """The reverse chains, where their result is known."""
    cfg = twin.resolve({**make_dump.SMALL, "diffusion": {"steps": 6, "noise": False,
                                                         "start": "x0"}})
    cfg["model"].update(hidden=16, inner=24)
    rng = np.random.default_rng(2)
    inputs, _, dims = make_dump.random_batch(cfg, rng)
    params = make_dump.random_parameters(twin.parameter_shapes(cfg, *dims), rng)
    params = {n: torch.from_numpy(a) for n, a in params.items()}
    inputs = {n: torch.from_numpy(a) for n, a in inputs.items()}
    model = twin.Model(cfg, params)
    clean = torch.randn(4, 5, dtype=torch.float64)
    same = model.chain(clean, lambda x, t: clean, None)
    expect(torch.equal(same, clean), "a perfect guess is returned exactly")
    seen = []
    model.chain(clean, lambda x, t: seen.append(int(t[0])) or x, None)
    expect(seen == [6, 5, 4, 3, 2, 1], "steps run from T to 1, got %s" % seen)
    cfg["diffusion"]["start"] = "corrupted"  # without noise and with a perfect guess: the means
    path = {}
    model.chain(clean, lambda x, t: path.update({int(t[0]): x}) or clean,
                lambda k: torch.zeros_like(clean))
    for t, x in path.items():
        mean = clean * model.plan["abar"][t] ** 0.5
        expect(torch.allclose(x, mean, rtol=1e-12, atol=0), "mean of the chain at t = %d" % t)
    cfg["diffusion"]["start"] = "x0"
    x0 = model.encode(inputs["history"], inputs["length"], inputs["text_history"])
    cfg["diffusion"]["mix"] = 1.0
    expect(torch.equal(model.infer(inputs), x0), "mix 1 is the backbone")
    cfg["diffusion"]["mix"] = 0.0
    a = model.infer(inputs)
    cfg["diffusion"].update(start="corrupted", noise=True)
    drawn = []

    def noise(what, k):
        drawn.append((what, k))
        return torch.zeros_like(inputs["frames"] if what == "tcd" else x0)
    b = model.infer(inputs, noise)
    want = [(w, k) for w in ("tcd", "npd") for k in (6, 5, 4, 3, 2, 1)]
    expect(drawn == want, "one start and T - 1 posterior draws a chain, got %s" % drawn)
    expect(not torch.equal(a, b) and torch.isfinite(b).all(), "the corrupted start matters")
    p = model.plan
    for t in range(2, 7):  # variance: s2 + c2^2 (1 - abar_t) = 1 - abar_{t-1}
        v = p["s2"][t] + p["c2"][t] ** 2 * (1 - p["abar"][t])
        expect(abs(v - (1 - p["abar"][t - 1])) < 1e-15, "posterior variance at t = %d" % t)


def circular_convolution():
    for L in (10, 7):
        a, u = torch.randn(2, L, 3, dtype=torch.float64), torch.randn(2, L, 3, dtype=torch.float64)
        A, U = (torch.fft.rfft(y, dim=1, norm="ortho") for y in (a, u))
        f = torch.fft.irfft(A * U, n=L, dim=1, norm="ortho")
        g = torch.zeros_like(f)
        for n in range(L):
            for m in range(L):
                g[:, n] += a[:, m] * u[:, (n - m) % L] / L ** 0.5
        expect(float((f - g).abs().max()) < 1e-12, "circular convolution, L = %d" % L)


def fast_forms():
    """Every form of twin_step.Fast gives the losses and gradients of the plain twin."""
    rng = np.random.default_rng(3)
    for backbone, L in itertools.product(("sasrec", "cl4srec", "tedrec"), (6, 7)):
        cfg = twin.resolve(dict(make_dump.SMALL, data={"max_len": L}))
        cfg["model"]["backbone"] = backbone
        inputs, draws, sizes = make_dump.random_batch(cfg, rng)
        values = make_dump.random_parameters(twin.parameter_shapes(cfg, *sizes), rng)

        def run(make):
            params = {n: torch.from_numpy(a).requires_grad_(True) for n, a in values.items()}
            loss = make(params).forward({n: torch.from_numpy(a) for n, a in inputs.items()},
                                        {n: torch.from_numpy(a) for n, a in draws.items()})[1]
            loss["total"].backward()
            return float(loss["total"]), {n: p.grad for n, p in params.items()}
        want, want_grad = run(lambda p: twin.Model(cfg, p))
        for kind, names in twin_step.WAYS.items():
            for name in names:
                got, grad = run(lambda p: twin_step.Fast(cfg, p, ways={kind: name}))
                what = "%s, L %d, %s %s" % (backbone, L, kind, name)
                expect(abs(got - want) <= 1e-12 * abs(want), "loss of " + what)
                for n, g in want_grad.items():
                    if g is None:
                        continue
                    diff = float((grad[n] - g).abs().max())
                    scale = max(float(g.square().mean().sqrt()), 1e-3)
                    expect(diff <= 1e-10 * scale, "%s: %s differs by %.2g" % (what, n, diff))


def container(folder):
    path = os.path.join(folder, "x.safetensors")
    t = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2.5), "c": np.zeros(0),
         "d": np.array([[1], [-2]], dtype=np.int64)}
    safetensors_io.save(path, t, {"k": "v"})
    u, meta = safetensors_io.load(path)
    expect(meta == {"k": "v"} and set(u) == set(t), "safetensors: names and metadata")
    for n in t:
        expect(u[n].dtype == t[n].dtype and u[n].shape == t[n].shape and np.all(u[n] == t[n]),
               "safetensors: " + n)
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) - 1)
    try:
        safetensors_io.load(path)
        expect(False, "safetensors: a cut file is accepted")
    except ValueError:
        pass


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        parameter_counts()
        diffusion()
        circular_convolution()
        fast_forms()
        inference()
        container(folder)
        equal_and_different(folder)
    print("%d failures" % len(FAILURES))
    return 1 if FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
