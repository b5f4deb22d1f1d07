"""Facts of a training and of its model: what the run folder records, and what running its network on some images gives."""

import csv
import functools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.keras_backend import Inference
from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, MissingPackageError, RunFolderError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.toolkit.doctor.facts import SPLITS, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.gather.pretrained import pretrained_features
from edgeclf.toolkit.doctor.gather.probes import PERTURBATIONS, measure_linear_probe, perturb_images
from edgeclf.training.cache.pixels import CachedImages, cached_images
from edgeclf.training.data.dataset import Sample, discover_dataset
from edgeclf.training.data.training_data import read_split
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.options import DEFAULT_ARCHITECTURE, TrainOptions, options_from_json
from edgeclf.training.run import folder as run_folder
from edgeclf.training.run.folder import Run, load_run, read_divergence

if TYPE_CHECKING:
    import numpy.typing as npt

# Images that are looked at inside the network, that its accuracy is measured on anew, that plain features are made of, and
# that changes are tried on.
PROBED, MEASURED, YARDSTICK, FIELD = 96, 256, 600, 300
_BATCH = 64


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run folder that was opened.

    Attributes:
        folder: The run folder.
        document: Its `run.json`.
        samples: Which images trained, validated and tested.
        root: What their paths are relative to.
        run: The finished run; None where the training is not finished, or diverged at once.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Told of each stage.
    """

    folder: Path
    document: Mapping[str, Any]
    samples: tuple[Sample, ...]
    root: Path
    run: Run | None
    cache_folder: CacheFolder | None
    progress: Progress

    @functools.cached_property
    def model(self) -> Any:  # noqa: ANN401 - keras carries no types
        """The Keras model."""
        if self.run is None:
            raise ValueError("an unfinished run has no model")
        return self.run.load_model()

    @functools.cached_property
    def infer(self) -> Inference:
        """Images to probabilities."""
        from edgeclf.export.keras_backend import inference_of
        from edgeclf.training.inspect.fast_inference import quick_inference
        from edgeclf.training.qat.model import simulated_network

        if self.run is None:
            raise ValueError("an unfinished run has no model")
        if (simulated := simulated_network(self.model, self.run.spec)) is not None:
            # What was trained and calibrated, and what its file is to give.
            return inference_of(simulated)
        height, width = self.run.spec.preprocess.size_hw
        noise = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
        return quick_inference(self.run, self.model, noise, cache_folder=self.cache_folder, progress=self.progress)

    def sample(self, parts: Sequence[str], most: int, seed: int) -> list[Sample]:
        """At most `most` images of some parts, drawn at random, in their order."""
        there = [number for number, sample in enumerate(self.samples) if sample.split in parts]
        chosen = np.random.default_rng([seed, most]).permutation(len(there))[:most]
        return [self.samples[there[position]] for position in sorted(chosen)]

    def read(self, samples: Sequence[Sample]) -> tuple[CachedImages, list[Sample]]:
        """Images as the network takes them, and the samples that could be read."""
        if self.run is None:
            raise ValueError("an unfinished run has no preprocessing")
        paths = [self.root / sample.path for sample in samples]
        cached = cached_images(paths, self.run.spec.preprocess, cache_folder=self.cache_folder, progress=self.progress)
        return cached, [samples[row] for row in cached.rows]

    def predict(self, images_rgb: "npt.NDArray[np.uint8]", stage: str) -> "npt.NDArray[np.float32]":
        """(N, C) float32 probabilities."""
        found = []
        for start in range(0, len(images_rgb), _BATCH):
            found.append(self.infer(images_rgb[start : start + _BATCH]))
            self.progress(stage, min(start + _BATCH, len(images_rgb)), len(images_rgb))
        return np.concatenate(found)


def open_run(
    folder: Path, *, data: Path | None = None, cache_folder: CacheFolder | None = None, progress: Progress = no_progress
) -> OpenedRun:
    """Opens a run folder, whatever its training came to.

    Args:
        folder: The run folder.
        data: Where its data is now; None where it was.
        cache_folder: Where preprocessed images and features are kept; None takes the default.
        progress: Told of each stage.

    Raises:
        RunFolderError: There is none, or a file in it is damaged.
    """
    unfinished = (folder / run_folder.CHECKPOINT_FILE).is_file() and not (folder / run_folder.SPEC_FILE).is_file()
    run = None if unfinished or read_divergence(folder) is not None else load_run(folder)
    try:
        document = json.loads((folder / run_folder.RUN_FILE).read_text(encoding="utf-8"))
        root = Path(document["data_root"])
        samples = read_split(folder / run_folder.SPLIT_FILE) if run is None else run.split
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"cannot read run {folder}", got=str(error), expected="what edgeclf train wrote", do="train again"
        ) from error
    if data is not None:
        root = (data if data.is_dir() else data.parent).resolve()
    return OpenedRun(folder, document, samples, root, run, cache_folder, progress)


def gather_run(opened: OpenedRun, *, seed: int = 0) -> RunFacts:
    """Gathers a training's facts.

    Args:
        opened: The run.
        seed: Of the samples that the network is run on.

    Raises:
        RunFolderError: A file of the run is damaged.
    """
    options = options_from_json(opened.document.get("options"), opened.folder / run_folder.RUN_FILE)
    classes = tuple(sorted({s.label for s in opened.samples})) if opened.run is None else opened.run.spec.labels
    return RunFacts(
        folder=opened.folder,
        data=_as_named(Path(opened.document.get("data", opened.root))),
        options=options.to_json(),
        history=read_history(opened.folder / run_folder.HISTORY_FILE),
        metrics=_read_json(opened.folder / run_folder.METRICS_FILE),
        record=_record(opened, options),
        classes=classes,
        counts={
            part: dict(sorted(Counter(s.label for s in opened.samples if s.split == part).items())) for part in SPLITS
        },
        probes=_probe(opened, classes, seed),
    )


def gather_model(opened: OpenedRun, *, int8: Path | None = None, most: int = FIELD, seed: int = 0) -> ModelFacts | None:
    """Runs a run's network on held-out images, as they are and mildly changed.

    Args:
        opened: The run.
        int8: Its int8 file; None for none.
        most: Images at most.
        seed: Of which images, and of their changes.

    Returns:
        The facts; None where there is no network, or its images are gone.

    Raises:
        EdgeclfError: The int8 file cannot be run, or is that of another network.
    """
    if opened.run is None or not opened.root.is_dir():
        return None
    part = "test" if any(sample.split == "test" for sample in opened.samples) else "val"
    try:
        cached, samples = opened.read(opened.sample((part,), most, seed))
    except (InputError, DatasetError):
        return None
    images = cached.images[:]
    index = {label: position for position, label in enumerate(opened.run.spec.labels)}
    return ModelFacts(
        part="test" if part == "test" else "validation",
        paths=tuple(sample.path for sample in samples),
        true=np.array([index[sample.label] for sample in samples], np.int64),
        probabilities=opened.predict(images, "held-out images"),
        changed={
            name: opened.predict(perturb_images(images, name, seed), f"changed: {name}") for name in PERTURBATIONS
        },
        int8=None if int8 is None else _int8_probabilities(opened.run, int8, images),
    )


def _int8_probabilities(run: Run, path: Path, images: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.float32]":
    session = ModelSession(path, device="cpu")
    if session.spec is None or session.spec.labels != run.spec.labels:
        raise InputError(
            f"{path} is not a model of {run.folder}",
            got="no labels" if session.spec is None else ", ".join(session.spec.labels),
            expected=", ".join(run.spec.labels),
            do="export the run to int8",
        )
    return np.concatenate([session.run(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)])


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a `history.csv`, numbers as numbers; none where there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"cannot read {path}", got=str(error), expected="what edgeclf train wrote") from error


def _number(text: str | None) -> Any:  # noqa: ANN401
    try:
        number = float(text or "nan")
    except ValueError:
        return text
    return int(number) if math.isfinite(number) and number == int(number) and "." not in (text or "") else number


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}", got=str(error), expected="what edgeclf train wrote") from error
    return document if isinstance(document, dict) else {}


def _as_named(path: Path) -> str:
    """A path as a user would type it: below the current folder, relative to it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _record(opened: OpenedRun, options: TrainOptions) -> dict[str, Any]:
    """What was trained how: `training` of the spec, or what the options come to; and what suits the architecture."""
    resolved = resolve_options(options)
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
    """Whether the data set says itself which images validate, so that no other share of them can be asked for."""
    try:
        dataset = discover_dataset(Path(opened.document.get("data", opened.root)), for_training=False)
    except EdgeclfError:
        return False
    return any(sample.split == "val" for sample in dataset.samples)


