#!/usr/bin/env python3
"""Turn item titles into text features for `mealrec-dist import --text X.npy --feature-ids X.ids`.

Reads a CSV with the columns item and title (plain, .xz or .gz), runs a text encoder that is already
on this machine (a Hugging Face model folder, or an installed Python package that ships one), takes
the mean of the last hidden states over the tokens of each title, and writes

    OUT.npy   [rows, width] float16 or float32, C order, no pickle
    OUT.ids   the item id of each row, one a line

Nothing is downloaded: the libraries are told to stay offline before they are imported.
Needs numpy, torch and transformers.

    python3 tools/encode_titles.py --titles titles.csv.xz --encoder ./all-MiniLM-L6-v2 --out titles
"""
import argparse
import csv
import gzip
import importlib.util
import lzma
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def fail(sentence, code):
    print(f"encode_titles.py: {sentence}", file=sys.stderr)
    raise SystemExit(code)


def open_text(path):
    """A text stream; compression is recognised by the first bytes."""
    try:
        with open(path, "rb") as f:
            head = f.read(6)
    except OSError as e:
        fail(f"{path} cannot be read: {e.strerror}", 66)
    opener = lzma.open if head == b"\xfd7zXZ\0" else gzip.open if head[:2] == b"\x1f\x8b" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def read_titles(path):
    ids, titles = [], []
    with open_text(path) as f:
        rows = csv.DictReader(f, strict=True)
        if not rows.fieldnames or not {"item", "title"} <= set(rows.fieldnames):
            fail(f"{path}: the first line must name the columns item and title", 65)
        try:
            for row in rows:
                if row["item"] is None or row["title"] is None:
                    fail(f"{path}: line {rows.line_num} has too few fields", 65)
                ids.append(row["item"])
                titles.append(row["title"])
        except (csv.Error, UnicodeDecodeError, EOFError, lzma.LZMAError, OSError) as e:
            fail(f"{path}: after line {rows.line_num}: {e}", 65)
    if not ids:
        fail(f"{path} holds no titles", 65)
    if len(set(ids)) != len(ids):
        twice = next(i for n, i in enumerate(ids) if i in ids[:n])
        fail(f"{path}: item {twice} has two titles", 65)
    return ids, titles


def find_encoder(name):
    """A folder with config.json, given directly or somewhere inside an installed package."""
    if Path(name).is_dir():
        roots = [Path(name)]
    else:
        module = name.replace("-", "_")
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if spec is None:
            fail(f"{name} is neither a folder nor an installed package", 66)
        roots = [Path(p) for p in spec.submodule_search_locations or []]
    for root in roots:
        for config in sorted(root.rglob("config.json"), key=lambda p: (len(p.parts), str(p))):
            folder = config.parent
            weights = ("model.safetensors", "model.safetensors.index.json")  # never a pickle
            if any((folder / w).exists() for w in weights):
                return folder
    fail(f"{name} holds no config.json with model.safetensors beside it", 66)


def encode(titles, folder, batch, max_tokens, threads):
    """[titles, width] float32: mean over the tokens, padding left out."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    if threads:
        torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    model = model.float().eval()
    limit = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    # Titles of like length together: little padding. The result goes back to the order of the file.
    order = sorted(range(len(titles)), key=lambda i: len(titles[i]))
    out = np.zeros((len(titles), model.config.hidden_size), np.float32)
    for at in range(0, len(order), batch):
        rows = order[at:at + batch]
        words = tokenizer([titles[i] for i in rows], padding=True, truncation=True,
                          max_length=limit, return_tensors="pt").to(device)
        with torch.no_grad():
            hidden = model(**words).last_hidden_state
        mask = words["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        out[rows] = ((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu().numpy()
        if sys.stderr.isatty():
            print(f"\r{min(at + batch, len(order))}/{len(order)} titles", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return out


def write(path, mode, save):
    """Temporary file beside it, then rename: a half-written file never carries the final name."""
    tmp = f"{path}.tmp-{os.getpid()}"
    try:
        with open(tmp, mode) as f:
            save(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except OSError as e:
        if os.path.exists(tmp):
            os.unlink(tmp)
        fail(f"{path} cannot be written: {e.strerror}", 74)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--titles", required=True, help="CSV with the columns item and title")
    p.add_argument("--encoder", required=True, help="folder or installed package with the model")
    p.add_argument("--out", required=True, help="makes OUT.npy and OUT.ids")
    p.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    p.add_argument("--batch", type=int, default=64, help="titles at a time")
    p.add_argument("--max-tokens", type=int, default=128, help="longer titles are cut")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0: the library decides")
    p.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    p.add_argument("--force", action="store_true", help="replace existing files")
    a = p.parse_args()
    if a.batch < 1 or a.max_tokens < 2 or a.threads < 0:
        fail("--batch must be at least 1, --max-tokens at least 2, --threads at least 0", 2)
    out = a.out[:-4] if a.out.endswith(".npy") else a.out
    for name in (out + ".npy", out + ".ids"):
        if os.path.exists(name) and not a.force:
            fail(f"{name} exists and was not touched; choose another --out or add --force", 2)
    ids, titles = read_titles(a.titles)
    folder = find_encoder(a.encoder)
    try:
        import numpy as np
        x = encode(titles, folder, a.batch, a.max_tokens, a.threads)
    except ImportError as e:
        fail(f"a Python library is missing: {e}", 66)
    if a.normalize:
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    y = x.astype(a.dtype)
    if not np.isfinite(y).all():
        fail(f"{int((~np.isfinite(y)).sum())} numbers are not finite as {a.dtype}", 65)
    write(out + ".npy", "wb", lambda f: np.save(f, y, allow_pickle=False))
    write(out + ".ids", "w", lambda f: f.writelines(i + "\n" for i in ids))
    print(f"{out}.npy: {y.shape[0]} x {y.shape[1]} {a.dtype}; {out}.ids: {len(ids)} item ids")


if __name__ == "__main__":
    main()
