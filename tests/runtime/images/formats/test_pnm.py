"""Portable anymaps against Pillow's reading of them, and what is wrong with one."""

import io

import numpy as np
import pytest
from PIL import Image

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.preprocess import decode_image


def binary(kind, values, largest):
    height, width = values.shape[:2]
    pixels = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    return b"P%d\n# by hand\n%d %d\n%d\n" % (kind, width, height, largest) + pixels


def plain(kind, values, largest):
    height, width = values.shape[:2]
    text = "\n".join(" ".join(map(str, row)) for row in values.reshape(height, -1).tolist())
    return f"P{kind} {width} #w\n{height}\n{largest}\n{text}\n".encode()


@pytest.mark.parametrize("largest", [255, 15, 7, 200])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", [binary, plain])
def test_pixels_are_those_of_pillow(rng, largest, channels, write):
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 40)), *((3,) if channels == 3 else ()))
    values = rng.integers(0, largest + 1, shape)
    kind = {(binary, 1): 5, (binary, 3): 6, (plain, 1): 2, (plain, 3): 3}[write, channels]
    data = write(kind, values, largest)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    got = decode_image(data)[..., ::-1].astype(int)
    # Where largest does not divide 255, a value half way between two may be rounded either way.
    assert np.abs(got - expected).max() <= (1 if largest == 200 else 0)


def test_bitmaps(rng):
    bits = rng.integers(0, 2, (9, 13))
    packed = b"P4 13 9\n" + np.packbits(bits, axis=1).tobytes()
    digits = b"P1\n13 9\n" + "".join(map(str, bits.ravel().tolist())).encode()
    for data in (packed, digits):
        assert (decode_image(data)[..., 0] == 255 * (1 - bits)).all()


def test_sixteen_bits_become_their_high_byte_and_other_depths_the_whole_range(rng):
    values = rng.integers(0, 65536, (5, 6))
    assert (decode_image(binary(5, values, 65535))[..., 0] == values >> 8).all()
    ends = decode_image(binary(6, np.array([[[0, 1023, 512]]]), 1023))[0, 0, ::-1].tolist()
    assert ends == [0, 255, 128]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P5 4 4 255\n" + bytes(15), "truncated PNM file without the end of the pixel data"),
        (b"P2 2 2 255\n1 2 3", "damaged PNM"),
        (b"P2 2 2 255\n1 2 3 300", "damaged PNM"),
        (b"P2 1 1 255\nx", "damaged PNM"),
        (b"P5 1 1 0\n\0", "largest value of 0"),
        (b"P6 1 1 70000\n" + bytes(9), "largest value of 70000"),
        (b"P5 99999 99999 255\n", "will not decode"),
        (b"P5 0 4 255\n", "cannot read"),
        (b"P7 1 1 255\n\0", "cannot read"),
        (b"P5 is no picture", "cannot read"),
    ],
)
def test_what_is_wrong_with_one(data, words):
    with pytest.raises(ImageError, match=words):
        decode_image(data)
