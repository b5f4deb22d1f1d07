"""The classes of an earlier run before and after a training that goes on from it, on the same test images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import inference_of
from edgeclf.export.verify.paired import PairedCounts, paired_counts
from edgeclf.runtime.arrays import AnyArray, IntArray
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.data.dataset import Split
from edgeclf.training.data.loader import Subset
from edgeclf.training.data.seen_images import SeenImages
from edgeclf.training.data.training_data import TrainingData
from edgeclf.training.fit.loop import predict
from edgeclf.training.fit.transfer import Transfer


@dataclass(frozen=True)
class EarlierAnswers:
    """The answers of an earlier run's network to test images of its classes that it has not seen in its training.

    Attributes:
        rows: (n,) int64, positions of these images among the test images, ascending.
        correct: (n,) bool, whether the earlier network classifies each correctly.
        labels: The earlier run's classes that are still there, by their present names.
    """

    rows: IntArray
    correct: AnyArray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class OldClasses:
    """Recall of an earlier run's classes by its network and by the new one, on the same test images.

    Attributes:
        images: All these images.
        classes: The images of each class, by its present name: `first` is the earlier network, `second` the new one.
    """

    images: PairedCounts
    classes: tuple[tuple[str, PairedCounts], ...]

    @property
    def worse(self) -> tuple[tuple[str, PairedCounts], ...]:
        """The classes whose recall fell by more than chance explains: of all together, one in twenty does so by chance."""
        return tuple((label, its) for label, its in self.classes if its.interval(len(self.classes))[1] < 0)

    @property
    def all_worse(self) -> bool:
        """Whether the accuracy on all these images fell by more than chance explains."""
        return self.images.interval()[1] < 0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""

        def document(counts: PairedCounts, before: str, after: str) -> dict[str, Any]:
            low, high = counts.interval()
            return {
                **counts.to_json(),
                before: counts.first_accuracy,
                after: counts.second_accuracy,
                "difference": counts.difference,
                "interval": [low, high],
            }

        worse = {label for label, _ in self.worse}
        return {
            **document(self.images, "accuracy_before", "accuracy_after"),
            "worse": self.all_worse,
            "classes": [
                {"label": label, **document(its, "recall_before", "recall_after"), "worse": label in worse}
                for label, its in self.classes
            ],
        }


def answer_with_earlier(
    transfer: Transfer, seen: SeenImages, data: TrainingData, progress: Progress = no_progress
) -> EarlierAnswers | None:
    """Classifies test images with an earlier run's network; to be called before a fit changes its weights.

    Args:
        transfer: The earlier run's network and classes.
        seen: The images that its training used.
        data: The images; their features, where there are any, are those of the earlier network's backbone.
        progress: Called with the number of images done.

    Returns:
        The answers; None where no test image is of one of its classes and was not seen by it.
    """
    old_names = transfer.changes.old_names
    old_index = {label: position for position, label in enumerate(transfer.labels)}
    test = data.positions["test"]
    rows = np.array(
        [
            row
            for row, position in enumerate(test.tolist())
            if data.labels[data.true_indices[position]] in old_names and _is_new_to(seen, data, position)
        ],
        np.int64,
    )
    if not len(rows):
        return None
    positions = test[rows]
    expected = np.array([old_index[old_names[data.labels[index]]] for index in data.true_indices[positions]], np.int64)
    inputs = data.cached.images if data.features is None else data.features
    infer = inference_of(transfer.model) if data.features is None else _head(transfer)
    probabilities = predict(
        infer, Subset(inputs, positions, expected), lambda done: progress("the earlier network", done, len(rows))
    )
    labels = tuple(label for label in data.labels if label in old_names)
    return EarlierAnswers(rows, probabilities.argmax(axis=1) == expected, labels)


def _is_new_to(seen: SeenImages, data: TrainingData, position: int) -> bool:
    return _split_before(seen, data, position) not in {"train", "val"}


def _split_before(seen: SeenImages, data: TrainingData, position: int) -> Split | None:
    path = Path("/", data.samples[data.cached.rows[position]].path)
    return seen.split_of(data.cached.digests[position], path)


def learned_before(transfer: Transfer, seen: SeenImages, data: TrainingData) -> str | None:
    """What a user has to know of validation images that trained the earlier network, in one sentence; None for none.

    There are such where a class has no others, or where the data set brings its validation images.

    Args:
        transfer: The earlier run's network.
        seen: The images that its training used.
        data: The images.
    """
    validation = data.positions["val"]
    labels = data.true_indices[validation]
    trained = np.array([_split_before(seen, data, position) == "train" for position in validation.tolist()], bool)
    count = int(trained.sum())
    if not count:
        return None
    whole = [label for n, label in enumerate(data.labels) if trained[labels == n].all()]
    names = ", ".join(repr(label) for label in whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
    rest = f", all that there are of {names}" if whole else ""
    were = "image was a training image" if count == 1 else "images were training images"
    return f"{count:,} validation {were} of {transfer.folder}{rest}: the validation figures are too good"


def _head(transfer: Transfer) -> Callable[[AnyArray], AnyArray]:
    """The earlier network from pooled features to logits."""
    kernel, bias = transfer.model.get_layer("logits").get_weights()
    return lambda features: features @ kernel + bias


def compare_old_classes(earlier: EarlierAnswers, probabilities: AnyArray, data: TrainingData) -> OldClasses:
    """Compares an earlier network's answers with the new network's.

    Args:
        earlier: The earlier network's answers.
        probabilities: (N, C) float of the new network for all test images.
        data: The images.
    """
    true = data.subset("test").true_indices[earlier.rows]
    correct = probabilities.argmax(axis=1)[earlier.rows] == true
    return OldClasses(
        paired_counts(earlier.correct, correct),
        tuple(
            (label, paired_counts(earlier.correct[of_class], correct[of_class]))
            for label in earlier.labels
            for of_class in (true == data.labels.index(label),)
        ),
    )
