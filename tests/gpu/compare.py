"""How far two step dumps are apart, for gpu_checks.py. What it is not: the tolerances' reasons
(docs/gpu.md, docs/numerics.md)."""
import numpy as np


class Failed(Exception):
    pass


def need(good, text):
    if not good:
        raise Failed(text)


def worst_of(a, b):
    """[(max|a-b| / rms(a), name)] of gradients, activations and losses, the largest first."""
    need(set(a) == set(b), "tensors differ: %s" % sorted(set(a) ^ set(b))[:3])
    biases = [np.mean(np.square(a[n])) for n in a if n.startswith("grad.") and n.endswith("bias")]
    floor = 1e-3 * np.sqrt(np.mean(biases)) if biases else 0
    all_of_them = []
    for n in a:
        if a[n].dtype.kind != "f" or n.split(".")[0] not in ("grad", "act", "loss"):
            continue
        scale = max(float(np.sqrt(np.mean(np.square(a[n])))), floor, 1e-20)
        diff = float(np.max(np.abs(a[n].astype(float) - b[n]))) / scale if a[n].size else 0.0
        all_of_them.append((diff if diff == diff else float("inf"), n))
    return sorted(all_of_them, reverse=True) or [(0.0, "none")]


# Allowed: loss, all gradients as one vector, all activations, a single gradient or activation.
# Three times what exact arithmetic on operands rounded to 10 and 7 bits gives over these models.
ALLOWED = {"tf32": (5e-4, 8e-3, 1.5e-3, 5e-2), "bf16": (1.2e-2, 7e-2, 1e-2, 0.2)}


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=float)))) if x.size else 0.0


def rounded_apart(a, b):
    """(loss, gradients, activations, worst tensor, its name): relative differences of two dumps."""
    need(set(a) == set(b), "tensors differ: %s" % sorted(set(a) ^ set(b))[:3])
    biases = [n for n in a if n.startswith("grad.") and n.endswith("bias")]
    floor = 0.1 * np.sqrt(np.mean([np.square(rms(a[n])) for n in biases])) if biases else 0.0
    whole, worst, loss = {}, (0.0, "none"), 0.0
    for n in sorted(a):
        kind = n.split(".")[0]
        if a[n].dtype.kind != "f" or kind not in ("grad", "act", "loss"):
            continue
        diff = rms(a[n].astype(float) - b[n])
        if kind == "loss":
            loss = max(loss, diff / rms(a[n]))
            continue
        whole.setdefault(kind, []).append((a[n].size, diff, rms(a[n])))
        scale = max(rms(a[n]), floor if n in biases else 0.0, 1e-20)
        worst = max(worst, (diff / scale if diff == diff else float("inf"), n))
    part = {k: np.sqrt(sum(s * d * d for s, d, _ in v) / sum(s * x * x for s, _, x in v))
            for k, v in whole.items()}
    return loss, float(part["grad"]), float(part["act"]), worst[0], worst[1]
