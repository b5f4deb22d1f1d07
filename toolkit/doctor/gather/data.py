"""Facts of a data set: every picture opened once for its properties, and a sample of them shown to a pretrained network."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.batch.sources import image_paths
from edgeclf.runtime.errors import DatasetError, EdgeclfError, MissingPackageError
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import NO_SPLIT, SPLITS, DataFacts, Features, ImageTable
from edgeclf.toolkit.doctor.gather.pretrained import pretrained_features
from edgeclf.toolkit.doctor.gather.thumbnails import ImageRecords, ScanCache, scan_images
from edgeclf.training.data.dataset import Dataset, Sample, discover_dataset
from edgeclf.training.data.training_data import assign_splits, check_every_class_is_readable
from edgeclf.training.options import DEFAULT_ARCHITECTURE

# Pictures that the pretrained network is shown at most: beyond this many, a sample of every class in every part.
MAX_FEATURES = 10_000
# Of images whose classes cannot be told.
_NO_LABEL = -1


def gather_data(
    data: Path,
    *,
    samples: Sequence[Sample] | None = None,
    root: Path | None = None,
    max_images: int | None = None,
    max_features: int = MAX_FEATURES,
    seed: int = 0,
    cache_folder: CacheFolder | None = None,
    memory: ScanCache | None = None,
    progress: Progress,
) -> DataFacts:
    """Gathers a data set's facts.

    Args:
        data: Folder or CSV, as `discover_dataset` takes it; a folder of images without classes gives facts without
            classes.
        samples: Its samples with their parts, where a run says which those are; None lists them.
        root: What the samples' paths are relative to; None with `samples` None.
        max_images: Pictures that are looked at, of every class in every part the same share; None for all.
        max_features: Pictures that the pretrained network is shown; 0 for none.
        seed: Of the samples.
        cache_folder: Where preprocessed pictures and features are kept, which a training then finds; None takes the
            default.
        memory: What was seen of pictures before; None remembers nothing.
        progress: Told how many pictures are done.

    Raises:
        DatasetError: There are no images at all.
        OutputError: The cache cannot be written.
    """
    refusal: str | None = None
    if samples is None or root is None:
        try:
            dataset = discover_dataset(data, for_training=False)
            labelled = True
        except DatasetError as error:
            dataset, labelled, refusal = _without_labels(data, error), False, str(error)
    else:
        dataset, labelled = Dataset(root, tuple(samples)), True
    classes = dataset.labels if labelled else ()
    number = {label: position for position, label in enumerate(classes)}
    labels = np.array([number.get(sample.label, _NO_LABEL) for sample in dataset.samples], np.int64)
    parts = np.array([NO_SPLIT if s.split is None else SPLITS.index(s.split) for s in dataset.samples], np.int64)
    chosen = sample_rows(labels, parts, len(labels) if max_images is None else max_images, seed)
    looked = scan_images([dataset.root / dataset.samples[row].path for row in chosen], progress, memory)
    rows = chosen[looked.rows]
    if refusal is None and samples is None:
        unseen = {dataset.samples[chosen[position]].path for position, _ in looked.unreadable}
        refusal = _why_refused(data, dataset, unseen)
    facts = DataFacts(
        given=str(data),
        root=dataset.root,
        classes=classes,
        images=_table(dataset, rows, labels, parts, looked),
        unreadable=tuple((dataset.samples[chosen[position]].path, why) for position, why in looked.unreadable),
        refusal=refusal,
        features=None,
        has_splits=bool((parts != NO_SPLIT).any()),
        listed=len(labels) if len(chosen) < len(labels) else None,
    )
    if not labelled:
        return facts
    return with_features(facts, max_features, seed=seed, cache_folder=cache_folder, memory=memory, progress=progress)


def _without_labels(data: Path, refusal: DatasetError) -> Dataset:
    """The images of data whose classes cannot be told.

    Raises:
        DatasetError: The refusal itself, where there is nothing to look at.
    """
    # os.path, because Path raises for some impossible names.
    if os.path.isdir(data):  # noqa: PTH112
        root = data.resolve()
        try:
            found = image_paths([root])
        except EdgeclfError:
            raise refusal from None
        return Dataset(root, tuple(Sample(path.relative_to(root).as_posix(), "") for path in found))
    if os.path.isfile(data) and data.suffix.lower() == ".csv":  # noqa: PTH113
        return Dataset(data.parent.resolve(), ())
    raise refusal


def _why_refused(data: Path, dataset: Dataset, unreadable: set[str]) -> str | None:
    """Training's own sentence, None where it would not refuse."""
    try:
        discover_dataset(data)
        split = assign_splits(dataset)
        readable = [sample for sample in split if sample.path not in unreadable]
        check_every_class_is_readable(readable, dataset.labels, len(unreadable))
    except EdgeclfError as error:
        return str(error)
    return None


