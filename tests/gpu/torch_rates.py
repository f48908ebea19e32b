#!/usr/bin/env python3
"""What the card does in PyTorch, as JSON: the ceilings that figures are shares of, and the item
loss as PyTorch has it. Random numbers, never zeros; the median of several.

Usage: torch_rates.py [--device cuda] [--size 8192] [--mib 2048] [--head ROWS WIDTH ITEMS ...]
  tflops      of a product of size x size x size in bf16, TF32 and float32
  copy_gb_s   of a copy within device memory, bytes read and written
  heads       for each ROWS WIDTH ITEMS: seconds of forward and backward of the cross-entropy over
              all items under bf16 autocast, and the most memory beside what stands before
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F


def timed(device, work, rounds, each):
    """Median seconds of work() over `rounds` rounds of `each` calls."""
    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()
    out = []
    for i in range(rounds + 2):
        wait()
        begin = time.perf_counter()
        for _ in range(each):
            work()
        wait()
        out.append((time.perf_counter() - begin) / each)
    return statistics.median(out[2:])


def product(device, n, kind):
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    c = torch.empty(n, n, device=device, dtype=dtype)
    s = timed(device, lambda: torch.mm(a, b, out=c), 7, 5)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2e-12 * n ** 3 / s


def copy(device, mib):
    a = torch.randn(mib << 18, device=device)
    b = torch.empty_like(a)
    return 2e-9 * a.numel() * 4 / timed(device, lambda: b.copy_(a), 7, 5)


def head(device, rows, width, items):
    x = torch.randn(rows, width, device=device).requires_grad_(True)
    e = (0.02 * torch.randn(items + 1, width, device=device)).requires_grad_(True)
    y = torch.randint(1, items + 1, (rows,), device=device)

    def work():
        x.grad = e.grad = None
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(x @ e.t(), y)
        loss.backward()
    work()
    x.grad = e.grad = None
    extra = None
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        grads = 4 * (x.numel() + e.numel())
        extra = torch.cuda.max_memory_allocated() - before - grads
    return {"rows": rows, "width": width, "items": items, "extra_bytes": extra,
            "seconds": timed(device, work, 5, 5)}


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--device", default="cuda")
    ap.add_argument("--size", type=int, default=8192)
    ap.add_argument("--mib", type=int, default=2048)
    ap.add_argument("--head", type=int, nargs=3, action="append", default=[])
    args = ap.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1)
    out = {"torch": torch.__version__, "device": args.device, "size": args.size,
           "tflops": {k: product(device, args.size, k) for k in ("bf16", "tf32", "fp32")},
           "copy_gb_s": copy(device, args.mib),
           "heads": [head(device, *h) for h in args.head]}
    if device.type == "cuda":
        out["gpu"] = torch.cuda.get_device_name(device)
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
