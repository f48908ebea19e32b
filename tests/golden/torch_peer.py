#!/usr/bin/env python3
"""The PyTorch twin as a process that is asked for timed steps: the peer of a GPU's figures
(tests/gpu/figures.py). It stays alive between questions, so that what torch compiled once
serves every pair of measurements; while it waits it asks nothing of the GPU.

Answers are lines of JSON. The first is {"ready": ...}; then, for each line of standard input:
  steps N       {"seconds": of one step over N, "loss": the last}
  kernels       {"kernels": of one step, "busy": share of the time that the GPU works}, by
                torch.profiler; null without a GPU
It ends with standard input. With --replay DUMP it says {"losses": of --losses N steps} at once and
ends: dropout and gate noise off, the parameters, inputs and draws of that step dump.

--ways auto tries every way of twin_step.WAYS on the GPU and keeps the fastest.
Usage: torch_peer.py [--mode eager|graph|compiled] [--precision fp32|tf32|bf16] [--rows 2048] ...
                     [--section.key=value ...]
"""
import argparse
import json
import os
import sys

from twin_args import sections


def arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--mode", default="eager", choices=("eager", "graph", "compiled"),
                    help="compiled: with a captured graph, too")
    ap.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    ap.add_argument("--device", default="cuda")
    ap.add_argument("--rows", type=int, default=2048)
    ap.add_argument("--items", type=int, default=18700)
    ap.add_argument("--frames", type=int, default=5)
    ap.add_argument("--visual", type=int, default=768)
    ap.add_argument("--text", type=int, default=768)
    ap.add_argument("--lengths", default="microlens")
    ap.add_argument("--ways", default="first", help="first, auto, or conv=...,attention=...")
    ap.add_argument("--warmup", type=int, default=20)
    ap.add_argument("--replay")
    ap.add_argument("--losses", type=int, default=20)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--seed", type=int, default=2020)
    ap.add_argument("--bug", default="", help="for tests: skip-adam, other-rate")
    args, rest = ap.parse_known_args()
    config = sections(rest, ap)
    return args, config


ARGS, CONFIG = arguments()
os.environ["OMP_NUM_THREADS"] = str(ARGS.threads)  # before torch starts its threads

import torch  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import mealrec_torch as twin  # noqa: E402
import safetensors_io  # noqa: E402
import twin_step  # noqa: E402


def say(**what):
    print(json.dumps(what), flush=True)


def plant(step):
    """Bugs that the comparison of losses has to find."""
    if ARGS.bug == "skip-adam":
        step.optimizer.step = lambda: None
    if ARGS.bug == "other-rate":
        for g in step.optimizer.param_groups:
            g["lr"] *= 1.05


def make(cfg, params, feed, fixed, mode, ways, train):
    model = twin_step.Fast(cfg, params, train, ways)
    return twin_step.Step(model, feed, fixed, ARGS.precision, mode == "compiled", mode != "eager")


def choose(build, batches, mode):
    """The fastest way of each kind, one kind after another, and what was measured."""
    ways, tried = {k: v[0] for k, v in twin_step.WAYS.items()}, {}
    for kind, names in twin_step.WAYS.items():
        times = {}
        for name in names:
            step = build("eager" if mode == "eager" else "graph", dict(ways, **{kind: name}))
            step.time(batches, 5)
            times[name] = min(step.time(batches, 10)[0] for _ in range(3))
            del step
        ways[kind] = min(times, key=times.get)
        tried[kind] = times
    return ways, tried


def named_ways(text):
    return dict(word.split("=") for word in text.split(",")) if "=" in text else {}


def replay(args):
    """Losses of training on one step of a dump, as the program's own (`curve.total`)."""
    tensors, meta = safetensors_io.load(args.replay)
    cfg = twin.resolve(json.loads(meta["config"]))
    device = torch.device(args.device)
    groups = {g: {} for g in ("param", "input", "draw")}
    for name, a in tensors.items():
        group, _, rest = name.partition(".")
        if group in groups:
            groups[group][rest] = torch.from_numpy(a.copy()).to(device)
    params = {n: p.requires_grad_(True) for n, p in groups["param"].items()}
    fixed = {g + "." + n: t for g in ("input", "draw") for n, t in groups[g].items()}

    def feed(x):
        return tuple({n[len(g) + 1:]: t for n, t in x.items() if n.startswith(g + ".")}
                     for g in ("input", "draw"))
    step = make(cfg, params, feed, fixed, args.mode, named_ways(args.ways), False)
    plant(step)
    say(losses=step.curve(args.losses), said=step.said, adam=step.adam, compiled=step.compiled,
        captured=step.graph is not None, torch=torch.__version__)


def kernels(step, batches):
    if not step.on_gpu:
        return {"kernels": None, "busy": None}
    from torch.profiler import ProfilerActivity, profile
    steps = 10
    step.time(batches, steps)
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        step.time(batches, steps)
    work = [e for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in work)
    busy = at = 0.0
    for begin, end in spans:
        busy += max(0.0, end - max(begin, at))
        at = max(at, end)
    whole = spans[-1][1] - spans[0][0] if spans else 0.0
    names = [e.name for e in work if not e.name.startswith(("Memcpy", "Memset"))]
    return {"kernels": len(names) / steps, "busy": busy / whole if whole else None}


def serve(args):
    cfg = twin.resolve(CONFIG)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    gen = torch.Generator().manual_seed(args.seed)
    dtype = torch.float16 if args.mode == "compiled" else torch.float32
    data = twin_step.Data(cfg, args, gen, device, dtype)
    shapes = twin.parameter_shapes(cfg, args.items, args.visual, args.frames, args.text)
    first = twin.initial_parameters(cfg, shapes, gen)
    batches = [data.ids() for _ in range(8)]

    def build(mode, ways):
        params = {n: p.to(device).clone().requires_grad_(True) for n, p in first.items()}
        return make(cfg, params, lambda x: (data.inputs(x), data.draws(x)), batches[0], mode, ways,
                    True)
    ways, tried = named_ways(args.ways), {}
    if args.ways == "auto":
        ways, tried = choose(build, batches, args.mode)
    step = build(args.mode, ways)
    step.time(batches, args.warmup)
    say(ready=True, torch=torch.__version__, mode=args.mode, precision=args.precision,
        ways=step.model.ways, tried=tried, adam=step.adam, compiled=step.compiled,
        compile_s=getattr(step, "compile_s", None), captured=step.graph is not None,
        said=step.said, rows=args.rows, items=args.items)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "steps":
            seconds, loss = step.time(batches, int(words[1]))
            say(seconds=seconds, loss=loss)
        elif words[0] == "kernels":
            try:
                say(**kernels(step, batches))
            except Exception as e:  # a profiler that does not work costs its figure only
                say(kernels=None, busy=None, said=str(e)[:300])


def main():
    torch.set_num_threads(ARGS.threads)
    if ARGS.replay:
        replay(ARGS)
    else:
        serve(ARGS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
