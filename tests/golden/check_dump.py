#!/usr/bin/env python3
"""Recompute a step dump in PyTorch and compare: check_dump.py FILE [--all] [--json FILE].

The dump's configuration, parameters, inputs and draws go into the twin (mealrec_torch.py), which
computes activations and losses, and by autograd the gradients. By default the twin works in
float64 even for a float32 dump, so that the difference is the dump's own rounding.

What is compared, ref being the twin's value:
  schedule   schedule_abar of the metadata (T values, or T+1 with a leading 1): 1e-12 relative
  losses     |diff| / |ref|          <= 1e-5 (float32)   1e-10 (float64)
  act.*      max|diff| / rms(ref)    <= 1e-4 (float32)   1e-8 (float64)
  grad.*     max|diff| / rms(ref)    <= 2e-4 (float32)   1e-8 (float64)
  curve.*    |diff| / |ref| of every loss of N steps of Adam, <= 1e-4 (float32)   1e-8 (float64)
rms is taken over the whole tensor. Some gradients have no size of their own:
  *.k.bias              the softmax does not see it: rms of the gradient of *.v.bias instead
  tedrec.noise.weight   gate noise is off in a dump: must be exactly zero
  biases of one element (the gates of TedRec): the larger of its own size and the rms of the
  gradient of its weight, because a single number may cancel to anything
  others with rms(ref) below 1e-10 of the rms of all bias gradients (a bias in front of a
  GroupNorm with one channel a group, say): that rms instead; a zero ref of a parameter that no
  path reaches must be matched by exact zeros
item.weight is compared in all rows: a look-up of id 0 passes no gradient to row 0, in TedRec
neither, and the softmax does (PAD is one of its classes). Missing and surplus names, wrong shapes,
mixed dtypes, ids out of range and non-zero PAD features are failures too.

Exit: 0 all equal, 1 a difference, 2 the file cannot be used.
"""
import argparse
import json
import math
import sys

import numpy as np
import torch

import mealrec_torch as twin
import safetensors_io
import twin_step

TOLERANCE = {"float32": {"loss": 1e-5, "act": 1e-4, "grad": 2e-4, "curve": 1e-4},
             "float64": {"loss": 1e-10, "act": 1e-8, "grad": 1e-8, "curve": 1e-8}}
EXACT_ZERO = ("tedrec.noise.weight",)


class Unusable(Exception):
    pass


def load(path):
    """(config, abar list, {group: {name: array}}, dtype name)."""
    try:
        tensors, meta = safetensors_io.load(path)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise Unusable("cannot read %s: %s" % (path, e))
    try:
        config = json.loads(meta["config"])
        abar = json.loads(meta["schedule_abar"])
    except (KeyError, ValueError) as e:
        raise Unusable("%s: the metadata lack 'config' or 'schedule_abar' as JSON (%s)" % (path, e))
    groups = {g: {} for g in ("param", "grad", "input", "draw", "act", "loss", "curve")}
    for name, a in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise Unusable("%s: tensor %r belongs to none of %s" % (path, name, ", ".join(groups)))
        groups[group][rest] = a
    dtypes = {str(a.dtype) for a in tensors.values() if a.dtype.kind == "f"}
    if len(dtypes) != 1 or dtypes.pop() not in TOLERANCE:
        raise Unusable("%s: floating tensors must be all float32 or all float64" % path)
    dtype = str(next(iter(groups["param"].values())).dtype)
    return config, abar, groups, dtype


def wanted(cfg):
    """Names of inputs, draws, activations and losses that this variant needs or has."""
    v = twin.Variant(cfg)
    inputs, draws, acts, losses = ["history", "length", "target"], [], ["x0", "xhat"], ["rank"]
    if v.backbone == "tedrec":
        inputs.append("text_history")
    if v.backbone == "cl4srec":
        draws += ["view1", "view2", "view1_length", "view2_length"]
        losses.append("ntxent")
    if v.is_mealrec:
        inputs += ["frames", "text"]
    if v.tcd:
        inputs.append("visual")
        draws += ["t_tcd", "eps_tcd"]
        acts += ["z0", "zhat"]
        losses.append("tcd")
    if v.npd:
        draws += ["t_npd", "eps_npd"]
        losses.append("npd")
    return inputs, draws, acts, losses + ["total"]


