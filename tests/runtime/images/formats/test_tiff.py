"""Damage inside TIFF files."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.preprocess import decode_image

DEFLATE = ["tiff_adobe_deflate", "tiff_deflate"]


def tiff(mode, compression, **options):
    """A photograph as a TIFF file, and its pixels."""
    image = Image.fromarray(data.astronaut()[:160, :128]).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression, **options)
    return file.getvalue(), np.asarray(image.convert("RGB"))


def strips(encoded):
    """Where the strips of a file are, and how long each is."""
    with Image.open(io.BytesIO(encoded)) as image:
        return list(zip(image.tag_v2[273], image.tag_v2[279], strict=True))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("compression", [*DEFLATE, "raw", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("options", [{}, {"tiffinfo": {278: 7}}], ids=["one strip", "many strips"])
def test_whole_files_are_read(mode, compression, options):
    encoded, rgb = tiff(mode, compression, **options)
    assert np.array_equal(decode_image(encoded)[..., ::-1], rgb)


@pytest.mark.parametrize("compression", DEFLATE)
@pytest.mark.parametrize("options", [{}, {"tiffinfo": {278: 7, 317: 2}}], ids=["one strip", "strips and predictor"])
def test_a_strip_that_does_not_unpack_is_damage_wherever_it_is(compression, options, rng):
    encoded, _ = tiff("RGB", compression, **options)
    places = strips(encoded)
    for place in {0, len(places) // 2, len(places) - 1}:
        start, length = places[place]
        harmed = bytearray(encoded)
        # A byte of what is packed, behind the two that say how; near its end are bits that mean nothing. Or of the checksum.
        at = start + int(rng.choice([rng.integers(2, length // 2), rng.integers(length - 4, length)]))
        harmed[at] ^= int(rng.integers(1, 256))
        with pytest.raises(ImageError):
            decode_image(bytes(harmed))


def test_a_file_that_ends_in_its_last_strip_is_refused():
    encoded, _ = tiff("RGB", "tiff_adobe_deflate", tiffinfo={278: 16})
    start, length = strips(encoded)[-1]
    with pytest.raises(ImageError):
        decode_image(encoded[: start + length // 2])


def test_bytes_behind_a_packed_strip_are_no_damage():
    encoded, rgb = tiff("L", "tiff_adobe_deflate")
    ((start, length),) = strips(encoded)
    order = "little" if encoded.startswith(b"II") else "big"
    counted = length.to_bytes(4, order)
    assert encoded.count(counted) == 1
    # Some programs round the lengths of strips up.
    longer = encoded.replace(counted, (length + 3).to_bytes(4, order))
    assert strips(longer) == [(start, length + 3)]
    assert np.array_equal(decode_image(longer)[..., ::-1], rgb)
