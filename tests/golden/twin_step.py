"""A training step of the twin as PyTorch users write it who want it fast: the peer of our times.

`Data` gives batches, `Fast` is the twin's model in the forms that GPUs like, `Step` one training
step: gather the features, draw t and noise, forward, backward, Adam; eager or compiled, and on a
GPU captured by hand as one CUDA graph over static tensors. What it is not: the oracle; that is
mealrec_torch.py, and test_twin.py holds every form of `Fast` to it.
"""
import math
import time

import torch
import torch.nn.functional as F

import mealrec_torch as twin

# Training rows of MicroLens-50k by history length 1..10 after cutting to 10.
MICROLENS = [50000, 50000, 29654, 18910, 12900, 9151, 6755, 5067, 3950, 23321]


def draw_lengths(kind, count, L, gen):
    if kind == "microlens":
        weights = MICROLENS[:L - 1] + [sum(MICROLENS[L - 1:])] if L < 10 else list(MICROLENS)
        return torch.multinomial(torch.tensor(weights, dtype=torch.float64), count, True,
                                 generator=gen) + 1
    if kind == "geometric":
        u = torch.rand(count, generator=gen, dtype=torch.float64)
        n = torch.floor(torch.log1p(-u) / torch.log(torch.tensor(1 - 1 / 3.7).double())) + 1
        return n.long().clamp(1, L)
    if kind == "uniform":
        return torch.randint(1, L + 1, (count,), generator=gen)
    if kind.startswith("fixed:"):
        return torch.full((count,), min(L, int(kind[6:])))
    raise ValueError("--lengths is none of microlens, geometric, uniform, fixed:N")


class Data:
    """Frozen feature tables (row 0 = PAD = zeros) and a stream of batches of ids.

    args: rows, items, frames, visual, text, lengths. dtype: what the tables are kept in.
    """

    def __init__(self, cfg, args, gen, device, dtype=torch.float32):
        self.cfg, self.args, self.gen, self.device = cfg, args, gen, device
        v = twin.Variant(cfg)

        def table(*shape):
            x = torch.empty(args.items + 1, *shape, dtype=dtype)
            for i in range(0, args.items + 1, 1024):  # in pieces: no temporary of the full size
                x[i:i + 1024].normal_(generator=gen)
            x[0] = 0.0
            return x.to(device)
        self.visual = table(args.visual) if v.tcd else None
        self.frames = table(args.frames, args.visual) if v.is_mealrec else None
        self.text = table(args.text) if v.is_mealrec or v.backbone == "tedrec" else None
        self.v, self.T = v, twin.schedule(cfg)["T"]

    def ids(self):
        B, L = self.args.rows, self.cfg["data"]["max_len"]
        n = draw_lengths(self.args.lengths, B, L, self.gen)
        h = torch.randint(1, self.args.items + 1, (B, L), generator=self.gen)
        h = h * (torch.arange(L) < n[:, None])
        y = torch.randint(1, self.args.items + 1, (B,), generator=self.gen)
        return {"history": h.to(self.device), "length": n.to(self.device),
                "target": y.to(self.device)}

    def inputs(self, ids):
        """What the model reads, gathered from the tables: part of the step."""
        x, h = dict(ids), ids["history"]
        last = h.gather(1, (ids["length"] - 1)[:, None]).squeeze(1)
        if self.v.backbone == "tedrec":
            x["text_history"] = self.text[h].float()
        if self.v.is_mealrec:
            x["frames"], x["text"] = self.frames[last].float(), self.text[last].float()
        if self.v.tcd:
            x["visual"] = self.visual[h].float()
        return x

    def draws(self, ids):
        B, dev, w = len(ids["target"]), self.device, {}
        if self.v.tcd:
            w["t_tcd"] = torch.randint(1, self.T + 1, (B,), device=dev)
            w["eps_tcd"] = torch.randn(B, self.args.frames, self.args.visual, device=dev)
        if self.v.npd:
            w["t_npd"] = torch.randint(1, self.T + 1, (B,), device=dev)
            w["eps_npd"] = torch.randn(B, self.cfg["model"]["hidden"], device=dev)
        if self.v.backbone == "cl4srec":  # views of full length: the time of the two passes counts
            for i in (1, 2):
                w["view%d" % i], w["view%d_length" % i] = ids["history"], ids["length"]
        return w


