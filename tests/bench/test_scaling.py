#!/usr/bin/env python3
"""bench scaling, its plot, and bench io on a small synthetic set: points, bytes, equality, files,
refusals. Times are not judged; where ranks outnumber cores there must be none."""
import json
import os
import sys
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
import harness as h  # noqa: E402

USAGE, DATA, NO_INPUT = 2, 65, 66
CORES = len(os.sched_getaffinity(0))
SVG = "{http://www.w3.org/2000/svg}"


def load(name):
    with open(os.path.join(h.folder, name)) as f:
        return json.load(f)


def scaling(name, *args, ranks):
    r = h.must(["bench", "scaling", "--data.path=s.h5", *h.SMALL, "--steps", "3", "--warmup", "1",
                "--json", name, *args], ranks)
    return load(name), r.stdout


def points(o, kind):
    return [p for p in o["points"] if p["kind"] == kind]


def check_points(ranks):
    o, out = scaling("a.json", "--strong", "32,48", "--weak", "16", ranks=ranks)
    want = [p for p in (1, 2, 4, 8) if p <= ranks]
    h.check(o["is_synthetic"] and o["job_ranks"] == ranks and "SYNTHETIC" in out, "head of %s" % o)
    for rows in (32, 48):
        series = [p for p in points(o, "strong") if p["rows"] == rows]
        h.check([p["ranks"] for p in series] == want, "strong %d: %s" % (rows, series))
        for p in series:
            h.check(p["loss_difference"] <= 1e-5, "losses differ: %s" % p)
    weak = points(o, "weak")
    h.check([(p["ranks"], p["rows"]) for p in weak] == [(p, 16 * p) for p in want], str(weak))
    blank = False
    for p in o["points"]:
        h.check((p["bytes_in"] > 0) == (p["ranks"] > 1), "bytes of %s" % p)
        h.check(p["rank_mib"] > p["step_mib"] >= 0, "memory of %s" % p)
        timed = p["ranks"] <= CORES
        blank |= not timed
        for key in ("step_s", "rows_per_s", "efficiency"):
            h.check((p[key] is not None) == timed, "%s of %s with %d cores" % (key, p, CORES))
    h.check(("times mean nothing" in out) == blank, "said about times: %s" % out)


def check_lists():
    o, _ = scaling("b.json", "--strong", "32", "--weak", "8", "--ranks", "3,1",
                   "--model.name=sasrec", ranks=3)
    h.check([p["ranks"] for p in o["points"]] == [3, 1, 3, 1], "--ranks 3,1: %s" % o["points"])
    for key, value in (("ranks", "1,4"), ("ranks", "0"), ("strong", "12x"), ("weak", ",")):
        r = h.run(["bench", "scaling", "--data.path=s.h5", *h.SMALL, "--" + key, value], 3)
        h.check(r.returncode == USAGE and r.stderr.count("error: --%s %s: a list" % (key, value))
                == 1, "--%s %s: %s %s" % (key, value, r.returncode, r.stderr))


def check_plot():
    # Times as a machine with enough cores would give, whatever this one has.
    o = load("a.json")
    for p in o["points"]:
        p.update(step_s=0.5 / p["ranks"], rows_per_s=1.0, efficiency=0.5)
    o["data"] = "a<b"
    with open(os.path.join(h.folder, "timed.json"), "w") as f:
        json.dump(o, f)
    h.must(["bench", "plot", "timed.json", "b.json", "--svg", "p.svg"])
    top = xml.parse(os.path.join(h.folder, "p.svg")).getroot()
    texts = [t.text for t in top.iter(SVG + "text")]
    for name in ("a<b, strong, 32 rows", "a<b, strong, 48 rows", "a<b, weak, 16 rows a rank"):
        h.check(texts.count(name) == 1, "the legend lacks %s: %s" % (name, texts))
    h.check("bench scaling, SYNTHETIC data" in texts, "title: %s" % texts)
    curves = [p.get("d") for p in top.iter(SVG + "path") if p.get("fill") == "none"]
    h.check(len(curves) == 10, "%d curves instead of two for each of 5 lines" % len(curves))
    # Strong 32: efficiency 0.5, so the speed-up of 2 ranks lies where that of 1 rank ideally does.
    first = curves[0].replace("M", " ").replace("L", " ").split()
    h.check(abs(float(first[3]) - (56 + 330)) < 0.11, "speed-up 1 is not at the foot: %s" % first)
    for p in o["points"]:
        p.update(step_s=None, rows_per_s=None, efficiency=None)
    with open(os.path.join(h.folder, "blank.json"), "w") as f:
        json.dump(o, f)
    h.must(["bench", "plot", "blank.json", "--svg", "q.svg"])
    with open(os.path.join(h.folder, "q.svg")) as f:
        h.check("no times: too few cores" in f.read(), "a plot without times does not say so")
    with open(os.path.join(h.folder, "odd.json"), "w") as f:
        f.write('{"bench": "step"}')
    for args, code, text in ((["odd.json", "--svg", "x"], DATA, "holds no result"),
                             (["none.json", "--svg", "x"], NO_INPUT, "none.json"),
                             (["s.h5", "--svg", "x"], DATA, "s.h5"), (["a.json"], USAGE, "--svg"),
                             (["--svg", "x"], USAGE, "bench plot wants files")):
        r = h.run(["bench", "plot", *args])
        h.check(r.returncode == code and text in r.stderr, "plot %s: exit %s, %s" % (
            args, r.returncode, r.stderr))


def check_io():
    for ranks in (0, 2):
        for read in ("parallel", "rank0"):
            h.must(["bench", "io", "--data.path=s.h5", "--data.read=" + read, "--steps", "2",
                    "--json", "io.json"], ranks)
            o = load("io.json")
            h.check(o["read"] == read and o["ranks"] == max(ranks, 1) and o["share_of_pread"] > 0
                    and o["bytes"] == os.path.getsize(os.path.join(h.folder, "s.h5")), str(o))
        r = h.run(["bench", "io", "--data.path=none.h5"], ranks)
        h.check(r.returncode == NO_INPUT and r.stderr.count("error: none.h5") == 1, r.stderr)
    r = h.run(["bench", "io"])
    h.check(r.returncode == USAGE and "--data.path" in r.stderr, r.stderr)


def main():
    h.synth("s.h5", users=60, items=50, interactions=500)
    check_points(4)
    check_lists()
    check_plot()
    check_io()
    h.finish()


if __name__ == "__main__":
    sys.exit(main())
