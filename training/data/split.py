"""The split of a data set: which images train, validate and test, by a hash of each group that must stay together.

A group is drawn by its own hash alone, so that a data set that grows keeps the splits of all that it had. A group is an image with its
copies, or what the user says belongs together: photographs of one animal, frames of one video.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeclf.runtime.errors import DatasetError, UsageError
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample, Split

# Where the data set brings its own test images, validation takes this share of the training images.
CARVED_VAL_FRACTION = 0.2
DEFAULT_VAL_FRACTION = 0.15
DEFAULT_TEST_FRACTION = 0.15
# Beginning of the key of a file's content.
_FILE = "file "
_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Division:
    """A data set with its splits.

    Attributes:
        samples: The samples in their order, each with its split.
        filled: Classes that had no image in a split by their hashes, and that split: their nearest group was moved there.
    """

    samples: tuple[Sample, ...]
    filled: tuple[tuple[str, Split], ...] = ()

    def sentence(self) -> str | None:
        """What was moved, in one sentence; None for nothing."""
        if not self.filled:
            return None
        texts = [f"{label!r} ({_NAMES[split]})" for label, split in self.filled[:5]]
        rest = f" and {len(self.filled) - 5} more" if len(self.filled) > 5 else ""
        return f"by chance a class had no image in a split, its nearest was taken: {', '.join(texts)}{rest}"


def divide(
    dataset: Dataset,
    *,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    earlier: Mapping[int, Split] | None = None,
    keys: Sequence[str] | None = None,
) -> Division:
    """Assigns every sample to `train`, `val` or `test`.

    Splits that the data set brings are kept; validation images are carved from `train` where it brings none, so that no
    choice is ever made on test images. Each group is drawn independently by a hash of its key and the seed: the shares
    are those asked for up to chance. A class that has no group in a split gets its nearest one.

    Args:
        dataset: The samples.
        val_fraction: Share of the groups that validate, in (0, 1); None takes 0.2 of the training images where a test
            split is given, else 0.15.
        test_fraction: Share that tests, in [0, 1); None takes 0.15. Has no say where the data set brings its splits.
        seed: Of the hash.
        earlier: Splits that some samples, by position, had in an earlier training: their groups stay in them where the
            data set leaves the choice, the first of train, val and test where a group had several. Where a class would
            have no validation image, some that trained validate; none that did either is ever tested on.
        keys: (N,) key of each sample's group; None where each sample is its own.

    Raises:
        UsageError: A fraction is out of range, or a test fraction is given for data with splits of its own.
        DatasetError: A class has too few groups to be in every split.
    """
    given = {sample.split for sample in dataset.samples}
    val, test = _fractions(given, val_fraction, test_fraction)
    if "val" in given:
        return Division(dataset.samples)
    positions = [position for position, sample in enumerate(dataset.samples) if sample.split in {None, "train"}]
    groups: defaultdict[str, _Group] = defaultdict(_Group)
    for position in positions:
        sample = dataset.samples[position]
        group = groups[sample.path if keys is None else keys[position]]
        group.positions.append(position)
        group.labels.add(sample.label)
        before = (earlier or {}).get(position)
        # Where the data set brings its test images, or there are none, an earlier test image is free.
        if before is not None and (test or before != "test"):
            group.earlier = before if group.earlier is None else min(before, group.earlier, key=SPLITS.index)
    for key, group in groups.items():
        group.place = _hash(key, seed)
        group.split = group.earlier or _split_at(group.place, val, test)
    filled = _fill(groups, val, test, Counter(dataset.samples[position].label for position in positions))
    samples = list(dataset.samples)
    for group in groups.values():
        for position in group.positions:
            samples[position] = replace(samples[position], split=group.split)
    return Division(tuple(samples), tuple(filled))


@dataclass
class _Group:
    """Samples that stay together.

    Attributes:
        positions: Their positions in the data set.
        labels: Their classes.
        earlier: Split that they had in an earlier training; None for none.
        place: Hash of the key, 0 to 1.
        split: Their split.
    """

    positions: list[int] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    earlier: Split | None = None
    place: float = 0.0
    split: Split = "train"


def drawn_split(
    digest: str, *, seed: int = 0, val: float = DEFAULT_VAL_FRACTION, test: float = DEFAULT_TEST_FRACTION
) -> Split:
    """The split that an image draws, whatever lies beside it, unless its class would have none in another.

    Args:
        digest: Of its file.
        seed: Of the training.
        val: Share that validates.
        test: Share that tests.
    """
    return _split_at(_hash(_FILE + digest, seed), val, test)


def _hash(key: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _split_at(place: float, val: float, test: float) -> Split:
    return "test" if place < test else "val" if place < test + val else "train"


_Named = tuple[str, _Group]


def _fill(groups: Mapping[str, _Group], val: float, test: float, images: Mapping[str, int]) -> list[tuple[str, Split]]:
    """Moves the nearest group of each class that has none in a split; gives the classes and splits."""
    ends: dict[Split, tuple[float, float]] = {
        "test": (0.0, test),
        "val": (test, test + val),
        "train": (test + val, 1.0),
    }
    needed: list[Split] = [split for split in SPLITS if split != "test" or test]
    by_label = _by_label(groups)
    counts = Counter((label, group.split) for group in groups.values() for label in group.labels)
    filled: list[tuple[str, Split]] = []
    for label, its in sorted(by_label.items()):
        if len(its) < len(needed):
            raise _too_few(label, images[label], len(its), len(needed))
        for split in needed:
            nearest = None if counts[label, split] else _nearest(its, label, split, ends[split], counts)
            if nearest is None:
                continue
            for other in nearest.labels:
                counts[other, nearest.split] -= 1
                counts[other, split] += 1
            nearest.split = split
            filled.append((label, split))
    for label, its in sorted(by_label.items()):
        # Without test images it can go on: all of a class may have been training images before.
        if not all(counts[label, split] for split in ("train", "val")):
            raise _too_few(label, images[label], len(its), len(needed))
    return filled


def _by_label(groups: Mapping[str, _Group]) -> dict[str, list[_Named]]:
    found: defaultdict[str, list[_Named]] = defaultdict(list)
    for key, group in sorted(groups.items()):
        for label in group.labels:
            found[label].append((key, group))
    return found


def _nearest(
    its: Sequence[_Named], label: str, split: Split, ends: tuple[float, float], counts: Mapping[tuple[str, Split], int]
) -> _Group | None:
    """The group of a class to be moved into a split: the nearest by its hash that leaves no other split empty, if there is one."""

    def cost(item: _Named) -> tuple[bool, bool, float, str]:
        key, group = item
        empties_another = any(counts[other, group.split] < 2 for other in group.labels)
        return empties_another, group.earlier is not None, max(ends[0] - group.place, group.place - ends[1], 0.0), key

    allowed = [
        (key, group)
        for key, group in its
        if counts[label, group.split] > 1 and not (split == "test" and group.earlier in {"train", "val"})
    ]
    return min(allowed, key=cost)[1] if allowed else None


def _too_few(label: str, images: int, groups: int, needed: int) -> DatasetError:
    if groups == images:
        return DatasetError(
            f"too few images of class {label!r}",
            got=str(images),
            expected=f"at least {needed}, one for each split",
            hint="add images",
        )
    return DatasetError(
        f"too few different images of class {label!r}",
        got=f"{groups} group{'s' if groups > 1 else ''} of copies, or of what --group-by keeps together, in {images} images",
        expected=f"at least {needed}, one for each split, that are not tied to other classes",
        hint="add images",
    )


def _fractions(
    given: set[Split | None], val_fraction: float | None, test_fraction: float | None
) -> tuple[float, float]:
    """The shares of validation and test images to carve out, checked."""
    has_splits = given != {None}
    if has_splits and test_fraction is not None:
        raise UsageError(
            "a test fraction has no meaning here",
            got=f"--test-fraction {test_fraction:g} for data with splits of its own",
            expected="one or the other",
            hint="leave it out",
        )
    if "val" in given and val_fraction is not None:
        raise UsageError(
            "a validation fraction has no meaning here",
            got=f"--val-fraction {val_fraction:g} for data with a val split of its own",
            expected="one or the other",
            hint="leave it out",
        )
    val = val_fraction if val_fraction is not None else CARVED_VAL_FRACTION if has_splits else DEFAULT_VAL_FRACTION
    test = 0.0 if has_splits else DEFAULT_TEST_FRACTION if test_fraction is None else test_fraction
    if not (0.0 < val < 1.0 and 0.0 <= test < 1.0 and val + test < 1.0):
        raise UsageError(
            "bad fractions", got=f"val {val:g}, test {test:g}", expected="0 < val, 0 <= test, val + test < 1"
        )
    return val, test


def group_keys(
    samples: Sequence[Sample], digests: Mapping[int, str], copies: Iterable[Sequence[int]] = ()
) -> tuple[list[str], list[str]]:
    """The key of each sample's group, and of its picture.

    Args:
        samples: The samples; those of one `Sample.group` belong together.
        digests: Digest of each readable sample's file, by position: equal files belong together.
        copies: Positions of samples whose pixels are equal though their files differ.

    Returns:
        (N,) keys of groups - the user's own name where one has one, so that another copy changes none -, and (N,) keys
        of pictures, by which copies are counted.
    """
    names = [_FILE + digests[n] if n in digests else f"path {sample.path}" for n, sample in enumerate(samples)]
    pictures = _Merged()
    for several in copies:
        for position in several[1:]:
            pictures.join(names[several[0]], names[position])
    groups = _Merged()
    for name, sample in zip(names, samples, strict=True):
        groups.join(name, pictures.first(name))
        if sample.group is not None:
            # Sorts before those of files.
            groups.join(f"by {sample.group}", name)
    return [groups.first(name) for name in names], [pictures.first(name) for name in names]


class _Merged:
    """Names that stand for one thing; the first of each in their order stands for all."""

    def __init__(self) -> None:
        self._towards: dict[str, str] = {}

    def first(self, name: str) -> str:
        """The name that stands for a name."""
        chain = []
        while (further := self._towards.get(name, name)) != name:
            chain.append(name)
            name = further
        for passed in chain:
            self._towards[passed] = name
        return name

    def join(self, one: str, other: str) -> None:
        """Makes two names stand for one thing."""
        first, second = sorted((self.first(one), self.first(other)))
        if first != second:
            self._towards[second] = first


def contradiction_sentence(samples: Sequence[Sample], pictures: Sequence[str]) -> str | None:
    """What a user has to know of pictures that are in several classes; None where there is none.

    Args:
        samples: The samples.
        pictures: Key of each one's picture.
    """
    by_picture: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for sample, picture in zip(samples, pictures, strict=True):
        by_picture[picture].setdefault(sample.label, sample.path)
    several = [paths for paths in by_picture.values() if len(paths) > 1]
    if not several:
        return None
    are = f"{len(several):,} pictures are" if len(several) > 1 else "1 picture is"
    example = " and ".join(list(several[0].values())[:2])
    return f"{are} in more than one class, such as {example}: keep each in one, as nothing can be learned from them"


def shared_sentences(samples: Sequence[Sample], pictures: Sequence[str]) -> list[str]:
    """What a user has to know of images that are in several splits, one sentence for each two splits.

    Args:
        samples: The samples with their splits, as the data set brings them.
        pictures: Key of each one's picture.
    """
    by_split = {split: [n for n, sample in enumerate(samples) if sample.split == split] for split in SPLITS}
    sentences = []
    pairs: tuple[tuple[Split, Split], ...] = (("test", "train"), ("test", "val"), ("val", "train"))
    for later, earlier in pairs:
        figures = _NAMES[later]
        seen = {pictures[n] for n in by_split[earlier]}
        count = sum(pictures[n] in seen for n in by_split[later])
        if count:
            are = f"{count:,} {_NAMES[later]} image{'s are' if count > 1 else ' is a'} {_NAMES[earlier]} image"
            sentences.append(
                f"{are}{'s' if count > 1 else ''} as well, the same picture: the {figures} figures are too good"
            )
        named = {samples[n].group for n in by_split[earlier]} - {None}
        groups = len(named & {samples[n].group for n in by_split[later]})
        if groups:
            sentences.append(
                f"{groups:,} group{'s' if groups > 1 else ''} of --group-by {'are' if groups > 1 else 'is'} in "
                f"{_NAMES[earlier]} and {_NAMES[later]} images, as the data set divides them: the {figures} figures are too good"
            )
    return sentences
