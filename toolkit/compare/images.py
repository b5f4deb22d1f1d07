"""The images that two classifiers are compared on, and their answers to them; each file is decoded once for both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.verify.probabilities import BATCH_SIZE
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import DatasetError, EdgeclfError, InputError, UsageError
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.prediction import predictions_or_errors
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.compare.comparison import Answer
from edgeclf.toolkit.compare.sides import Side, renamed_classes
from edgeclf.toolkit.datasets.evaluation_set import SPLIT_CHOICES
from edgeclf.toolkit.datasets.selection import Selection, select_images, splits_in_training
from edgeclf.toolkit.foreign import labels_hint
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.discovery import discover_dataset
from edgeclf.training.data.table_files import TableOptions
from edgeclf.training.prefetch import prefetch_map


@dataclass(frozen=True)
class ComparedImages:
    """Image files with their classes, as B names them where A has another name for the same class.

    Attributes:
        selection: Which of the given images they are.
        paths: The files.
        labels: Their classes.
        data: Where they come from, for reports.
    """

    selection: Selection
    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    data: str


@dataclass(frozen=True)
class Answers:
    """The answers of two classifiers to the images that could be read.

    Attributes:
        answers: The answers of A and B to each image, under B's names.
        rows: (N,) position of each image in the given list of files.
        unreadable: The files that could not be read, each with its error.
    """

    answers: tuple[tuple[Answer, Answer], ...]
    rows: tuple[int, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]


def shared_names(sides: tuple[Side, Side]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels of A and of B in output order; a class of both has B's name in both."""
    renamed = renamed_classes(sides[0].spec, sides[1].spec)
    return tuple(renamed.get(label, label) for label in sides[0].spec.labels), sides[1].spec.labels


def images_to_compare(
    sides: tuple[Side, Side],
    data: Path | None,
    split: str,
    progress: Progress,
    table: TableOptions | None = None,
) -> ComparedImages:
    """Lists the images of a comparison.

    Args:
        sides: A and B.
        data: A folder of class folders or a CSV; None takes the images of the runs among the two, of both where both are.
        split: As for `select_images`; for the images of runs, `auto` takes their test images.
        progress: Called with the number of files read.
        table: What the user says of a CSV; None for nothing.

    Raises:
        UsageError: There is no such split name, or neither data nor a run.
        DatasetError: There are no such images, or they have classes that neither of the two knows.
    """
    if split not in SPLIT_CHOICES:
        raise UsageError(f"unknown split {split!r}", expected=", ".join(SPLIT_CHOICES), hint="choose one of them")
    if data is None:
        paths, samples = _images_of_runs(sides, split)
        name = " and ".join(dict.fromkeys(str(side.path) for side in sides if side.run is not None))
    else:
        dataset = discover_dataset(data, for_training=False, table=table, progress=progress)
        paths, samples = [dataset.root / sample.path for sample in dataset.samples], list(dataset.samples)
        name = str(data)
    known, changed = splits_in_training(paths, [side.seen for side in sides], progress)
    selection = select_images(known, [sample.split for sample in samples], split, changed)
    if not selection.rows:
        raise DatasetError(f"{name} has no {split} image", expected="images to compare on", hint="use --split all")
    renamed = renamed_classes(sides[0].spec, sides[1].spec)
    names = set().union(*shared_names(sides))
    labels = [_shared_name(sample.label, renamed, names) for sample in samples]
    unknown = sorted({samples[row].label for row in selection.rows if labels[row] not in names})
    if unknown:
        raise DatasetError(
            f"the classes of {name} match neither model",
            got=f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
            expected=f"some of {', '.join(sorted(names)[:12])}{' …' if len(names) > 12 else ''}",
            hint=labels_hint(*(side.model for side in sides)),
        )
    return ComparedImages(
        selection,
        tuple(paths[row] for row in selection.rows),
        tuple(labels[row] for row in selection.rows),
        name,
    )


def _shared_name(label: str, renamed: Mapping[str, str], names: set[str]) -> str:
    return label if label in names else renamed.get(label, label)


