"""Facts of a data set: every picture opened once for its properties, and a sample of them shown to a pretrained network."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError, MissingPackageError
from edgeclf.runtime.image_header import read_image_header
from edgeclf.runtime.preprocess import UInt8Array, decode_image, load_image, resize
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.toolkit.doctor.facts import NO_PART, PARTS, THUMBNAIL, DataFacts, Features, ImageTable
from edgeclf.toolkit.doctor.properties import PROPERTIES, measure_properties
from edgeclf.training.ahead import map_ahead
from edgeclf.training.architectures import DEFAULT_ARCHITECTURE, get_architecture
from edgeclf.training.cache import cached_images
from edgeclf.training.dataset import Sample, discover_dataset
from edgeclf.training.features import backbone_features, freeze_written
from edgeclf.training.networks.weights import PRETRAINED

# Pictures that the pretrained network is shown at most: beyond this many, a sample of every class in every part.
MAX_FEATURES = 10_000


@dataclass(frozen=True, eq=False)
class _Seen:
    digest: str
    format: str
    properties: dict[str, float]
    thumbnail: UInt8Array


def gather_data(
    data: Path,
    *,
    samples: Sequence[Sample] | None = None,
    root: Path | None = None,
    max_features: int = MAX_FEATURES,
    seed: int = 0,
    cache_folder: Path | None = None,
    progress: Progress,
) -> DataFacts:
    """Gathers a data set's facts.

    Args:
        data: Folder or CSV, as `discover_dataset` takes it.
        samples: Its samples with their parts, where a run says which those are; None lists them.
        root: What the samples' paths are relative to; None with `samples` None.
        max_features: Pictures that the pretrained network is shown; 0 for none.
        seed: Of the sample.
        cache_folder: Where preprocessed pictures and features are kept, which a training then finds; None takes the
            default.
        progress: Told how many pictures are done.

    Raises:
        DatasetError: There are no labelled images at all.
        OutputError: The cache cannot be written.
    """
    refusal: str | None = None
    if samples is None or root is None:
        dataset = discover_dataset(data, for_training=False)
        samples, root = dataset.samples, dataset.root
        try:
            discover_dataset(data)
        except EdgeclfError as error:
            refusal = str(error)
    table, unreadable, samples = _look(samples, root, progress)
    classes = tuple(sorted({sample.label for sample in samples}))
    facts = DataFacts(
        given=str(data),
        root=root,
        classes=classes,
        images=table,
        unreadable=tuple(unreadable),
        refusal=refusal,
        features=None,
        parts_given=bool(len(table)) and bool((table.parts != NO_PART).any()),
    )
    return with_features(facts, max_features, seed=seed, cache_folder=cache_folder, progress=progress)


def with_features(
    facts: DataFacts, most: int, *, seed: int, cache_folder: Path | None, progress: Progress
) -> DataFacts:
    """The facts with the features of a sample of the pictures, if the pretrained network is installed."""
    rows = sample_rows(facts.images.labels, facts.images.parts, most, seed)
    architecture = get_architecture(DEFAULT_ARCHITECTURE)
    if not len(rows) or architecture.read_weights is None or architecture.write_backbone is None:
        return facts
    try:
        weights = architecture.read_weights(PRETRAINED)
        if weights is None:
            return facts
        preprocess = Preprocess((architecture.default_size,) * 2, architecture.default_fit)
        backbone = freeze_written(architecture.name, preprocess.size_hw, weights, architecture.write_backbone)
    except MissingPackageError:
        return facts
    paths = [facts.root / facts.images.paths[row] for row in rows]
    cached = cached_images(paths, preprocess, cache_folder=cache_folder, progress=progress)
    vectors = backbone_features(backbone, cached, preprocess.key, cache_folder=cache_folder, progress=progress)
    found = Features(rows[np.array(cached.rows, np.int64)], np.asarray(vectors[:], np.float32), architecture.name)
    return DataFacts(**{**vars(facts), "features": found})


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


def _look(
    samples: Sequence[Sample], root: Path, progress: Progress
) -> tuple[ImageTable, list[tuple[str, str]], Sequence[Sample]]:
    """Opens every picture."""
    threads = usable_cpus()
    classes = {label: number for number, label in enumerate(sorted({sample.label for sample in samples}))}
    kept: list[int] = []
    seen: list[_Seen] = []
    unreadable: list[tuple[str, str]] = []
    # On disk: a thumbnail takes 12 KB, and there may be a million pictures. The file has no name and goes with the array.
    file = tempfile.TemporaryFile(prefix="edgeclf-doctor-")  # noqa: SIM115 - as long as the array
    thumbnails = np.memmap(file, np.uint8, "w+", shape=(max(1, len(samples)), THUMBNAIL, THUMBNAIL, 3))
    with _single_threaded_opencv():
        found = map_ahead(
            lambda sample: _see(root / sample.path), samples, threads=threads, ahead=4 * threads, name="edgeclf-doctor"
        )
        for number, (sample, result) in enumerate(zip(samples, found, strict=True)):
            progress("look", number + 1, len(samples))
            if isinstance(result, EdgeclfError):
                unreadable.append((sample.path, f"{result.what.split(' ')[0]} it: got {result.got}"))
                continue
            thumbnails[len(kept)] = result.thumbnail
            kept.append(number)
            seen.append(_Seen(result.digest, result.format, result.properties, thumbnails[len(kept) - 1]))
    readable = [samples[number] for number in kept]
    table = ImageTable(
        paths=tuple(sample.path for sample in readable),
        labels=np.array([classes[sample.label] for sample in readable], np.int64),
        parts=np.array([NO_PART if s.split is None else PARTS.index(s.split) for s in readable], np.int64),
        digests=tuple(item.digest for item in seen),
        formats=tuple(item.format for item in seen),
        properties={name: np.array([item.properties[name] for item in seen], np.float64) for name in PROPERTIES},
        thumbnails=thumbnails[: len(kept)],
    )
    return table, unreadable, samples


def _see(path: Path) -> "_Seen | EdgeclfError":
    try:
        data = path.read_bytes() if path.is_file() else b""
        header = read_image_header(data)
        # A file without a header is read for the sentence that says what is wrong with it.
        image_bgr = load_image(path) if header is None else decode_image(data, source=str(path))
    except EdgeclfError as error:
        return error
    except OSError:
        try:
            load_image(path)
        except EdgeclfError as error:
            return error
        raise
    if header is None:
        raise RuntimeError(f"{path} changed while it was read")
    return _Seen(
        hashlib.blake2b(data, digest_size=16).hexdigest(),
        header.format,
        measure_properties(image_bgr, header, data),
        resize(image_bgr, (THUMBNAIL, THUMBNAIL)),
    )


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Keeps OpenCV's own pool out of the way while every CPU already has a thread."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