def widths(cfg, g):
    """Run-time widths from the tensors: (items, D, K, h)."""
    try:
        frames, text = g["input"].get("frames"), g["input"].get("text")
        if text is None:
            text = g["input"].get("text_history")
        items = g["param"]["item.weight"].shape[0] - 1 - \
            (twin.Variant(cfg).backbone == "cl4srec")
        return (items, frames.shape[2] if frames is not None else 0,
                frames.shape[1] if frames is not None else 0,
                text.shape[-1] if text is not None else 0)
    except (KeyError, IndexError) as e:
        raise Unusable("cannot tell the widths of the model from the tensors: %r" % e)


def check_structure(cfg, g, report):
    """Names and shapes. Returns False where the twin cannot be run."""
    items, D, K, h = widths(cfg, g)
    B, d, L = len(g["input"]["target"]), cfg["model"]["hidden"], cfg["data"]["max_len"]
    shapes = {"param." + n: s for n, s in twin.parameter_shapes(cfg, items, D, K, h).items()}
    shapes.update({n.replace("param", "grad", 1): s for n, s in list(shapes.items())})
    inputs, draws, acts, losses = wanted(cfg)
    own = {"history": (B, L), "length": (B,), "target": (B,), "frames": (B, K, D),
           "visual": (B, L, D), "text": (B, h), "text_history": (B, L, h),
           "t_tcd": (B,), "t_npd": (B,), "eps_tcd": (B, K, D), "eps_npd": (B, d),
           "view1": (B, L), "view2": (B, L), "view1_length": (B,), "view2_length": (B,),
           "x0": (B, d), "xhat": (B, d), "z0": (B, K, D), "zhat": (B, K, D)}
    for group, names in (("input", inputs), ("draw", draws), ("act", acts)):
        shapes.update({group + "." + n: own[n] for n in names})
    have = {gr + "." + n: a.shape for gr, m in g.items() for n, a in m.items()}
    bad = ["missing " + n for n in shapes if n not in have]
    bad += ["shape of %s is %s, expected %s" % (n, list(have[n]), list(s))
            for n, s in shapes.items() if n in have and tuple(have[n]) != tuple(s)]
    bad += ["missing loss." + n for n in losses if n not in g["loss"]]
    bad += ["loss.%s is no scalar: shape %s" % (n, list(a.shape))
            for n, a in g["loss"].items() if a.size != 1]
    known = set(shapes) | {"loss." + n for n in losses}
    bad += ["surplus " + n for n in have
            if n not in known and not n.startswith(("input.", "draw.")) and n != "curve.total"]
    for text in sorted(bad):
        report.fail(text)
    blocking = [n for n in shapes if not n.startswith(("grad.", "act.")) and
                tuple(have.get(n, ())) != tuple(shapes[n])]
    return not blocking


def check_inputs(cfg, g, plan, report):
    """Ids, lengths, steps and PAD features are what the specification says."""
    x, w = g["input"], g["draw"]
    L, items = cfg["data"]["max_len"], widths(cfg, g)[0]
    valid = np.arange(L)[None, :] < x["length"][:, None]
    steps = cfg["diffusion"]["t_set"] or range(1, plan["T"] + 1)
    tests = [("input.length in 1..L", (x["length"] >= 1) & (x["length"] <= L)),
             ("input.history in 1..I where valid, 0 after",
              np.where(valid, (x["history"] >= 1) & (x["history"] <= items), x["history"] == 0)),
             ("input.target in 1..I", (x["target"] >= 1) & (x["target"] <= items))]
    for n in ("visual", "text_history"):
        if n in x:
            tests.append(("input.%s zero at PAD" % n, x[n][~valid] == 0))
    for n in ("t_tcd", "t_npd"):
        if n in wanted(cfg)[1]:
            tests.append(("draw.%s among the steps" % n, np.isin(w[n], list(steps))))
    for n in ("view1", "view2"):
        if n in wanted(cfg)[1]:
            ok = np.arange(L)[None, :] < w[n + "_length"][:, None]
            tests.append(("draw.%s_length in 1..length" % n,
                          (w[n + "_length"] >= 1) & (w[n + "_length"] <= x["length"])))
            tests.append(("draw.%s in 1..I+1 where valid, 0 after" % n,
                          np.where(ok, (w[n] >= 1) & (w[n] <= items + 1), w[n] == 0)))
    good = True
    for text, ok in tests:
        if not np.all(ok):
            report.fail("%s: %d of %d entries are not" % (text, np.size(ok) - np.sum(ok),
                                                          np.size(ok)))
            good = False
    return good


