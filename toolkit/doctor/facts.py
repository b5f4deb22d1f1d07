"""Facts of a data set, a run and its model: the input of every check, gathered once and immutable.

Checks are pure functions of these facts; nothing here is judged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.toolkit.doctor.findings import Finding

# Side of the square thumbnails in pixels.
THUMBNAIL = 64
SPLITS = ("train", "val", "test")
# Names of the splits in sentences.
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
NO_SPLIT = -1
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Table of the readable images of a data set: one row per image.

    Attributes:
        paths: (N,) paths relative to the data's root.
        labels: (N,) int64 class indices; -1 where the data set has no classes.
        splits: (N,) int64 positions in `SPLITS`; `NO_SPLIT` where the data set is not split.
        digests: (N,) digests of the files' bytes.
        formats: (N,) file formats: `jpeg`, `png`, ...
        properties: Image properties by name, each (N,) float64, NaN where not defined for a file; see
            `gather/properties.py`.
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR, the whole image stretched; may be a memory map.
    """

    paths: tuple[str, ...]
    labels: IntArray
    splits: IntArray
    digests: tuple[str, ...]
    formats: tuple[str, ...]
    properties: Mapping[str, Float64Array]
    thumbnails: UInt8Array

    def __len__(self) -> int:
        return len(self.paths)

    def rows_of(self, split: str) -> IntArray:
        """Rows of the images of a split, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a sample of the images by a pretrained network.

    Attributes:
        rows: (M,) int64 rows of the image table, ascending.
        vectors: (M, F) float32 penultimate activations.
        network: Name of the network.
    """

    rows: IntArray
    vectors: FloatArray
    network: str


