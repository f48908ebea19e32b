#!/usr/bin/env python3
"""Time and memory of one training step of the PyTorch twin: the peer for our own step times.

A step is: gather the batch's features from resident tables, draw t and noise, forward with dropout
(and gate noise), backward, Adam, read the loss. Idiomatic PyTorch: padded batches as RecBole makes
them, scaled_dot_product_attention and fused Adam where this torch has them, full cross-entropy.
Step times are taken after warm-up, each step with another batch; the median counts.

Lengths: "microlens" is the distribution of the training rows of MicroLens-50k cut to 10 (mean
3.77), "geometric" a geometric one with mean 3.7 cut to L, "fixed:N" always N, "uniform" 1..L.

Memory on the CPU, in MiB: rss_imports after the imports, rss_ready after model and data tables
exist, rss_peak the highest during the steps. step_mib = rss_peak - rss_ready is what training adds
(gradients, Adam's state, activations); whole_mib = rss_peak - rss_imports includes parameters and
feature tables. On a GPU the allocator's figures are used instead.

Usage: bench_twin.py [--threads 2] [--steps 10] [--lengths microlens] [--section.key=value ...]
e.g.   bench_twin.py --model.backbone=sasrec --tcd.enabled=false --rows 256 --items 18700
"""
import argparse
import json
import os
import statistics
import sys
import time

from twin_args import sections


def arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rows", type=int, default=256, help="batch size B")
    ap.add_argument("--items", type=int, default=18700)
    ap.add_argument("--frames", type=int, default=5, help="K")
    ap.add_argument("--visual", type=int, default=768, help="D")
    ap.add_argument("--text", type=int, default=768, help="text width")
    ap.add_argument("--lengths", default="microlens")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--warmup", type=int, default=3)
    ap.add_argument("--steps", type=int, default=10)
    ap.add_argument("--seed", type=int, default=2020)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    ap.add_argument("--no-fused", action="store_true", help="plain attention and plain Adam")
    ap.add_argument("--compile", action="store_true", help="torch.compile the forward pass")
    ap.add_argument("--eval-mode", action="store_true", help="dropout and gate noise off")
    ap.add_argument("--json", help="write the result here too")
    args, rest = ap.parse_known_args()
    config = sections(rest, ap)
    if args.steps < 1:
        ap.error("--steps must be at least 1")
    return args, config, ap


ARGS, CONFIG, PARSER = arguments()
os.environ["OMP_NUM_THREADS"] = str(ARGS.threads)  # before torch starts its threads

import torch  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mealrec_torch as twin  # noqa: E402
from twin_step import Data, adam  # noqa: E402


def memory(field):
    """MiB of VmRSS or VmHWM."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024.0
    return 0.0


def forget_peak():
    """Start the high-water mark anew; False where the kernel does not let us."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
        return True
    except OSError:
        return False


def main():
    args = ARGS
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    cfg = twin.resolve(CONFIG)
    gen = torch.Generator().manual_seed(args.seed)
    imports = memory("VmRSS")
    try:
        data = Data(cfg, args, gen, device)
    except ValueError as e:
        PARSER.error(str(e))
    shapes = twin.parameter_shapes(cfg, args.items, args.visual, args.frames, args.text)
    params = {n: p.to(device).requires_grad_(True)
              for n, p in twin.initial_parameters(cfg, shapes, gen).items()}
    model = twin.Model(cfg, params, train=not args.eval_mode, fused=not args.no_fused)
    optimizer, adam_kind = adam(list(params.values()), cfg, not args.no_fused)
    forward = torch.compile(model.forward) if args.compile else model.forward
    batches = [data.ids() for _ in range(args.warmup + args.steps)]
    ready = memory("VmRSS")
    reset = forget_peak()
    if on_gpu:
        torch.cuda.synchronize()
        ready_gpu = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    times, losses = [], []
    for ids in batches:
        t0 = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            _, loss = forward(data.inputs(ids), data.draws(ids))
        loss["total"].backward()
        optimizer.step()
        losses.append(float(loss["total"].detach()))  # waits for a GPU
        times.append(time.perf_counter() - t0)
    times = times[args.warmup:]
    peak = memory("VmHWM")
    mean_length = statistics.mean(float(b["length"].double().mean()) for b in batches)
    out = {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
           "steps": args.steps, "warmup": args.warmup, "threads": torch.get_num_threads(),
           "rows": args.rows, "rows_per_s": args.rows / statistics.median(times),
           "items": args.items, "mean_length": mean_length, "lengths": args.lengths,
           "K": args.frames, "D": args.visual, "text": args.text,
           "model": cfg["model"], "tcd": twin.Variant(cfg).tcd, "npd": twin.Variant(cfg).npd,
           "parameters": sum(p.numel() for p in params.values()),
           "torch": torch.__version__, "device": str(device), "precision": args.precision,
           "adam": adam_kind, "fused_attention": model.fused, "compiled": args.compile,
           "dropout": not args.eval_mode, "first_loss": losses[0], "last_loss": losses[-1],
           "rss_imports": imports, "rss_ready": ready, "rss_peak": peak, "peak_reset": reset,
           "step_mib": peak - ready, "whole_mib": peak - imports}
    if on_gpu:
        out["gpu"] = torch.cuda.get_device_name(device)
        out["gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2.0 ** 20
        out["gpu_step_mib"] = (torch.cuda.max_memory_allocated() - ready_gpu) / 2.0 ** 20
    text = json.dumps(out, indent=1)
    print(text)
    if args.json:
        with open(args.json, "wt") as f:
            f.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