def _images_of_runs(sides: tuple[Side, Side], split: str) -> tuple[list[Path], list[Sample]]:
    """The images of the runs, those of both once. B comes first: the later run has the labels as they were corrected."""
    runs = [side.run for side in reversed(sides) if side.run is not None]
    if not runs:
        raise UsageError(
            "nothing to compare the models on",
            got="two files and no DATA",
            expected="the images, or a run folder, whose test images are known",
            hint="name a folder of class folders or a CSV after the two models",
        )
    wanted = {"auto": ("test",), "all": ("train", "val", "test")}.get(split, (split,))
    paths: list[Path] = []
    samples: list[Sample] = []
    found: set[str] = set()
    for run in runs:
        mine = [sample for sample in run.split if sample.split in wanted]
        if mine and not run.images_root().is_dir():
            raise DatasetError(
                f"cannot find the images of {run.folder}",
                got=f"no folder {run.data_root}",
                expected="the folder it was trained on",
                hint="name their present folder after the two models",
            )
        new = [sample for sample in mine if (sample.digest or str(run.data_root / sample.path)) not in found]
        found.update(sample.digest or str(run.data_root / sample.path) for sample in mine)
        paths += [run.data_root / sample.path for sample in new]
        samples += new
    if not samples:
        raise DatasetError(
            f"{' and '.join(str(run.folder) for run in runs)} have no {wanted[0]} images",
            expected="images to compare on",
            hint="name a folder of class folders or a CSV after the two models, or use --split val",
        )
    return paths, samples


def answer_images(sides: tuple[Side, Side], paths: Sequence[Path], progress: Progress) -> Answers:
    """Classifies image files with both classifiers; those that cannot be read, or get NaN, are left out and listed.

    Args:
        sides: A and B.
        paths: The files.
        progress: Called with the number of files done.

    Raises:
        InputError: None of the files can be read.
    """
    names = shared_names(sides)
    rows: list[int] = []
    answers: list[tuple[Answer, Answer]] = []
    unreadable: list[tuple[Path, EdgeclfError]] = []
    batch: dict[int, tuple[UInt8Array, UInt8Array]] = {}
    for position, loaded in enumerate(_load(sides, paths)):
        if isinstance(loaded, EdgeclfError):
            unreadable.append((paths[position], loaded))
        else:
            batch[position] = loaded
        if batch and (len(batch) == BATCH_SIZE or position + 1 == len(paths)):
            for row, answer in zip(batch, _answer_batch(sides, names, list(batch.values())), strict=True):
                if isinstance(answer, EdgeclfError):
                    unreadable.append((paths[row], answer))
                else:
                    rows.append(row)
                    answers.append(answer)
            batch.clear()
        progress("compare", position + 1, len(paths))
    if not rows:
        raise InputError(
            "none of the images can be read",
            got=f"{len(paths)} files, the first with: {unreadable[0][1].what}" if unreadable else "no files",
            expected="at least one readable image",
        )
    return Answers(tuple(answers), tuple(rows), tuple(unreadable))


def _load(sides: tuple[Side, Side], paths: Sequence[Path]) -> Iterator[tuple[UInt8Array, UInt8Array] | EdgeclfError]:
    """The inputs of both classifiers, or the error, of each file."""
    first, second = (side.spec.preprocess for side in sides)

    def load(path: Path) -> tuple[UInt8Array, UInt8Array] | EdgeclfError:
        try:
            image_bgr = load_image(path)
            input_rgb = preprocess_bgr(image_bgr, first)
            return input_rgb, input_rgb if second == first else preprocess_bgr(image_bgr, second)
        except EdgeclfError as error:
            return error

    threads = usable_cpus()
    # Every CPU already has a decoding thread.
    with opencv_threads_at_most(1):
        yield from prefetch_map(load, paths, threads=threads, ahead=8 * threads, name="edgeclf-decode")


def _answer_batch(
    sides: tuple[Side, Side],
    names: tuple[Sequence[str], Sequence[str]],
    batch: Sequence[tuple[UInt8Array, UInt8Array]],
) -> list[tuple[Answer, Answer] | EdgeclfError]:
    """The answers of both to each image, or the error of one that gives no probabilities for it."""
    first, second = (
        _answers_of(side, names[number], np.stack([inputs[number] for inputs in batch]))
        for number, side in enumerate(sides)
    )
    return [
        one if isinstance(one, EdgeclfError) else other if isinstance(other, EdgeclfError) else (one, other)
        for one, other in zip(first, second, strict=True)
    ]


def _answers_of(side: Side, names: Sequence[str], images_rgb: UInt8Array) -> list[Answer | EdgeclfError]:
    return [
        result if isinstance(result, EdgeclfError) else Answer(names[result.index], result.confidence)
        for result in predictions_or_errors(side.model.run(images_rgb), side.spec)
    ]
