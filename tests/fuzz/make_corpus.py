#!/usr/bin/env python3
"""Makes tests/fuzz/corpus again: inputs that mutation alone does not reach, among them those that
found something.

h5/tree (kept as the driver made it) crashes HDF5 1.10.8 in a B-tree of attributes;
manifest/overflow is a sum of rows beyond 2^63; inter/{gz,xz,cut.gz} are compressed logs; npy/pickle
is an object array."""
import gzip
import lzma
import os

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
LOG = b"user_id:token\titem_id:token\ttimestamp:float\n" + b"".join(
    b"%d\t%d\t%d\n" % (u, i, 9 - i) for u in range(4) for i in range(u, u + 5))
OVERFLOW = """{"format": "mealrec-dist checkpoint", "version": 1, "world_size": 1, "dtype": "F32",
"sections": ["value"], "state": {"step": 1, "epoch": 0, "batch_in_epoch": 0, "rows_seen": 0,
"best_epoch": -1, "best_step": 0, "bad_evals": 0, "skipped_in_row": 0, "best_metric": 0.5,
"seconds": 1.0, "is_finished": false, "seed": "0x0000000000000001",
"config_hash": "0x0000000000000001", "data_checksum": "0x0000000000000001",
"epoch_sums": [0, 0, 0, 0, 0, 0, 0, 0]},
"files": [{"name": "a", "bytes": 1, "xxh3_128": "0"}], "config": null,
"tensors": [{"name": "x", "dtype": "F32", "shape": [9223372036854775807], "parts": [
{"file": 0, "row0": 0, "rows": 9223372036854775807},
{"file": 0, "row0": 9223372036854775807, "rows": 9223372036854775807}]}]"""


def put(name, content):
    path = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(content)


def main():
    put("manifest/overflow", OVERFLOW.encode())
    packed = gzip.compress(LOG, mtime=0)
    put("inter/gz", packed)
    put("inter/cut.gz", packed[:-9])
    put("inter/xz", lzma.compress(LOG))
    put("npy/pickle", b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n")


main()
