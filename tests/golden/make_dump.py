#!/usr/bin/env python3
"""Make a step dump from the twin itself, with random parameters and inputs.

It tests check_dump.py, never the C side: without --bug the dump must be found equal, with --bug
it must be found different. Every bug is a misreading that a second implementation could have.

Usage: make_dump.py --out FILE [--section.key=value ...] [--dtype float32] [--seed 1] [--bug NAME]
       make_dump.py --list-bugs
Keys are those of the command line of mealrec-dist; small widths are the default here.
"""
import argparse
import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

import mealrec_torch as twin
import safetensors_io

SMALL = {"data": {"max_len": 6},
         "model": {"hidden": 16, "inner": 24},
         "tcd": {"heads": 2, "unet_width": 16},
         "npd": {"inner": 20}}


def random_parameters(shapes, rng):
    out = {}
    for name, shape in shapes.items():
        a = rng.standard_normal(shape)
        if "norm" in name and name.endswith(".weight"):
            a = 1.0 + 0.2 * a
        elif name.endswith(".bias"):
            a = 0.2 * a
        elif name == "item.weight" or name == "tedrec.filter":
            a = 0.5 * a
        else:
            a = a / math.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1.0)
        out[name] = a
    return out


def view(row, n, op, mask_id, cfg, rng):
    """One augmented view of row[:n] (section 2.1 of the facts): (row, length)."""
    out = np.zeros_like(row)
    r = row[:n].copy()
    if op == 0:
        m = max(1, int(math.floor(cfg.get("crop", 0.6) * n)))
        s = rng.integers(0, n - m + 1)
        r = r[s:s + m]
    elif op == 1:
        m = int(math.floor(cfg.get("mask", 0.3) * n))
        r[rng.permutation(n)[:m]] = mask_id
    else:
        m = int(math.floor(cfg.get("reorder", 0.6) * n))
        s = rng.integers(0, n - m + 1)
        r[s:s + m] = rng.permutation(r[s:s + m])
    out[:len(r)] = r
    return out, len(r)


def random_batch(cfg, rng, B=9, items=23, D=12, K=5, h=10):
    L, d, v = cfg["data"]["max_len"], cfg["model"]["hidden"], twin.Variant(cfg)
    T = twin.schedule(cfg)["T"]
    length = rng.integers(1, L + 1, B)
    length[0], length[1] = 1, L
    valid = np.arange(L)[None] < length[:, None]
    history = np.where(valid, rng.integers(1, items + 1, (B, L)), 0)
    inputs = {"history": history, "length": length, "target": rng.integers(1, items + 1, B)}
    draws = {}
    visual, text = (rng.standard_normal((items + 1, w)) for w in (D, h))
    visual[0] = text[0] = 0.0
    last = history[np.arange(B), length - 1]
    if v.backbone == "tedrec":
        inputs["text_history"] = text[history]
    if v.backbone == "cl4srec":
        for i in (1, 2):
            draws["view%d" % i] = history.copy()
            draws["view%d_length" % i] = length.copy()
        for b in range(B):
            if length[b] > 1:
                for i, op in enumerate(rng.permutation(3)[:2], 1):
                    draws["view%d" % i][b], draws["view%d_length" % i][b] = view(
                        history[b], length[b], op, items + 1, cfg["cl4srec"], rng)
    if v.is_mealrec:
        inputs["frames"] = rng.standard_normal((items + 1, K, D))[last]
        inputs["text"] = text[last]
    steps = np.array(cfg["diffusion"]["t_set"] or range(1, T + 1))
    if v.tcd:
        inputs["visual"] = visual[history]
        draws["t_tcd"] = rng.choice(steps, B)
        draws["eps_tcd"] = rng.standard_normal((B, K, D))
    if v.npd:
        draws["t_npd"] = rng.choice(steps, B)
        draws["eps_npd"] = rng.standard_normal((B, d))
    return inputs, draws, (items, D, K, h)


# -- planted bugs: {name: (class of the model, variants that can show it)} -----------------------

class PadGradient(twin.Model):
    """A look-up of id 0 does pass its gradient on."""
    def look_up(self, ids):
        return F.embedding(ids, self.p["item.weight"])


