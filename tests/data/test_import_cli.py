#!/usr/bin/env python3
"""import, synth and inspect as commands: files against an independent reading with NumPy and h5py,
one sentence and the documented exit code for bad input."""
import csv
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError:
    print("skipped: needs numpy and h5py")
    sys.exit(77)

BINARY = os.environ["MR_BINARY"]
DATA = Path(os.environ.get("MR_DATA", Path(os.environ["MR_SOURCE"]) / "../shared/data"))
TMP = Path(tempfile.mkdtemp(prefix="mr_import_"))


def run(*args, stdin=None):
    return subprocess.run([BINARY, *map(str, args)], capture_output=True, input=stdin)


def ok(*args, stdin=None):
    r = run(*args, stdin=stdin)
    assert r.returncode == 0, (args, r.returncode, r.stderr.decode())
    return r.stdout.decode()


def refused(code, part, *args, stdin=None):
    r = run(*args, stdin=stdin)
    lines = [x for x in r.stderr.decode().splitlines() if x.strip()]
    assert r.returncode == code, (args, r.returncode, lines)
    assert len(lines) == 1 and part in lines[0], (args, part, lines)


def id_key(ids):
    return (lambda s: (int(s), s)) if all(s.lstrip("-").isdigit() for s in ids) else str.encode


def k_core(rows, k, min_len):
    """rows: (user, item) in order. Counter-based rounds until stable."""
    while True:
        users, items = {}, {}
        for u, i in rows:
            users[u] = users.get(u, 0) + 1
            items[i] = items.get(i, 0) + 1
        keep = [(u, i) for u, i in rows if users[u] >= max(k, min_len, 1) and items[i] >= k]
        if len(keep) == len(rows):
            return rows
        rows = keep


def expected(rows, k=0, min_len=0):
    """rows (user, item, time) in file order -> users, items, offset, items array."""
    ordered = sorted(enumerate(rows), key=lambda r: (r[1][2], r[0]))  # time, then file order
    all_items = sorted({r[1] for r in rows}, key=id_key({r[1] for r in rows}))
    all_users = sorted({r[0] for r in rows}, key=id_key({r[0] for r in rows}))
    left = k_core([(u, i) for _, (u, i, _) in ordered], k, min_len)
    users = [u for u in all_users if any(u == x[0] for x in left)]
    items = [i for i in all_items if any(i == x[1] for x in left)]
    number = {i: n + 1 for n, i in enumerate(items)}
    seqs = [[number[i] for v, i in left if v == u] for u in users]
    return users, items, np.cumsum([0] + [len(s) for s in seqs]), np.array(sum(seqs, [])), all_items


def text_ids(a):
    return [bytes(r).rstrip(b"\0").decode() for r in a]


def compare(path, want):
    users, items, offset, array, _ = want
    with h5py.File(path, "r") as f:
        assert text_ids(f["user_ids"][:]) == users
        assert text_ids(f["item_ids"][:]) == items
        assert np.array_equal(f["offset"][:], offset)
        assert np.array_equal(f["items"][:], array)
        for name in f:
            assert f[name].chunks is None and f[name].compression is None
        assert f.attrs["schema"] == b"mealrec-dist" and f.attrs["schema_version"] == 1
        assert f.attrs["n_users"] == len(users) and f.attrs["n_items"] == len(items)


def random_rows(rng, kind):
    users, items = rng.randint(4, 12), rng.randint(4, 9)
    name = [lambda x: str(x * 7), lambda x: f"u{x}", lambda x: str(x - 4)][kind % 3]
    rows = [(name(rng.randrange(users)), name(rng.randrange(items)), rng.randrange(15))
            for _ in range(rng.randint(40, 90))]
    # Enough for one user to train on.
    return rows + [(name(0), name(i % items), 20) for i in range(6)] + [(name(1), name(0), 3)] * 4


def write_log(path, rows, form):
    if form == "inter":
        text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        text += "".join(f"{u}\t{i}\t3\t{t}\n" for u, i, t in rows)
    elif form == "csv":
        text = "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    elif form == "plain":
        text = "item,user\n" + "".join(f"{i},{u}\n" for u, i, t in rows)
    else:
        seqs = {}
        for u, i, _ in rows:
            seqs.setdefault(u, []).append(i)
        text = "".join(f"{u}\t{' '.join(s)}\n" for u, s in seqs.items())
    path.write_text(text)
    return rows if form in ("inter", "csv") else [(u, i, 0) for u, i, _ in rows]


