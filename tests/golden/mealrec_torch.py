"""The model of mealrec-dist a second time, in PyTorch, as an oracle for tests and a peer for times.

Written from the specification (docs/model.md), not from the C sources, so that a misreading
on one side shows as a difference. It is functional: parameters live in one dict with the names of
checkpoints and dumps, and every formula is spelled out with torch.nn.functional. Runs with torch
1.13 and 2.x, on CPU and GPU, float32 and float64, with or without dropout.

Shapes: B batch, L sequence length, d hidden, D visual width, h text width, K frames, I items.
"""
import copy
import math

import torch
import torch.nn.functional as F

DEFAULTS = {
    "data": {"max_len": 10},
    "model": {"name": "mealrec", "backbone": "tedrec", "hidden": 300, "layers": 2, "heads": 2,
              "inner": 256, "dropout": 0.5, "attention_dropout": 0.5},
    "tcd": {"enabled": True, "heads": 8, "inner": 0, "dropout": 0.1, "unet_width": 128,
            "gamma": 0.9, "lambda": 0.1, "detach_target": False},
    "npd": {"enabled": True, "heads": 2, "inner": 256, "dropout": 0.1, "block": "transformer",
            "lambda": 0.1, "detach_target": False},
    "cl4srec": {"weight": 0.1, "temperature": 1.0},
    "tedrec": {"experts": 8, "temperature": 0.07, "dropout": 0.2},
    "diffusion": {"steps": 20, "schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
                  "t_set": []},
}
LN_EPS = 1e-12
GN_EPS = 1e-6
GN_GROUPS = 8


def resolve(config):
    """Defaults with the given sections and keys written over them."""
    out = copy.deepcopy(DEFAULTS)
    for section, keys in config.items():
        if isinstance(keys, dict):
            out.setdefault(section, {}).update(keys)
    return out


class Variant:
    """What the configuration asks for."""

    def __init__(self, cfg):
        name = cfg["model"]["name"]
        self.is_mealrec = name == "mealrec"
        self.backbone = cfg["model"]["backbone"] if self.is_mealrec else name
        if self.backbone not in ("sasrec", "cl4srec", "tedrec"):
            raise ValueError("no such backbone: %r" % self.backbone)
        self.tcd = self.is_mealrec and bool(cfg["tcd"]["enabled"])
        self.npd = self.is_mealrec and bool(cfg["npd"]["enabled"])
        self.horizon = self.npd and cfg["npd"]["block"] == "horizon"
        if self.npd and cfg["npd"]["block"] not in ("transformer", "horizon"):
            raise ValueError("no such npd.block: %r" % cfg["npd"]["block"])


# ---------------------------------------------------------------------------------------------
# Names, shapes and initial values of the parameters
# ---------------------------------------------------------------------------------------------

