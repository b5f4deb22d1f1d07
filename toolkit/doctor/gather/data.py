"""Facts of a data set: one scan of every image, and features of a sample by a pretrained network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime import image_paths
from edgeclf.runtime.arrays import IntArray
from edgeclf.runtime.errors import DatasetError, EdgeclfError, MissingPackageError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import NO_SPLIT, SPLITS, DataFacts, Features, ImageTable
from edgeclf.toolkit.doctor.gather.pretrained import pretrained_features
from edgeclf.toolkit.doctor.gather.thumbnails import ImageRecords, ScanCache, scan_images
from edgeclf.training.data.dataset import Dataset, Sample
from edgeclf.training.data.discovery import discover_dataset
from edgeclf.training.data.seen_images import changed_images
from edgeclf.training.data.split import divide
from edgeclf.training.data.table_files import TableOptions
from edgeclf.training.data.training_data import check_every_class_is_readable
from edgeclf.training.options import DEFAULT_ARCHITECTURE

# Most images that features are computed of; of larger data sets a sample, even over classes and splits.
MAX_FEATURES = 10_000
# Label of images in a data set without classes.
_NO_LABEL = -1


def gather_data(
    data: Path,
    *,
    samples: Sequence[Sample] | None = None,
    root: Path | None = None,
    table: TableOptions | None = None,
    max_images: int | None = None,
    max_features: int = MAX_FEATURES,
    seed: int = 0,
    cache_folder: CacheFolder | None = None,
    scan_cache: ScanCache | None = None,
    progress: Progress,
) -> DataFacts:
    """Gathers the facts of a data set.

    Args:
        data: Folder or CSV, as `discover_dataset` takes it; a folder of images without classes gives facts without
            classes.
        samples: Samples with their splits, as a run recorded them; None to discover them.
        root: Folder that the samples' paths are relative to; None with `samples` None.
        table: What the user says of a CSV; None for nothing.
        max_images: Number of images scanned, the same fraction of every class in every split; None for all.
        max_features: Number of images that features are computed of; 0 for none.
        seed: Seed of the samples.
        cache_folder: Cache of preprocessed images and features, shared with training; None for the default folder.
        scan_cache: Records and features of images scanned before, extended by this call; None for none.
        progress: Reports how many images are done.

    Raises:
        DatasetError: There are no images at all.
        OutputError: The cache cannot be written.
    """
    refusal: str | None = None
    if samples is None or root is None:
        try:
            dataset = discover_dataset(
                data, for_training=False, table=table, cache_folder=cache_folder, progress=progress
            )
            labelled = True
        except DatasetError as error:
            dataset, labelled, refusal = _without_labels(data, error), False, str(error)
    else:
        dataset, labelled = Dataset(root, tuple(samples)), True
    classes = dataset.labels if labelled else ()
    number = {label: position for position, label in enumerate(classes)}
    labels = np.array([number.get(sample.label, _NO_LABEL) for sample in dataset.samples], np.int64)
    splits = np.array([NO_SPLIT if s.split is None else SPLITS.index(s.split) for s in dataset.samples], np.int64)
    chosen = sample_rows(labels, splits, len(labels) if max_images is None else max_images, seed)
    records = scan_images([dataset.root / dataset.samples[row].path for row in chosen], progress, scan_cache)
    rows = chosen[records.rows]
    if refusal is None and samples is None:
        unseen = {dataset.samples[chosen[position]].path for position, _ in records.unreadable}
        refusal = _why_refused(data, table, dataset, unseen, cache_folder)
    facts = DataFacts(
        given=str(data),
        root=dataset.root,
        classes=classes,
        images=_table(dataset, rows, labels, splits, records),
        unreadable=tuple((dataset.samples[chosen[position]].path, why) for position, why in records.unreadable),
        refusal=refusal,
        features=None,
        has_splits=bool((splits != NO_SPLIT).any()),
        sampled_from=len(labels) if len(chosen) < len(labels) else None,
        not_read=dataset.not_read,
        changed=_changed([dataset.samples[row] for row in rows], records.digests),
        progress=progress,
    )
    if not labelled:
        return facts
    return with_features(
        facts, max_features, seed=seed, cache_folder=cache_folder, scan_cache=scan_cache, progress=progress
    )


def _without_labels(data: Path, refusal: DatasetError) -> Dataset:
    """The images of a data set without classes, unlabelled.

    Raises:
        DatasetError: `refusal` itself, where there are no images either.
    """
    if kind_of(data) == "folder":
        root = data.resolve()
        try:
            found = image_paths([root])
        except EdgeclfError:
            raise refusal from None
        return Dataset(root, tuple(Sample(path.relative_to(root).as_posix(), "") for path in found))
    if kind_of(data) == "file" and data.suffix.lower() == ".csv":
        return Dataset(data.parent.resolve(), ())
    raise refusal


def _why_refused(
    data: Path, table: TableOptions | None, dataset: Dataset, unreadable: set[str], cache_folder: CacheFolder | None
) -> str | None:
    """Error message of a training on this data; None where training would accept it."""
    try:
        discover_dataset(data, table=table, cache_folder=cache_folder)
        split = divide(dataset).samples
        readable = [sample for sample in split if sample.path not in unreadable]
        check_every_class_is_readable(readable, dataset.labels, len(unreadable))
    except EdgeclfError as error:
        return str(error)
    return None


def _changed(samples: Sequence[Sample], digests: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Path and split of each image whose file has another digest than its sample was recorded with."""
    now = [replace(sample, digest=digest) for sample, digest in zip(samples, digests, strict=True)]
    splits = {sample.path: sample.split for sample in samples}
    return tuple((path, splits[path] or "") for path in changed_images(samples, now))