@dataclass(frozen=True, eq=False)
class DataFacts:
    """Facts of a data set.

    Attributes:
        given: Path as the user gave it, for commands to paste.
        root: Absolute path that the images' paths are relative to.
        classes: Class names, sorted; empty where the images have no usable labels.
        images: The readable images.
        unreadable: Path and reason of each unreadable file.
        refusal: Error message of a training on this data; None where training would accept it.
        features: Features of a sample of the images; None where they were not computed.
        has_splits: Whether the data set, or the run, assigns images to splits.
        sampled_from: Number of images in the data set where only a sample was scanned; None where all were.
        why_no_features: Reason why there are no features; None where there are, or where there was no image to compute
            them of.
        not_read: Number of files in the class folders that are no images by their names, by kind.
        changed: Path and split of each image whose file has another content than the run recorded.
        progress: Where analyses that take long report how far they are.
    """

    given: str
    root: Path
    classes: tuple[str, ...]
    images: ImageTable
    unreadable: tuple[tuple[str, str], ...]
    refusal: str | None
    features: Features | None
    has_splits: bool
    sampled_from: int | None = None
    why_no_features: str | None = None
    not_read: Mapping[str, int] = field(default_factory=dict)
    changed: tuple[tuple[str, str], ...] = ()
    progress: Progress = field(default=no_progress, repr=False)
    _derived: dict[Callable[["DataFacts"], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def derived(self, analysis: "Callable[[DataFacts], Result]") -> "Result":
        """Result of an analysis that several checks share, computed at the first call and kept as long as these facts.

        Args:
            analysis: Pure function of the facts; its identity is the key.
        """
        if analysis not in self._derived:
            self._derived[analysis] = analysis(self)
        result: Result = self._derived[analysis]
        return result


@dataclass(frozen=True, eq=False)
class RunFacts:
    """Facts of a training, as its run folder records it.

    Attributes:
        folder: The run folder.
        data: Path of its data set, relative to the current folder where it lies below it.
        options: Training options, as `TrainOptions.to_json` gives them.
        history: One entry per epoch, numbers as numbers.
        metrics: Content of the run folder's `metrics.json`; empty where the file does not exist.
        record: Resolved options, ending and best epoch, see `gather/run.py`.
        classes: Class names in output order.
        counts: Number of images by split and class.
        probes: Measurements on a sample of the run's images by name (`linear_probe`, `network`, `training`); `missing` is
            the reason where some could not be made.
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
    """Predictions of a trained model on held-out images, unchanged and perturbed.

    Attributes:
        split: `test`, or `validation` where there is no test split.
        paths: (N,) paths relative to the data's root.
        true: (N,) int64 true class indices.
        probabilities: (N, C) float32 for the unchanged images.
        perturbed: (N, C) float32 by the name of the perturbation, such as `brightness x0.8`.
        int8: (N, C) float32 of the int8 file for the unchanged images; None without one.
        labels: Names of the classes; empty where the run has them.
    """

    split: str
    paths: tuple[str, ...]
    true: IntArray
    probabilities: FloatArray
    perturbed: Mapping[str, FloatArray]
    int8: FloatArray | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Trial:
    """One way of using a model file, and what it then gives.

    Attributes:
        changes: Options that make it another way than the given one, values by option; empty for the given one.
        probabilities: (M, C) float32 for the first M images, NaN where it gives no numbers: a way that is clearly worse is
            given up.
    """

    changes: Mapping[str, str]
    probabilities: FloatArray

    @property
    def name(self) -> str:
        """The changes as they are typed."""
        return " ".join(f"{option} {value}" for option, value in self.changes.items()) or "as it is used"


@dataclass(frozen=True, eq=False)
class UseFacts:
    """What a model file gives for photographs, in the way it is used and in others.

    Attributes:
        model: Path of the file as given.
        data: Path of the photographs as given.
        given: Options as they were typed, values by option.
        is_foreign: Whether it has no spec, so that options say how it is used.
        is_scaling_unsaid: Whether nothing says how its pixels are scaled, and a division by 255 stands in.
        scales_itself: Whether its graph begins with a normalisation of pixels 0..255.
        labels: Its class names.
        has_names: Whether these are names; else they are indices, which nothing has named.
        activation: What its output has been through, as `ModelUse.activation` has it; None for a file with a spec.
        is_one_value: Whether it gives one value an image, of which `raw` has two columns.
        paths: (N,) paths of the photographs, relative to the data's root, in random order.
        folders: Names of the classes of the photographs; empty where they have none.
        true: (N,) int64 positions in `folders`; -1 without.
        trials: The given way, then others.
        raw: (N, C) float32 of the given way, as the output is.
    """

    model: str
    data: str
    given: Mapping[str, str]
    is_foreign: bool
    is_scaling_unsaid: bool
    scales_itself: bool
    labels: tuple[str, ...]
    has_names: bool
    activation: str | None
    is_one_value: bool
    paths: tuple[str, ...]
    folders: tuple[str, ...]
    true: IntArray
    trials: tuple[Trial, ...]
    raw: FloatArray
    _derived: dict[Callable[["UseFacts"], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def derived(self, analysis: "Callable[[UseFacts], Result]") -> "Result":
        """As `DataFacts.derived`."""
        if analysis not in self._derived:
            self._derived[analysis] = analysis(self)
        result: Result = self._derived[analysis]
        return result


@dataclass(frozen=True, eq=False)
class Facts:
    """Facts of one examination, each None where its subject is missing.

    Attributes:
        data: Facts of the data set.
        run: Facts of the training.
        model: Predictions of the trained model.
        use: What a model file gives in the way it is used and in others.
    """

    data: DataFacts | None = None
    run: RunFacts | None = None
    model: ModelFacts | None = None
    use: UseFacts | None = None


@dataclass(frozen=True)
class Check:
    """A check: a named pure function from facts to findings.

    Attributes:
        name: Identifier in `--list`, words joined by hyphens.
        theme: Group in `--list`: files, labels, duplicates, split, shortcuts, classes, run, use, field.
        causes: Causes that its findings may name.
        condition: Condition for a finding as one sentence with its thresholds.
        find: Returns the findings; none where the facts that it needs are None.
    """

    name: str
    theme: str
    causes: tuple[str, ...]
    condition: str
    find: Callable[[Facts], list[Finding]]