def parameter_shapes(cfg, items, D=0, K=0, h=0):
    """{name: shape} for |I| = items. D, K, h are only used where the variant needs them."""
    v, m, shapes = Variant(cfg), cfg["model"], {}
    L, d = cfg["data"]["max_len"], m["hidden"]

    def linear(name, out, inp, bias=True):
        shapes[name + ".weight"] = (out, inp)
        if bias:
            shapes[name + ".bias"] = (out,)

    def conv(name, out, inp, width=3):
        shapes[name + ".weight"] = (out, inp, width)
        shapes[name + ".bias"] = (out,)

    def norm(name, width):
        shapes[name + ".weight"] = (width,)
        shapes[name + ".bias"] = (width,)

    def layer(name, width, inner):
        for part in "qkvo":
            linear(name + "." + part, width, width)
        norm(name + ".norm1", width)
        linear(name + ".fc1", inner, width)
        linear(name + ".fc2", width, inner)
        norm(name + ".norm2", width)

    shapes["item.weight"] = (items + 1 + (v.backbone == "cl4srec"), d)
    shapes["position.weight"] = (L, d)
    norm("input_norm", d)
    for i in range(m["layers"]):
        layer("encoder.%d" % i, d, m["inner"])
    if v.backbone == "tedrec":
        n = cfg["tedrec"]["experts"]
        shapes["tedrec.expert.weight"] = (n, d, h)
        shapes["tedrec.expert.bias"] = (n, L, h)
        shapes["tedrec.gate.weight"] = (n, h)
        shapes["tedrec.noise.weight"] = (n, h)
        shapes["tedrec.filter"] = (L // 2 + 1, d, 2)
        linear("tedrec.gate_p", 1, d)
        linear("tedrec.gate_f", 1, d)
    if v.tcd:
        C = cfg["tcd"]["unet_width"]
        shapes["tcd.position.weight"] = (K, D)
        norm("tcd.norm", D)
        layer("tcd.encoder", D, cfg["tcd"]["inner"] or 2 * D)
        linear("tcd.unet.time1", 4 * C, C)
        linear("tcd.unet.time2", 4 * C, 4 * C)
        conv("tcd.unet.conv_in", C, D)
        conv("tcd.unet.downsample", C, C)
        conv("tcd.unet.upsample", C, 2 * C)
        norm("tcd.unet.norm_out", C)
        conv("tcd.unet.conv_out", D, C)
        for name, (ci, co, has_context) in UNET_BLOCKS.items():
            name, ci, co = "tcd.unet." + name, ci * C, co * C
            norm(name + ".norm1", ci)
            conv(name + ".conv1", co, ci)
            linear(name + ".time", 2 * co, 4 * C)
            norm(name + ".norm2", co)
            conv(name + ".conv2", co, co)
            if ci != co:
                conv(name + ".skip", co, ci, 1)
            if has_context:
                linear(name + ".context_v", co, D, bias=False)
                linear(name + ".context_o", co, co)
    if v.is_mealrec:
        linear("npd.frame", d, D)
        linear("npd.text", d, h)
        if v.npd:
            norm("npd.frame_norm", d)
            norm("npd.text_norm", d)
            shapes["npd.type.weight"] = (K + 2, d)
            if v.horizon:
                linear("npd.block.q", d, d, bias=False)
                linear("npd.block.k", d, d)
                linear("npd.block.v", d, d)
            else:
                layer("npd.block", d, cfg["npd"]["inner"])
        else:
            linear("npd.mlp1", d, 3 * d)
            linear("npd.mlp2", d, d)
    return shapes


# block: (input channels / C, output channels / C, followed by XA)
UNET_BLOCKS = {"down0": (1, 1, True), "down1": (1, 2, True), "mid0": (2, 2, True),
               "mid1": (2, 2, False), "up1": (4, 2, True), "up0": (2, 1, True)}


def initial_parameters(cfg, shapes, generator=None, dtype=torch.float32):
    """Fresh values as section 11.8 wants them."""
    out = {}
    for name, shape in shapes.items():
        def normal(std):
            return torch.randn(shape, generator=generator, dtype=dtype) * std

        def uniform(bound):
            return (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound
        last = name.rsplit(".", 1)[-1]
        owner = name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
        if "norm" in owner:
            out[name] = torch.ones(shape, dtype=dtype) if last == "weight" else \
                torch.zeros(shape, dtype=dtype)
        elif name.startswith("tcd.unet."):
            fan = shapes[name.rsplit(".", 1)[0] + ".weight"]
            out[name] = uniform(1.0 / math.sqrt(fan[1] * (fan[2] if len(fan) > 2 else 1)))
        elif name in ("tedrec.gate.weight", "tedrec.noise.weight", "tedrec.expert.bias"):
            out[name] = torch.zeros(shape, dtype=dtype)
        elif name in ("tedrec.gate_p.bias", "tedrec.gate_f.bias"):
            out[name] = uniform(1.0 / math.sqrt(cfg["model"]["hidden"]))
        elif last == "bias":
            out[name] = torch.zeros(shape, dtype=dtype)
        elif name.startswith("npd.block.") and cfg["npd"]["block"] == "horizon":
            out[name] = normal(math.sqrt(2.0 / (shape[0] + shape[1])))
        else:
            out[name] = normal(0.02)
    return out


# ---------------------------------------------------------------------------------------------
# Diffusion coefficients, in double
# ---------------------------------------------------------------------------------------------

def schedule(cfg):
    """beta, c1, c2, s2 [1..T] (entry 0 unused) and abar [0..T] as Python lists."""
    s = cfg["diffusion"]
    T = max(s["t_set"]) if s["t_set"] else s["steps"]
    kind, b0, b1 = s["schedule"], s["beta_start"], s["beta_end"]

    def evenly(lo, hi):
        return [lo + (hi - lo) * i / (T - 1) if T > 1 else lo for i in range(T)]

    def from_abar(f):
        return [min(1.0 - f(t) / f(t - 1), 0.999) for t in range(1, T + 1)]
    if kind == "linear":
        beta = evenly(b0, b1)
    elif kind == "scaled":
        beta = evenly(b0 * 1000.0 / T, b1 * 1000.0 / T)
    elif kind == "trunc_lin":
        k = 1000.0 / T
        hi = b1 * k + 0.01
        beta = evenly(b0 * k + 0.01, 0.001 * k + 0.01 if hi > 1.0 else hi)
    elif kind == "cosine":
        beta = from_abar(lambda t: math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2)
    elif kind == "sqrt":
        beta = from_abar(lambda t: 1.0 - math.sqrt(t / T + 1e-4))
    else:
        raise ValueError("no such schedule: %r" % kind)
    if kind == "scaled" and max(beta) >= 1.0:
        raise ValueError("schedule 'scaled' has beta >= 1 at T = %d" % T)
    beta, abar = [0.0] + beta, [1.0]
    for t in range(1, T + 1):
        abar.append(abar[-1] * (1.0 - beta[t]))
    c1, c2, s2 = [0.0], [0.0], [0.0]
    for t in range(1, T + 1):
        den = 1.0 - abar[t]
        c1.append(1.0 if t == 1 else beta[t] * math.sqrt(abar[t - 1]) / den)
        c2.append(0.0 if t == 1 else (1.0 - abar[t - 1]) * math.sqrt(1.0 - beta[t]) / den)
        s2.append(0.0 if t == 1 else beta[t] * (1.0 - abar[t - 1]) / den)
    return {"T": T, "beta": beta, "abar": abar, "c1": c1, "c2": c2, "s2": s2}


# ---------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------

class Model:
    """forward(inputs, draws) -> (activations, losses), dicts with the names of a dump.

    params: {name: tensor}; train=True turns dropout and TedRec's gate noise on.
    fused=True lets torch.nn.functional.scaled_dot_product_attention do the attention.
    """

    def __init__(self, cfg, params, train=False, fused=False):
        self.cfg, self.v, self.p, self.train = cfg, Variant(cfg), params, train
        self.fused = fused and hasattr(F, "scaled_dot_product_attention")
        self.item_rows = params["item.weight"].shape[0] - (self.v.backbone == "cl4srec")
        self.plan = schedule(cfg)
        self.abar = torch.tensor(self.plan["abar"], dtype=torch.float64,
                                 device=params["item.weight"].device)

    # -- pieces -------------------------------------------------------------------------------

    def linear(self, x, name):
        return F.linear(x, self.p[name + ".weight"], self.p.get(name + ".bias"))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.p[name + ".weight"], self.p[name + ".bias"],
                            LN_EPS)

    def drop(self, x, p):
        return F.dropout(x, p) if self.train and p > 0 else x

    def gelu(self, x):
        return F.gelu(x)

    def attention(self, q, k, v, mask, p):
        """q, k, v [B, heads, n, w]; mask additive, broadcast to [B, heads, n, n], or None."""
        p = p if self.train else 0.0
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        a = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        a = torch.softmax(a if mask is None else a + mask, dim=-1)
        return self.drop(a, p) @ v

    def layer(self, x, name, heads, p_hidden, p_attention, mask=None):
        """One post-LN Transformer layer. x [B, n, w] -> [B, n, w]."""
        B, n, w = x.shape
        q, k, v = (self.linear(x, name + "." + s).view(B, n, heads, w // heads).transpose(1, 2)
                   for s in "qkv")
        c = self.attention(q, k, v, mask, p_attention).transpose(1, 2).reshape(B, n, w)
        x = self.norm(self.drop(self.linear(c, name + ".o"), p_hidden) + x, name + ".norm1")
        y = self.linear(self.gelu(self.linear(x, name + ".fc1")), name + ".fc2")
        return self.norm(self.drop(y, p_hidden) + x, name + ".norm2")

    # -- backbones ----------------------------------------------------------------------------

    def look_up(self, ids):
        """Rows of the item table; id 0 passes no gradient to row 0."""
        return F.embedding(ids, self.p["item.weight"], padding_idx=0)

    def encode(self, history, length, text_history=None):
        """history [B, L], length [B] -> x0 [B, d]."""
        m = self.cfg["model"]
        L = history.shape[1]
        x = self.look_up(history)
        if self.v.backbone == "tedrec":
            x = self.fuse(x, self.experts(text_history))
        x = self.drop(self.norm(x + self.p["position.weight"], "input_norm"), m["dropout"])
        causal = torch.ones(L, L, dtype=torch.bool, device=history.device).tril()
        allowed = causal & (history != 0)[:, None, None, :]
        mask = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device)
        mask = mask.masked_fill(~allowed, -10000.0)
        for i in range(m["layers"]):
            x = self.layer(x, "encoder.%d" % i, m["heads"], m["dropout"],
                           m["attention_dropout"], mask)
        return self.last(x, length)

    def last(self, x, length):
        """The last valid position of x [B, L, d]."""
        return x[torch.arange(len(length), device=x.device), length - 1]

    def experts(self, x):
        """TedRec's mixture over the text. x [B, L, h] -> [B, L, d]."""
        W, b = self.p["tedrec.expert.weight"], self.p["tedrec.expert.bias"]
        g = F.linear(x, self.p["tedrec.gate.weight"])
        if self.train:
            scale = F.softplus(F.linear(x, self.p["tedrec.noise.weight"])) + 0.01
            g = g + torch.randn_like(g) * scale
        g = torch.softmax(g, dim=-1)
        out = torch.stack([F.linear(self.drop(x, self.cfg["tedrec"]["dropout"]) - b[j], W[j])
                           for j in range(W.shape[0])], dim=-2)
        return (g.unsqueeze(-2) @ out).squeeze(-2)

    def fuse(self, a, u):
        """Contextual convolution along the positions. a, u [B, L, d] -> [B, L, d]."""
        L = a.shape[1]
        A, U = (torch.fft.rfft(y, dim=1, norm="ortho") for y in (a, u))
        C = torch.view_as_complex(self.p["tedrec.filter"])
        p, f = (torch.fft.irfft(Y, n=L, dim=1, norm="ortho") for Y in (A * C, A * U))
        return 2.0 * (p * torch.sigmoid(self.linear(p, "tedrec.gate_p")) +
                      f * torch.sigmoid(self.linear(f, "tedrec.gate_f")))

    def scores(self, x):
        """x [B, d] -> [B, I + 1], PAD included."""
        E = self.p["item.weight"][:self.item_rows]
        if self.v.backbone == "tedrec":
            x, E = F.normalize(x, dim=-1, eps=1e-12), F.normalize(E, dim=-1, eps=1e-12)
            return x @ E.t() / self.cfg["tedrec"]["temperature"]
        return x @ E.t()

    def nt_xent(self, z1, z2):
        n = len(z1)
        z = torch.cat([z1, z2])
        s = z @ z.t() / self.cfg["cl4srec"]["temperature"]
        s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=s.device), -float("inf"))
        return F.cross_entropy(s, torch.arange(2 * n, device=s.device).roll(n))

    # -- content diffusion (TCD) --------------------------------------------------------------

    def context(self, visual, length):
        """c_v [B, D] from visual [B, L, D]: weights exp(-gamma (n - k)) over the valid k = 1..n."""
        k = torch.arange(1, visual.shape[1] + 1, device=visual.device)
        n = length[:, None]
        w = torch.exp(-self.cfg["tcd"]["gamma"] * (n - k).to(visual.dtype))
        w = torch.where(k <= n, w, torch.zeros_like(w))
        return ((w / w.sum(1, keepdim=True))[:, None, :] @ visual).squeeze(1)

    def clean_frames(self, frames):
        c = self.cfg["tcd"]
        x = self.norm(frames + self.p["tcd.position.weight"], "tcd.norm")
        return self.layer(x, "tcd.encoder", c["heads"], c["dropout"], c["dropout"])

    def time_rows(self, t, dtype, C):
        i = torch.arange(C // 2, device=t.device, dtype=torch.float64)
        a = t.to(torch.float64)[:, None] * 10000.0 ** (-i / (C // 2 - 1))
        return torch.cat([torch.sin(a), torch.cos(a)], dim=1).to(dtype)

    def time_embedding(self, t, dtype):
        e = self.time_rows(t, dtype, self.cfg["tcd"]["unet_width"])
        return self.linear(F.silu(self.linear(e, "tcd.unet.time1")), "tcd.unet.time2")

    def conv(self, x, name, stride=1):
        w = self.p[name + ".weight"]
        return F.conv1d(x, w, self.p[name + ".bias"], stride=stride, padding=w.shape[-1] // 2)

    def group_norm(self, x, name):
        return F.group_norm(x, GN_GROUPS, self.p[name + ".weight"], self.p[name + ".bias"],
                            GN_EPS)

    def film(self, x, name, time):
        scale, shift = self.linear(time, name + ".time")[:, :, None].chunk(2, dim=1)
        return x * (1.0 + scale) + shift

    def res(self, x, name, time):
        """Residual block. x [B, ci, n], time = SiLU(temb) [B, 4C] -> [B, co, n]."""
        y = self.conv(F.silu(self.group_norm(x, name + ".norm1")), name + ".conv1")
        y = F.silu(self.film(self.group_norm(y, name + ".norm2"), name, time))
        y = self.conv(self.drop(y, self.cfg["tcd"]["dropout"]), name + ".conv2")
        return y + (self.conv(x, name + ".skip") if name + ".skip.weight" in self.p else x)

    def join(self, current, skip):
        return torch.cat([current, skip], dim=1)

    def resize(self, x, n):
        index = torch.arange(n, device=x.device) * x.shape[-1] // n
        return x[:, :, index]

    def unet(self, z, t, c_v):
        """z [B, K, D], t [B], c_v [B, D] -> [B, K, D]."""
        u = "tcd.unet."
        time = F.silu(self.time_embedding(t, z.dtype))

        def block(x, name, cross=True):
            x = self.res(x, u + name, time)
            if cross:
                value = self.linear(c_v, u + name + ".context_v")
                x = x + self.linear(value, u + name + ".context_o")[:, :, None]
            return x
        x = self.conv(z.transpose(1, 2), u + "conv_in")
        skip0 = block(x, "down0")
        skip1 = block(self.conv(skip0, u + "downsample", stride=2), "down1")
        x = block(block(skip1, "mid0"), "mid1", cross=False)
        x = block(self.join(x, skip1), "up1")
        x = self.conv(self.resize(x, skip0.shape[-1]), u + "upsample")
        x = block(self.join(x, skip0), "up0")
        x = self.conv(F.silu(self.group_norm(x, u + "norm_out")), u + "conv_out")
        return x.transpose(1, 2)

    # -- preference denoising (NPD) -----------------------------------------------------------

    def tokens(self, x, frames, text):
        f = self.norm(self.linear(frames, "npd.frame"), "npd.frame_norm")
        h = self.norm(self.linear(text, "npd.text"), "npd.text_norm")
        return torch.cat([x[:, None], f, h[:, None]], dim=1) + self.p["npd.type.weight"]

    def denoise(self, x, frames, text):
        """g: x [B, d], frames [B, K, D], text [B, h] -> [B, d]. Knows no t."""
        c = self.cfg["npd"]
        y = self.tokens(x, frames, text)
        if not self.v.horizon:
            return self.layer(y, "npd.block", c["heads"], c["dropout"], c["dropout"])[:, 0]
        y = F.layer_norm(y, y.shape[-1:], eps=LN_EPS)
        q, k, v = (self.linear(y, "npd.block." + s)[:, None] for s in "qkv")
        return self.attention(q[:, :, :1], k, v, None, c["dropout"])[:, 0, 0]

    def combine(self, x0, frames, text):
        """-NPD: the MLP that stands in for g."""
        f = self.linear(frames, "npd.frame").mean(dim=1)
        y = torch.cat([x0, f, self.linear(text, "npd.text")], dim=-1)
        return self.linear(self.gelu(self.linear(y, "npd.mlp1")), "npd.mlp2")

    # -- one training step --------------------------------------------------------------------

    def corrupt(self, x, t, eps):
        abar = self.abar[t].view(-1, *([1] * (x.dim() - 1)))
        return abar.sqrt().to(x.dtype) * x + (1.0 - abar).sqrt().to(x.dtype) * eps

    def squared_error(self, target, guess, detach):
        return ((target.detach() if detach else target) - guess).square().mean()

    def forward(self, inputs, draws):
        """inputs, draws: the `input.*` and `draw.*` of a dump without their prefix."""
        cfg, act, loss = self.cfg, {}, {}
        x0 = self.encode(inputs["history"], inputs["length"], inputs.get("text_history"))
        act["x0"] = user = x0
        if self.v.is_mealrec:
            frames, text = inputs["frames"], inputs["text"]
            if self.v.tcd:
                z0 = self.clean_frames(frames)
                z_t = self.corrupt(z0, draws["t_tcd"], draws["eps_tcd"])
                c_v = self.context(inputs["visual"], inputs["length"])
                frames = self.unet(z_t, draws["t_tcd"], c_v)
                act["z0"], act["zhat"] = z0, frames
                loss["tcd"] = self.squared_error(z0, frames, cfg["tcd"]["detach_target"])
            if self.v.npd:
                x_t = self.corrupt(x0, draws["t_npd"], draws["eps_npd"])
                user = self.denoise(x_t, frames, text)
                loss["npd"] = self.squared_error(x0, user, cfg["npd"]["detach_target"])
            else:
                user = self.combine(x0, frames, text)
        act["xhat"] = user
        loss["rank"] = F.cross_entropy(self.scores(user), inputs["target"])
        total = loss["rank"]
        if self.v.backbone == "cl4srec":
            z = [self.encode(draws["view%d" % i], draws["view%d_length" % i]) for i in (1, 2)]
            loss["ntxent"] = self.nt_xent(*z)
            total = total + cfg["cl4srec"]["weight"] * loss["ntxent"]
        if "tcd" in loss:
            total = total + cfg["tcd"]["lambda"] * loss["tcd"]
        if "npd" in loss:
            total = total + cfg["npd"]["lambda"] * loss["npd"]
        loss["total"] = total
        return act, loss

    # -- recommendation ------------------------------------------------------------------------

    def chain(self, clean, step, noise):
        """T reverse steps from the start that diffusion.start names.

        step(x, t [B]) -> guess of the clean x. noise(k): standard normal like `clean`, k = T for
        the start and t - 1 for the posterior of step t; None means that no noise is drawn.
        """
        s, B = self.plan, len(clean)
        T, start = s["T"], self.cfg["diffusion"].get("start", "corrupted")
        at = torch.full((B,), T, dtype=torch.int64, device=clean.device)
        x = {"x0": lambda: clean, "noise": lambda: noise(T),
             "corrupted": lambda: self.corrupt(clean, at, noise(T))}[start]()
        for t in range(T, 0, -1):
            x = s["c1"][t] * step(x, at.fill_(t)) + s["c2"][t] * x
            if t > 1 and self.cfg["diffusion"].get("noise", True):
                x = x + math.sqrt(s["s2"][t]) * noise(t - 1)
        return x

    @torch.no_grad()
    def infer(self, inputs, noise=None):
        """The user vector [B, d] that ranks the items. noise(what, k), what "tcd" or "npd"."""
        user = self.encode(inputs["history"], inputs["length"], inputs.get("text_history"))
        if not self.v.is_mealrec:
            return user
        x0, frames, text = user, inputs["frames"], inputs["text"]
        if self.v.tcd:
            c_v = self.context(inputs["visual"], inputs["length"])
            frames = self.chain(self.clean_frames(frames), lambda z, t: self.unet(z, t, c_v),
                                noise and (lambda k: noise("tcd", k)))
        if self.v.npd:
            user = self.chain(x0, lambda x, t: self.denoise(x, frames, text),
                              noise and (lambda k: noise("npd", k)))
        else:
            user = self.combine(x0, frames, text)
        w = self.cfg["diffusion"].get("mix", 0.0)
        return w * x0 + (1.0 - w) * user
