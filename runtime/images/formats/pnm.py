"""Portable anymaps (PBM, PGM, PPM; binary and plain): header and pixels.

Decoded here and not by OpenCV, which takes the values of a file whose largest is not 255 or 65535 as they are.
"""

import re
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import UInt8Array

_BLANK = rb"(?:[ \t\n\v\f\r]|#[^\n\r]*[\n\r])+"
_SIZE = re.compile(rb"P([1-6])" + _BLANK + rb"(\d{1,9})" + _BLANK + rb"(\d{1,9})")
_LARGEST = re.compile(_BLANK + rb"(\d{1,9})")
_COMMENT = re.compile(rb"#[^\n\r]*")
_MOST = 65535


class PnmHeader(NamedTuple):
    """Header of a portable anymap.

    Attributes:
        kind: The digit of the format, 1 to 6.
        width: In pixels.
        height: In pixels.
        largest: The value of white; 1 for bitmaps.
        start: Position of the pixels.
        missing: What is missing of the file, None when it is whole as far as the header tells.
        damage: What is wrong in the header, None when nothing is.
    """

    kind: int
    width: int
    height: int
    largest: int
    start: int
    missing: str | None
    damage: str | None

    @property
    def channels(self) -> int:
        """1 for bitmaps and grey images, 3 for colour."""
        return 3 if self.kind in {3, 6} else 1


def read_pnm_header(data: bytes) -> PnmHeader | None:
    """Reads the header; None where it is not one."""
    size = _SIZE.match(data)
    if size is None:
        return None
    kind, width, height = (int(text) for text in size.groups())
    largest, end = 1, size.end()
    if kind not in {1, 4}:
        found = _LARGEST.match(data, end)
        if found is None:
            return None
        largest, end = int(found[1]), found.end()
    damage = None if 0 < largest <= _MOST else f"a largest value of {largest}"
    header = PnmHeader(kind, width, height, largest, end + 1, None, damage)
    if kind < 4:
        return header
    row = (width + 7) // 8 if kind == 4 else width * header.channels * (1 if largest < 256 else 2)
    is_whole = len(data) - header.start >= row * height
    return header if is_whole else header._replace(missing="the end of the pixel data")


def decode_pnm(data: bytes) -> UInt8Array | None:
    """The pixels: (H, W, 3) uint8, BGR; None where the file is damaged."""
    header = read_pnm_header(data)
    if header is None or header.missing or header.damage:
        return None
    shape = header.height, header.width, header.channels
    count = header.height * header.width * header.channels
    if header.kind == 4:
        row = (header.width + 7) // 8
        packed = np.frombuffer(data, np.uint8, row * header.height, header.start).reshape(header.height, row)
        values = 1 - np.unpackbits(packed, axis=1)[:, : header.width].astype(np.uint16)
    elif header.kind > 4:
        values = np.frombuffer(data, np.uint8 if header.largest < 256 else ">u2", count, header.start).astype(np.uint16)
    else:
        plain = _plain_values(data[header.start :], header, count)
        if plain is None:
            return None
        values = plain
    if int(values.max(initial=0)) > header.largest:
        return None
    pixels = _to_uint8(values.reshape(shape), header.largest)
    return np.ascontiguousarray(pixels[..., ::-1] if header.channels == 3 else np.repeat(pixels, 3, axis=2))


def _plain_values(
    text: bytes, header: PnmHeader, count: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint16]] | None":
    text = _COMMENT.sub(b" ", text)
    # The digits of a plain bitmap need no blanks between them.
    words = re.findall(rb"[01]", text) if header.kind == 1 else text.split()
    if len(words) < count:
        return None
    try:
        values = np.array([int(word) for word in words[:count]], np.int64)
    except ValueError:
        return None
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= _MOST:
        return None
    return (1 - values if header.kind == 1 else values).astype(np.uint16)


def _to_uint8(values: "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]", largest: int) -> UInt8Array:
    if largest == 255:
        return values.astype(np.uint8)
    if largest < 256:
        return ((values.astype(np.uint32) * 510 + largest) // (2 * largest)).astype(np.uint8)
    # Brought to 16 bits, then the high byte, as of other 16-bit images.
    whole = (values.astype(np.uint64) * (2 * _MOST) + largest) // (2 * largest)
    return (whole >> 8).astype(np.uint8)
