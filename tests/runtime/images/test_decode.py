"""Every kind of image file against Pillow's reading of it."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import data as photographs

from edgeclf.runtime.errors import ImageError, MissingPackageError
from edgeclf.runtime.images._opencv import check_version
from edgeclf.runtime.images.jpeg_warnings import hears_damage
from edgeclf.runtime.images.preprocess import decode_image, load_image
from edgeclf.runtime.spec import Preprocess


def gradient(height=48, width=64):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (height + width - 2)], -1
    ).astype(np.uint8)


RGB = Image.fromarray(gradient())
GREY = RGB.convert("L")
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
ALPHA = Image.fromarray(np.ascontiguousarray(np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8), (48, 64))))
BILEVEL = GREY.convert("1")
CMYK = RGB.convert("CMYK")
GREY16 = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)


def with_alpha(image):
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def encoded(image, fmt, **options):
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


def as_seen_rgb(data):
    """What Pillow shows: upright, 8 bits, on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in {"LA", "PA", "RGBA", "P"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white
    return np.asarray(image.convert("RGB"))


def largest_difference(data):
    # BGR to RGB.
    got_rgb, expected_rgb = decode_image(data)[..., ::-1], as_seen_rgb(data)
    assert got_rgb.shape == expected_rgb.shape
    assert got_rgb.dtype == np.uint8
    return int(np.abs(got_rgb.astype(int) - expected_rgb.astype(int)).max())


EXACT = {
    "png": encoded(RGB, "PNG"),
    "png grey": encoded(GREY, "PNG"),
    "png grey 16 bit": encoded(GREY16, "PNG"),
    "png 1 bit": encoded(BILEVEL, "PNG"),
    "png palette": encoded(PALETTE, "PNG"),
    "png palette, one transparent": encoded(PALETTE, "PNG", transparency=3),
    "png grey, one transparent": encoded(GREY, "PNG", transparency=128),
    "png 1 bit, black transparent": encoded(BILEVEL, "PNG", transparency=0),
    "png colour, one transparent": encoded(RGB, "PNG", transparency=tuple(int(v) for v in gradient()[5, 7])),
    "bmp": encoded(RGB, "BMP"),
    "bmp grey": encoded(GREY, "BMP"),
    "bmp palette": encoded(PALETTE, "BMP"),
    "bmp 1 bit": encoded(BILEVEL, "BMP"),
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "gif": encoded(RGB, "GIF"),
    "gif grey": encoded(GREY, "GIF"),
    "gif, one transparent": encoded(PALETTE, "GIF", transparency=3),
    "gif animation": encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)], loop=0),
    "tiff": encoded(RGB, "TIFF"),
    "tiff lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(RGB, "TIFF", compression="tiff_deflate"),
    "tiff grey": encoded(GREY, "TIFF"),
    "tiff grey 16 bit": encoded(GREY16, "TIFF"),
    "tiff 1 bit": encoded(BILEVEL, "TIFF"),
    "tiff fax": encoded(BILEVEL, "TIFF", compression="group4"),
    "tiff palette": encoded(PALETTE, "TIFF"),
}
# The largest difference of any channel of any pixel, with the reason there may be one.
CLOSE = {
    "png alpha": (encoded(with_alpha(RGB), "PNG"), 1),  # rounding of the blend
    "png grey alpha": (encoded(with_alpha(GREY), "PNG"), 1),
    "png palette, 32 alphas": (encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 8))), 1),
    "webp alpha": (encoded(with_alpha(RGB), "WEBP", lossless=True), 1),
    "tiff alpha": (encoded(with_alpha(RGB), "TIFF"), 2),  # libtiff rounds once more when it premultiplies
    "jpeg": (encoded(RGB, "JPEG", quality=95), 3),  # inverse cosine transforms and chroma upsampling differ
    "jpeg grey": (encoded(GREY, "JPEG", quality=95), 2),
    "jpeg progressive": (encoded(RGB, "JPEG", quality=95, progressive=True), 3),
    "jpeg cmyk": (encoded(CMYK, "JPEG", quality=95), 3),
    "tiff cmyk": (encoded(CMYK, "TIFF"), 2),
    "tiff cmyk lzw": (encoded(CMYK, "TIFF", compression="tiff_lzw"), 2),
    "webp": (encoded(RGB, "WEBP", quality=90), 3),
}


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_images_are_what_pillow_shows(kind):
    assert largest_difference(EXACT[kind]) == 0


