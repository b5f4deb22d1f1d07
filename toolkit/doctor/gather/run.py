"""Facts of a training and of its model: the run folder's records, and measurements with its network on samples of images."""

import csv
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.export.keras_backend import Inference, KerasModel
from edgeclf.runtime import ModelSession
from edgeclf.runtime.batch.file_digests import digest_files
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, MissingPackageError, RunFolderError
from edgeclf.runtime.files import parse_failure
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec.json_documents import Shape, read_json
from edgeclf.toolkit.doctor.facts import SPLIT_NAMES, SPLITS, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.gather.pretrained import pretrained_features
from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS, measure_linear_probe, perturb_images
from edgeclf.training.cache.pixels import CachedImages, cached_images
from edgeclf.training.data.dataset import Sample, read_run_facts
from edgeclf.training.data.discovery import discover_dataset, folder_of, table_options
from edgeclf.training.data.seen_images import changed_images
from edgeclf.training.data.training_data import read_split
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.options import DEFAULT_ARCHITECTURE, TrainOptions, options_from_json
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.folder import Run, load_run, read_divergence

if TYPE_CHECKING:
    from edgeclf.runtime.arrays import FloatArray, UInt8Array

# Sizes of the samples: training images whose activations are recorded, training images for the accuracy in inference mode,
# training and validation images of the linear probe, and held-out images for predictions.
ACTIVATION_IMAGES, ACCURACY_IMAGES, LINEAR_PROBE_IMAGES, HELD_OUT_IMAGES = 96, 256, 600, 300
_BATCH = 64
# Of metrics.json, what the checks read.
_METRICS: Shape = {
    "validation": {"accuracy": float},
    "test": {"accuracy": float, "count": int},
    "training_after_last_epoch": {"accuracy": float},
    "calibration": {"temperature": float},
}


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """An opened run folder, finished or not, with access to its images and its network.

    Attributes:
        folder: The run folder.
        document: Its `run.json`.
        samples: The run's images with their splits.
        root: Folder that the samples' paths are relative to.
        run: The finished run; None where the training is not finished, or diverged in its first epoch.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Reports stages.
    """

    folder: Path
    document: Mapping[str, Any]
    samples: tuple[Sample, ...]
    root: Path
    run: Run | None
    cache_folder: CacheFolder | None
    progress: Progress

    @functools.cached_property
    def model(self) -> KerasModel:
        """The Keras model."""
        if self.run is None:
            raise ValueError("an unfinished run has no model")
        return self.run.load_model()

    @functools.cached_property
    def infer(self) -> Inference:
        """Inference with the network as it is exported, from uint8 RGB images to probabilities."""
        from edgeclf.export.keras_backend import inference_of
        from edgeclf.training.inspect.fast_inference import quick_inference
        from edgeclf.training.qat.model import simulated_network

        if self.run is None:
            raise ValueError("an unfinished run has no model")
        if (simulated := simulated_network(self.model, self.run.spec)) is not None:
            # Quantization-aware training: the simulated network was calibrated, and is what the file reproduces.
            return inference_of(simulated)
        height, width = self.run.spec.preprocess.size_hw
        noise = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
        return quick_inference(self.run, self.model, noise, cache_folder=self.cache_folder, progress=self.progress)

    def sample(self, splits: Sequence[str], max_images: int, seed: int) -> list[Sample]:
        """Random sample of the images of some splits, in their recorded order, without those that have changed since.

        What lies in the place of a changed image may have trained the network, so that nothing is judged on it.
        """
        members = [number for number, sample in enumerate(self.samples) if sample.split in splits]
        chosen = np.random.default_rng([seed, max_images]).permutation(len(members))[:max_images]
        drawn = [self.samples[members[position]] for position in sorted(chosen)]
        changed = set(changed_images(drawn, self._as_they_are(drawn)))
        return [sample for sample in drawn if sample.path not in changed]

    def _as_they_are(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with the digests that their files have now, None where a file cannot be read."""
        folder = self.cache_folder or chosen_cache_folder()
        folder.make()
        paths = [self.root / sample.path for sample in samples]
        files = digest_files(paths, folder.digests_path, usable_cpus(), self.progress)
        return [replace(sample, digest=file.digest) for sample, file in zip(samples, files, strict=True)]

    def read(self, samples: Sequence[Sample]) -> tuple[CachedImages, list[Sample]]:
        """Preprocessed images, and the samples that could be read, one for each of them.

        Raises:
            DatasetError: There is none.
            InputError: None can be read.
            OutputError: The cache cannot be written.
        """
        if self.run is None:
            raise ValueError("an unfinished run has no preprocessing")
        if not samples:
            raise DatasetError(
                f"no image of {self.folder} is left to be looked at",
                got="images that have all changed since",
                expected="those it was trained on",
                hint="train again",
            )
        paths = [self.root / sample.path for sample in samples]
        cached = cached_images(paths, self.run.spec.preprocess, cache_folder=self.cache_folder, progress=self.progress)
        return cached, [samples[row] for row in cached.rows]

    def predict(self, images_rgb: "UInt8Array", stage: str) -> "FloatArray":
        """(N, C) float32 probabilities of (N, H, W, 3) uint8 RGB images, in batches."""
        found = []
        for start in range(0, len(images_rgb), _BATCH):
            found.append(self.infer(images_rgb[start : start + _BATCH]))
            self.progress(stage, min(start + _BATCH, len(images_rgb)), len(images_rgb))
        return np.concatenate(found)


def open_run(
    folder: Path,
    *,
    data: Path | None = None,
    path_column: str | None = None,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> OpenedRun:
    """Opens the folder of a finished, unfinished or diverged run.

    Args:
        folder: The run folder.
        data: Present location of its data; None for the recorded one.
        path_column: Column of images of that; None for the one that the training was given.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Reports stages.

    Raises:
        RunFolderError: The folder holds no run, or a file in it is damaged.
    """
    unfinished = (folder / run_folder.CHECKPOINT_FILE).is_file() and not (folder / run_folder.SPEC_FILE).is_file()
    run = None if unfinished or read_divergence(folder) is not None else load_run(folder)
    try:
        document = read_run_facts(folder)
        root = Path(document["data_root"])
        samples = read_split(folder / run_folder.SPLIT_FILE) if run is None else run.split
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"cannot read run {folder}",
            got=parse_failure(error),
            expected="what edgeclf train wrote",
            hint="train again",
        ) from error
    if data is not None:
        options = options_from_json(document["options"], folder / run_folder.RUN_FILE)
        root = folder_of(data, path_column or options.path_column).resolve()
    return OpenedRun(folder, document, samples, root, run, cache_folder, progress)


def gather_run(opened: OpenedRun, *, seed: int = 0) -> RunFacts:
    """Gathers the facts of a training.

    Args:
        opened: The run.
        seed: Seed of the samples of images.

    Raises:
        RunFolderError: A file of the run is damaged.
    """
    options = options_from_json(opened.document["options"], opened.folder / run_folder.RUN_FILE)
    classes = tuple(sorted({s.label for s in opened.samples})) if opened.run is None else opened.run.spec.labels
    return RunFacts(
        folder=opened.folder,
        data=_as_named(Path(opened.document.get("data", opened.root))),
        options=options.to_json(),
        history=read_history(opened.folder / run_folder.HISTORY_FILE),
        metrics=_read_metrics(opened.folder / run_folder.METRICS_FILE),
        record=_record(opened, options),
        classes=classes,
        counts={
            split: dict(sorted(Counter(s.label for s in opened.samples if s.split == split).items()))
            for split in SPLITS
        },
        probes=_probe(opened, classes, seed),
    )


def gather_model(
    opened: OpenedRun, *, int8: Path | None = None, max_images: int = HELD_OUT_IMAGES, seed: int = 0
) -> ModelFacts | None:
    """Predicts held-out images, unchanged and perturbed, with a run's network.

    Args:
        opened: The run.
        int8: Path of its int8 file; None for none.
        max_images: Size of the sample of held-out images.
        seed: Seed of the sample and of the perturbations.

    Returns:
        The predictions; None where there is no network, or its images are gone.

    Raises:
        EdgeclfError: The int8 file cannot be run, or has other labels than the run.
    """
    if opened.run is None or not opened.root.is_dir():
        return None
    split = "test" if any(sample.split == "test" for sample in opened.samples) else "val"
    try:
        cached, samples = opened.read(opened.sample((split,), max_images, seed))
    except (InputError, DatasetError):
        return None
    images = cached.images[:]
    index = {label: position for position, label in enumerate(opened.run.spec.labels)}
    return ModelFacts(
        split=SPLIT_NAMES[split],
        paths=tuple(sample.path for sample in samples),
        true=np.array([index[sample.label] for sample in samples], np.int64),
        probabilities=opened.predict(images, "held-out images"),
        perturbed={
            name: opened.predict(perturb_images(images, name, seed), f"changed: {name}") for name in PERTURBATIONS
        },
        int8=None if int8 is None else _int8_probabilities(opened.run, int8, images),
    )


def _int8_probabilities(run: Run, path: Path, images: "UInt8Array") -> "FloatArray":
    session = ModelSession(path, device="cpu")
    if session.spec.labels != run.spec.labels:
        raise InputError(
            f"{path} is not a model of {run.folder}",
            got=", ".join(session.spec.labels),
            expected=", ".join(run.spec.labels),
            hint="export the run to int8",
        )
    return np.concatenate([session.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])


def read_history(path: Path) -> list[dict[str, Any]]:
    """Rows of a `history.csv`, numbers as numbers; none where the file does not exist."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # Fields beyond the first line have no name.
            rows = [{key: value for key, value in row.items() if key is not None} for row in csv.DictReader(file)]
            return [{key: _number(value) for key, value in row.items()} for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(
            f"cannot read {path}", got=parse_failure(error), expected="what edgeclf train wrote"
        ) from error


def _number(text: str | None) -> float | str | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return text
    return int(number) if math.isfinite(number) and number == int(number) and "." not in (text or "") else number


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = read_json(path, _METRICS)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"cannot read {path}", got=parse_failure(error), expected="what edgeclf train wrote"
        ) from error
    return document


def _as_named(path: Path) -> str:
    """Path for a command to paste: relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _record(opened: OpenedRun, options: TrainOptions) -> dict[str, Any]:
    """Record of the training: options resolved, the recipe's usual values (`suits`), ending and best epoch."""
    resolved = resolve_options(options, reads_backbone=False)
    diverged = read_divergence(opened.folder)
    training: dict[str, Any] = dict(opened.run.spec.training or {}) if opened.run is not None else {}
    suits = resolved.recipe
    return {
        "architecture": resolved.architecture.name,
        "pretrained": resolved.architecture.pretrained and resolved.weights != "none",
        "goes_on": options.from_run is not None,
        "freezes_backbone": resolved.freezes_backbone,
        "fine_tune": None if resolved.fine_tune is None else asdict(resolved.fine_tune),
        "fit": asdict(resolved.first),
        "suits": {"learning_rate": suits.learning_rate, "optimizer": suits.optimizer, "epochs": suits.epochs},
        "ending": training.get("ending", "unfinished" if diverged is None else "diverged"),
        "best_epoch": training.get("best_epoch"),
        "diverged": diverged,
        "monitor": resolved.first.monitor,
        "brings_validation": _brings_validation(opened),
    }


def _brings_validation(opened: OpenedRun) -> bool:
    """Whether the data set has a validation split of its own, so that `--val-fraction` would do nothing."""
    try:
        options = options_from_json(opened.document["options"], opened.folder / run_folder.RUN_FILE)
        data = Path(opened.document.get("data", opened.root))
        dataset = discover_dataset(data, for_training=False, table=table_options(options))
    except EdgeclfError:
        return False
    return any(sample.split == "val" for sample in dataset.samples)


def _probe(opened: OpenedRun, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Measurements on samples of the run's images; `missing` has the reason where some cannot be made."""
    probes: dict[str, Any] = {}
    if not opened.root.is_dir():
        return {"missing": f"the images are no longer in {opened.root}"}
    try:
        probes["linear_probe"] = _linear_probe(opened, classes, seed)
        if opened.run is None:
            return probes
        cached, samples = opened.read(opened.sample(("train",), ACCURACY_IMAGES, seed))
        images = cached.images[:]
        if not _is_frozen(opened.run):
            from edgeclf.training.inspect.activations import probe_network

            probes["network"] = probe_network(opened.model, images[:ACTIVATION_IMAGES], opened.progress).to_json()
        index = {label: position for position, label in enumerate(classes)}
        true = np.array([index[sample.label] for sample in samples], np.int64)
        right = opened.predict(images, "training images").argmax(axis=1) == true
        probes["training"] = {"images": len(true), "accuracy": float(right.mean())}
    except EdgeclfError as error:
        # Images are gone or a package is not installed: the other facts are still of use.
        probes["missing"] = str(error)
    return probes


def _is_frozen(run: Run) -> bool:
    training = run.spec.training or {}
    return bool(training.get("freezes_backbone")) and not training.get("fine_tune")


def _linear_probe(opened: OpenedRun, classes: tuple[str, ...], seed: int) -> dict[str, Any] | None:
    """Accuracy of a linear probe on the run's images; None where the pretrained network is not installed."""
    chosen = opened.sample(("train",), LINEAR_PROBE_IMAGES * 2 // 3, seed) + opened.sample(
        ("val",), LINEAR_PROBE_IMAGES // 3, seed
    )
    paths = [opened.root / sample.path for sample in chosen]
    try:
        rows, vectors = pretrained_features(paths, cache_folder=opened.cache_folder, progress=opened.progress)
    except MissingPackageError:
        return None
    index = {label: position for position, label in enumerate(classes)}
    labels = np.array([index[chosen[row].label] for row in rows], np.int64)
    training = np.array([chosen[row].split == "train" for row in rows], bool)
    if len(set(labels[training].tolist())) < 2:
        return None
    return measure_linear_probe(vectors, labels, training, len(classes)) | {"network": DEFAULT_ARCHITECTURE}
