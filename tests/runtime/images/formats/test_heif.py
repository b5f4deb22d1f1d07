"""HEIC and AVIF: pixels with the packages of the extra, a sentence without them."""

import io
import struct

import cv2
import numpy as np
import pytest

from edgeclf.runtime.batch.listing import unread_sentence
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images import preprocess
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.preprocess import decode_image


def smooth(rng, height=48, width=64):
    return cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def heic(image_rgb, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    mode = "RGBA" if image_rgb.shape[2] == 4 else "RGB"
    file = io.BytesIO()
    pillow_heif.from_bytes(mode, image_rgb.shape[1::-1], image_rgb.tobytes(), **options).save(file, quality=95)
    return file.getvalue()


def avif(image_rgb, **options):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    image.fromarray(image_rgb).save(file, "AVIF", quality=95, **options)
    return file.getvalue()


def header_only(brand, width, height):
    box = b"\0\0\0\x14ispe" + bytes(4) + struct.pack(">II", width, height)
    return b"\0\0\0\x14ftyp" + brand + bytes(8) + box


@pytest.mark.parametrize("write", [heic, avif])
def test_pixels_are_those_that_were_written(rng, write):
    image_rgb = smooth(rng)
    data = write(image_rgb)
    header = read_image_header(data)
    assert header.format == "heif"
    assert header.width >= 64
    assert header.height >= 48
    got = decode_image(data)[..., ::-1].astype(int)
    assert got.shape == image_rgb.shape
    assert np.abs(got - image_rgb).mean() < 12


@pytest.mark.parametrize("write", [heic, avif])
def test_transparency_is_laid_on_white(rng, write):
    image = np.dstack([smooth(rng), np.zeros((48, 64), np.uint8)])
    image[:, 32:, 3] = 255
    got = decode_image(write(image))
    assert got[:, :24].min() > 245
    assert np.abs(got[:, 40:, ::-1].astype(int) - image[:, 40:, :3]).mean() < 16


def test_avif_is_turned_upright(rng):
    image_rgb = smooth(rng)
    exif = pytest.importorskip("PIL.Image").Exif()
    exif[0x0112] = 6
    got = decode_image(avif(image_rgb, exif=exif))
    assert got.shape == (64, 48, 3)
    assert np.abs(np.rot90(got, 1)[..., ::-1].astype(int) - image_rgb).mean() < 12


@pytest.mark.parametrize("write", [heic, avif])
def test_a_damaged_file_is_an_error_of_its_own(rng, write):
    data = write(smooth(rng))
    for cut in (len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError):
            decode_image(data[:cut])


@pytest.mark.parametrize(("brand", "name"), [(b"heic", "HEIC"), (b"mif1", "HEIC"), (b"avif", "AVIF")])
def test_without_the_packages_the_sentence_says_what_reads_them_and_how_to_convert(monkeypatch, brand, name):
    monkeypatch.setattr(preprocess, "can_read_heif", lambda: False)
    with pytest.raises(ImageError, match=rf"a HEIF image \({name}\).*edgeclf\[heif\].*or convert it"):
        decode_image(header_only(brand, 4000, 3000))
    with pytest.raises(ImageError, match="or convert it"):
        decode_image(b"\0\0\0\x18ftyp" + brand + bytes(20))
    assert "edgeclf[heif]" in unread_sentence({".heic": 3}, "DATA")


def test_sizes_are_known_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(preprocess, "can_read_heif", lambda: True)
    with pytest.raises(ImageError, match=r"will not decode .*: got 50000 x 50000 pixels"):
        decode_image(header_only(b"heic", 50_000, 50_000))
    assert read_image_header(header_only(b"heic", 0, 0)) is None
    assert read_image_header(b"\0\0\0\x18ftypheic" + bytes(100)) is None
