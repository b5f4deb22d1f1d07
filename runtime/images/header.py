"""Image headers, read before any pixel is decoded: format, size, orientation, and whether the file is whole.

Decoders allocate before they look (a 50,000 x 50,000 PNG of one colour is a few kilobytes on disk and 7.5 GB in
memory), some fill what is missing of a truncated file with grey and say nothing, and which formats obey the EXIF
orientation differs between versions. So the header is read here, once, from the bytes.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

from edgeclf.runtime.images.formats.heif import begins_like_heif, heif_size
from edgeclf.runtime.images.formats.pnm import read_pnm_header

# JPEG: a marker that ends a run of entropy-coded data. 0xFF00 is a stuffed byte, 0xFFD0-D7 restart markers, 0xFFFF fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION_TAG = 0x0112
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_GREY_PNG = 0
# Of a BMP's pixels that are not compressed: channels as usual, or told apart by masks.
_BMP_MASKED = frozenset((3, 6))
# Of TIFF 6.0 and its supplements. Photometric interpretations CIELab, ICCLab and ITULab; compressions: none, CCITT, LZW, JPEG, Deflate, PackBits; and those that libtiff is often built without.
_TIFF_LAB = frozenset((8, 9, 10))
_TIFF_COMPRESSIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946))
_RARE_COMPRESSIONS = {
    34712: "by JPEG 2000",
    34887: "by LERC",
    34925: "by LZMA",
    50000: "by Zstandard",
    50001: "by WebP",
    50002: "by JPEG XL",
}
_PNM_KINDS = frozenset(b"%d" % kind for kind in range(1, 7))


class ImageHeader(NamedTuple):
    """Header of an image file.

    Attributes:
        format: `jpeg`, `png`, `webp`, `gif`, `bmp`, `tiff`, `pnm` or `heif`.
        width: Stored width in pixels, before orientation.
        height: Stored height in pixels, before orientation.
        orientation: EXIF orientation 1..8; 1 where the file has none.
        missing: What is missing of the file, None when it is whole as far as the container tells.
        damage: What is known to be damaged without decoding, None when nothing is.
        unsupported: Why OpenCV would decode this valid file wrongly or not at all, None when it decodes it well.
        is_cmyk: Whether the stored channels are inks (TIFF; JPEG decoders convert by themselves).
        alpha: How OpenCV gives a fourth channel: `straight`; `premultiplied`, the colours already multiplied by it;
            or `ignored`, no transparency at all.
        transparent_grey: The grey value, in the depth OpenCV decodes to, that stands for transparent; None for none.
        mended: The file without faults that harm no pixel and that OpenCV refuses; None where there is nothing to mend.
        rare: What a whole file has that some builds of OpenCV do not decode, None for nothing.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    missing: str | None = None
    damage: str | None = None
    unsupported: str | None = None
    is_cmyk: bool = False
    alpha: Literal["straight", "premultiplied", "ignored"] = "straight"
    transparent_grey: int | None = None
    mended: bytes | None = None
    rare: str | None = None


def read_image_header(data: bytes) -> ImageHeader | None:
    """Reads the header of an image file.

    Args:
        data: The file's bytes, all of them.

    Returns:
        The header, or None when the bytes are not one of the known formats, end inside the header, or have no pixels.
    """
    readers = (
        (data[:3] == b"\xff\xd8\xff", _jpeg),
        (data[:8] == b"\x89PNG\r\n\x1a\n", _png),
        (data[:4] == b"RIFF" and data[8:12] == b"WEBP", _webp),
        (data[:6] in {b"GIF87a", b"GIF89a"}, _gif),
        (data[:2] == b"BM", _bmp),
        (data[:4] in {b"II*\0", b"MM\0*"}, _tiff),
        (begins_like_heif(data), _heif),
        (data[:1] == b"P" and data[1:2] in _PNM_KINDS, _pnm),
    )
    for matches, reader in readers:
        if matches:
            try:
                header = reader(data)
            except (struct.error, IndexError):
                return None
            # A damaged header, or a JPEG whose height follows its first scan, which decoders refuse as well.
            return header if header is not None and header.width > 0 and header.height > 0 else None
    return None


def begins_like_image(data: bytes) -> bool:
    """Whether the first bytes are those of a known format, whatever follows."""
    is_pnm = data[:1] == b"P" and data[1:2] in _PNM_KINDS and data[2:3] in b" \t\n\r#"
    is_webp = data.startswith(b"RIFF") and b"WEBP".startswith(data[8:12])
    return data.startswith(_MAGIC) or is_webp or begins_like_heif(data) or is_pnm


def _jpeg(data: bytes) -> ImageHeader | None:
    width = height = 0
    bits = 8
    orientation = 1
    missing: str | None = "the end-of-image marker"
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xD9:
            missing = None
            break
        if marker == 0xFF or marker in _JPEG_STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        end = position + 2 + length
        if marker in _JPEG_FRAME_HEADERS:
            bits, height, width = struct.unpack_from(">BHH", data, body)
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[body + 6 : end])
        position = _end_of_scan(data, end) if marker == 0xDA else end
    unsupported = f"a JPEG file of {bits} bits a channel" if bits in {12, 16} else None
    return ImageHeader("jpeg", width, height, orientation, missing, unsupported=unsupported) if width else None


