"""Labelled image files of a data set, as values: samples, splits, and the fingerprint of their content."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edgeclf.runtime.spec.json_documents import Shape, read_json

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Of a run folder: the images with their splits, and where they lie.
SPLIT_NAME, FACTS_NAME = "split.csv", "run.json"
_FACTS: Shape = {
    "data_root": Path,
    "data": Path,
    "module_folder": Path,
    "options": {"path_column": str, "architecture": str},
    "resolved": {"preprocess": {}, "first": {}, "fine_tune": {}},
    "began_with": {"*": str},
    "diverged": {"stage": str, "steps": int, "epoch_steps": int, "loss": float},
}


@dataclass(frozen=True)
class Sample:
    """One labelled image file.

    Attributes:
        path: Relative to the data set's root, with forward slashes.
        label: Its class.
        split: The split that its folder or CSV row names; None where neither does.
        digest: Digest of the file's bytes; None where it is not known.
        group: Name of what it belongs to, whose images stay in one split; None where nothing says so.
    """

    path: str
    label: str
    split: Split | None = None
    digest: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled image files.

    Attributes:
        root: Absolute path that the samples' paths are relative to.
        samples: The files, sorted by path.
        source: Absolute path of the folder or CSV as given; None where it is not known.
        not_read: Number of files in its class folders that are no images by their names, by kind.
    """

    root: Path
    samples: tuple[Sample, ...]
    source: Path | None = None
    not_read: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names that occur, sorted."""
        return tuple(sorted({sample.label for sample in self.samples}))

    def count(self, split: Split | None) -> int:
        """Number of samples in a split."""
        return sum(sample.split == split for sample in self.samples)


def read_run_facts(folder: Path) -> dict[str, Any]:
    """What a run folder records of its training in `run.json`, each value of its type; what is null is not there.

    Returns:
        At least `data_root` and `options`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such document.
    """
    document = read_json(folder / FACTS_NAME, _FACTS)
    facts = {str(name): value for name, value in document.items() if value is not None}
    if missing := [name for name in ("data_root", "options") if name not in facts]:
        raise ValueError(f"no {missing[0]!r}")
    return facts


def fingerprint(labels_and_digests: Iterable[tuple[str, str]]) -> str:
    """A digest of a data set's content: which images it has under which label, wherever they lie.

    Args:
        labels_and_digests: For each image its label and the digest of its bytes, in any order.
    """
    digest = hashlib.blake2b(digest_size=16)
    for label, content in sorted(labels_and_digests):
        digest.update(f"{label}\0{content}\n".encode())
    return f"blake2b:{digest.hexdigest()}"
