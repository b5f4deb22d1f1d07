"""Images that a model is evaluated or verified on, and the reference it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, UsageError

if TYPE_CHECKING:
    from edgeclf.export import TrainedClassifier
    from edgeclf.runtime import ModelSession

SPLIT_CHOICES = ("auto", "train", "val", "test", "all")


@dataclass(frozen=True)
class ImageList:
    """Image files, with their classes where these are known.

    Attributes:
        name: Name of the images in reports: `validation`, `test`, `training`, or `given` for all there are.
        paths: The files.
        true_indices: Index of each file's class in the model's labels; None where the images have no labels.
    """

    name: str
    paths: tuple[Path, ...]
    true_indices: tuple[int, ...] | None

    def spread(self, count: int) -> "ImageList":
        """At most `count` of the images, evenly spread over the list."""
        import numpy as np

        rows = np.unique(np.linspace(0, len(self.paths) - 1, min(count, len(self.paths))).astype(int))
        true = None if self.true_indices is None else tuple(self.true_indices[row] for row in rows)
        return ImageList(self.name, tuple(self.paths[row] for row in rows), true)


def list_images(data: Path, labels: Sequence[str], split: str, *, need_labels: bool) -> ImageList:
    """Lists the images of a data set with the indices of their classes in a model's labels.

    Args:
        data: A folder of class folders, with or without `train/`, `val/` and `test/`; a CSV; or - unless labels are
            needed - any folder with images in it.
        labels: The model's labels.
        split: `auto` (the test split where there is one, else all), `train`, `val`, `test` or `all`.
        need_labels: Whether images without labels are an error.

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
        return _unlabelled(data)
    unknown = sorted({sample.label for sample in dataset.samples} - set(labels))
    if unknown:
        if need_labels or len(unknown) < len(dataset.labels):
            raise DatasetError(
                f"the classes of {data} do not match the model",
                got=f"class folders {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                expected=f"some of {', '.join(labels[:12])}{' …' if len(labels) > 12 else ''}",
                hint="rename the folders as the model names its classes",
            )
        return _unlabelled(data)
    splits = {sample.split for sample in dataset.samples}
    chosen = ("test" if "test" in splits else "all") if split == "auto" else split
    samples = [sample for sample in dataset.samples if chosen in {"all", sample.split}]
    if not samples:
        there = ", ".join(sorted(name for name in splits if name)) or "no train, val or test part"
        raise DatasetError(
            f"{data} has no {chosen} part", got=there, expected=f"images under {chosen}/", hint="use --split all"
        )
    names = {"train": "training", "val": "validation", "test": "test", "all": "given"}
    index = {label: position for position, label in enumerate(labels)}
    return ImageList(
        names[chosen],
        tuple(dataset.root / sample.path for sample in samples),
        tuple(index[sample.label] for sample in samples),
    )


def _unlabelled(folder: Path) -> ImageList:
    from edgeclf.runtime import image_paths

    return ImageList("given", tuple(image_paths([folder])), None)


def open_reference(path: Path) -> "TrainedClassifier | ModelSession":
    """Opens the run folder or `.onnx` file that a model is compared with."""
    if path.is_dir():
        from edgeclf.training import load_run

        return load_run(path).load_classifier()
    from edgeclf.runtime import ModelSession

    return ModelSession(path, device="cpu")


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