def _end_of_scan(data: bytes, start: int) -> int:
    """Position of the next marker behind the entropy-coded data that begins at `start`, or the end of the data."""
    following = _JPEG_MARKER.search(data, start)
    return len(data) if following is None else following.start()


def _png(data: bytes) -> ImageHeader:
    width, height, depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    orientation = 1
    missing: str | None = "the IEND chunk"
    damage: str | None = None
    transparent_grey: int | None = None
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        body = data[position + 8 : end]
        # An upper-case first letter marks the chunks no decoder can do without. libpng finds a wrong checksum too, but
        # writes its own line to stderr about it.
        if not kind[0] & 0x20 and end + 4 <= len(data) and data[end : end + 4] != _png_checksum(kind, body):
            damage = damage or f"a wrong checksum in its {kind.decode('latin-1')} chunk"
        if kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind == b"tRNS" and colour_type == _GREY_PNG and length == 2:
            # OpenCV stretches 1, 2 and 4 bits to 8.
            stretch = 255 // (2**depth - 1) if 0 < depth < 8 else 1
            transparent_grey = int.from_bytes(body, "big") * stretch
        elif kind == b"IEND":
            missing = None
            break
        position = end + 4
    return ImageHeader("png", width, height, orientation, missing, damage, transparent_grey=transparent_grey)


