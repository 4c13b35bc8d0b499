#!/usr/bin/env python3
"""Reads a checkpoint by docs/formats/checkpoint.md, with nothing of lorad: only Python and the zstd program.

    python3 tests/golden/read_checkpoint.py CHECKPOINT VALUES

Writes every logical tensor to VALUES: a line of JSON, [[name, dtype, rows, columns], ...] in order of name, then the items of
all of them, row by row, little-endian. tests/golden/gen_checkpoint.sh calls it.
"""
import json
import pathlib
import struct
import subprocess
import sys

ITEM = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}


def frames(data, start, end):
    """The zstd frames in data[start:end], decompressed one by one: the program takes several as one stream."""
    return subprocess.run(["zstd", "-dc"], input=data[start:end], stdout=subprocess.PIPE, check=True).stdout


def pieces(path):
    data = path.read_bytes()
    length, mark = struct.unpack_from("<Q8s", data, len(data) - 16)
    assert mark == b"LoraShd1", f"{path}: no mark"
    index_at = len(data) - 16 - length
    magic, contents = struct.unpack_from("<II", data, index_at - 8)
    assert magic == 0x184D2A5E and contents == length + 16, f"{path}: no index frame"
    at = 0
    for entry in json.loads(data[index_at:index_at + length]):
        planes = frames(data, at, at + entry["bytes"])
        at += entry["bytes"]
        item, n = ITEM[entry["dtype"]], entry["rows"][1] * entry["cols"][1]
        raw = bytearray(n * item)
        for plane in range(item):
            raw[plane::item] = planes[plane * n:(plane + 1) * n]
        yield entry, bytes(raw)
    assert at == index_at - 8, f"{path}: frames and index do not touch"


def tensors(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["format"] == "lorad-checkpoint" and manifest["version"] == 1
    whole = {}
    for shard in reversed(manifest["shards"]):  # of copies the lowest rank's stays
        for entry, raw in pieces(folder / shard["name"]):
            rows, cols = entry["shape"]
            item = ITEM[entry["dtype"]]
            dtype, shape, to = whole.setdefault(entry["name"], (entry["dtype"], entry["shape"], bytearray(rows * cols * item)))
            assert dtype == entry["dtype"] and shape == entry["shape"]
            (row, n_rows), (col, n_cols) = entry["rows"], entry["cols"]
            for i in range(n_rows):
                start = ((row + i) * cols + col) * item
                to[start:start + n_cols * item] = raw[i * n_cols * item:(i + 1) * n_cols * item]
    return whole


def main():
    folder, values = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    whole = tensors(folder)
    names = sorted(whole)
    with values.open("wb") as out:
        out.write(json.dumps([[name, whole[name][0], *whole[name][1]] for name in names]).encode() + b"\n")
        for name in names:
            out.write(whole[name][2])
    print(f"{len(names)} tensors")


if __name__ == "__main__":
    main()
