"""Images that a model is evaluated or verified on, and the reference it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, UsageError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.toolkit.datasets.selection import Selection, seen_images_of, select_images, splits_in_training
from edgeclf.toolkit.foreign import labels_hint, open_keras, options_for

if TYPE_CHECKING:
    from edgeclf.export import TrainedClassifier
    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.export.source.keras_files.network import KerasReference
    from edgeclf.runtime import ForeignModel, ModelSession, ModelSpec
    from edgeclf.runtime.batch.jobs import ProbabilityModel
    from edgeclf.training.data.dataset import Dataset, Split
    from edgeclf.training.data.seen_images import SeenImages
    from edgeclf.training.data.table_files import TableOptions

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
    models: "Sequence[tuple[Path, ProbabilityModel | TrainedClassifier]]",
    split: str,
    *,
    need_labels: bool,
    table: "TableOptions | None" = None,
    progress: Progress = no_progress,
) -> ImageList:
    """Lists the images of a data set that models are evaluated on, and says on stderr how many of the others trained them.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or - unless labels are
            needed - any folder with images in it.
        models: The classifiers of the same labels, each with its run folder or file; of several, the first whose training
            images are known says which those are.
        split: `auto` (those that neither trained nor validated the model; else the test split where there is one, else
            all), `train`, `val`, `test` or `all`.
        need_labels: Whether images without labels are an error.
        table: What the user says of a CSV; None for nothing.
        progress: Called with the number of files read.

    Returns:
        The images, with the indices of their classes in the models' labels.

    Raises:
        UsageError: There is no such split name.
        DatasetError: The data set is unusable, has no such split, or has classes the models do not know.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"unknown split {split!r}", expected=", ".join(SPLIT_CHOICES), hint="choose one of them")
    known = [(path, model.spec, seen_images_of(path, model.spec)) for path, model in models]
    path, spec, seen = next((item for item in known if item[2] is not None), known[0])
    hint = labels_hint(*(model for _, model in models))
    files = find_image_files(data, spec.labels, need_labels=need_labels, hint=hint, table=table)
    selection = _select(data, files.paths, files.splits, split, [seen], progress)
    _note_selection(selection, path, spec, seen)
    true = files.true_indices
    return ImageList(
        selection,
        tuple(files.paths[row] for row in selection.rows),
        None if true is None else tuple(true[row] for row in selection.rows),
    )


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a data set, in a stable order.

    Attributes:
        paths: The files.
        splits: Split that each file's folder or CSV row names; None where neither does.
        true_indices: Index of each file's class in the model's labels; None where the images have no labels.
    """

    paths: "tuple[Path, ...]"
    splits: "tuple[Split | None, ...]"
    true_indices: tuple[int, ...] | None


def find_image_files(
    data: Path,
    labels: Sequence[str],
    *,
    need_labels: bool,
    hint: str = "rename the folders as the model names its classes",
    table: "TableOptions | None" = None,
) -> ImageFiles:
    """Finds the images of a data set, with the indices of their classes in a model's labels.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or - unless labels are
            needed - any folder with images in it.
        labels: The model's labels; folders are matched with them by `match_class_folders`.
        need_labels: Whether images without labels are an error.
        hint: What to do where the classes are not the model's.
        table: What the user says of a CSV; None for nothing.

    Raises:
        DatasetError: The data set is unusable, or has classes the model does not know: all of them where labels are
            needed, some of them in any case.
        SourceError: There is no image in a folder without class folders.
    """
    from edgeclf.toolkit.datasets.class_folders import match_class_folders
    from edgeclf.training.data.discovery import discover_dataset

    try:
        dataset = discover_dataset(data, for_training=False, table=table)
    except DatasetError:
        if need_labels or kind_of(data) != "folder":
            raise
        return _unlabelled(data)
    index = match_class_folders(dataset.labels, labels)
    unknown = [name for name in dataset.labels if name not in index]
    if unknown:
        if need_labels or index:
            raise DatasetError(
                f"the classes of {data} do not match the model",
                got=f"class folders {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                expected=f"some of {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}",
                hint=hint,
            )
        # Of a CSV or packed files the images are those listed, with any other folder all that are in it.
        is_folder = dataset.root == data.resolve()
        return _unlabelled(data) if is_folder else _without_labels(dataset)
    return ImageFiles(
        tuple(dataset.root / sample.path for sample in dataset.samples),
        tuple(sample.split for sample in dataset.samples),
        tuple(index[sample.label] for sample in dataset.samples),
    )


def _without_labels(dataset: "Dataset") -> ImageFiles:
    paths = tuple(dataset.root / sample.path for sample in dataset.samples)
    return ImageFiles(paths, (None,) * len(paths), None)


def _unlabelled(folder: Path) -> ImageFiles:
    from edgeclf.runtime import image_paths

    paths = image_paths([folder])
    return ImageFiles(tuple(paths), (None,) * len(paths), None)


def _select(
    data: Path,
    paths: Sequence[Path],
    named: "Sequence[Split | None]",
    split: str,
    models: "Sequence[SeenImages | None]",
    progress: Progress,
) -> Selection:
    known, changed = splits_in_training(paths, models, progress)
    selection = select_images(known, named, split, changed)
    if not selection.rows:
        there = ", ".join(sorted({its for its in (*known, *named) if its})) or "no train, val or test split"
        raise DatasetError(
            f"{data} has no {split} split", got=there, expected=f"images under {split}/", hint="use --split all"
        )
    return selection


def open_reference(
    path: Path, foreign: "ForeignModel", keras: "KerasOptions", made_of_it: Path
) -> "TrainedClassifier | ModelSession | KerasReference":
    """Opens the run folder, `.onnx` file or Keras model that a model file is compared with.

    Args:
        path: The folder or file, or `module:name` of a Keras model.
        foreign: The options for files without a spec.
        keras: What is said of opening a Keras model.
        made_of_it: The model file, which may say how the other is used.

    Raises:
        EdgeclfError: It cannot be opened.
    """
    from edgeclf.export.source.keras_files.kinds import keras_kind

    if keras_kind(path) is not None:
        return open_keras(path, foreign, keras, [made_of_it])
    if kind_of(path) == "folder":
        from edgeclf.training import load_run

        return load_run(path).load_classifier()
    from edgeclf.runtime import ModelSession

    return ModelSession(path, device="cpu", foreign=options_for(path, foreign, [made_of_it]))


def _note_selection(selection: Selection, model: Path, spec: "ModelSpec", seen: "SeenImages | None") -> None:
    """Says on stderr how many of the given images a model has seen in its training, or that this is not known."""
    from edgeclf.toolkit.console import note

    # Of a model that others made it is known which images its int8 file was made with, and not which trained it.
    if spec.training or spec.source is None:
        words = selection.sentence()
    else:
        words = selection.sentence("this file", verbs=("calibrated", "judged"))
    sentence = unknown_training_note(model, spec, seen) or words
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