def recompute(cfg, g, dtype):
    """The twin's activations, losses and gradients as numpy arrays."""
    def tensor(a):
        t = torch.from_numpy(np.array(a))
        return t.to(dtype) if t.is_floating_point() else t.to(torch.int64)
    params = {n: tensor(a).requires_grad_(True) for n, a in g["param"].items()}
    model = twin.Model(cfg, params)
    act, loss = model.forward({n: tensor(a) for n, a in g["input"].items()},
                              {n: tensor(a) for n, a in g["draw"].items()})
    loss["total"].backward()
    grad = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for n, p in params.items()}
    return ({n: a.detach().numpy() for n, a in act.items()},
            {n: float(a.detach()) for n, a in loss.items()}, grad)


def recompute_curve(cfg, g, dtype, steps):
    """Losses of `steps` steps with one batch and its draws, from the parameters of the dump."""
    def tensor(a):
        t = torch.from_numpy(np.array(a))
        return t.to(dtype) if t.is_floating_point() else t.to(torch.int64)
    params = {n: tensor(a).requires_grad_(True) for n, a in g["param"].items()}
    inputs, draws = ({n: tensor(a) for n, a in g[k].items()} for k in ("input", "draw"))
    step = twin_step.Step(twin.Model(cfg, params), lambda fixed: (inputs, draws), {}, fused=False)
    return step.curve(steps)


def rms(a):
    return math.sqrt(float(np.mean(np.square(a, dtype=np.float64)))) if a.size else 0.0


def scales(grad, zero=1e-10):
    """{name: (size that a difference is measured against, why it is not the own rms)}.

    zero: below this share of the common size a gradient counts as rounding error alone.
    """
    common = rms(np.concatenate([r.ravel() for n, r in grad.items() if n.endswith(".bias")]))
    out = {}
    for n, r in grad.items():
        own, other = rms(r), rms(grad.get(n.replace(".bias", ".weight"), r))
        out[n] = own, ""
        if n in EXACT_ZERO:
            out[n] = 0.0, "exactly zero"
        elif n.endswith(".k.bias"):
            out[n] = rms(grad[n.replace(".k.bias", ".v.bias")]), "scale of .v.bias"
        elif 0.0 < own < zero * common:
            out[n] = common, "zero in theory"
        elif r.size == 1 and other > own:
            out[n] = other, "scale of .weight"
    return out


class Report:
    def __init__(self):
        self.rows, self.failures = [], []

    def fail(self, text):
        self.failures.append(text)

    def add(self, name, diff, scale, tolerance, note=""):
        ratio = diff / scale if scale > 0 else (0.0 if diff == 0 else math.inf)
        ok = ratio <= tolerance  # false for NaN
        self.rows.append((name, scale, diff, ratio, tolerance, ok, note))
        if not ok:
            self.fail("%s: difference %.3g of its scale, allowed %.3g" % (name, ratio, tolerance))


def compare(g, ref, tol, report):
    act, loss, grad = ref
    for n, r in loss.items():
        if n in g["loss"]:
            report.add("loss." + n, abs(float(g["loss"][n].reshape(())) - r), abs(r), tol["loss"])
    for n, r in act.items():
        if n in g["act"] and g["act"][n].shape == r.shape:
            report.add("act." + n, float(np.max(np.abs(g["act"][n] - r))), rms(r), tol["act"])
    for n, (scale, note) in scales(grad).items():
        r = grad[n]
        if n not in g["grad"] or g["grad"][n].shape != r.shape:
            continue
        report.add("grad." + n, float(np.max(np.abs(g["grad"][n] - r))), scale, tol["grad"], note)