class TanhGelu(twin.Model):
    def gelu(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


class ScaleByWidth(twin.Model):
    """1/sqrt(d) of the paper's eq. 5 where the code of RecBole has 1/sqrt(d_head)."""
    def attention(self, q, k, v, mask, p):
        return super().attention(q / math.sqrt(q.shape[1]), k, v, mask, p)


class FilmSwapped(twin.Model):
    def film(self, x, name, time):
        shift, scale = self.linear(time, name + ".time")[:, :, None].chunk(2, dim=1)
        return x * (1.0 + scale) + shift


class SkipFirst(twin.Model):
    def join(self, current, skip):
        return torch.cat([skip, current], dim=1)


class ResizeByTwo(twin.Model):
    """Source index round(i/2): 0,1,1,2,2 where floor(i 3/5) gives 0,0,1,1,2."""
    def resize(self, x, n):
        return x[:, :, torch.clamp((torch.arange(n) + 1) // 2, max=x.shape[-1] - 1)]


class ContextOverPad(twin.Model):
    """c_v weighted from the end of the padded row instead of the end of the valid part."""
    def context(self, visual, length):
        return super().context(visual, torch.full_like(length, visual.shape[1]))


class TextBeforeFrames(twin.Model):
    def tokens(self, x, frames, text):
        y = super().tokens(x, frames, text) - self.p["npd.type.weight"]
        return torch.cat([y[:, :1], y[:, -1:], y[:, 1:-1]], 1) + self.p["npd.type.weight"]


class OffByOneStep(twin.Model):
    def corrupt(self, x, t, eps):
        return super().corrupt(x, t - 1, eps)


class NoTemperature(twin.Model):
    def scores(self, x):
        return super().scores(x) * self.cfg["tedrec"]["temperature"]


class PadOutsideSoftmax(twin.Model):
    def scores(self, x):
        s = super().scores(x)
        return torch.cat([s[:, :1] - 1e4, s[:, 1:]], 1)


class NtXentWithSelf(twin.Model):
    def nt_xent(self, z1, z2):
        z, n = torch.cat([z1, z2]), len(z1)
        return F.cross_entropy(z @ z.t() / self.cfg["cl4srec"]["temperature"],
                               torch.arange(2 * n).roll(n))


class SineCosineSwapped(twin.Model):
    def time_embedding(self, t, dtype):
        w = self.p["tcd.unet.time1.weight"]
        half = w.shape[1] // 2
        swapped = dict(self.p)
        swapped["tcd.unet.time1.weight"] = torch.cat([w[:, half:], w[:, :half]], 1)
        return twin.Model(self.cfg, swapped).time_embedding(t, dtype)


class WrongDetach(twin.Model):
    """detach_target ignored (or invented)."""
    def squared_error(self, target, guess, detach):
        return super().squared_error(target, guess, not detach)


class NotCausal(twin.Model):
    """The encoder sees later valid positions (with one layer the last position cannot tell)."""
    def layer(self, x, name, heads, p_hidden, p_attention, mask=None):
        if mask is not None:
            mask = mask[:, :, -1:, :]
        return super().layer(x, name, heads, p_hidden, p_attention, mask)


class ExpertBiasAdded(twin.Model):
    def experts(self, x):
        flipped = dict(self.p)
        flipped["tedrec.expert.bias"] = -self.p["tedrec.expert.bias"]
        return twin.Model(self.cfg, flipped).experts(x)


class FftUnnormalised(twin.Model):
    """Default normalisation of the FFT: right for the filter, sqrt(L) too large for the text."""
    def fuse(self, a, u):
        return super().fuse(a, u * math.sqrt(a.shape[1]))


MODEL_BUGS = {
    "pad-gradient": (PadGradient, lambda v: v.backbone == "tedrec"),
    "tanh-gelu": (TanhGelu, lambda v: True),
    "scale-by-width": (ScaleByWidth, lambda v: True),
    "film-swapped": (FilmSwapped, lambda v: v.tcd),
    "skip-first": (SkipFirst, lambda v: v.tcd),
    "resize-by-two": (ResizeByTwo, lambda v: v.tcd),
    "context-over-pad": (ContextOverPad, lambda v: v.tcd),
    "token-order": (TextBeforeFrames, lambda v: v.npd),
    "step-off-by-one": (OffByOneStep, lambda v: v.tcd or v.npd),
    "no-temperature": (NoTemperature, lambda v: v.backbone == "tedrec"),
    "pad-outside-softmax": (PadOutsideSoftmax, lambda v: True),
    "ntxent-with-self": (NtXentWithSelf, lambda v: v.backbone == "cl4srec"),
    "sine-cosine-swapped": (SineCosineSwapped, lambda v: v.tcd),
    "wrong-detach": (WrongDetach, lambda v: v.tcd or v.npd),
    "not-causal": (NotCausal, lambda v: True),
    "expert-bias-added": (ExpertBiasAdded, lambda v: v.backbone == "tedrec"),
    "fft-unnormalised": (FftUnnormalised, lambda v: v.backbone == "tedrec"),
}


# Damage to a finished dump: functions of (tensors, metadata).

def scaled_gradient(t, meta):
    t["grad.encoder.0.fc1.weight"] = t["grad.encoder.0.fc1.weight"] * (1 + 1e-3)


def one_element(t, meta):
    g = t["grad.item.weight"] = t["grad.item.weight"].copy()
    g[3, 1] += 1e-3 * np.sqrt(np.mean(g ** 2))


def key_bias(t, meta):
    v = t["grad.encoder.0.v.bias"]
    t["grad.encoder.0.k.bias"] = t["grad.encoder.0.k.bias"] + 1e-3 * np.sqrt(np.mean(v ** 2))


def not_a_number(t, meta):
    t["grad.position.weight"] = t["grad.position.weight"].copy()
    t["grad.position.weight"][0, 0] = np.nan


def missing_gradient(t, meta):
    del t["grad.input_norm.bias"]


def surplus_loss(t, meta):
    t["loss.other"] = t["loss.rank"]


def wrong_loss(t, meta):
    t["loss.total"] = t["loss.total"] * (1 + 1e-4)


def wrong_schedule(t, meta):
    a = json.loads(meta["schedule_abar"])
    a[-1] *= 1 + 1e-9
    meta["schedule_abar"] = json.dumps(a)


def id_out_of_range(t, meta):
    t["input.target"] = t["input.target"].copy()
    t["input.target"][0] = 0


FILE_BUGS = {f.__name__.replace("_", "-"): f for f in (
    scaled_gradient, one_element, key_bias, not_a_number, missing_gradient, surplus_loss,
    wrong_loss, wrong_schedule, id_out_of_range)}


def make(path, config, dtype="float32", seed=1, bug=None, **sizes):
    cfg = twin.resolve(SMALL)
    for section, keys in config.items():
        cfg.setdefault(section, {}).update(keys)
    rng = np.random.default_rng(seed)
    inputs, draws, dims = random_batch(cfg, rng, **sizes)
    params = random_parameters(twin.parameter_shapes(cfg, *dims), rng)
    kind = np.dtype(dtype)

    def cast(m):
        return {n: (a.astype(kind) if a.dtype.kind == "f" else a.astype(np.int64))
                for n, a in m.items()}
    params, inputs, draws = cast(params), cast(inputs), cast(draws)
    live = {n: torch.from_numpy(a).requires_grad_(True) for n, a in params.items()}
    cls = MODEL_BUGS[bug][0] if bug in MODEL_BUGS else twin.Model
    act, loss = cls(cfg, live).forward({n: torch.from_numpy(a) for n, a in inputs.items()},
                                       {n: torch.from_numpy(a) for n, a in draws.items()})
    loss["total"].backward()
    t = {"param." + n: a for n, a in params.items()}
    t.update({"grad." + n: np.zeros_like(params[n]) if p.grad is None else p.grad.numpy()
              for n, p in live.items()})
    for group, m in (("input", inputs), ("draw", draws)):
        t.update({group + "." + n: a for n, a in m.items()})
    t.update({"act." + n: a.detach().numpy() for n, a in act.items()})
    t.update({"loss." + n: a.detach().numpy() for n, a in loss.items()})
    meta = {"config": json.dumps(cfg), "schedule_abar": json.dumps(twin.schedule(cfg)["abar"][1:])}
    if bug in FILE_BUGS:
        FILE_BUGS[bug](t, meta)
        t = {n: a if a.dtype.kind == "i" else a.astype(kind) for n, a in t.items()}
    safetensors_io.save(path, t, meta)


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out")
    ap.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--bug", choices=sorted(MODEL_BUGS) + sorted(FILE_BUGS))
    ap.add_argument("--list-bugs", action="store_true")
    args, rest = ap.parse_known_args()
    if args.list_bugs:
        print("\n".join(sorted(MODEL_BUGS) + sorted(FILE_BUGS)))
        return 0
    if not args.out:
        ap.error("--out FILE is missing")
    config = {}
    for word in rest:
        key, _, value = word.partition("=")
        section, _, key = key.lstrip("-").partition(".")
        if key not in twin.DEFAULTS.get(section, {}):
            ap.error("unknown key %r" % word)
        try:
            value = json.loads(value)
        except ValueError:
            pass
        config.setdefault(section, {})[key] = value
    make(args.out, config, args.dtype, args.seed, args.bug)
    return 0


if __name__ == "__main__":
    sys.exit(main())
