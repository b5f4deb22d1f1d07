"""Which images a training used, and for what, told by the content of their files: whole digests in a run, short ones in a model file."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeclf.training.data.dataset import SPLITS, Sample, Split

# Of the 16 bytes of a digest: one image in a million is taken for one of 4,000 that it is not.
_SHORT_BYTES = 4
_SHORT_DIGITS = 2 * _SHORT_BYTES
# A model file stays small: more images than these are known to the run folder only.
MOST_RECORDED = 10_000


@dataclass(frozen=True)
class SeenImages:
    """The images that a training used, by digest.

    Attributes:
        splits: Split of each image by its whole digest, that of the first use - training, validation, test - where
            copies of one file had several.
        copies: Of files with several splits, the split of each path as the run names it, by digest.
        places: Split of each image by its absolute path in the run, where that is known.
        short: Split of each image by the first eight digits of its digest, `train` and `val` only.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    copies: Mapping[str, Mapping[str, Split]] = field(default_factory=dict)
    short: Mapping[str, Split] = field(default_factory=dict)
    places: Mapping[str, Split] = field(default_factory=dict)

    def split_of(self, digest: str | None, path: Path) -> Split | None:
        """The split that an image had in the training; None where it had none, or where that is not known.

        Args:
            digest: Digest of the file, 32 hexadecimal digits; None where it cannot be read.
            path: The file: it decides where copies of one file had several splits.
        """
        if digest is None:
            return None
        if digest in self.copies:
            lies_at = path.absolute().as_posix()
            for known, split in self.copies[digest].items():
                if lies_at.endswith(f"/{known}"):
                    return split
        return self.splits.get(digest) or self.short.get(digest[:_SHORT_DIGITS]) or self.changed_at(digest, path)

    def changed_at(self, digest: str | None, path: Path) -> Split | None:
        """The split of the image that lay at a path in the training, where another content lies there now; else None.

        What replaced a training image may well be the same picture, rotated or saved anew: it is none that the network
        has not seen.
        """
        if digest is None or digest in self.splits or digest[:_SHORT_DIGITS] in self.short:
            return None
        return self.places.get(path.absolute().as_posix())


def images_of_split(
    samples: Iterable[Sample], recorded: Mapping[str, str] | None = None, root: Path | None = None
) -> SeenImages:
    """The images of a run.

    Args:
        samples: Its images with splits and digests.
        recorded: `ModelSpec.seen_images` of the run, which also has the images of runs that it goes on from.
        root: Folder of the images when it was trained; None where that does not matter.
    """
    paths: defaultdict[str, dict[str, Split]] = defaultdict(dict)
    places: dict[str, Split] = {}
    for sample in samples:
        if sample.digest is not None and sample.split is not None:
            paths[sample.digest][sample.path] = sample.split
            if root is not None:
                places[(root / sample.path).absolute().as_posix()] = sample.split
    return SeenImages(
        splits={digest: min(found.values(), key=SPLITS.index) for digest, found in paths.items()},
        copies={digest: found for digest, found in paths.items() if len(set(found.values())) > 1},
        short=_unpack(recorded or {}),
        places=places,
    )


def images_of_record(recorded: Mapping[str, str]) -> SeenImages:
    """The images that a model file names in `ModelSpec.seen_images`."""
    return SeenImages(short=_unpack(recorded))


def changed_images(before: Sequence[Sample], now: Sequence[Sample]) -> list[str]:
    """Paths of images whose files have another content than before.

    Args:
        before: The samples with the digests that they had, None where that is not known.
        now: The same samples with their present digests.
    """
    return [
        old.path
        for old, new in zip(before, now, strict=True)
        if old.digest is not None and new.digest not in {old.digest, None}
    ]


def changed_words(paths: Sequence[str]) -> str | None:
    """How many images have changed, as the noun of an error's `got`; None for none."""
    return f"images that have changed since it began ({len(paths):,}, such as {paths[0]})" if paths else None


def record_images(
    samples: Iterable[Sample], earlier: Mapping[str, str] | None = None, *, most: int = MOST_RECORDED
) -> dict[str, str] | None:
    """The images that trained and validated a network, as `ModelSpec.seen_images` names them.

    Args:
        samples: The images with splits and digests.
        earlier: The same of the run that the training goes on from; None for none.
        most: Largest number of images that is recorded.

    Returns:
        By split, `train` and `val`, the first four bytes of each image's digest, sorted, one after the other in base64;
        None where there are more images, or a digest is missing.
    """
    used = [sample for sample in samples if sample.split in {"train", "val"} and sample.digest is not None]
    found = _unpack(earlier or {})
    for sample in sorted(used, key=lambda sample: sample.split == "train"):
        if sample.digest is not None and sample.split is not None:
            found[sample.digest[:_SHORT_DIGITS]] = sample.split
    if not used or len(found) > most:
        return None
    return {split: _pack(short for short, its in found.items() if its == split) for split in ("train", "val")}


def _pack(short: Iterable[str]) -> str:
    return base64.b64encode(b"".join(bytes.fromhex(digits) for digits in sorted(short))).decode("ascii")


def _unpack(recorded: Mapping[str, str]) -> dict[str, Split]:
    """Short digests of a record; what is damaged in it names no image."""
    found: dict[str, Split] = {}
    splits: tuple[Split, ...] = ("val", "train")
    for split in splits:
        try:
            data = base64.b64decode(recorded.get(split, ""), validate=True)
        except (binascii.Error, ValueError, TypeError, AttributeError):
            continue
        for start in range(0, len(data) - _SHORT_BYTES + 1, _SHORT_BYTES):
            found[data[start : start + _SHORT_BYTES].hex()] = split
    return found
