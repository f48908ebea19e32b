#!/usr/bin/env python3
"""tools/encode_titles.py with a tiny random BERT made on the spot, against a mean computed title by
title. Skipped where torch or transformers is missing."""
import csv
import importlib.util
import lzma
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
if any(importlib.util.find_spec(m) is None for m in ("numpy", "torch", "transformers")):
    print("skipped: needs numpy, torch and transformers")
    sys.exit(77)
import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

TOOL = Path(os.environ["MR_SOURCE"]) / "tools" / "encode_titles.py"
TITLES = ["red fish", "a", "blue red fish a , a fish red", "", "fish 中"]


def run(*args):
    command = [sys.executable, str(TOOL), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def make_encoder(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "fish", ","]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(1)
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    model = BertModel(BertConfig(vocab_size=10, hidden_size=12, num_hidden_layers=2,
                                 num_attention_heads=2, intermediate_size=16,
                                 max_position_embeddings=8)).eval()
    model.save_pretrained(folder, safe_serialization=True)
    return tokenizer, model


def main():
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        (d / "enc").mkdir()
        tokenizer, model = make_encoder(d / "enc")
        with lzma.open(d / "t.csv.xz", "wt", newline="") as f:
            rows = [(10 * i, t) for i, t in enumerate(TITLES)]
            csv.writer(f).writerows([("item", "title")] + rows)
        args = ("--titles", d / "t.csv.xz", "--encoder", d / "enc", "--out", d / "o",
                "--dtype", "float32")
        r = run(*args, "--batch", 2, "--threads", 1)
        assert r.returncode == 0, r.stderr
        x = np.load(d / "o.npy")
        assert x.shape == (5, 12) and x.dtype == np.float32
        assert (d / "o.ids").read_text() == "0\n10\n20\n30\n40\n"
        for i, title in enumerate(TITLES):  # one at a time: no padding; cut at 8 tokens
            t = tokenizer(title, return_tensors="pt", truncation=True, max_length=8)
            with torch.no_grad():
                want = model(**t).last_hidden_state[0].mean(0).numpy()
            assert np.abs(x[i] - want).max() < 1e-5, (title, np.abs(x[i] - want).max())
        r = run(*args)
        assert r.returncode == 2 and "--force" in r.stderr
        r = run(*args, "--force", "--normalize", "--dtype", "float16")
        assert r.returncode == 0, r.stderr
        y = np.load(d / "o.npy")
        assert y.dtype == np.float16
        assert np.abs(np.linalg.norm(y.astype("f4"), axis=1) - 1).max() < 2e-3
        bad = ("--titles", d / "bad.csv", "--out", d / "p", "--encoder")
        for text in ("id,name\n1,2\n", "item,title\n1,a\n1,b\n", "item,title\n"):
            (d / "bad.csv").write_text(text)
            r = run(*bad, d / "enc")
            assert r.returncode == 65 and len(r.stderr.splitlines()) == 1, r.stderr
        (d / "bad.csv").write_text("item,title\n1,a\n")
        assert run(*bad, "no_such_pkg").returncode == 66
        (d / "bad.csv").unlink()
        assert run(*bad, d / "enc").returncode == 66
        assert not (d / "p.npy").exists()
    print("ok")


if __name__ == "__main__":
    main()