# How a piece may be written; the first is what a first version would have.
WAYS = {"conv": ("conv1d", "channels", "products"), "attention": ("sdpa", "plain"),
        "fourier": ("fft", "products")}


class Fast(twin.Model):
    """The same numbers up to rounding. ways: one of WAYS for each key, the first by default."""

    def __init__(self, cfg, params, train=False, ways=None):
        self.ways = {k: v[0] for k, v in WAYS.items()}
        self.ways.update(ways or {})
        super().__init__(cfg, params, train, self.ways["attention"] == "sdpa")
        like = params["item.weight"]
        if self.v.tcd:
            w = params["tcd.unet.time1.weight"]
            every = torch.arange(self.plan["T"] + 1, device=w.device)
            self.times = super().time_rows(every, w.dtype, w.shape[1])
        L = cfg["data"]["max_len"]
        angle = 2.0 * math.pi / L * torch.outer(torch.arange(L // 2 + 1), torch.arange(L)).double()
        wave = torch.cat([angle.cos(), -angle.sin()]) / math.sqrt(L)
        twice = torch.full((L // 2 + 1,), 2.0, dtype=torch.float64)
        twice[0] = 1.0
        if L % 2 == 0:
            twice[-1] = 1.0
        self.there = wave.to(like)                                          # [2 F, L]
        self.back = (wave * torch.cat([twice, twice])[:, None]).t().to(like).contiguous()

    def time_rows(self, t, dtype, width):
        return self.times[t].to(dtype)

    def last(self, x, length):
        at = (length - 1)[:, None, None].expand(-1, 1, x.shape[-1])
        return x.gather(1, at).squeeze(1)

    def resize(self, x, n):
        return F.interpolate(x, size=n, mode="nearest")

    def conv(self, x, name, stride=1):
        w, b = self.p[name + ".weight"], self.p[name + ".bias"]
        if self.ways["conv"] == "conv1d":
            return super().conv(x, name, stride)
        if self.ways["conv"] == "channels":
            last = torch.channels_last
            x, w4 = (y.unsqueeze(2).contiguous(memory_format=last) for y in (x, w))
            return F.conv2d(x, w4, b, stride=(1, stride), padding=(0, w.shape[-1] // 2)).squeeze(2)
        rows = x.transpose(1, 2)
        if w.shape[-1] == 1:
            return F.linear(rows, w.squeeze(-1), b).transpose(1, 2)
        rows = F.pad(rows, (0, 0, 1, 1)).unfold(1, 3, stride).flatten(2)
        return F.linear(rows, w.flatten(1), b).transpose(1, 2)

    def fuse(self, a, u):
        u = u.to(a.dtype)
        if self.ways["fourier"] == "fft":
            with torch.autocast(a.device.type, enabled=False):
                return super().fuse(a, u)
        with torch.autocast(a.device.type, enabled=False):
            (ar, ai), (ur, ui) = ((self.there @ y).chunk(2, dim=1) for y in (a, u))
            c = self.p["tedrec.filter"]
            cr, ci = c[..., 0], c[..., 1]
            p = self.back @ torch.cat([ar * cr - ai * ci, ar * ci + ai * cr], 1)
            f = self.back @ torch.cat([ar * ur - ai * ui, ar * ui + ai * ur], 1)
            return 2.0 * (p * torch.sigmoid(self.linear(p, "tedrec.gate_p")) +
                          f * torch.sigmoid(self.linear(f, "tedrec.gate_f")))


def adam(params, cfg, fused, capturable=False):
    """(optimizer, its kind), the fastest that this torch has. With the keys of section train."""
    t = cfg.get("train", {})
    keys = {"lr": t.get("lr", 1e-3), "betas": (t.get("beta1", 0.9), t.get("beta2", 0.999)),
            "eps": t.get("eps", 1e-8), "weight_decay": t.get("weight_decay", 0.0)}
    if capturable:
        keys["capturable"] = True
    if fused:
        try:
            return torch.optim.Adam(params, fused=True, **keys), "fused"
        except (TypeError, RuntimeError, ValueError):
            pass
    return torch.optim.Adam(params, **keys), "default"


class Step:
    """run() does one training step and returns its loss, a tensor that nobody waited for.

    feed(fixed) -> (inputs, draws) of the model; fixed: static tensors, filled by load(). graph: one
    CUDA graph, where there is a GPU. What could not be had stands in `said`.
    """

    def __init__(self, model, feed, fixed, precision="fp32", compiled=False, graph=False,
                 fused=True, warmup=3):
        self.model, self.feed, self.precision = model, feed, precision
        self.fixed = {k: v.clone() for k, v in fixed.items()}
        self.params = list(model.p.values())
        self.device = self.params[0].device
        self.on_gpu = self.device.type == "cuda"
        self.first = [p.detach().clone() for p in self.params]
        self.graph, self.said, self.loss = None, [], None
        if graph and not self.on_gpu:
            self.said.append("not captured: no GPU")
        self.capture = graph and self.on_gpu
        self.optimizer, self.adam = adam(self.params, model.cfg, fused, self.capture)
        self.total, self.compiled = self._total, False
        # Under bf16 what autocast leaves in float32 may be TF32: a user who wants speed has it so.
        torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
        torch.backends.cudnn.benchmark = True
        if compiled:
            self._compile()
        if self.capture:
            self._capture(warmup)
        self.reset()

    def _total(self, fixed):
        inputs, draws = self.feed(fixed)
        return self.model.forward(inputs, draws)[1]["total"]

    def _body(self):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16",
                            cache_enabled=not self.capture):
            loss = self.total(self.fixed)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _compile(self):
        begin = time.perf_counter()
        try:
            self.total, self.compiled = torch.compile(self._total, dynamic=False), True
            self.optimizer.zero_grad(set_to_none=True)
            self._body()
        except Exception as e:  # whatever a compiler may raise
            self.total, self.compiled = self._total, False
            self.said.append("not compiled: %s: %s" % (type(e).__name__, str(e).strip()[:300]))
        self.compile_s = time.perf_counter() - begin

    def _capture(self, warmup):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                self.optimizer.zero_grad(set_to_none=True)
                self._body()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.loss = self._body()
            self.graph = graph
        except RuntimeError as e:
            self.capture = False
            self.said.append("not captured: %s" % str(e).strip()[:300])

    def reset(self):
        """Parameters as they were given, Adam as new; in place, as a graph wants it."""
        with torch.no_grad():
            for p, first in zip(self.params, self.first):
                p.copy_(first)
            for state in self.optimizer.state.values():
                for v in state.values():
                    if torch.is_tensor(v):
                        v.zero_()

    def load(self, batch):
        for k, v in batch.items():
            self.fixed[k].copy_(v)

    def run(self):
        if self.graph:
            self.graph.replay()
            return self.loss
        self.optimizer.zero_grad(set_to_none=True)
        return self._body()

    def wait(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def curve(self, steps):
        """Losses of so many steps on what is loaded."""
        return [float(self.run()) for _ in range(steps)]

    def time(self, batches, steps):
        """(seconds of a step, last loss): nobody waits before the last of them is done."""
        self.wait()
        begin = time.perf_counter()
        for i in range(steps):
            self.load(batches[i % len(batches)])
            loss = self.run()
        self.wait()
        return (time.perf_counter() - begin) / steps, float(loss)
