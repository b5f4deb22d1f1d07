"""Damage in the middle of a JPEG is found, whatever else is decoded before or at the same time; harmless oddities are not damage."""

import ctypes
import io
import os
import re
import threading
from itertools import pairwise

import cv2
import numpy as np
import pytest
from PIL import Image

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.jpeg_warnings import heard_damage
from edgeclf.runtime.images.preprocess import decode_image
from edgeclf.runtime.spec import Preprocess

from ...randomness import fresh_rng

KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 8},
    "grey": {},
}


def photograph(size_hw=(480, 640)):
    rng = fresh_rng()
    smooth = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(kind, image=None):
    stream = io.BytesIO()
    picture = Image.fromarray(photograph() if image is None else image)
    (picture.convert("L") if kind == "grey" else picture).save(stream, "JPEG", **KINDS[kind])
    return stream.getvalue()


def without_the_middle(data):
    """The file without a quarter of its longest scan, in the middle; all its markers are intact, but for restarts."""
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    begin, end = max(pairwise([*scans, len(data)]), key=lambda scan: scan[1] - scan[0])
    quarter = (end - begin) // 4
    return data[: begin + quarter] + data[begin + 2 * quarter :]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_a_jpeg_without_some_of_its_middle_is_damaged_at_every_reduction(kind):
    whole = jpeg(kind)
    damaged = without_the_middle(whole)
    assert decode_image(whole).shape == (480, 640, 3)
    for reduce_for in (None, *(Preprocess((size, size)) for size in (224, 96, 48, 24))):
        with pytest.raises(ImageError, match="damaged JPEG file"):
            decode_image(damaged, reduce_for=reduce_for)


def test_whether_a_jpeg_is_damaged_depends_on_no_other(kind):
    whole = jpeg(kind)
    damaged = without_the_middle(whole)
    expected = decode_image(whole)
    for is_damaged in fresh_rng().integers(0, 2, 12):
        if is_damaged:
            with pytest.raises(ImageError, match="damaged JPEG file"):
                decode_image(damaged)
        else:
            assert np.array_equal(decode_image(whole), expected)


def test_each_thread_hears_of_its_own_picture():
    whole = jpeg("baseline")
    damaged = without_the_middle(whole)
    wrong = []

    def work(seed):
        for is_damaged in np.random.default_rng(seed).integers(0, 2, 15):
            try:
                decode_image(damaged if is_damaged else whole)
                found = False
            except ImageError:
                found = True
            if found != bool(is_damaged):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def with_garbage_between_segments(data):
    at = data.index(b"\xff\xdb")
    return data[:at] + b"\0\1\2" + data[at:]


def of_another_jfif(data):
    at = data.index(b"JFIF\0") + 5
    return data[:at] + b"\x09" + data[at + 1 :]


HARMLESS = {
    "bytes before the end": lambda data: data[:-2] + bytes(range(1, 200)) + data[-2:],
    "bytes behind the end": lambda data: data + b"behind the picture",
    "bytes between segments": with_garbage_between_segments,
    "another JFIF": of_another_jfif,
}


@pytest.mark.parametrize("oddity", HARMLESS)
def test_oddities_that_harm_no_pixel_are_not_damage_and_hide_none(oddity, kind):
    whole = jpeg(kind)
    odd = HARMLESS[oddity](whole)
    assert np.array_equal(decode_image(odd), decode_image(whole))
    if oddity != "bytes before the end":  # which can be inserted behind the damage alone
        with pytest.raises(ImageError, match="damaged JPEG file"):
            decode_image(without_the_middle(odd))


def test_what_others_write_to_the_stderr_of_c_reaches_it(capfd):
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("only glibc's stderr is listened to")
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    usual = stderr.value

    def decode(_data):
        assert stderr.value != usual
        libc.fputs(b"a message of another library\n", stderr)
        libc.fputs(b"Corrupt JPEG data: bad Huffman code\n", stderr)
        return 7

    assert heard_damage(b"", decode) == (7, True)
    assert stderr.value == usual
    assert capfd.readouterr().err == "a message of another library\n"

    def broken(_data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        heard_damage(b"", broken)
    assert stderr.value == usual
    assert heard_damage(b"", lambda _data: 7) == (7, False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_while_a_picture_is_decoded_hears_its_own():
    whole = jpeg("baseline")
    damaged = without_the_middle(whole)
    statuses = []

    def decode(_data):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                decode_image(whole)
                decode_image(damaged)
            except ImageError:
                status = 0
            finally:
                os._exit(status)
        statuses.append(os.waitpid(child, 0)[1])

    assert heard_damage(whole, decode) == (None, False)
    assert statuses == [0]