@pytest.mark.parametrize("kind", CLOSE)
def test_other_images_are_close_to_what_pillow_shows(kind):
    data, tolerance = CLOSE[kind]
    assert largest_difference(data) <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_colour_keeps_its_high_byte(suffix):
    pixels = gradient().astype(np.uint16) * 257
    assert np.array_equal(decode_image(cv2.imencode(suffix, pixels)[1].tobytes()), gradient())


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_transparency_is_laid_on_white(suffix):
    alpha = np.asarray(ALPHA)[..., None]
    pixels = np.concatenate([gradient(), alpha], axis=-1).astype(np.uint16) * 257
    expected = gradient() * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(decode_image(cv2.imencode(suffix, pixels)[1].tobytes()) - expected).max() < 1


def oriented(fmt, orientation, image=RGB):
    if fmt == "TIFF":
        return encoded(image, fmt, tiffinfo={0x0112: orientation})
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[fmt]
    return encoded(image, fmt, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_upright(fmt, orientation):
    data = oriented(fmt, orientation)
    assert largest_difference(data) <= (3 if fmt == "JPEG" else 0)
    assert decode_image(data).shape[:2] == ((48, 64) if orientation <= 4 else (64, 48))


@pytest.mark.parametrize("image", [GREY, GREY16, PALETTE, CMYK, BILEVEL], ids=lambda image: image.mode)
def test_every_kind_of_tiff_is_turned_upright(image):
    assert largest_difference(oriented("TIFF", 6, image)) <= (2 if image.mode == "CMYK" else 0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (with_alpha(GREY), "grey TIFF file with transparency"),
        (Image.fromarray(gradient()[..., 0].astype(np.float32)), "32-bit floating-point"),
        (Image.fromarray(gradient()[..., 0].astype(np.int32)), "32-bit pixels"),
    ],
)
def test_what_opencv_would_misread_is_refused(image, words):
    with pytest.raises(ImageError, match=f"{words}.*convert it to PNG"):
        decode_image(encoded(image, "TIFF"))


PHOTOGRAPH = Image.fromarray(photographs.astronaut()[:200, :160])
PHOTOGRAPHS = {
    "jpeg": encoded(PHOTOGRAPH, "JPEG"),
    "png": encoded(PHOTOGRAPH, "PNG"),
    "webp": encoded(PHOTOGRAPH, "WEBP"),
    "tiff": encoded(PHOTOGRAPH, "TIFF"),
    "gif": encoded(PHOTOGRAPH, "GIF"),
    "bmp": encoded(PHOTOGRAPH, "BMP"),
}


