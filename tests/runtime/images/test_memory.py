"""Memory that one image does not get is an error of that image."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.memory import within_memory

resource = pytest.importorskip("resource", reason="memory is limited by POSIX means")

# Prints a line for each image: its size, or why it has none. The limit: what is mapped now, and so many MB more.
PROGRAM = """
import resource, sys
import numpy as np
from edgeclf.runtime import decode_image, load_image, preprocess_bgr, Preprocess
from edgeclf.runtime.errors import ImageError
preprocess = Preprocess((96, 96))
preprocess_bgr(load_image(sys.argv[2]), preprocess)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = mapped + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    try:
        print(preprocess_bgr(load_image(path), preprocess).shape)
    except ImageError as error:
        print(error)
"""


def run(room_mb, *paths):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(room_mb), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
def test_an_image_too_large_for_the_memory_costs_itself_alone(tmp_path, rng, suffix):
    small = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "small.png"), small)
    large = np.full((7000, 7000, 3), 128, np.uint8)
    cv2.imwrite(str(tmp_path / f"large{suffix}"), large)
    first, second, third = run(100, tmp_path / "small.png", tmp_path / f"large{suffix}", tmp_path / "small.png")
    assert first == third == "(96, 96, 3)"
    assert "memory" in second
    assert f"large{suffix}" in second


def test_transparency_takes_little_more_memory_than_the_pixels(tmp_path):
    # 144 MB as it is decoded, 108 MB laid on white; blended in one go, 0.7 GB more.
    cv2.imwrite(str(tmp_path / "large.png"), np.full((6000, 6000, 4), 128, np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.full((60, 60, 3), 128, np.uint8))
    assert run(400, tmp_path / "small.png", tmp_path / "large.png") == ["(96, 96, 3)"] * 2


def test_other_errors_stay_what_they_are():
    with pytest.raises(cv2.error), within_memory("cannot", "nothing"):
        cv2.resize(np.zeros((2, 2, 3), np.uint8), (0, 0))
    with (
        pytest.raises(ImageError, match="cannot: got much, expected an image that fits"),
        within_memory("cannot", "much"),
    ):
        np.empty(1 << 60, np.uint8)