def _png_checksum(kind: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")


def _webp(data: bytes) -> ImageHeader | None:
    (riff_size,) = struct.unpack_from("<I", data, 4)
    missing = "the end of the RIFF container" if riff_size + 8 > len(data) else None
    width = height = 0
    orientation = 1
    position = 12
    while position + 8 <= len(data):
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        body = position + 8
        if kind == b"VP8X":
            # Canvas size is stored less one, in 24 bits each.
            width = int.from_bytes(data[body + 4 : body + 7], "little") + 1
            height = int.from_bytes(data[body + 7 : body + 10], "little") + 1
        elif kind == b"VP8 " and not width:
            raw_width, raw_height = struct.unpack_from("<HH", data, body + 6)
            width, height = raw_width & 0x3FFF, raw_height & 0x3FFF
        elif kind == b"VP8L" and not width:
            (bits,) = struct.unpack_from("<I", data, body + 1)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            exif = data[body : body + length]
            orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
        position = body + length + (length & 1)
    return ImageHeader("webp", width, height, orientation, missing=missing) if width else None


def _gif(data: bytes) -> ImageHeader | None:
    """The header of a GIF, of which the first image alone is read.

    What stands behind its last whole block is passed over, as every viewer does: a trailer that is missing, zeros or
    other bytes before it.
    """
    width, height, flags, background = struct.unpack_from("<HHBB", data, 6)
    position = 13 + _colour_table_length(flags)
    first_end = 0
    while position < len(data) and data[position] in {0x2C, 0x21}:
        if data[position] == 0x2C:
            # An image: its descriptor, its own colour table, the code size of its pixels.
            left, top, image_width, image_height, image_flags = struct.unpack_from("<HHHHB", data, position + 1)
            position = _end_of_gif_blocks(data, position + 11 + _colour_table_length(image_flags))
            if not first_end:
                first_end = position
                # Some writers leave the canvas empty, or smaller than the image on it.
                width, height = max(width, left + image_width), max(height, top + image_height)
        else:
            position = _end_of_gif_blocks(data, position + 2)
    if position > len(data) or not first_end:
        return ImageHeader("gif", width, height, missing="the GIF trailer")
    canvas = struct.pack("<HHBB", width, height, flags, background if background < 2 << (flags & 7) else 0)
    whole = data[:6] + canvas + data[12:first_end] + b";"
    return ImageHeader("gif", width, height, mended=None if data == whole else whole)


def _end_of_gif_blocks(data: bytes, position: int) -> int:
    """Position behind the blocks that begin there and the empty one that ends them; beyond the data where it is missing."""
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return position + 1


def _colour_table_length(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> ImageHeader:
    """The header of a BMP.

    What it says of the size of the file and of the pixels is passed over: many writers leave it 0 or get it wrong. Where
    pixels of varying length end, their decoder finds out.
    """
    _size, _reserved, pixels_at, header_size = struct.unpack_from("<IIII", data, 2)
    compression = colours = 0
    if header_size == 12:
        width, height, _planes, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
    # A negative height only says that rows are stored top-down.
    height = abs(height)
    fields: dict[int, int] = {}
    if bits <= 8 and colours > 1 << bits:
        colours = fields[46] = 0
    palette = (colours or (1 << bits if bits <= 8 else 0)) * (3 if header_size == 12 else 4)
    header_end = 14 + header_size + palette
    if compression in _BMP_MASKED and header_size == 40:
        # Later headers have the masks inside.
        header_end += 12 if compression == 3 else 16
    if pixels_at == 0:
        pixels_at = fields[10] = header_end
    end = padding = 0
    if compression == 0 or compression in _BMP_MASKED:
        row_bytes = (abs(width) * bits + 7) // 8
        padding = -row_bytes % 4
        end = pixels_at + height * (row_bytes + padding)
    missing = "the end of the pixel data" if end - padding > len(data) else None
    mended: bytes | None = None
    if not missing and (fields or end > len(data)):
        # Only what fills up the last row to four bytes may be missing.
        repaired = bytearray(data) + bytes(max(0, end - len(data)))
        for offset, value in fields.items():
            struct.pack_into("<I", repaired, offset, value)
        mended = bytes(repaired)
    usual = compression in {0, 1, 2} | _BMP_MASKED and bits in {1, 4, 8, 16, 24, 32}
    inside = {4: "with a JPEG inside", 5: "with a PNG inside"}.get(compression, f"of {bits} bits a pixel")
    rare = None if usual else f"a BMP file {inside}"
    return ImageHeader("bmp", abs(width), height, missing=missing, mended=mended, rare=rare)


def _tiff(data: bytes) -> ImageHeader | None:
    tags = _first_ifd(data)
    width, height = tags.get(256, 0), tags.get(257, 0)
    if not width or not height:
        return None
    bits, extra = tags.get(258, 1), tags.get(338)
    # Extra samples (TIFF 6.0, tag 338): 0 unspecified, 1 premultiplied alpha, 2 straight alpha, which libtiff
    # premultiplies when it brings 8-bit files to RGBA. Without the tag a fourth channel is taken for straight alpha.
    alpha: Literal["straight", "premultiplied", "ignored"] = "straight"
    if extra == 0:
        alpha = "ignored"
    elif extra == 1 or (extra == 2 and bits == 8):
        alpha = "premultiplied"
    return ImageHeader(
        "tiff",
        width,
        height,
        _valid_orientation(tags),
        unsupported=_unsupported_tiff(tags, data),
        is_cmyk=tags.get(262) == 5,
        alpha=alpha,
        rare=_rare_tiff(tags),
    )


def _unsupported_tiff(tags: Mapping[int, int], data: bytes) -> str | None:
    """Why OpenCV would decode this valid file wrongly or not at all."""
    bits, samples, compression = tags.get(258, 1), tags.get(277, 1), tags.get(259, 1)
    reasons = (
        (tags.get(339) == 3, f"a TIFF file of {bits}-bit floating-point pixels"),
        (bits > 16, f"a TIFF file of {bits}-bit pixels"),
        # libtiff's own conversion misses the colours by up to a tenth of their range.
        (tags.get(262) in _TIFF_LAB, "a TIFF file in CIELab colours"),
        (samples == 2 and tags.get(338) in {1, 2}, "a grey TIFF file with transparency"),
        (
            tags.get(254, 0) & 1 or data[8:10] == b"CR",
            "a TIFF file whose first image is a thumbnail, as raw photographs have it",
        ),
        # OpenCV gives black pixels for some of them.
        (
            compression not in _TIFF_COMPRESSIONS,
            f"a TIFF file compressed {_RARE_COMPRESSIONS.get(compression, f'by method {compression}')}",
        ),
    )
    return next((reason for is_so, reason in reasons if is_so), None)


def _rare_tiff(tags: Mapping[int, int]) -> str | None:
    """What this file has that some builds of OpenCV do not decode."""
    if tags.get(339) == 2:
        return f"a TIFF file of {tags.get(258, 1)}-bit pixels with a sign"
    if tags.get(277, 1) > 4:
        return f"a TIFF file of {tags[277]} channels"
    return None


def _pnm(data: bytes) -> ImageHeader | None:
    header = read_pnm_header(data)
    if header is None:
        return None
    return ImageHeader("pnm", header.width, header.height, missing=header.missing, damage=header.damage)


def _heif(data: bytes) -> ImageHeader | None:
    size = heif_size(data)
    return None if size is None else ImageHeader("heif", *size)


def _exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block (which is a TIFF file without an image), 1 where it has none or is damaged."""
    try:
        return _valid_orientation(_first_ifd(tiff))
    except (struct.error, IndexError):
        return 1


def _valid_orientation(tags: dict[int, int]) -> int:
    value = tags.get(_ORIENTATION_TAG, 1)
    return value if 1 <= value <= 8 else 1


def _first_ifd(tiff: bytes) -> dict[int, int]:
    """Integer tags (SHORT and LONG) of a TIFF structure's first directory, the first value of each."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return {}
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    tags: dict[int, int] = {}
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", tiff, entry)
        if kind not in {3, 4} or not values:
            continue
        value_at = entry + 8
        if values * (2 if kind == 3 else 4) > 4:
            # More than fits into the entry: it holds the offset of the values instead.
            (value_at,) = struct.unpack_from(order + "I", tiff, value_at)
        if value_at + 4 <= len(tiff):
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, value_at)
    return tags
