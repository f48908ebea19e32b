"""The files of a run, read back by code that shares nothing with the program: numpy and json alone.
usage: test_files.py MPIEXEC WRITER"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

MASK = (1 << 64) - 1
SHAPES = {"item.weight": (37, 5), "norm.bias": (13,), "layer.q.weight": (5, 9),
          "layer.k.weight": (6, 9), "layer.v.weight": (7, 9), "conv.weight": (6, 4, 3),
          "big.weight": (701, 51), "users.weight": (4001, 20)}
WHICH = {"value": 0, "m": 2, "v": 3}


def expected(name, section, salt=5):
    """The pattern of toy_fill: a function of the element's global place."""
    shape = SHAPES[name]
    tensor = list(SHAPES).index(name)
    out = np.empty(int(np.prod(shape)), np.float32)
    for e in range(out.size):
        x = (e * 0x9E3779B97F4A7C15 + tensor * 31 + WHICH[section] * 7 + salt) & MASK
        x ^= x >> 29
        x = x * 0xBF58476D1CE4E5B9 & MASK
        x ^= x >> 32
        out[e] = (x - (1 << 64) if x >> 63 else x) * 1e-19
    return out.reshape(shape)


def read_safetensors(path):
    raw = open(path, "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + n])
    assert (8 + n) % 8 == 0
    meta = header.pop("__metadata__", {})
    tensors, end = {}, 0
    for name, t in sorted(header.items(), key=lambda kv: kv[1]["data_offsets"]):
        a, b = t["data_offsets"]
        assert a == end, name
        end = b
        dtype = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}[t["dtype"]]
        tensors[name] = np.frombuffer(raw, dtype, (b - a) // np.dtype(dtype).itemsize,
                                      8 + n + a).reshape(t["shape"])
    assert 8 + n + end == len(raw)
    return tensors, meta


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """Protobuf: list of (field, value); varints as int, 8 and 4 bytes and strings as bytes."""
    out, at = [], 0

    def varint():
        nonlocal at
        x = shift = 0
        while True:
            x |= (data[at] & 127) << shift
            at += 1
            if data[at - 1] < 128:
                return x
            shift += 7
    while at < len(data):
        tag = varint()
        wire = tag & 7
        if wire == 0:
            out.append((tag >> 3, varint()))
        else:
            n = {1: 8, 5: 4}.get(wire) or varint()
            assert at + n <= len(data)
            out.append((tag >> 3, data[at:at + n]))
            at += n
    return out


def read_events(path):
    raw, at, events = open(path, "rb").read(), 0, []
    while at < len(raw):
        (n, crc) = struct.unpack_from("<QI", raw, at)
        assert masked(raw[at:at + 8]) == crc
        payload = raw[at + 12:at + 12 + n]
        assert len(payload) == n
        assert struct.unpack_from("<I", raw, at + 12 + n)[0] == masked(payload)
        events.append(dict(fields(payload)))
        at += 16 + n
    return events


def check_checkpoint(folder):
    assert open(f"{folder}/latest").read() == open(f"{folder}/best").read() == "step-000000120\n"
    folder += "/step-000000120"
    m = json.load(open(f"{folder}/MANIFEST.json"))
    assert m["format"] == "mealrec-dist checkpoint" and m["version"] == 1
    assert m["config"] == {"model": {"hidden": 5}}
    assert m["state"]["step"] == 120 and m["state"]["seed"] == "0xffffffffffffffff"
    assert sorted(f["name"] for f in m["files"]) + ["MANIFEST.json"] == \
        sorted(n for n in os.listdir(folder) if n != "MANIFEST.json") + ["MANIFEST.json"]
    shards = [read_safetensors(f"{folder}/{f['name']}")[0] for f in m["files"]]
    for f in m["files"]:
        assert os.path.getsize(f"{folder}/{f['name']}") == f["bytes"]
    assert [t["name"] for t in m["tensors"]] == list(SHAPES)
    for t in m["tensors"]:
        assert tuple(t["shape"]) == SHAPES[t["name"]] and t["dtype"] == "F32"
        for section in m["sections"]:
            parts = [shards[p["file"]][f"{section}/{t['name']}"] for p in t["parts"]]
            assert [len(p) for p in parts] == [p["rows"] for p in t["parts"]]
            got = np.concatenate(parts)
            assert got.tobytes() == expected(t["name"], section).tobytes(), (section, t["name"])
    return len(m["files"])


def check(folder, ranks):
    files = check_checkpoint(f"{folder}/toy/checkpoints")
    assert files == ranks
    weights, meta = read_safetensors(f"{folder}/weights.safetensors")
    assert json.loads(meta["config"]) == {"model": {"hidden": 5}}
    assert list(weights) == list(SHAPES)
    for name, x in weights.items():
        assert x.tobytes() == expected(name, "value").tobytes(), name
    assert (np.load(f"{folder}/users.npy", allow_pickle=False) == weights["users.weight"]).all()
    assert (np.load(f"{folder}/bias.npy", allow_pickle=False) == weights["norm.bias"]).all()
    lines = [json.loads(line) for line in open(f"{folder}/toy/metrics.jsonl")]
    (name,) = [n for n in os.listdir(f"{folder}/toy") if n.startswith("events.out.tfevents.")]
    events = read_events(f"{folder}/toy/{name}")
    assert events[0][3] == b"brain.Event:2"
    scalars = {}
    for e in events[1:]:
        value = dict(fields(dict(fields(e[5]))[1]))
        assert value[1] == b"step/loss"
        scalars[e[2]] = struct.unpack("<f", value[2])[0]
    assert [line["step"] for line in lines] == list(range(0, 300, 20))
    for line in lines:
        if line["step"] == 40:
            assert line["loss"] is None and 40 not in scalars
            continue
        assert abs(line["loss"] - np.exp(-0.01 * line["step"])) < 1e-9
        assert scalars[line["step"]] == np.float32(np.exp(-0.01 * line["step"]))
    run = json.load(open(f"{folder}/toy/run.json"))
    assert len(run["starts"][0]["placement"]) == ranks


def main():
    mpiexec, writer = sys.argv[1:]
    assert crc32c(b"123456789") == 0xE3069283
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([writer, f"{tmp}/one"], check=True)
        check(f"{tmp}/one", 1)
        subprocess.run([mpiexec, "-np", "3", writer, f"{tmp}/three"], check=True)
        check(f"{tmp}/three", 3)
        a, b = (open(f"{tmp}/{n}/weights.safetensors", "rb").read() for n in ("one", "three"))
        assert a == b, "the export depends on the number of ranks"
    print("files agree")


main()