@pytest.mark.parametrize("fmt", PHOTOGRAPHS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_photograph_cut_anywhere_is_an_image_error(fmt, data):
    whole = PHOTOGRAPHS[fmt]
    assert decode_image(whole).shape == (200, 160, 3)
    # The trailer of a GIF follows its pixels.
    whole = whole[:-1] if fmt == "gif" else whole
    with pytest.raises(ImageError):
        decode_image(whole[: data.draw(st.integers(0, len(whole) - 1))])


def changed(data, offset, value, fmt="<I"):
    mended = bytearray(data)
    struct.pack_into(fmt, mended, offset, value)
    return bytes(mended)


def pixels_at(bmp):
    return int.from_bytes(bmp[10:14], "little")


ODD = RGB.crop((0, 0, 37, 23))
BMPS = {
    "24 bit": encoded(ODD, "BMP"),
    "32 bit": encoded(with_alpha(RGB).crop((0, 0, 37, 23)), "BMP"),
    "palette": encoded(ODD.convert("P", palette=Image.Palette.ADAPTIVE, colors=32), "BMP"),
    "1 bit": encoded(ODD.convert("1"), "BMP"),
}
HARMLESS_IN_BMP = {
    "file size 0": lambda d: changed(d, 2, 0),
    "file size too large": lambda d: changed(d, 2, len(d) + 4),
    "file size of a stream": lambda d: changed(d, 2, 0xFFFFFFFF),
    "file size too small": lambda d: changed(d, 2, 60),
    "reserved": lambda d: changed(d, 6, 0x12345678),
    "no offset of the pixels": lambda d: changed(d, 10, 0),
    "planes": lambda d: changed(d, 26, 0, "<H"),
    "size of the pixels": lambda d: changed(d, 34, 10**9),
    "resolution": lambda d: changed(d, 38, -5, "<i"),
    "important colours": lambda d: changed(d, 50, 9999),
    "bytes behind it": lambda d: d + b"behind the pixels",
    "nothing that fills up the last row": lambda d: d[: len(d) - (-37 * int.from_bytes(d[28:30], "little") // 8) % 4],
    "a gap before the pixels": lambda d: changed(
        d[: pixels_at(d)] + bytes(10) + d[pixels_at(d) :], 10, pixels_at(d) + 10
    ),
}


@pytest.mark.parametrize("fault", HARMLESS_IN_BMP)
@pytest.mark.parametrize("kind", BMPS)
def test_a_bmp_whose_header_is_wrong_in_what_harms_no_pixel_is_read(kind, fault):
    data = HARMLESS_IN_BMP[fault](BMPS[kind])
    assert np.array_equal(decode_image(data), decode_image(BMPS[kind]))


@pytest.mark.parametrize("colours", [257, 100_000])
def test_a_palette_that_says_it_has_more_colours_than_there_can_be_is_read(colours):
    grey = encoded(GREY, "BMP")
    assert np.array_equal(decode_image(changed(grey, 46, colours)), decode_image(grey))


GIF = encoded(PALETTE, "GIF")
ANIMATION = encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(90)], loop=0)
HARMLESS_IN_GIF = {
    "zeros before the trailer": GIF[:-1] + b"\0\0;",
    "no trailer": GIF[:-1],
    "other bytes before the trailer": GIF[:-1] + b"bytes;",
    "bytes behind the trailer": GIF + b"bytes",
    "an older version": b"GIF87a" + GIF[6:],
    "no canvas": changed(GIF, 6, 0),
    "a canvas smaller than the image": changed(GIF, 6, 20 | 20 << 16),
    "a background that is no colour": changed(GIF, 11, 255, "B"),
    "an odd aspect ratio": changed(GIF, 12, 200, "B"),
    "an animation without a trailer": ANIMATION[:-1],
    "an animation and other bytes": ANIMATION[:-1] + bytes(300),
}


@pytest.mark.parametrize("fault", HARMLESS_IN_GIF)
def test_a_gif_that_is_wrong_in_what_harms_no_pixel_is_read(fault):
    assert np.array_equal(decode_image(HARMLESS_IN_GIF[fault]), decode_image(GIF))


def test_a_gif_that_ends_within_an_image_is_truncated():
    for cut in (2, 20, len(ANIMATION) // 3):
        with pytest.raises(ImageError, match="truncated GIF file"):
            decode_image(ANIMATION[:-cut])


def test_a_bmp_of_runs_is_read_whatever_its_size_says():
    # RLE8: three rows of one run each, the end of a row between them, the end of the image.
    runs = b"\x05\x01\0\0" * 2 + b"\x05\x02\0\1"
    palette = bytes((0, 0, 0, 0, 10, 20, 30, 0, 40, 50, 60, 0))
    head = struct.pack("<IiiHHIIiiII", 40, 5, 3, 1, 8, 1, len(runs), 0, 0, 3, 0)
    data = b"BM" + struct.pack("<IHHI", 99_999, 0, 0, 14 + 40 + len(palette)) + head + palette + runs
    image_bgr = decode_image(data)
    # Stored bottom-up.
    assert image_bgr[:, 0].tolist() == [[40, 50, 60], [10, 20, 30], [10, 20, 30]]
    with pytest.raises(ImageError):
        decode_image(data[:-6])


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_a_damaged_png_is_refused_without_a_word_from_libpng(position, capfd):
    data = bytearray(PHOTOGRAPHS["png"])
    data[int(len(data) * position)] ^= 0x5A
    with pytest.raises(ImageError, match="damaged PNG file with a wrong checksum"):
        decode_image(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hears_damage(), reason="only glibc's stderr is listened to")
def test_a_png_with_a_profile_that_libpng_warns_of_is_read_without_a_word(capfd):
    data = PHOTOGRAPHS["png"]
    profile = b"iCCP" + b"bad\0\0" + zlib.compress(bytes(100))
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    odd = data[:33] + chunk + data[33:]
    cv2.imdecode(np.frombuffer(odd, np.uint8), cv2.IMREAD_COLOR)
    warned = capfd.readouterr().err
    assert np.array_equal(decode_image(odd), decode_image(data))
    assert capfd.readouterr() == ("", "")
    assert warned == "" or warned.startswith("libpng warning")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"hello, this is text", "got text"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n <html><body>", "an HTML page"),
        (b"<?xml version='1.0'?><svg/>", "an XML or SVG document"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIF"),
        (bytes(range(128, 256)), "128 bytes of an unknown format"),
        (b"\xff\x4f\xff\x51" + bytes(20), r"a JPEG 2000 image.*; convert it to PNG or JPEG"),
        (b"8BPS\0\1" + bytes(20), r"a Photoshop document.*; convert it to PNG or JPEG"),
        (b"RIFF\1\0\0\0WAVEfmt ", r"a sound file.*; replace or remove the file"),
        (PHOTOGRAPHS["webp"][:10], "ends inside its header"),
        (PHOTOGRAPHS["png"][:20], "ends inside its header"),
        (PHOTOGRAPHS["tiff"][:8], "ends inside its header"),
        (PHOTOGRAPHS["jpeg"][:-2], "truncated JPEG file without the end-of-image marker"),
        (PHOTOGRAPHS["png"][:-12], "truncated PNG file without the IEND chunk"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(data, words):
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(data, source="x.jpg")
    assert "x.jpg" in str(caught.value)


TIFF_TAGS = {"compression": 259, "sample format": 339, "samples": 277, "photometric": 262, "subfile type": 254}


def tiff(**changed):
    """An uncompressed 8 x 8 RGB TIFF, with other values of some tags."""
    tags = {254: 0, 256: 8, 257: 8, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3, 278: 8, 279: 192, 339: 1}
    tags |= {TIFF_TAGS[name.replace("_", " ")]: value for name, value in changed.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head + bytes(200 - len(head)) + bytes(range(192))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"compression": 50002}, "a TIFF file compressed by JPEG XL"),
        ({"compression": 12345}, "a TIFF file compressed by method 12345"),
        ({"sample_format": 2}, "a TIFF file of 8-bit pixels with a sign"),
        ({"samples": 5}, "a TIFF file of 5 channels"),
        ({"photometric": 8}, "a TIFF file in CIELab colours"),
        ({"subfile_type": 1}, "whose first image is a thumbnail, as raw photographs have it"),
    ],
)
def test_a_whole_tiff_that_is_not_read_is_not_called_damaged(changed, words):
    assert decode_image(tiff()).shape == (8, 8, 3)
    with pytest.raises(ImageError, match=f"got .*{words}, .*; convert it to PNG"):
        decode_image(tiff(**changed))


def test_a_whole_bmp_that_is_not_read_is_not_called_damaged():
    data = bytearray(
        b"BM" + struct.pack("<IHHI", 70, 0, 0, 70) + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 2, 0, 8, 0, 0, 4, 0)
    )
    data += bytes(16 + 8)
    with pytest.raises(ImageError, match="got a BMP file of 2 bits a pixel"):
        decode_image(bytes(data))
    data[30] = 5
    with pytest.raises(ImageError, match="got a BMP file with a PNG inside"):
        decode_image(bytes(data))


