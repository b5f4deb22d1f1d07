"""Images that a model is evaluated or verified on, and the reference it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, UsageError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.toolkit.datasets.selection import Selection, select_images, splits_in_training

if TYPE_CHECKING:
    from edgeclf.export import TrainedClassifier
    from edgeclf.runtime import ForeignModel, ModelSession, ModelSpec
    from edgeclf.training.data.dataset import Split
    from edgeclf.training.data.seen_images import SeenImages

SPLIT_CHOICES = ("auto", "train", "val", "test", "all")


@dataclass(frozen=True)
class ImageList:
    """Image files, with their classes where these are known.

    Attributes:
        selection: Which of the given images they are.
        paths: The files.
        true_indices: Index of each file's class in the model's labels; None where the images have no labels.
    """

    selection: Selection
    paths: tuple[Path, ...]
    true_indices: tuple[int, ...] | None

    @property
    def name(self) -> str:
        """Name of the images in reports."""
        return self.selection.name

    def spread(self, count: int) -> "ImageList":
        """At most `count` of the images, evenly spread over the list."""
        import numpy as np

        rows = np.unique(np.linspace(0, len(self.paths) - 1, min(count, len(self.paths))).astype(int))
        true = None if self.true_indices is None else tuple(self.true_indices[row] for row in rows)
        return replace(self, paths=tuple(self.paths[row] for row in rows), true_indices=true)


def list_images(
    data: Path,
    labels: Sequence[str],
    split: str,
    *,
    need_labels: bool,
    models: "Sequence[SeenImages | None]" = (),
    progress: Progress = no_progress,
) -> ImageList:
    """Lists the images of a data set that a model is evaluated on, with the indices of their classes in its labels.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or - unless labels are
            needed - any folder with images in it.
        labels: The model's labels.
        split: `auto` (those that neither trained nor validated the models; else the test split where there is one, else
            all), `train`, `val`, `test` or `all`.
        need_labels: Whether images without labels are an error.
        models: The images that each model's training used; None for one of which that is not known.
        progress: Called with the number of files read.

    Raises:
        UsageError: There is no such split name.
        DatasetError: The data set is unusable, has no such split, or has classes the model does not know.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"unknown split {split!r}", expected=", ".join(SPLIT_CHOICES), hint="choose one of them")
    from edgeclf.training.data.dataset import discover_dataset

    try:
        dataset = discover_dataset(data, for_training=False)
    except DatasetError:
        if need_labels or not data.is_dir():
            raise
        return _unlabelled(data, split, models, progress)
    unknown = sorted({sample.label for sample in dataset.samples} - set(labels))
    if unknown:
        if need_labels or len(unknown) < len(dataset.labels):
            raise DatasetError(
                f"the classes of {data} do not match the model",
                got=f"class folders {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                expected=f"some of {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}",
                hint="rename the folders as the model names its classes",
            )
        return _unlabelled(data, split, models, progress)
    paths = [dataset.root / sample.path for sample in dataset.samples]
    selection = _select(data, paths, [sample.split for sample in dataset.samples], split, models, progress)
    index = {label: position for position, label in enumerate(labels)}
    return ImageList(
        selection,
        tuple(paths[row] for row in selection.rows),
        tuple(index[dataset.samples[row].label] for row in selection.rows),
    )


def _unlabelled(folder: Path, split: str, models: "Sequence[SeenImages | None]", progress: Progress) -> ImageList:
    from edgeclf.runtime import image_paths

    paths = image_paths([folder])
    selection = _select(folder, paths, [None] * len(paths), split, models, progress)
    return ImageList(selection, tuple(paths[row] for row in selection.rows), None)


def _select(
    data: Path,
    paths: Sequence[Path],
    named: "Sequence[Split | None]",
    split: str,
    models: "Sequence[SeenImages | None]",
    progress: Progress,
) -> Selection:
    known = splits_in_training(paths, models, progress)
    selection = select_images(known, named, split)
    if not selection.rows:
        there = ", ".join(sorted({its for its in (*known, *named) if its})) or "no train, val or test split"
        raise DatasetError(
            f"{data} has no {split} split", got=there, expected=f"images under {split}/", hint="use --split all"
        )
    return selection


def open_reference(path: Path, foreign: "ForeignModel | None" = None) -> "TrainedClassifier | ModelSession":
    """Opens the run folder or `.onnx` file that a model is compared with.

    Args:
        path: The folder or file.
        foreign: As for `ModelSession`.
    """
    if path.is_dir():
        from edgeclf.training import load_run

        return load_run(path).load_classifier()
    from edgeclf.runtime import ModelSession

    return ModelSession(path, device="cpu", foreign=foreign)


def note_selection(selection: Selection, model: Path, spec: "ModelSpec", seen: "SeenImages | None") -> None:
    """Says on stderr how many of the given images a model has seen in its training, or that this is not known.

    Args:
        selection: The images.
        model: The run folder or file.
        spec: Its spec.
        seen: What its training used; None where that is not known.
    """
    from edgeclf.toolkit.console import note

    sentence = unknown_training_note(model, spec, seen) or selection.sentence()
    if sentence is not None:
        note(sentence)


def unknown_training_note(model: Path, spec: "ModelSpec", seen: "SeenImages | None") -> str | None:
    """What a user has to know of a model whose training images are not known; None of any other.

    Args:
        model: The run folder or file.
        spec: Its spec.
        seen: What its training used; None where that is not known.
    """
    if seen is not None or not spec.training:
        return None
    return (
        f"{model} does not say which images trained it: if some of these did, its accuracy is too good; its run folder "
        "knows them"
    )


def end_with_unreadable(unreadable: Sequence[tuple[Path, EdgeclfError]], *, ignore: bool) -> None:
    """Lists unreadable files on stderr, and ends the command with exit code 3 unless they are ignored.

    Args:
        unreadable: The files, each with its error.
        ignore: Whether the command goes on to exit code 0.

    Raises:
        InputError: There are unreadable files and they are not ignored.
    """
    from edgeclf.toolkit.console import warn

    for _, error in unreadable:
        warn(str(error))
    if unreadable and not ignore:
        raise InputError(
            f"{len(unreadable)} image{'s' if len(unreadable) != 1 else ''} could not be read and had to be left out",
            hint="fix or remove them, or pass --ignore-unreadable",
        )
