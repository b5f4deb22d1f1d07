"""Faults of a split: parts that were prepared differently, another mix of classes, and a third kind hidden in one class."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.doctor.faults.base import Fault, Truth
from edgeclf.runtime.arrays import UInt8Array

# Where only something else is to change.
_QUALITY = 95
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def images_of(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def read(path: Path) -> UInt8Array:
    """(H, W, 3) BGR, upright."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise RuntimeError(f"cannot read {path}")
    return np.asarray(image, np.uint8)


def write(path: Path, image: UInt8Array, *, suffix: str | None = None, quality: int = _QUALITY) -> Path:
    """Replaces a picture, as another kind of file if a suffix is given."""
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
    """Fewer pixels."""
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _shift(name: str, change: Callable[[UInt8Array], UInt8Array], data: Path, _generator: np.random.Generator) -> Truth:
    for path in images_of(data / "test"):
        write(path, change(read(path)))
    return Truth(causes=("split-shift",), evidence={"property": name}, must_rank_first=True)


def _compress(quality: int, data: Path, _generator: np.random.Generator) -> Truth:
    for path in images_of(data / "test"):
        write(path, read(path), suffix=".jpg", quality=quality)
    return Truth(causes=("split-shift",), evidence={"property": "compression"}, must_rank_first=True)


def _classes(data: Path, part: str) -> list[Path]:
    return sorted(path for path in (data / part).iterdir() if path.is_dir())


def _other_mix(share: float, data: Path, generator: np.random.Generator) -> Truth:
    """One class is thinned out in train, the others are in test, until it is 1 - share of the one and share of the other."""
    names = [path.name for path in _classes(data, "train")]
    chosen = names[int(generator.integers(len(names)))]
    for part, rare in (("train", True), ("test", False)):
        counts = {name: images_of(data / part / name) for name in names}
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


def third_kind(
    count: int, generator: np.random.Generator, size_hw: tuple[int, int], subject: str | None = None
) -> list[UInt8Array]:
    """Crops of one of scikit-image's photographs: a kind of picture of its own, each seen a little differently."""
    from skimage import data as photographs

    # The middle of each, and how much of it a crop takes.
    subjects = {"astronaut": (0.5, 0.9), "coins": (0.35, 0.6), "coffee": (0.6, 0.95), "rocket": (0.5, 0.9)}
    subject = subject or sorted(subjects)[int(generator.integers(len(subjects)))]
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


def _hide(
    part: str, share: float, data: Path, generator: np.random.Generator, *, pictures: Path | None = None
) -> Truth:
    folders = _classes(data, part)
    paths = images_of(folders[int(generator.integers(len(folders)))])
    chosen = [paths[i] for i in generator.permutation(len(paths))[: max(2, round(share * len(paths)))]]
    if pictures is None:
        strangers = third_kind(len(chosen), generator, (240, 240))
    else:
        available = images_of(pictures)
        strangers = [read(available[i]) for i in generator.permutation(len(available))[: len(chosen)]]
    for path, stranger in zip(chosen, strangers, strict=True):
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


def hidden_faults(pictures: Path | None = None) -> tuple[Fault, ...]:
    """A third kind inside one class of one part: from a folder, or made."""
    return tuple(
        Fault(f"third class in {part}, {share:.0%}", 4, partial(_hide, part, share, pictures=pictures))
        for part in ("test", "train")
        for share in (0.05, 0.1)
    )


FAULTS: tuple[Fault, ...] = (
    *(Fault(f"test brightness x{s:g}", 3, partial(_shift, "brightness", partial(_dim, s))) for s in (0.6, 0.75)),
    *(Fault(f"test blurred, sigma {s:g}", 3, partial(_shift, "blur", partial(_blur, s))) for s in (2.0, 1.0)),
    *(Fault(f"test JPEG quality {quality}", 3, partial(_compress, quality)) for quality in (20, 40)),
    *(Fault(f"test size x{s:g}", 3, partial(_shift, "resolution", partial(shrink, s))) for s in (0.5, 0.7)),
    *hidden_faults(),
    *(Fault(f"class mix {s:.0%} of test", 6, partial(_other_mix, s)) for s in (0.6, 0.75)),
)
