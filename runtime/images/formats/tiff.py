"""Damage inside TIFF files that OpenCV decodes without a word: libtiff goes on behind strips that it cannot unpack."""

import struct
import zlib
from collections.abc import Sequence

# Adobe's number for Deflate and an older one (TIFF 6.0 supplement 2), whose strips and tiles end with a checksum.
_DEFLATE = frozenset((8, 32946))
_COMPRESSION, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 259, 273, 279, 324, 325
# By type: SHORT, LONG.
_FORMATS = {3: "H", 4: "I"}


def has_damaged_strip(data: bytes) -> bool:
    """Whether a strip or tile of the first image does not unpack to what was packed; known of Deflate alone, which has checksums.

    Args:
        data: The file.
    """
    try:
        compression = _values(data, _COMPRESSION)
        if not compression or compression[0] not in _DEFLATE:
            return False
        offsets = _values(data, _TILES) or _values(data, _STRIPS)
        lengths = _values(data, _TILE_BYTES) or _values(data, _STRIP_BYTES)
    except struct.error:
        return True
    if not offsets or len(offsets) != len(lengths):
        return True
    # A tile of no bytes is one that was never written, which is read as zeros.
    return not all(
        _unpacks(data[offset : offset + length]) for offset, length in zip(offsets, lengths, strict=True) if length
    )


def _unpacks(packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        while packed and not unpacker.eof:
            unpacker.decompress(packed, 1 << 20)
            packed = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return unpacker.eof


def _values(tiff: bytes, wanted: int) -> Sequence[int]:
    """The integers of a tag in a TIFF structure's first directory, none where it has no such tag.

    Raises:
        struct.error: It ends before them.
    """
    order = "<" if tiff[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, entry)
        if tag != wanted or kind not in _FORMATS:
            continue
        values = f"{order}{number}{_FORMATS[kind]}"
        if number > len(tiff):
            raise struct.error("more values than bytes")
        # What does not fit into the entry stands elsewhere.
        start = entry + 8 if struct.calcsize(values) <= 4 else struct.unpack_from(order + "I", tiff, entry + 8)[0]
        return struct.unpack_from(values, tiff, start)
    return ()
