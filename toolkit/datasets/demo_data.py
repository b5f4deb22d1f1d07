"""The demo's data set: crops of the photographs of brick, grass and gravel that scikit-image has in its package."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import MissingPackageError, install_hint
from edgeclf.runtime.files import write_bytes

if TYPE_CHECKING:
    import numpy as np

    from edgeclf.runtime.arrays import UInt8Array

CROP_PIXELS = 112
# Each texture is 512 x 512. A crop lies inside one vertical strip, so no pixel is in two splits.
_STRIPS = {"train": (0, 256), "val": (256, 384), "test": (384, 512)}
_CROPS_PER_CLASS = {"train": 60, "val": 40, "test": 40}


def write_demo_data(folder: Path, seed: int = 0) -> dict[str, int]:
    """Writes the data set as `folder/{train,val,test}/{brick,grass,gravel}/*.png`.

    Args:
        folder: The folder to write into.
        seed: Seed of the positions of the crops.

    Returns:
        Number of crops by split.

    Raises:
        MissingPackageError: scikit-image is not installed.
        OutputError: The folder cannot be written.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise MissingPackageError(
            "the demo's photographs are not installed",
            got=str(error),
            expected="the package scikit-image",
            hint=install_hint("train", "export", "demo"),
        ) from error
    import numpy as np

    from edgeclf.runtime.images._opencv import cv2

    rng = np.random.default_rng(seed)
    counts = dict.fromkeys(_STRIPS, 0)
    for label, photograph in (("brick", data.brick()), ("grass", data.grass()), ("gravel", data.gravel())):
        for split, (left, right) in _STRIPS.items():
            for number in range(_CROPS_PER_CLASS[split]):
                crop = _crop(photograph[:, left:right], rng)
                encoded = cv2.imencode(".png", crop)[1]
                write_bytes(folder / split / label / f"{number:03d}.png", encoded.tobytes())
                counts[split] += 1
    return counts


def _crop(strip: "UInt8Array", rng: "np.random.Generator") -> "UInt8Array":
    top = int(rng.integers(0, strip.shape[0] - CROP_PIXELS + 1))
    left = int(rng.integers(0, strip.shape[1] - CROP_PIXELS + 1))
    return strip[top : top + CROP_PIXELS, left : left + CROP_PIXELS]
