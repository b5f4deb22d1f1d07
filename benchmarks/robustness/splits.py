"""The split of `edgeclf train` on 2,000 images with copies and groups: copies and groups in several parts, images that ten more move.

    python benchmarks/robustness/splits.py [--images 2000] [--seed 0] [--quick] [--json]

Crops of scikit-image's photographs, one in ten a copy: half of these the same bytes under another name, half the same pixels in another
format; one in ten of the copies lies in another class. `edgeclf train` divides them twice, by content alone and with `--group-by` an
animal's number in the names, and each time again with ten more photographs, two of which are of animals that were there. `split.csv` of
each run is compared with what was drawn.

Exit code 1 where a picture or a group is in several parts, an image moved to another part though no class had to be given one (which
edgeclf says, and happens where groups are few), an image is missing, or a share is further from its fraction than chance allows (five
standard deviations).
"""

import csv
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import Arguments, Report, run_edgeclf, working_folder

_LABELS = ("one", "two", "three", "four")
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_SIZE_PX = 48
_IMAGES_OF_AN_ANIMAL = 6
_TRAIN = ["--arch", "small-cnn", "--image-size", _SIZE_PX, "--epochs", 1]
_GROUP_BY = r"(animal\d+)"
# How edgeclf says that a class had no image in a part by chance.
_GIVEN = "its nearest was taken"
# Of images, where nothing else is asked for.
_FRACTIONS = {"val": 0.15, "test": 0.15}


def write_image(path: Path, rng: np.random.Generator) -> None:
    """Writes a random crop of a random photograph, without loss."""
    import cv2
    from skimage import data

    image_rgb = getattr(data, _PHOTOGRAPHS[int(rng.integers(len(_PHOTOGRAPHS)))])()
    top, left = (int(rng.integers(0, side - _SIZE_PX)) for side in image_rgb.shape[:2])
    crop = image_rgb[top : top + _SIZE_PX, left : left + _SIZE_PX, ::-1].copy()
    # No two crops are the same picture by chance.
    crop[0, :2] = rng.integers(0, 256, (2, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), crop)


def write_data(root: Path, count: int, rng: np.random.Generator) -> dict[str, str]:
    """Writes so many images, one in ten a copy, and gives the picture that each path shows."""
    import cv2

    copies = count // 10
    pictures: dict[str, str] = {}
    for number in range(count - copies):
        animal = number // _IMAGES_OF_AN_ANIMAL
        path = f"{_LABELS[animal % len(_LABELS)]}/animal{animal:04d}_{number:05d}.png"
        write_image(root / path, rng)
        pictures[path] = path
    originals = list(pictures)
    for number, place in enumerate(rng.choice(len(originals), copies, replace=False)):
        original = originals[place]
        label, name = original.split("/")
        if number % 10 == 0:
            label = _LABELS[(_LABELS.index(label) + 1) % len(_LABELS)]
        is_recoded = number % 2 == 1
        copy = f"{label}/{name.removesuffix('.png')} copy{'.bmp' if is_recoded else '.png'}"
        (root / label).mkdir(exist_ok=True)
        if is_recoded:
            cv2.imwrite(str(root / copy), cv2.imread(str(root / original)))
        else:
            (root / copy).write_bytes((root / original).read_bytes())
        pictures[copy] = original
    return pictures


def write_more(root: Path, count: int, rng: np.random.Generator) -> list[str]:
    """Writes ten more photographs: eight of new animals, two of the first one."""
    paths = []
    for number in range(10):
        animal = 0 if number < 2 else count + number
        path = f"{_LABELS[animal % len(_LABELS)]}/animal{animal:04d}_more{number}.png"
        write_image(root / path, rng)
        paths.append(path)
    return paths


def split_of(run: Path) -> dict[str, str]:
    """The part of each path in a run's `split.csv`."""
    with (run / "split.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def in_several(parts: dict[str, str], things: dict[str, str]) -> int:
    """Number of things whose images are in several parts."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path, thing in things.items():
        found[thing].add(parts[path])
    return sum(len(its) > 1 for its in found.values())


def judge(
    before: dict[str, str], after: dict[str, str], pictures: dict[str, str], notes: list[str], *, has_groups: bool
) -> dict[str, Any]:
    """Figures of one division, and of the same one with ten more images."""
    groups = {path: Path(path).name.split("_")[0] for path in after}
    units = len(set(groups.values())) if has_groups else len(set(pictures.values()))
    counts = Counter(before.values())
    shares = {part: counts[part] / len(before) for part in _FRACTIONS}
    off = {
        part: abs(shares[part] - wanted) / math.sqrt(wanted * (1 - wanted) / units)
        for part, wanted in _FRACTIONS.items()
    }
    return {
        "images": len(before),
        "missing": len(pictures.keys() - before.keys()),
        "copies_in_several_parts": in_several(before, pictures),
        "groups_in_several_parts": in_several(after, groups) if has_groups else None,
        "moved_by_ten_more": sum(before[path] != after[path] for path in before),
        "classes_were_given_a_group": any(_GIVEN in note for note in notes),
        "val_share": shares["val"],
        "test_share": shares["test"],
        "most_standard_deviations": max(off.values()),
    }


def main() -> int:
    """Prints a table, or JSON."""
    arguments = Arguments(__doc__, quick={"images": 200})
    arguments.add_argument("--images", type=int, default=2_000, help="copies included (default: %(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="of the images (default: 0)")
    given = arguments.parse()
    if given.images < 100:
        arguments.error("--images must be at least 100")
    rng = np.random.default_rng(given.seed)
    ways = {"by content": [], "by groups": ["--group-by", _GROUP_BY]}
    with working_folder() as folder:
        data, cache = folder / "data", folder / "cache"
        pictures = write_data(data, given.images, rng)
        before, after = {}, {}
        notes: dict[str, list[str]] = {name: [] for name in ways}
        for name, options in ways.items():
            done = run_edgeclf("train", data, "--run", folder / name, *_TRAIN, *options, cache=cache)
            before[name] = split_of(folder / name)
            notes[name] += done.document["notes"]
        more = write_more(data, given.images, rng)
        for name, options in ways.items():
            done = run_edgeclf("train", data, "--run", folder / f"{name}, more", *_TRAIN, *options, cache=cache)
            after[name] = split_of(folder / f"{name}, more")
            notes[name] += done.document["notes"]
        missing = sum(path not in parts for path in more for parts in after.values())
    figures = {
        name: judge(before[name], after[name], pictures, notes[name], has_groups=name == "by groups") for name in ways
    }
    report = Report(given)
    for name, its in figures.items():
        report.line(f"{name}:")
        for key, value in its.items():
            report.line(f"  {key}: {value:.3g}" if isinstance(value, float) else f"  {key}: {value}")
    report.close({"seed": given.seed, "missing_of_ten_more": missing, **figures})
    is_wrong = any(
        its["missing"]
        or its["copies_in_several_parts"]
        or its["groups_in_several_parts"]
        or (its["moved_by_ten_more"] and not its["classes_were_given_a_group"])
        for its in figures.values()
    )
    # Few groups of many images vary more than images do; 200 of them are too few to tell.
    is_off = not given.quick and any(its["most_standard_deviations"] > 5 for its in figures.values())
    return int(bool(missing) or is_wrong or is_off)


if __name__ == "__main__":
    raise SystemExit(main())
