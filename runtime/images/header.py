"""Image headers, read before any pixel is decoded: format, size, orientation, and whether the file is whole.

Decoders allocate before they look (a 50,000 x 50,000 PNG of one colour is a few kilobytes on disk and 7.5 GB in
memory), some fill what is missing of a truncated file with grey and say nothing, and which formats obey the EXIF
orientation differs between versions. So the header is read here, once, from the bytes.
"""

import re
import struct
import zlib
from typing import Literal, NamedTuple

# JPEG: a marker that ends a run of entropy-coded data. 0xFF00 is a stuffed byte, 0xFFD0-D7 restart markers, 0xFFFF fill.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION_TAG = 0x0112
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_GREY_PNG = 0


class ImageHeader(NamedTuple):
    """Header of an image file.

    Attributes:
        format: `jpeg`, `png`, `webp`, `gif`, `bmp` or `tiff`.
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
    return data.startswith(_MAGIC)


def _jpeg(data: bytes) -> ImageHeader | None:
    width = height = 0
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
            height, width = struct.unpack_from(">HH", data, body + 1)
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _exif_orientation(data[body + 6 : end])
        position = _end_of_scan(data, end) if marker == 0xDA else end
    return ImageHeader("jpeg", width, height, orientation, missing) if width else None


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


def _gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    return ImageHeader("gif", width, height, missing=None if _reaches_gif_trailer(data, flags) else "the GIF trailer")


def _reaches_gif_trailer(data: bytes, flags: int) -> bool:
    """Whether the blocks of a GIF, followed from its header, lead to the trailer: any byte of pixels may look like one."""
    position = 13 + _colour_table_length(flags)
    while position < len(data):
        if data[position] == 0x3B:
            return True
        if data[position] == 0x2C and position + 10 < len(data):
            # An image: its descriptor, its own colour table, the code size of its pixels.
            position += 11 + _colour_table_length(data[position + 9])
        elif data[position] == 0x21:
            position += 2
        else:
            return False
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    return False


def _colour_table_length(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> ImageHeader:
    (file_size, _reserved, _pixels, header_size) = struct.unpack_from("<IIII", data, 2)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    # A negative height only says that rows are stored top-down. Some writers leave the file size 0.
    missing = "the end of the pixel data" if file_size > len(data) else None
    return ImageHeader("bmp", abs(width), abs(height), missing=missing)


def _tiff(data: bytes) -> ImageHeader | None:
    tags = _first_ifd(data)
    width, height = tags.get(256, 0), tags.get(257, 0)
    if not width or not height:
        return None
    bits, samples, extra, sample_format = tags.get(258, 1), tags.get(277, 1), tags.get(338), tags.get(339, 1)
    unsupported: str | None = None
    if sample_format == 3:
        unsupported = f"a TIFF file of {bits}-bit floating-point pixels"
    elif bits > 16:
        unsupported = f"a TIFF file of {bits}-bit pixels"
    elif samples == 2 and extra in {1, 2}:
        unsupported = "a grey TIFF file with transparency"
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
        unsupported=unsupported,
        is_cmyk=tags.get(262) == 5,
        alpha=alpha,
    )


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