def _table(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    parts: npt.NDArray[np.int64],
    looked: ImageRecords,
) -> ImageTable:
    return ImageTable(
        paths=tuple(dataset.samples[row].path for row in rows),
        labels=labels[rows],
        parts=parts[rows],
        digests=looked.digests,
        formats=looked.formats,
        properties=looked.properties,
        thumbnails=looked.thumbnails,
    )


def with_features(
    facts: DataFacts,
    most: int,
    *,
    seed: int,
    cache_folder: CacheFolder | None,
    memory: ScanCache | None = None,
    progress: Progress,
) -> DataFacts:
    """The facts with the features of a sample of the pictures, if the pretrained network is installed.

    Args:
        facts: Without features.
        most: Pictures in the sample at most, 0 for none.
        seed: Of the sample.
        cache_folder: Where features are kept; None takes the default.
        memory: Features computed before; None remembers nothing.
        progress: Told how many pictures are done.

    Raises:
        OutputError: The cache cannot be written.
    """
    rows = sample_rows(facts.images.labels, facts.images.parts, most, seed)
    if not most:
        return replace(facts, why_no_features="the pretrained network was not asked")
    if not len(rows):
        return facts
    known = {} if memory is None else memory.vectors
    digests = [facts.images.digests[row] for row in rows]
    missing = [position for position, digest in enumerate(digests) if digest not in known]
    try:
        paths = [facts.root / facts.images.paths[rows[n]] for n in missing]
        readable, found = pretrained_features(paths, cache_folder=cache_folder, progress=progress)
    except MissingPackageError as error:
        return replace(facts, why_no_features=str(error))
    vectors = {missing[position]: vector for position, vector in zip(readable, found, strict=True)}
    if memory is not None:
        memory.vectors.update({digests[n]: vector for n, vector in vectors.items()})
    vectors.update({n: known[digest] for n, digest in enumerate(digests) if n not in vectors and digest in known})
    # A file that went away since it was looked at has none.
    there = sorted(vectors)
    if not there:
        return facts
    matrix = np.stack([vectors[n] for n in there])
    return replace(facts, features=Features(rows[there], matrix, DEFAULT_ARCHITECTURE))


def sample_rows(
    labels: npt.NDArray[np.int64], parts: npt.NDArray[np.int64], most: int, seed: int
) -> npt.NDArray[np.int64]:
    """At most `most` positions, ascending: of every class in every part the same share, but never none."""
    if len(labels) <= most:
        return np.arange(len(labels))
    share = most / len(labels)
    generator = np.random.default_rng(seed)
    chosen = []
    for key in sorted(set(zip(labels.tolist(), parts.tolist(), strict=True))):
        rows = np.flatnonzero((labels == key[0]) & (parts == key[1]))
        chosen.append(generator.permutation(rows)[: max(1, int(len(rows) * share))] if most else rows[:0])
    return np.sort(np.concatenate(chosen))
