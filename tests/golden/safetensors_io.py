"""Read and write safetensors files with numpy alone.

Layout: 8 bytes little-endian length n, n bytes of JSON header, then the data. A header entry is
{"dtype", "shape", "data_offsets": [begin, end)} with offsets counted from the end of the header;
the optional "__metadata__" maps strings to strings.
"""
import json

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
          "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(v): k for k, v in DTYPES.items()}


def load(path):
    """({name: array}, {metadata}). Raises ValueError where the file is not consistent."""
    with open(path, "rb") as f:
        raw = f.read()
    if len(raw) < 8:
        raise ValueError("%s: %d bytes are too few for a safetensors file" % (path, len(raw)))
    n = int.from_bytes(raw[:8], "little")
    if n > len(raw) - 8:
        raise ValueError("%s: header of %d bytes in a file of %d" % (path, n, len(raw)))
    header = json.loads(raw[8:8 + n].decode("utf-8"))
    meta = header.pop("__metadata__", {})
    data = memoryview(raw)[8 + n:]
    out, used = {}, []
    for name, e in header.items():
        begin, end = e["data_offsets"]
        dtype = np.dtype(DTYPES[e["dtype"]])
        count = int(np.prod(e["shape"], dtype=np.int64))
        if not 0 <= begin <= end <= len(data) or end - begin != count * dtype.itemsize:
            raise ValueError("%s: %s has offsets %d..%d, shape %s, dtype %s, data of %d bytes" % (
                path, name, begin, end, e["shape"], e["dtype"], len(data)))
        used.append((begin, end))
        out[name] = np.frombuffer(data[begin:end], dtype).reshape(e["shape"])
    at = 0
    for begin, end in sorted(used):  # the format allows neither holes nor overlaps
        if begin != at:
            raise ValueError("%s: data has a hole or an overlap at offset %d" % (path, at))
        at = end
    if at != len(data):
        raise ValueError("%s: %d bytes after the last tensor" % (path, len(data) - at))
    return out, meta


def save(path, tensors, metadata=None):
    header, at, parts = {}, 0, []
    if metadata:
        header["__metadata__"] = {k: str(v) for k, v in metadata.items()}
    for name in sorted(tensors):
        a = np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name]))
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape),
                        "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
        parts.append(a.tobytes())
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(parts))
