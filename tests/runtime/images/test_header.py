import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeclf.runtime.images.header import begins_like_image, read_image_header

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def encoded(fmt, size=(37, 23), mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, fmt, **options)
    return stream.getvalue()


WHOLE = {fmt: encoded(fmt) for fmt in FORMATS} | {
    "JPEG progressive": encoded("JPEG", progressive=True),
    "JPEG with a comment": encoded("JPEG", comment=b"\xff\xd9 is not the end"),
    "WEBP lossless": encoded("WEBP", lossless=True),
    "WEBP with alpha": encoded("WEBP", mode="RGBA"),
    "TIFF deflate": encoded("TIFF", compression="tiff_deflate"),
    "BMP 8 bit": encoded("BMP", mode="L"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_format_and_size_are_read_and_nothing_is_missing(name):
    header = read_image_header(WHOLE[name])
    assert header is not None
    assert (header.format, header.width, header.height) == (name.split()[0].lower(), 37, 23)
    assert (header.missing, header.damage, header.unsupported, header.orientation) == (None, None, None, 1)
    assert begins_like_image(WHOLE[name])


def exif(orientation, order):
    """An EXIF block with the orientation behind another tag, in either byte order."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(order + "HHII", 0x010F, 2, 3, 0x61620000)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 2) + entries + struct.pack(order + "I", 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_read_in_both_byte_orders(fmt, order, orientation):
    data = encoded(fmt, exif=b"Exif\0\0" + exif(orientation, order))
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    header = read_image_header(data)
    assert header is not None
    assert (header.orientation, header.missing) == (orientation, None)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff_is_read_in_both_byte_orders(order, orientation):
    tags = ((256, 4, 37), (257, 3, 23), (274, 3, orientation))
    data = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
    for tag, kind, value in tags:
        data += struct.pack(order + "HHI", tag, kind, 1)
        data += struct.pack(order + "I", value) if kind == 4 else struct.pack(order + "HH", value, 0)
    header = read_image_header(data + bytes(4))
    assert header is not None
    assert (header.width, header.height, header.orientation) == (37, 23, orientation)


@pytest.mark.parametrize("block", [b"", b"II*\0", exif(0, "<"), exif(9, ">"), exif(6, "<")[:20], b"XX" + exif(6, "<")])
def test_a_damaged_exif_block_means_upright(block):
    header = read_image_header(encoded("JPEG", exif=b"Exif\0\0" + block))
    assert header is not None
    assert (header.orientation, header.missing) == (1, None)


def test_the_size_of_a_png_bomb_is_read_without_decoding():
    bomb = bytearray(WHOLE["PNG"])
    bomb[16:24] = struct.pack(">II", 50_000, 50_000)
    header = read_image_header(bytes(bomb))
    assert header is not None
    assert (header.width, header.height) == (50_000, 50_000)


def test_a_damaged_png_chunk_is_named():
    data = bytearray(WHOLE["PNG"])
    data[data.index(b"IDAT") + 20] ^= 1
    header = read_image_header(bytes(data))
    assert header is not None
    assert header.damage == "a wrong checksum in its IDAT chunk"


# A TIFF says nothing about its end; its decoder refuses what is cut (test_decode.py).
@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith("TIFF")])
def test_a_file_cut_anywhere_is_unreadable_or_has_something_missing(name):
    # Without what follows the pixels - a GIF's trailer, what fills up the last row of a BMP - nothing of the image is missing.
    whole = WHOLE[name][: len(WHOLE[name]) - {"GIF": 1, "BMP": -37 * 3 % 4, "BMP 8 bit": -37 % 4}.get(name, 0)]
    for cut in range(len(whole)):
        header = read_image_header(whole[:cut])
        assert header is None or header.missing, cut


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=100)
@given(data=st.data())
def test_damage_anywhere_never_raises(name, data):
    damaged = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    header = read_image_header(bytes(damaged))
    assert header is None or (header.width >= 1 and header.height >= 1 and 1 <= header.orientation <= 8)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_file_without_pixels_is_unreadable(fmt):
    width, height = {
        "JPEG": (struct.pack(">H", 37), struct.pack(">H", 23)),
        "PNG": (struct.pack(">I", 37), struct.pack(">I", 23)),
        "BMP": (struct.pack("<i", 37), struct.pack("<i", 23)),
        "GIF": (struct.pack("<H", 37), struct.pack("<H", 23)),
    }[fmt]
    # JPEG alone gives the height first.
    sides = height + width if fmt == "JPEG" else width + height
    assert WHOLE[fmt].count(sides) >= 1
    for side in (width, height):
        empty = WHOLE[fmt].replace(sides, sides.replace(side, bytes(len(side))))
        assert read_image_header(empty) is None


def test_a_transparent_grey_png_of_no_depth_is_no_bug():
    data = bytearray(encoded("PNG", mode="L", transparency=7))
    assert read_image_header(bytes(data)).transparent_grey == 7
    data[24] = 0
    assert read_image_header(bytes(data)).damage is not None


@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]
    ),
    st.binary(max_size=300),
)
def test_random_bytes_never_raise(magic, tail):
    header = read_image_header(magic + tail)
    assert header is None or header.format in {"jpeg", "png", "webp", "gif", "bmp", "tiff"}


def test_a_directory_that_points_at_itself_ends():
    # An IFD of 65,535 entries in a file of a few bytes.
    assert read_image_header(b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(40)) is None
