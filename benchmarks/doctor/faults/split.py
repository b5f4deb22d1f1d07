"""Faults of a split: train and test prepared differently, with another class mix, or with a hidden third class in one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth
from edgeclf.runtime.arrays import UInt8Array

# Where only something else is to change.
_QUALITY = 95


def read(path: Path) -> UInt8Array:
    """Reads an image upright, (H, W, 3) uint8 BGR."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise RuntimeError(f"cannot read {path}")
    return np.asarray(image, np.uint8)


def write(path: Path, image: UInt8Array, *, suffix: str | None = None, quality: int = _QUALITY) -> Path:
    """Replaces an image file, by another format if a suffix is given; gives its path."""
    target = path.with_suffix(suffix) if suffix else path
    if target != path:
        path.unlink()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if target.suffix.lower() in {".jpg", ".jpeg"} else []
    if not cv2.imwrite(str(target), image, options):
        raise RuntimeError(f"cannot write {target}")
    return target


def _dim(share: float, image: UInt8Array) -> UInt8Array:
    return np.rint(image * np.float64(share)).astype(np.uint8)


def _blur(sigma: float, image: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def shrink(share: float, image: UInt8Array) -> UInt8Array:
    """Resizes both sides to a share of them."""
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _shift(name: str, change: Callable[[UInt8Array], UInt8Array], data: Path, _generator: np.random.Generator) -> Truth:
    for path in image_files(data / "test"):
        write(path, change(read(path)))
    return Truth(causes=("split-shift",), evidence={"property": name}, must_rank_first=True)


def _compress(quality: int, data: Path, _generator: np.random.Generator) -> Truth:
    for path in image_files(data / "test"):
        write(path, read(path), suffix=".jpg", quality=quality)
    return Truth(causes=("split-shift",), evidence={"property": "compression"}, must_rank_first=True)


def _classes(data: Path, split: str) -> list[Path]:
    return sorted(path for path in (data / split).iterdir() if path.is_dir())


def _other_mix(share: float, data: Path, generator: np.random.Generator) -> Truth:
    """Thins one class out in train and the others in test, until that class is 1 - share of train and share of test."""
    names = [path.name for path in _classes(data, "train")]
    chosen = names[int(generator.integers(len(names)))]
    for split, rare in (("train", True), ("test", False)):
        counts = {name: image_files(data / split / name) for name in names}
        others = sum(len(paths) for name, paths in counts.items() if name != chosen)
        wanted = (1 - share) if rare else share
        # So many of the class for the others' number gives its share; where that is more than there are, thin the others.
        keep_chosen = min(len(counts[chosen]), round(others * wanted / (1 - wanted)))
        keep_others = min(1.0, keep_chosen * (1 - wanted) / wanted / others)
        for name, paths in counts.items():
            keep = keep_chosen if name == chosen else max(2, round(keep_others * len(paths)))
            for position in generator.permutation(len(paths))[keep:]:
                paths[position].unlink()
    return Truth(causes=("prior-shift",))


def _third_class(count: int, generator: np.random.Generator, size_hw: tuple[int, int]) -> list[UInt8Array]:
    """Crops of one of scikit-image's photographs, a class of its own, each with another frame and brightness."""
    from skimage import data as photographs

    # The middle of each, and how much of it a crop takes.
    subjects = {"astronaut": (0.5, 0.9), "coins": (0.35, 0.6), "coffee": (0.6, 0.95), "rocket": (0.5, 0.9)}
    subject = sorted(subjects)[int(generator.integers(len(subjects)))]
    photograph = np.asarray(getattr(photographs, subject)(), np.uint8)
    image = photograph[..., ::-1] if photograph.ndim == 3 else np.repeat(photograph[..., None], 3, axis=2)
    found = []
    for _ in range(count):
        side = int(generator.uniform(*subjects[subject]) * min(image.shape[:2]))
        top, left = (int(generator.integers(0, full - side + 1)) for full in image.shape[:2])
        crop = cv2.resize(image[top : top + side, left : left + side], size_hw[::-1], interpolation=cv2.INTER_AREA)
        crop = crop[:, ::-1] if generator.random() < 0.5 else crop
        found.append(np.clip(crop * generator.uniform(0.8, 1.1), 0, 255).astype(np.uint8))
    return found


def _hide(split: str, share: float, data: Path, generator: np.random.Generator) -> Truth:
    folders = _classes(data, split)
    paths = image_files(folders[int(generator.integers(len(folders)))])
    chosen = [paths[i] for i in generator.permutation(len(paths))[: max(2, round(share * len(paths)))]]
    for path, stranger in zip(chosen, _third_class(len(chosen), generator, (240, 240)), strict=True):
        before = read(path)
        # Size and colour must not give it away.
        scale = max(before.shape[:2]) / max(stranger.shape[:2])
        after = shrink(scale, stranger) if scale < 1 else stranger
        if (before[..., 0] == before[..., 2]).all():
            after = np.asarray(cv2.cvtColor(cv2.cvtColor(after, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
        write(path, after)
    return Truth(
        causes=("hidden-class",),
        items=frozenset(path.relative_to(data).as_posix() for path in chosen),
        must_rank_first=True,
    )


FAULTS: tuple[Fault, ...] = (
    *(Fault(f"test brightness x{s:g}", 3, partial(_shift, "brightness", partial(_dim, s))) for s in (0.6, 0.75)),
    *(Fault(f"test blurred, sigma {s:g}", 3, partial(_shift, "blur", partial(_blur, s))) for s in (2.0, 1.0)),
    *(Fault(f"test JPEG quality {quality}", 3, partial(_compress, quality)) for quality in (20, 40)),
    *(Fault(f"test size x{s:g}", 3, partial(_shift, "resolution", partial(shrink, s))) for s in (0.5, 0.7)),
    *(
        Fault(f"third class in {split}, {share:.0%}", 4, partial(_hide, split, share))
        for split in ("test", "train")
        for share in (0.05, 0.1)
    ),
    *(Fault(f"class mix {s:.0%} of test", 6, partial(_other_mix, s)) for s in (0.6, 0.75)),
)