def test_logs():
    rng = random.Random(5)
    done = 0
    for trial in range(24):
        form = ["inter", "csv", "plain", "pairs"][trial % 4]
        log, out = TMP / "x.log", TMP / "x.h5"
        rows = write_log(log, random_rows(rng, trial // 4), form)
        k, min_len = rng.choice([(0, 0), (2, 0), (3, 0), (3, 5), (0, 6)])
        want = expected(rows, k, min_len)
        if max(np.diff(want[2]), default=0) < 4 or len(want[0]) < 2:
            continue
        done += 1
        ok("import", "--interactions", log, "--out", out, "--k-core", k, "--min-len", min_len,
           "--force")
        compare(out, want)
        ok("inspect", out)
    assert done >= 16, done
    # The same through each compression and standard input.
    args = ("--out", out, "--k-core", 2, "--force", "--name", "x")
    ok("import", "--interactions", log, *args)
    reference = out.read_bytes()
    raw = log.read_bytes()
    (TMP / "p.xz").write_bytes(lzma.compress(raw))
    (TMP / "p.gz").write_bytes(gzip.compress(raw))
    for source, data in ((log, None), (TMP / "p.xz", None), (TMP / "p.gz", None), ("-", raw)):
        ok("import", "--interactions", source, *args, stdin=data)
        assert out.read_bytes() == reference, source
    refused(65, "compressed", "import", "--interactions", "-", *args, stdin=lzma.compress(raw))


def test_features():
    rng, g = random.Random(8), np.random.default_rng(8)
    log, out = TMP / "f.log", TMP / "f.h5"
    # Two items that the filter drops, early and in the middle of the ascending ids.
    rare = [("u1", "u00", 1), ("u2", "u2x", 2)]
    rows = write_log(log, random_rows(rng, 1) + rare, "inter")
    want = expected(rows, 3)
    items, every = want[1], want[4]
    kept = [every.index(i) for i in items]
    assert kept != list(range(len(kept))), kept
    base = ("import", "--interactions", log, "--out", out, "--k-core", 3, "--force")
    for dtype, flag, stored in (("f4", None, "f4"), ("f8", None, "f4"), ("f2", None, "f2"),
                                ("f4", "f16", "f2"), ("f2", "f32", "f4")):
        v = g.standard_normal((len(every), 3)).astype(dtype)
        f = g.standard_normal((len(every), 4, 3)).astype(dtype)
        t = g.standard_normal((len(every), 5)).astype(dtype)
        for name, x in (("v", v), ("f", f), ("t", t)):
            np.save(TMP / f"{name}.npy", x)
        extra = ("--feature-dtype", flag) if flag else ()
        ok(*base, "--visual", TMP / "v.npy", "--frames", TMP / "f.npy", "--text", TMP / "t.npy",
           *extra)
        with h5py.File(out, "r") as h:
            for name, x in (("visual", v), ("frames", f), ("text", t)):
                assert h[name].dtype == np.dtype(stored)
                assert np.array_equal(h[name][:], x[kept].astype(stored)), (name, dtype, flag)
        compare(out, want)
        # Only frames: visual is their mean.
        ok(*base, "--frames", TMP / "f.npy", *extra)
        with h5py.File(out, "r") as h:
            mean = f[kept].astype(stored).astype("f8").mean(1)
            assert np.abs(h["visual"][:] - mean).max() < (2e-3 if stored == "f2" else 1e-6)
            assert "text" not in h
    # Rows in another order, with rows of unknown items between.
    order = every + ["zzz1", "zzz2"]
    rng.shuffle(order)
    v = g.standard_normal((len(order), 3)).astype("f4")
    np.save(TMP / "v.npy", v)
    (TMP / "ids").write_text("".join(i + "\n" for i in order))
    assert "2 rows belong" in ok(*base, "--visual", TMP / "v.npy", "--feature-ids", TMP / "ids")
    with h5py.File(out, "r") as h:
        assert np.array_equal(h["visual"][:], v[[order.index(i) for i in items]])
    bad = ("--visual", TMP / "v.npy", "--feature-ids", TMP / "ids")
    refused(65, "rows but there are", *base, *bad[:2])
    (TMP / "ids").write_text("".join(i + "\n" for i in order[:-1]))
    refused(65, "", *base, *bad)
    (TMP / "ids").write_text("".join(i + "\n" for i in order if i != items[0]) + "a\nb\n")
    refused(65, f"item {items[0]}", *base, *bad)
    (TMP / "ids").write_text("".join(i + "\n" for i in order[:-1] + [items[0]]))
    refused(65, "named before", *base, *bad)
    np.save(TMP / "o.npy", np.array([{}] * len(every)).reshape(-1, 1), allow_pickle=True)
    refused(65, "pickle", *base, "--visual", TMP / "o.npy")
    np.save(TMP / "o.npy", np.asfortranarray(g.standard_normal((len(every), 3))))
    refused(65, "Fortran", *base, "--visual", TMP / "o.npy")


def test_glove():
    log, out = TMP / "g.log", TMP / "g.h5"
    log.write_text("1\t10 20 30 40\n2\t20 30 40 10\n")
    with open(TMP / "t.csv", "w", newline="") as f:
        csv.writer(f).writerows([("item", "title"), (10, 'A "red"\nfish, two'), (40, "Blue FISH"),
                                 (7, "x")])
    (TMP / "g.txt.gz").write_bytes(gzip.compress(b"red 1 0 0\nblue 0 1 0\nfish 0 0 1\n"))
    text = ok("import", "--interactions", log, "--out", out, "--k-core", 0, "--titles",
              TMP / "t.csv", "--glove", TMP / "g.txt.gz")
    assert "2 items without a title" in text
    a, b = np.array([0.5, 0, 0.5]), np.array([0, 0.5, 0.5])
    with h5py.File(out, "r") as h:
        assert np.allclose(h["text"][:], [a, (a + b) / 2, (a + b) / 2, b], atol=1e-7)


def test_files():
    out = TMP / "s.h5"
    ok("synth", "--out", out)
    reference = out.read_bytes()
    refused(2, "--force", "synth", "--out", out)
    time.sleep(1.1)  # no time of day in the file
    ok("synth", "--out", out, "--force")
    assert out.read_bytes() == reference
    ok("synth", "--out", out, "--force", "--seed", 1)
    assert out.read_bytes() != reference
    with h5py.File(out, "r") as h:
        assert h.attrs["is_synthetic"] == 1 and h.attrs["name"] == b"demo"
    assert "(synthetic)" in ok("inspect", out)
    refused(2, "demo, microlens-small", "synth", "--out", TMP / "n.h5", "--shape", "tiny")
    refused(2, "at least 4 a user", "synth", "--out", TMP / "n.h5", "--users", 4800)
    refused(2, "each of", "synth", "--out", TMP / "n.h5", "--items", 4801)
    refused(2, "2 to", "synth", "--out", TMP / "n.h5", "--frames", 1)
    refused(2, "--out", "synth")
    refused(2, "cannot be created", "synth", "--out", TMP / "no" / "n.h5")
    refused(66, "cannot be", "inspect", TMP / "none.h5")
    for command in (["synth"], ["import", "--interactions", TMP / "none"]):
        new = [*command, "--out", TMP / "n.h5", "--name"]
        refused(2, "--name is empty", *new, "")
        refused(2, "too long: 64 bytes, at most 63", *new, "n" * 64)
    if os.path.isdir("/sys/kernel"):  # where not even root makes files
        refused(74, "none.h5 cannot be created", "synth", "--out", "/sys/kernel/none.h5")
    # The folder takes the name, but not the longer temporary one: the message has the first.
    refused(74, "/" + "n" * 250 + " cannot be created", "synth", "--out", TMP / ("n" * 250))
    (TMP / "plain").write_text("hello")
    refused(65, "", "inspect", TMP / "plain")
    raw = bytearray(reference)
    raw[len(raw) // 2] ^= 1
    (TMP / "flip.h5").write_bytes(raw)
    refused(65, "checksum", "inspect", TMP / "flip.h5")
    (TMP / "cut.h5").write_bytes(reference[:-5])
    refused(65, "truncated", "inspect", TMP / "cut.h5")


def build_foreign():
    """Files that other programs could make: each breaks one rule of the schema."""
    good = TMP / "good.h5"
    ok("synth", "--out", good, "--force")

    def copy(name, change):
        path = TMP / f"{name}.h5"
        shutil.copy(good, path)
        with h5py.File(path, "r+", libver=("v110", "v110")) as b:
            change(b)
        return path

    def filtered(b):
        x = b["visual"][:]
        s = b["visual"].attrs["xxh3"]
        del b["visual"]
        b.create_dataset("visual", data=x, chunks=True, compression="gzip").attrs.create("xxh3", s)

    def external(b):
        s = b["items"].attrs["xxh3"]
        n = b["items"].shape
        (TMP / "raw").write_bytes(b["items"][:].tobytes())
        del b["items"]
        d = b.create_dataset("items", n, "i4", external=[(str(TMP / "raw"), 0, h5py.h5f.UNLIMITED)])
        d.attrs.create("xxh3", s)

    def soft(b):
        del b["text"]
        b["text"] = h5py.SoftLink("/visual")

    def outside(b):
        del b["text"]
        b["text"] = h5py.ExternalLink(str(good), "/text")

    def big_endian(b):
        x, s = b["offset"][:], b["offset"].attrs["xxh3"]
        del b["offset"]
        b.create_dataset("offset", data=x.astype(">i8")).attrs.create("xxh3", s)

    def bomb(b):
        del b["frames"]
        b.create_dataset("frames", (800, 256, 65536), "f4").attrs.create("xxh3", np.uint64(1))

    def group(b):
        del b["visual"]
        b.create_group("visual")

    def vlen_attribute(b):
        b.attrs["name"] = "demo"

    changes = {"filtered": (filtered, "contiguous"), "external": (external, "contiguous"),
               "soft": (soft, "link"), "outside": (outside, "link"),
               "big": (big_endian, "element type"),
               "bomb": (bomb, "more bytes than the file"), "group": (group, "not a dataset"),
               "extra": (lambda b: b.create_dataset("more", data=[1]), "outside the schema"),
               "vlen": (vlen_attribute, "attribute name"),
               "label": (lambda b: b.attrs.modify("is_synthetic", np.uint8(0)), "names and shapes"),
               "value": (lambda b: b["items"].__setitem__(0, 5), "checksum of items"),
               "missing": (lambda b: b.__delitem__("items"), "missing"),
               "version": (lambda b: b.attrs.modify("schema_version", np.uint32(9)), "version 9")}
    return copy, changes


def test_foreign():
    copy, changes = build_foreign()
    same = copy("same", lambda b: None)
    ok("inspect", same)  # an unchanged copy by another program is a data set
    for name, (change, part) in changes.items():
        refused(65, part, "inspect", copy(name, change))
    with h5py.File(TMP / "old.h5", "w") as f:  # the old superblock has no checksums
        f["x"] = 1
    refused(65, "superblock", "inspect", TMP / "old.h5")


def test_published():
    log = DATA / "ml-100k-recbole/ml-100k.inter.xz"
    if not log.exists():
        print("ml-100k: not here")
        return
    out = TMP / "ml.h5"
    ok("import", "--interactions", log, "--out", out, "--k-core", 0)
    with lzma.open(log, "rt") as f:
        next(f)
        a = np.array([[int(x) for x in line.split("\t")] for line in f])
    order = np.lexsort((np.arange(len(a)), a[:, 3], a[:, 0]))
    with h5py.File(out, "r") as h:
        assert np.array_equal(h["items"][:], a[order, 1])  # ids are 1..1682 without gaps
        assert np.array_equal(np.diff(h["offset"][:]), np.bincount(a[:, 0])[1:])


def main():
    try:
        for name, test in sorted(globals().items()):
            if name.startswith("test_"):
                test()
                print("ok", name)
    finally:
        subprocess.run(["rm", "-rf", str(TMP)], check=False)


if __name__ == "__main__":
    main()
