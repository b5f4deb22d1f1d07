"""A model put to labelled (or unlabelled) image files: what `evaluate` and `verify` have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeclf.runtime.batch.jobs import ProbabilityModel
    from edgeclf.runtime.progress import Progress

SPLIT_CHOICES = ("auto", "train", "val", "test", "all")


@dataclass(frozen=True)
class ImageList:
    """Image files, with their classes where these are known.

    Attributes:
        part: What to call them: `validation`, `test`, `training`, or `given` for all there are.
        paths: The files.
        true_indices: Index of each file's class in the model's labels; None where the images have no labels.
    """

    part: str
    paths: tuple[Path, ...]
    true_indices: tuple[int, ...] | None


@dataclass(frozen=True)
class Classified:
    """What a model says about the images that could be read.

    Attributes:
        probabilities: (N, C) float32.
        rows: (N,) position of each in the list of files.
        unreadable: The files that could not be read, and why.
    """

    probabilities: "npt.NDArray[np.float32]"
    rows: tuple[int, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]


def list_images(data: Path, labels: Sequence[str], split: str, *, need_labels: bool) -> ImageList:
    """Lists the images of a data set, with their classes as the model numbers them.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or - unless labels are
            needed - any folder with images in it.
        labels: The model's labels.
        split: `auto` (the test part where there is one, else all), `train`, `val`, `test` or `all`.
        need_labels: Whether images without labels are an error.

    Raises:
        UsageError: There is no such split name.
        DatasetError: The data set is unusable, has no such part, or has classes the model does not know.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"unknown split {split!r}", expected=", ".join(SPLIT_CHOICES), do="choose one of them")
    from edgeclf.training.data.dataset import discover_dataset

    try:
        dataset = discover_dataset(data, for_training=False)
    except DatasetError:
        if need_labels or not data.is_dir():
            raise
        return _unlabelled(data)
    unknown = sorted({sample.label for sample in dataset.samples} - set(labels))
    if unknown:
        if need_labels or len(unknown) < len(dataset.labels):
            raise DatasetError(
                f"the classes of {data} do not match the model",
                got=f"class folders {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                expected=f"some of {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}",
                do="rename the folders as the model names its classes",
            )
        return _unlabelled(data)
    parts = {sample.split for sample in dataset.samples}
    chosen = ("test" if "test" in parts else "all") if split == "auto" else split
    samples = [sample for sample in dataset.samples if chosen in {"all", sample.split}]
    if not samples:
        there = ", ".join(sorted(part for part in parts if part)) or "no train, val or test part"
        raise DatasetError(
            f"{data} has no {chosen} part", got=there, expected=f"images under {chosen}/", do="use --split all"
        )
    names = {"train": "training", "val": "validation", "test": "test", "all": "given"}
    index = {label: position for position, label in enumerate(labels)}
    return ImageList(
        names[chosen],
        tuple(dataset.root / sample.path for sample in samples),
        tuple(index[sample.label] for sample in samples),
    )


def _unlabelled(folder: Path) -> ImageList:
    from edgeclf.runtime.batch.sources import image_paths

    return ImageList("given", tuple(image_paths([folder])), None)


def classify_files(
    model: "ProbabilityModel", paths: Sequence[Path], stage: str, progress: "Progress", *, batch_size: int = 32
) -> Classified:
    """Classifies image files, decoding in parallel; unreadable ones are left out and listed.

    Raises:
        InputError: None of the files can be read.
    """
    import numpy as np

    from edgeclf.runtime.batch.jobs import Job
    from edgeclf.runtime.batch.pipeline import classify_jobs
    from edgeclf.runtime.images.preprocess import load_image

    jobs: Iterator[Job] = (Job(str(path), partial(load_image, path)) for path in paths)
    rows: list[int] = []
    probabilities: list[Any] = []
    unreadable: list[tuple[Path, EdgeclfError]] = []
    for position, outcome in enumerate(classify_jobs(model, jobs, batch_size=batch_size)):
        if outcome.error is not None:
            unreadable.append((paths[position], outcome.error))
        elif outcome.prediction is not None:
            rows.append(position)
            probabilities.append(outcome.prediction.probabilities)
        progress(stage, position + 1, len(paths))
    if not rows:
        raise InputError(
            "none of the images can be read",
            got=f"{len(paths)} files, the first with: {unreadable[0][1].what}" if unreadable else "no files",
            expected="at least one readable image",
        )
    return Classified(np.stack(probabilities), tuple(rows), tuple(unreadable))


def open_reference(path: Path, *, in_float: bool = False) -> "ProbabilityModel":
    """Opens what a model is compared with or evaluated as: a run folder's Keras model, or an `.onnx` file.

    Args:
        path: The run folder or file.
        in_float: Whether a network that was trained in 8-bit arithmetic is run in float all the same.
    """
    if path.is_dir():
        from edgeclf.export.keras_backend import KerasClassifier
        from edgeclf.training.qat.model import simulated_network
        from edgeclf.training.run.folder import load_run

        run = load_run(path)
        network = run.load_model()
        simulated = None if in_float else simulated_network(network, run.spec)
        return KerasClassifier(network if simulated is None else simulated, run.spec)
    from edgeclf.runtime.session.session import ModelSession

    return ModelSession(path, device="cpu")


def end_with_unreadable(unreadable: Sequence[tuple[Path, EdgeclfError]], *, ignore: bool) -> None:
    """Lists unreadable files on stderr and, unless they are to be ignored, ends the command with exit code 3.

    Raises:
        InputError: There are unreadable files and they are not ignored.
    """
    from edgeclf.toolkit.console import warn

    for _, error in unreadable:
        warn(str(error))
    if unreadable and not ignore:
        raise InputError(
            f"{len(unreadable)} image{'s' if len(unreadable) != 1 else ''} could not be read and had to be left out",
            do="mend or remove them, or pass --ignore-unreadable",
        )