def check_schedule(abar, plan, report):
    a = [float(x) for x in abar]
    own = plan["abar"] if len(a) == plan["T"] + 1 else plan["abar"][1:]
    if len(a) != len(own):
        report.fail("schedule_abar has %d values, T is %d" % (len(a), plan["T"]))
        return
    worst = max(abs(x - y) / y for x, y in zip(a, own))
    report.add("schedule_abar", worst, 1.0, 1e-12)


def check(path, same_dtype=False, scale=1.0):
    """Report of one dump; raises Unusable."""
    config, abar, g, dtype = load(path)
    cfg = twin.resolve(config)
    report = Report()
    try:
        plan = twin.schedule(cfg)
    except ValueError as e:
        raise Unusable("%s: %s" % (path, e))
    for n in ("history", "length", "target"):
        if n not in g["input"]:
            raise Unusable("%s: input.%s is missing" % (path, n))
    report.title = "%s  dtype %s  B %d  T %d  model %s/%s  tcd %s  npd %s (%s)" % (
        path, dtype, len(g["input"]["target"]), plan["T"], cfg["model"]["name"],
        twin.Variant(cfg).backbone, twin.Variant(cfg).tcd, twin.Variant(cfg).npd,
        cfg["npd"]["block"])
    check_schedule(abar, plan, report)
    if check_structure(cfg, g, report) and check_inputs(cfg, g, plan, report):
        ref = recompute(cfg, g, getattr(torch, dtype if same_dtype else "float64"))
        compare(g, ref, {k: t * scale for k, t in TOLERANCE[dtype].items()}, report)
        for n, a in g["curve"].items():
            r = np.array(recompute_curve(cfg, g, torch.float64, len(a)))
            worst = float(np.max(np.abs(a - r) / np.abs(r)))
            report.add("curve." + n, worst, 1.0, TOLERANCE[dtype]["curve"] * scale)
            if len(a) > 1 and not r[0] != r[-1]:
                report.fail("curve.%s: the twin's loss does not move" % n)
    else:
        report.fail("nothing was computed, because the twin needs what is named above")
    return report


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("file")
    ap.add_argument("--all", action="store_true", help="print every gradient, not the worst 12")
    ap.add_argument("--same-dtype", action="store_true", help="twin in the dtype of the dump")
    ap.add_argument("--scale", type=float, default=1.0,
                    help="multiply every tolerance, for reduced-precision dumps; printed")
    ap.add_argument("--json", help="write the comparison as JSON")
    args = ap.parse_args()
    torch.set_num_threads(1)
    try:
        report = check(args.file, args.same_dtype, args.scale)
    except Unusable as e:
        print("check_dump: %s" % e, file=sys.stderr)
        return 2
    print(report.title + ("" if args.scale == 1.0 else "  TOLERANCES x %g" % args.scale))
    grads = [r for r in report.rows if r[0].startswith("grad.")]
    shown = [r for r in report.rows if r not in grads]
    worst = sorted(grads, key=lambda r: -(math.inf if math.isnan(r[3]) else r[3] / r[4]))
    shown += grads if args.all else worst[:12]
    print("%-44s %11s %11s %11s %9s" % ("tensor", "scale", "max|diff|", "ratio", "allowed"))
    for name, scale, diff, ratio, tol, ok, note in shown:
        print("%-44s %11.4g %11.4g %11.4g %9.1g  %s %s" % (
            name, scale, diff, ratio, tol, "ok" if ok else "DIFFERENT", note))
    if len(shown) < len(report.rows):
        print("(%d more gradients, all closer than these)" % (len(report.rows) - len(shown)))
    for text in report.failures:
        print("FAIL " + text)
    print("%s: %d tensors compared, %d failures" % (
        "EQUAL" if not report.failures else "DIFFERENT", len(report.rows), len(report.failures)))
    if args.json:
        with open(args.json, "wt") as f:
            json.dump({"title": report.title, "failures": report.failures, "rows": [
                dict(zip(("name", "scale", "diff", "ratio", "allowed", "ok", "note"), r))
                for r in report.rows]}, f, indent=1)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