def _probe(opened: OpenedRun, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """What running the network gives; what cannot be done is named under `missing`."""
    probes: dict[str, Any] = {}
    if not opened.root.is_dir():
        return {"missing": f"the images are no longer in {opened.root}"}
    try:
        probes["yardstick"] = _yardstick(opened, classes, seed)
        if opened.run is None:
            return probes
        cached, samples = opened.read(opened.sample(("train",), MEASURED, seed))
        images = cached.images[:]
        if not _is_frozen(opened.run):
            from edgeclf.training.inspect.activations import probe_network

            probes["network"] = probe_network(opened.model, images[:PROBED], opened.progress).to_json()
        index = {label: position for position, label in enumerate(classes)}
        true = np.array([index[sample.label] for sample in samples], np.int64)
        right = opened.predict(images, "training images").argmax(axis=1) == true
        probes["training"] = {"images": len(true), "accuracy": float(right.mean())}
    except EdgeclfError as error:
        # Images that are gone, a package that is not installed: the other facts stand.
        probes["missing"] = str(error)
    return probes


def _is_frozen(run: Run) -> bool:
    training = run.spec.training or {}
    return bool(training.get("freezes_backbone")) and not training.get("fine_tune")


def _yardstick(opened: OpenedRun, classes: tuple[str, ...], seed: int) -> dict[str, Any] | None:
    """What a head on plain features makes of the same images; None where the pretrained network is not installed."""
    chosen = opened.sample(("train",), YARDSTICK * 2 // 3, seed) + opened.sample(("val",), YARDSTICK // 3, seed)
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
