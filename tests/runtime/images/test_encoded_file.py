"""Files that are no ordinary ones are read as far as they can be images, and no further."""

import os
import threading
import time
from contextlib import suppress

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images import encoded_file
from edgeclf.runtime.images.preprocess import load_image

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")


@pytest.fixture
def image_bgr(rng):
    return rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)


@needs_pipes
def test_an_image_comes_out_of_a_pipe_however_slowly(tmp_path, image_bgr):
    data = cv2.imencode(".png", image_bgr)[1].tobytes()
    os.mkfifo(tmp_path / "pipe.png")

    def write():
        with (tmp_path / "pipe.png").open("wb", buffering=0) as pipe:
            for at in range(0, len(data), 50_000):
                pipe.write(data[at : at + 50_000])
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert np.array_equal(load_image(tmp_path / "pipe.png"), image_bgr)
    finally:
        writer.join()


@needs_pipes
def test_a_pipe_that_nobody_writes_into_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(encoded_file, "_SILENCE_S", 0.05)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"gave nothing for 0\.05 s"):
        load_image(tmp_path / "pipe.png")


@needs_pipes
def test_a_pipe_that_does_not_end_is_an_error_however_it_begins(tmp_path, image_bgr, monkeypatch):
    monkeypatch.setattr(encoded_file, "_METADATA_BYTES", 3 << 20)
    head = cv2.imencode(".png", image_bgr)[1].tobytes()[:1000]
    os.mkfifo(tmp_path / "pipe.png")

    def write():
        # Ends when the reader has gone.
        with suppress(BrokenPipeError), (tmp_path / "pipe.png").open("wb", buffering=0) as pipe:
            pipe.write(head)
            while True:
                pipe.write(bytes(1 << 16))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(ImageError, match="a device or a pipe that does not end, expected at most 3,153,728 bytes"):
            load_image(tmp_path / "pipe.png", max_pixels=1000)
    finally:
        writer.join()


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device")  # noqa: PTH110 - a device
def test_a_device_that_gives_no_image_is_not_read_on():
    with pytest.raises(ImageError, match="cannot read /dev/zero"):
        load_image("/dev/zero")


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.write(b"\xff\xd8\xff")
        # Sparse: it takes no room.
        file.truncate(100 << 30)
    with pytest.raises(ImageError, match="got 107,374,182,400 bytes, expected at most"):
        load_image(tmp_path / "large.jpg")


def test_a_name_that_cannot_be_is_an_error():
    with pytest.raises(ImageError, match="an impossible name"):
        load_image("nul\0.png")
