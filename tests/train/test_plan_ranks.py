#!/usr/bin/env python3
"""plan --ranks and --machine: bytes against what bench comm counts, operations against a formula
written here, times against machines of which all parts but one are free."""
import json
import os
import re

import harness as h

FREE = {"ranks_per_node": 8, "products": 1e30, "memory": 1e30, "update": 1e30, "fixed": 0,
        "contention": 1, "capacity": 1e12, "node_alpha": 0, "node_beta": 1e30, "net_alpha": 0,
        "net_alpha_log2": 0, "net_beta": 1e30, "overlap": 0}


def machine(name="machine.yaml", text="", **parts):
    path = os.path.join(h.folder, name)
    with open(path, "w") as f:
        f.write("name: test\nbasis: made up\n")
        for k, v in dict(FREE, **parts).items():
            if v is not None:
                f.write("%s: %r\n" % (k, v))
        f.write(text)
    return path


def plan(data, *args):
    return h.must(["plan", "--data.path=" + data] + h.SMALL + list(args)).stdout


def collectives(text):
    """{purpose: (calls, bytes inside, bytes between nodes, ms or None)}"""
    rows = re.findall(r"^([A-Z_]+) +\w+ +\w+ +(\d+) +(\d+) +(\d+)(?: +([\d.]+))?$", text, re.M)
    return {r[0]: (int(r[1]), int(r[2]), int(r[3]), float(r[4]) if r[4] else None) for r in rows}


def number(pattern, text):
    return float(re.search(pattern, text).group(1))


def step_ms(text):
    return number(r"modelled step ([\d.]+) ms", text)


def check_bytes(data, p, g):
    """Dense gradients exactly; what depends on the rows of a rank, in the mean of the ranks."""
    out = os.path.join(h.folder, "check.json")
    keys = ["--dist.item_shard=%d" % g, "--dist.bucket_mb=0.01", "--model.name=cl4srec"]
    said = collectives(plan(data, "--ranks=%d" % p, *keys))
    h.must(["bench", "comm", "--check", "--steps=1", "--json=" + out, "--data.path=" + data]
           + h.SMALL + keys, p)
    with open(out) as f:
        counts = json.load(f)["counts"]
    h.check({c["purpose"] for c in counts} == set(said), "%d/%d: purposes %s" % (p, g, set(said)))
    for purpose, (calls, node, net, _) in said.items():
        mine = [c for c in counts if c["purpose"] == purpose]
        mean = sum(c["bytes_in"] for c in mine) / p
        share = 0 if purpose in ("DENSE_GRADS", "TABLE_NORM", "ROW_COUNTS") else 0.2
        h.check(calls == mine[0]["calls"] and net == 0 and abs(node - mean) <= share * mean,
                "%d/%d: %s is said to be %s, counted %.0f" % (p, g, purpose, said[purpose], mean))


def check_operations(data):
    """One layer of SASRec on histories of one item: every product is on B rows."""
    d, inner, B, V = 12, 16, 64, 91
    text = plan(data, "--ranks=1", "--model.name=sasrec", "--model.layers=1", "--data.max_len=1")
    dense = 2 * B * (d * d + d * 2 * d + d * d + 2 * d * inner)
    want = dense * 3 + 6 * B * V * d
    said = 1e9 * number(r"in matrix products ([\d.]+)", text)
    h.check(abs(said - want) <= 1000, "products: %d said, %d by formula" % (said, want))


def check_times(data):
    keys = ["--model.name=sasrec", "--dist.item_shard=2", "--train.batch=150"]
    products = plan(data, *keys, "--ranks=2", "--machine=" + machine(products=1e9))
    flops = number(r"in matrix products ([\d.]+)", products)
    h.check(abs(step_ms(products) - 1e3 * flops) <= 1, "products alone: %s" % products)
    slow = plan(data, *keys, "--ranks=8", "--machine=" + machine(products=1e9, contention=3))
    fast = plan(data, *keys, "--ranks=8", "--machine=" + machine(products=1e9))
    h.check(abs(step_ms(slow) / step_ms(fast) - 3) < 0.01, "a full node: %s %s" % (slow, fast))
    latency = plan(data, *keys, "--ranks=2", "--machine=" + machine(node_alpha=1e-3))
    calls = sum(c[0] for c in collectives(latency).values())
    h.check(abs(step_ms(latency) - calls) < 1e-3, "latency alone: %s" % latency)
    link = plan(data, *keys, "--ranks=8", "--nodes=4", "--machine=" + machine(net_beta=1e6))
    net = sum(c[2] for c in collectives(link).values())
    h.check(net > 0 and abs(step_ms(link) - 1e-3 * net) < 0.01, "links alone: %s" % link)
    # What is hidden is at most the sums of dense gradients and at most backward.
    hidden = plan(data, *keys, "--ranks=8", "--machine=" + machine(
        node_beta=1e6, products=1e9, overlap=1))
    dense = collectives(hidden)["DENSE_GRADS"][3]
    back = number(r"backward ([\d.]+), update", hidden)
    h.check(abs(number(r"beside ([\d.]+) hidden", hidden) - min(dense, back)) < 1e-3, hidden)


def check_refusals(data):
    def refused(path, *words):
        r = h.run(["plan", "--ranks=2", "--machine=" + path, "--data.path=" + data] + h.SMALL)
        h.check(r.returncode == (66 if "missing.yaml" in path else 78) and all(
            w in r.stderr for w in words), "%s: exit %s, %s" % (path, r.returncode, r.stderr))
    refused("missing.yaml", "missing.yaml")
    refused(machine(net_beta=None), "net_beta", "missing")
    refused(machine(products=0), "products", ":4")
    refused(machine(contention=0.5), "contention")
    refused(machine(text="speed: 3\n"), "'speed'", ":16")
    refused(machine(text="fixed: 0\n"), "fixed is given twice")
    refused(machine(text="links:\n  - 3\n"), "name: number")
    r = h.run(["plan", "--ranks=6", "--nodes=4", "--data.path=" + data] + h.SMALL)
    h.check(r.returncode == 78 and "6 ranks" in r.stderr and "4 nodes" in r.stderr, r.stderr)


def check_machines(data):
    """The machines of the repository, up to 1,024 ranks."""
    folder = os.path.join(os.environ["MR_SOURCE"], "configs", "machines")
    names = sorted(os.listdir(folder))
    h.check({"a100.yaml", "hgx-h200-infiniband.yaml", "two-core-cpu.yaml"} <= set(names), names)
    for name in names:
        times = []
        for p, nodes in ((1, 1), (8, 1), (64, 8), (1024, 128)):
            text = plan(data, "--ranks=%d" % p, "--nodes=%d" % nodes,
                        "--machine=" + os.path.join(folder, name))
            times.append(step_ms(text))
            h.check(("DENSE_GRADS" in text) == (p > 1), text)
        h.check(all(t > 0 for t in times) and times[3] > times[2], "%s: %s" % (name, times))


def main():
    data = h.synth("small.h5", interactions=3000)
    check_bytes(data, 4, 4)
    check_bytes(data, 4, 2)
    check_bytes(data, 2, 1)
    check_operations(data)
    check_times(data)
    check_refusals(data)
    check_machines(data)
    h.finish()


if __name__ == "__main__":
    main()
