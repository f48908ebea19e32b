#!/usr/bin/env python3
"""Tests of the figures of a GPU (figures.py) on a machine without one: that all of them can be
taken, with tiny sizes, and that a wrong count or a peer that cheats is found. No figure counts.

1. The count of operations (flops.py) is the table of docs/gpu.md; every planted error is found.
2. All parts run (skipped, 77, where no Python has torch), every figure is there, and the table says
   that nothing was measured.
3. A peer that leaves out Adam, or learns at another rate, fails the comparison of losses.
4. The table says which targets are met and which are not, where there is a GPU.
5. What a run leaves behind has what failed, in few small files.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "train")]
import figures  # noqa: E402
import flops  # noqa: E402
import harness as h  # noqa: E402

ROWS = {"sequence encoder": "sequence encoder", "temporal encoder": "temporal encoder",
        "U-Net, convolutions": "U-Net, convolutions", "U-Net, time": "U-Net, time",
        "U-Net, cross-attention": "U-Net, cross-attention", "NPD": "NPD", "item head": "item head",
        "TedRec's": "TedRec"}


def table_of_docs():
    """{first words: [(forward, both), ...]} of the table of floors, in GFLOP."""
    out = {}
    with open(os.path.join(HERE, "..", "..", "docs", "gpu.md")) as f:
        text = f.read().split("## Floors for the widths")[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [c.strip().replace("*", "").replace(",", "") for c in line.split("|")[1:-1]]
        if len(cells) == 3 and re.match(r"[\d.]+( / [\d.]+)?$", cells[1]):
            out[cells[0]] = [[float(x) for x in c.split(" / ")] for c in cells[1:]]
    return out


def differences():
    """Where flops.py and the table differ by more than its rounding and a half percent."""
    docs, bad, seen = table_of_docs(), [], 0
    for name, (fwd, both) in docs.items():
        for i, value in enumerate(fwd):
            items = (18700, 122845)[i]
            z = dict(flops.FIGURES, items=items)
            if name.startswith("sum"):
                backbone = "tedrec" if "TedRec" in name else "sasrec"
                own = (sum(flops.forward(z, backbone).values()), flops.total(z, backbone))
            else:
                part = next(p for w, p in ROWS.items() if name.startswith(w.replace(",", "")))
                own = (flops.forward(z, "tedrec")[part], flops.step(z, "tedrec")[part])
            for what, want, got in zip(("forward", "both"), (value, both[i]), own):
                seen += 1
                if not abs(1e-9 * got - want) <= 0.006 * want + 0.06:
                    bad.append("%s, %s, %d items: %.2f here, %.2f there" % (
                        name, what, items, 1e-9 * got, want))
    if seen < 24:
        bad.append("only %d numbers were found in docs/gpu.md" % seen)
    return bad


def counts():
    bad = differences()
    h.check(not bad, "flops.py and docs/gpu.md: %s" % bad)
    for name, value in (("convolutions", lambda z: 0), ("time_and_film", lambda z: 1),
                        ("layer", lambda n, k, w, i: n * (6 * w * w + 4 * k * w + 4 * w * i)),
                        ("cross_attention", lambda z: 2031616)):
        real = getattr(flops, name)
        setattr(flops, name, value)
        h.check(differences(), "a wrong count of %s is not found" % name)
        setattr(flops, name, real)


def torch_python():
    for path in (os.environ.get("MR_TORCH_PYTHON"), sys.executable, "/usr/bin/python3"):
        if path and subprocess.run([path, "-c", "import torch, numpy"],
                                   stderr=subprocess.DEVNULL).returncode == 0:
            return path
    return None


def checks(python, keep, *words):
    """(exit code, output) of gpu_checks.py on the guard device."""
    r = subprocess.run([sys.executable, os.path.join(HERE, "gpu_checks.py"), os.path.dirname(
        h.BINARY), "--device", "guard", "--python", python, "--keep", keep, "--json",
        os.path.join(keep, "results.json"), *words], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    return r.returncode, r.stdout


# Beginnings of what the table must have.
WANTED = ["rate bf16", "rate copy", "share bf16 18,700 tedrec", "share bf16 18,700 sasrec",
          "share tf32 18,700 tedrec", "step bf16 122,845 sasrec", "launches tedrec",
          "host time tedrec", "item head 18,700", "item head 122,845", "temporal encoder", "U-Net",
          "Adam 18,700", "Adam 122,845", "device memory MicroLens-small",
          "device memory MicroLens-big", "epoch MicroLens-big", "evaluation", "start to first step",
          "losses agree, fp32 tedrec", "losses agree, bf16 sasrec", "torch eager tf32 / ours bf16",
          "torch eager tf32 / ours tf32", "torch graph bf16 / ours bf16, tedrec",
          "torch graph bf16 / ours bf16, sasrec", "torch step graph bf16"]


def all_parts(python, keep):
    code, text = checks(python, keep, "--only", "figures")
    h.check(code == 0, "the figures cannot be taken: %s" % text[-3000:])
    h.check("NO MEASUREMENT" in text, "the table does not say that it is no measurement")
    with open(os.path.join(keep, "figures.json")) as f:
        o = json.load(f)
    for name in WANTED:
        found = [r for r in o["rows"] if r["figure"].startswith(name)]
        known = found and (found[0]["value"] is not None or name.startswith("host time"))
        h.check(known, "no figure %s" % name)
    h.check(not o["is_measurement"] and all(r["met"] is None for r in o["rows"]),
            "a figure without a GPU is said to be met or not")
    h.check(not any("VOID" in r["note"] for r in o["rows"]), "losses were not compared first")
    h.check(all(r["value"] != r["value"] or r["value"] is None or r["value"] >= 0
                for r in o["rows"]), "a figure below 0")
    parts = [r["value"] for r in o["rows"] if r["figure"].startswith("part ")]
    step = next(r["value"] for r in o["rows"] if r["figure"].startswith("step bf16 18,700 tedrec"))
    h.check(len(parts) > 10 and 0.05 * step < sum(parts) < 20 * step,
            "parts of %.3g ms in all of a step of %.3g ms" % (sum(parts), step))
    code, text = checks(python, keep, "--only", "figures")
    h.check(code == 0 and "ok  " not in text and "NO MEASUREMENT" in text,
            "what was taken is taken again: %s" % text[-300:])
    files = {n: os.path.getsize(os.path.join(keep, n)) for n in os.listdir(keep)}
    h.check(len(files) <= 8 and max(files.values()) < 16 << 20 and "log.txt" in files,
            "left behind: %s" % files)


def cheats(python, keep):
    for bug in ("skip-adam", "other-rate"):
        checks(python, keep, "--only", "figures_agree", "--again", "--bug", bug)
        with open(os.path.join(keep, "results.json")) as f:
            rows = json.load(f)["figures_agree"]["rows"]
        found = [" fp32 " in r["figure"] and not r["value"] <= r["most"] for r in rows]
        h.check(len(found) == len(figures.BACKBONES) and all(found),
                "a peer with the bug %s agrees: %s" % (bug, rows))


def what_failed(python, keep):
    """A figure that cannot be taken: named, with the program's words, and the others go on."""
    broken = os.path.join(keep, "broken.sh")
    with open(broken, "w") as f:
        f.write("#!/bin/sh\necho a card that does not answer >&2\nexit 3\n")
    os.chmod(broken, 0o755)
    code, text = checks(broken, keep, "--only", "figures_rates", "figures_memory", "--again")
    h.check(code == 1 and "a card that does not answer" in text and "ok   figures_memory" in text,
            "a failure is not told: %s" % text)
    with open(os.path.join(keep, "log.txt")) as f:
        h.check("a card that does not answer" in f.read(), "the log lacks the failure")


def words_of_the_table():
    rows = [figures.row("fast", 2.0, "ms", most=3.0), figures.row("slow", 4.0, "ms", most=3.0),
            figures.row("share", 49.9, "%", least=50), figures.row("plain", 1.0, "s")]
    h.check([r["met"] for r in rows] == [True, False, False, None], "what is met")
    text = figures.table(rows, "title", True)
    h.check("NO MEASUREMENT" not in text and text.count(" yes ") == 1 and text.count(" NO ") == 2,
            "the table: %s" % text)
    h.check(figures.row("nan", float("nan"), "ms", most=3.0)["met"] is False, "NaN is met")


def main():
    counts()
    words_of_the_table()
    python = torch_python()
    if h.failures or not python:
        print("" if python else "skipped: no Python with torch and numpy")
        sys.exit(1 if h.failures else 77)
    keep = tempfile.mkdtemp(prefix="figures-")
    try:
        all_parts(python, keep)
        cheats(python, keep)
        what_failed(python, keep)
    finally:
        shutil.rmtree(keep, ignore_errors=True)
    h.finish()


if __name__ == "__main__":
    main()