def _table(
    dataset: Dataset,
    rows: IntArray,
    labels: IntArray,
    splits: IntArray,
    records: ImageRecords,
) -> ImageTable:
    return ImageTable(
        paths=tuple(dataset.samples[row].path for row in rows),
        labels=labels[rows],
        splits=splits[rows],
        digests=records.digests,
        formats=records.formats,
        properties=records.properties,
        thumbnails=records.thumbnails,
    )


def with_features(
    facts: DataFacts,
    max_features: int,
    *,
    seed: int,
    cache_folder: CacheFolder | None,
    scan_cache: ScanCache | None = None,
    progress: Progress,
) -> DataFacts:
    """The facts with features of a sample of the images, or the reason why there are none.

    Args:
        facts: Facts without features.
        max_features: Size of the sample, 0 for none.
        seed: Seed of the sample.
        cache_folder: Cache of features; None for the default folder.
        scan_cache: Features computed before, extended by this call; None for none.
        progress: Reports how many images are done.

    Raises:
        OutputError: The cache cannot be written.
    """
    rows = sample_rows(facts.images.labels, facts.images.splits, max_features, seed)
    if not max_features:
        return replace(facts, why_no_features="the pretrained network was not asked")
    if not len(rows):
        return facts
    known = {} if scan_cache is None else scan_cache.vectors
    digests = [facts.images.digests[row] for row in rows]
    missing = [position for position, digest in enumerate(digests) if digest not in known]
    try:
        paths = [facts.root / facts.images.paths[rows[n]] for n in missing]
        readable, found = pretrained_features(paths, cache_folder=cache_folder, progress=progress)
    except MissingPackageError as error:
        return replace(facts, why_no_features=str(error))
    vectors = {missing[position]: vector for position, vector in zip(readable, found, strict=True)}
    if scan_cache is not None:
        scan_cache.vectors.update({digests[n]: vector for n, vector in vectors.items()})
    vectors.update({n: known[digest] for n, digest in enumerate(digests) if n not in vectors and digest in known})
    # A file that was deleted after the scan has none.
    present = sorted(vectors)
    if not present:
        return facts
    matrix = np.stack([vectors[n] for n in present])
    return replace(facts, features=Features(rows[present], matrix, DEFAULT_ARCHITECTURE))


def sample_rows(labels: IntArray, splits: IntArray, max_rows: int, seed: int) -> IntArray:
    """Stratified sample: about the same fraction of every class in every split, at least one image of each.

    Args:
        labels: (N,) class indices.
        splits: (N,) positions in `SPLITS`, or `NO_SPLIT`.
        max_rows: Size of the sample; 0 for none.
        seed: Seed.

    Returns:
        Positions in `labels`, ascending.
    """
    if len(labels) <= max_rows:
        return np.arange(len(labels))
    fraction = max_rows / len(labels)
    generator = np.random.default_rng(seed)
    chosen = []
    for key in sorted(set(zip(labels.tolist(), splits.tolist(), strict=True))):
        rows = np.flatnonzero((labels == key[0]) & (splits == key[1]))
        chosen.append(generator.permutation(rows)[: max(1, int(len(rows) * fraction))] if max_rows else rows[:0])
    return np.sort(np.concatenate(chosen))
