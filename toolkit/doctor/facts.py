"""What the checks look at: facts of the data, of a run and of its model, gathered once and never changed.

Checks are pure functions of these; nothing here is computed by a check, and nothing here judges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgeclf.toolkit.doctor.findings import Finding

# Side of the square thumbnails that duplicates are verified on, in pixels.
THUMBNAIL = 64
SPLITS = ("train", "val", "test")
NO_SPLIT = -1
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The readable images of a data set, a row each.

    Attributes:
        paths: Relative to the data's root.
        labels: (N,) int64, positions in the data's classes.
        parts: (N,) int64, positions in `SPLITS`, `NO_SPLIT` where the data brings no parts.
        digests: Of the files' bytes.
        formats: `jpeg`, `png`, ...
        properties: Measured properties by name, each (N,) float64, NaN where a file has none; see `properties.py`.
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR, the whole picture stretched; may be a memory map.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    digests: tuple[str, ...]
    formats: tuple[str, ...]
    properties: Mapping[str, npt.NDArray[np.float64]]
    thumbnails: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.paths)

    def rows_of(self, part: str) -> npt.NDArray[np.int64]:
        """Positions of the images of a part."""
        return np.flatnonzero(self.parts == SPLITS.index(part))


@dataclass(frozen=True, eq=False)
class Features:
    """What a pretrained network makes of some of the images.

    Attributes:
        rows: (M,) int64, ascending: which images of the table.
        vectors: (M, F) float32 penultimate activations.
        network: What computed them.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    network: str


@dataclass(frozen=True, eq=False)
class DataFacts:
    """A labelled data set.

    Attributes:
        given: What the user named, for commands that mend.
        root: Absolute path that the images' paths are relative to.
        classes: Class names, sorted; none where the images have no labels that could be used.
        images: The readable images; their labels are -1 where there are no classes.
        unreadable: Path and reason of each file that is not.
        refusal: Why training would refuse the data; None where it would not.
        features: Of a sample of the images; None where the pretrained network is not installed, or nothing needs it.
        parts_given: Whether the data set, or the run, says which image is in which part.
        listed: How many images the data set has, when only a sample of them was looked at; None when all were.
        without_features: Why there are no features; None where there are, or where nothing was to be had from them.
    """

    given: str
    root: Path
    classes: tuple[str, ...]
    images: ImageTable
    unreadable: tuple[tuple[str, str], ...]
    refusal: str | None
    features: Features | None
    has_splits: bool
    listed: int | None = None
    why_no_features: str | None = None
    _derived: dict[Callable[["DataFacts"], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def derived(self, analysis: "Callable[[DataFacts], Result]") -> "Result":
        """The result of an analysis that several checks share, computed once and kept as long as these facts.

        Args:
            analysis: A pure function of the facts, the same object in every call.
        """
        if analysis not in self._derived:
            self._derived[analysis] = analysis(self)
        result: Result = self._derived[analysis]
        return result


@dataclass(frozen=True, eq=False)
class RunFacts:
    """A training, as its run folder records it.

    Attributes:
        folder: The run folder.
        data: What it was trained on, as the user would name it.
        options: How it was trained, as `TrainOptions.to_json` gives it, and what followed from that.
        history: One entry an epoch, numbers as numbers.
        metrics: What the run folder's `metrics.json` says; empty where it does not exist.
        record: What else the run recorded about its training (`run.json`, and the spec's training summary).
        classes: Class names in output order.
        counts: Images of each part by class.
        probes: What running the network on some of its images gave, see `probe.py`; empty where it could not be run.
    """

    folder: Path
    data: str
    options: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    record: Mapping[str, Any]
    classes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    probes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What a trained model says about held-out images, as they are and changed as the field changes them.

    Attributes:
        part: `test`, or `validation` where there is no test part.
        paths: Of the images, relative to the data's root.
        true: (N,) int64 class of each.
        probabilities: (N, C) float32 for the images as they are.
        changed: (N, C) float32 by the name of the change, such as `brightness x0.7`.
        int8: (N, C) float32 of the int8 file, None without one.
    """

    part: str
    paths: tuple[str, ...]
    true: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    changed: Mapping[str, npt.NDArray[np.float32]]
    int8: npt.NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Facts:
    """All that is known; None where there is nothing to know it from.

    Attributes:
        data: Of the images.
        run: Of the training.
        field: Of the model.
    """

    data: DataFacts | None = None
    run: RunFacts | None = None
    field: ModelFacts | None = None


@dataclass(frozen=True)
class Check:
    """One question the doctor asks.

    Attributes:
        name: Short, with hyphens.
        theme: The module it lives in: files, labels, duplicates, split, shortcuts, classes, run, field.
        causes: What its findings may name.
        condition: When it finds something, in a sentence with the figures that decide.
        find: Facts to findings; none where the facts it needs are None.
    """

    name: str
    theme: str
    causes: tuple[str, ...]
    condition: str
    find: Callable[[Facts], list[Finding]]