def test_a_jpeg_of_more_bits_is_not_called_damaged():
    data = bytearray(PHOTOGRAPHS["jpeg"])
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match=r"got a JPEG file of 12 bits a channel.*convert it to PNG"):
        decode_image(bytes(data))


@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("interpolation", ["area-down-linear-up", "bilinear", "bicubic"])
def test_an_image_without_height_is_refused_whatever_comes_next(fit, interpolation):
    data = bytearray(PHOTOGRAPHS["jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = b"\0\0"
    with pytest.raises(ImageError, match="header is damaged"):
        decode_image(bytes(data), reduce_for=Preprocess((64, 48), fit=fit, interpolation=interpolation))


def test_an_image_above_the_limit_is_not_decoded():
    data = bytearray(PHOTOGRAPHS["png"])
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageError, match="50000 x 50000 pixels, expected at most 200,000,000 pixels"):
        decode_image(bytes(data))
    with pytest.raises(ImageError, match="at most 31,999 pixels"):
        decode_image(PHOTOGRAPHS["jpeg"], max_pixels=31_999)
    assert decode_image(PHOTOGRAPHS["jpeg"], max_pixels=32_000).shape == (200, 160, 3)


def test_what_cannot_be_read_is_called_by_its_name(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for name, words in {
        "folder.jpg": "a folder",
        "dangling.jpg": "a dangling link",
        "loop.jpg": "link",
        "missing.jpg": "no such file",
    }.items():
        with pytest.raises(ImageError, match=rf"cannot read .*{name}: got .*{words}"):
            load_image(tmp_path / name)


def test_a_file_is_read_by_its_content_not_its_name(tmp_path):
    (tmp_path / "photo.txt").write_bytes(PHOTOGRAPHS["png"])
    assert np.array_equal(load_image(str(tmp_path / "photo.txt"))[..., ::-1], np.asarray(PHOTOGRAPH))


@pytest.mark.parametrize("version", ["4.6.0", "4.11.0", "3.4.18", "4.9.0-dev"])
def test_an_opencv_that_a_picture_can_bring_down_is_refused(version):
    with pytest.raises(MissingPackageError, match=f"got {re.escape(version)}, expected 4.12 or newer"):
        check_version(version)


@pytest.mark.parametrize("version", ["4.12.0", "4.13.0-dev", "5.0.0", "5.0.0-alpha"])
def test_newer_ones_are_taken(version):
    check_version(version)
