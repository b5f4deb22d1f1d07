"""PyTorch weights, pictures and tables that nobody should trust."""

import pickle
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.robustness.hostile_files.keras_files import archive_of
from benchmarks.robustness.hostile_files.sandbox import Drawing, Kind
from benchmarks.robustness.hostile_files.specs import WRONG, any_text


def _torch_code(draw: Drawing) -> Path:
    """A pickle that runs code: alone, in a legacy file, in the archive of later versions."""
    match int(draw.rng.integers(4)):
        case 0:
            return draw.write("weights.pth", draw.pickled())
        case 1:
            return draw.write(
                "weights.pth", archive_of({"archive/data.pkl": draw.pickled(), "archive/version": b"3\n"})
            )
        case 2:
            return draw.write("weights.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + draw.pickled())
        case _:
            return draw.write("weights.pth", draw.bases.torch[:-1] + draw.pickled())


def _torch_wrong(draw: Drawing) -> Path:
    """What the pickles of a legacy file must not be: other values, deep ones, ones that refer to themselves."""
    deep: Any = []
    for _ in range(int(draw.rng.integers(1, 400))):
        deep = [deep]
    around: dict[str, Any] = {}
    around["a"] = around
    values = (*WRONG, deep, around, {"a": (1, 2)}, ["0"], [[]], {"x": None})
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), *(pickle.dumps(draw.one(values), 2) for _ in range(4))]
    return draw.write("weights.pth", b"".join(parts) + draw.rng.bytes(64))


def _torch_damaged(draw: Drawing) -> Path:
    return draw.write("weights.pth", draw.damaged(draw.bases.torch))


def _png(width: int, height: int, rows: bytes, *, chunks: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _picture(draw: Drawing) -> Path:
    draw.write("good.png", draw.bases.picture)
    huge = int(draw.one((20_000, 100_000, 2**31 - 1)))
    svg = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{draw.box.outside}/secret.txt">]><svg>&e;</svg>'
    text = bytes([0, *b"zTXt", 0, 0]) + zlib.compress(bytes(50_000_000))
    writes: tuple[tuple[str, bytes], ...] = (
        ("bomb.png", _png(30_000, 30_000, bytes(10_000_000))),
        ("huge.png", _png(huge, huge, b"")),
        ("none.png", _png(0, 0, b"")),
        ("text.png", _png(4, 4, bytes(52), chunks=((b"zTXt", text), (b"iCCP", draw.rng.bytes(300))))),
        ("entity.svg", svg.encode()),
        ("entity.png", svg.encode()),
        ("pickle.jpg", draw.pickled()),
        ("array.png", b"\x93NUMPY" + draw.rng.bytes(100)),
        ("loop.tif", b"II*\0" + struct.pack("<IHHHIII", 8, 1, 256, 4, 1, 10, 8)),
        ("video.png", b"\0\0\0\x18ftypisom" + draw.rng.bytes(500)),
        ("list.jpg", f"ffconcat version 1.0\nfile '{draw.box.outside}/secret.png'\n".encode()),
        ("list.png", f"#EXTM3U\n#EXTINF:1,\nfile://{draw.box.outside}/secret.png\n".encode()),
        (f"{draw.one(('a;b', 'a$(touch x)', '-rf', chr(27) + '[31m', 'a' + chr(10) + 'b', '%s%n'))}.png", b"\x89PNG"),
        ("damaged.png", draw.damaged(draw.bases.picture)),
    )
    draw.write(*draw.one(writes))
    return draw.folder


def _table(draw: Drawing) -> Path:
    for number in range(6):
        draw.write(f"{number}.png", draw.bases.picture)
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(6)]
    # Not the paths of `Drawing.way_out`: naming pictures elsewhere is what tables are for.
    bad = draw.one(
        (
            "=cmd|' /C touch x'!A1,a",
            '"=HYPERLINK(""file:///x"")",a',
            "\x1b]0;owned\x07.png,a",
            f"0.png,{any_text(draw.rng)}",
            f"{any_text(draw.rng)},b",
            f"{'x' * 5_000}.png,a",
            f"0.png,{'y' * 1_000_000}",
            "\\\\server\\share\\0.png,a",
            "http://127.0.0.1:9/0.png,a",
            "/dev/zero,a",
            "/dev/stdin,a",
            "0.png\0,a",
            ",".join(["0.png", "a", *["z"] * 50_000]),
            '"' + "0.png\n" * 20_000,
        )
    )
    rows.insert(int(draw.rng.integers(len(rows) + 1)), str(bad))
    head = draw.one(("path,label", "path,label,split", "path,label,path", "p\0th,label", ""))
    text = "\n".join([str(head), *rows]) + "\n"
    data = text.encode("utf-8", "surrogateescape")
    return draw.write("table.csv", draw.damaged(data) if draw.rng.random() < 0.3 else data)


OTHERS: Mapping[str, Kind] = {
    "pth: code": _torch_code,
    "pth: values of wrong types": _torch_wrong,
    "pth: damaged": _torch_damaged,
    "image": _picture,
    "csv": _table,
}
