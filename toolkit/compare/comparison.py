"""Facts of a comparison - accuracies, agreement, classes, images that changed - and the verdict on them. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.export.verify.paired import PairedCounts, paired_counts

if TYPE_CHECKING:
    from pathlib import Path

    from edgeclf.runtime.arrays import BoolArray, IntArray

# Order of the images that changed: what was lost is looked at first.
CHANGES = ("lost", "won", "wrong in both")


@dataclass(frozen=True)
class Answer:
    """The answer of a classifier to an image.

    Attributes:
        label: The most probable class.
        confidence: Its probability, 0..1.
    """

    label: str
    confidence: float


@dataclass(frozen=True)
class ChangedImage:
    """An image that gets another label from B than from A.

    Attributes:
        path: The file.
        label: Its class.
        answers: The answers of A and B.
    """

    path: "Path"
    label: str
    answers: tuple[Answer, Answer]

    @property
    def change(self) -> str:
        """`lost` where only A is right, `won` where only B is, else `wrong in both`."""
        first, second = (answer.label == self.label for answer in self.answers)
        return "lost" if first else "won" if second else "wrong in both"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        answers = {
            letter: {"label": answer.label, "confidence": answer.confidence}
            for letter, answer in zip("ab", self.answers, strict=True)
        }
        return {"path": str(self.path), "label": self.label, "change": self.change, **answers}


@dataclass(frozen=True)
class ClassOfOne:
    """A class that only one of the two classifiers knows.

    Attributes:
        label: Its name.
        images: Images of it.
        found: Of these, the number that this classifier gives the label.
        taken_for: The other labels that they get from it, the most frequent first, each with its number of images.
    """

    label: str
    images: int
    found: int
    taken_for: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        recall = self.found / self.images if self.images else None
        taken = dict(self.taken_for)
        return {"label": self.label, "images": self.images, "found": self.found, "recall": recall, "taken_for": taken}


@dataclass(frozen=True)
class Comparison:
    """Facts about two classifiers, A and B, on the same images.

    Attributes:
        shared: Counts over the images of the classes that both know; all outputs of either are allowed.
        same_label: Of these images, the number that get the same label from both.
        classes: The same counts for each of these classes.
        only_a: Classes that A alone knows.
        only_b: Classes that B alone knows.
        accuracies: Top-1 accuracy of A and B over all images that are of one of its own classes, 0..1.
        changed: Images of shared classes that get another label: those that B loses, those that it wins, the others.
    """

    shared: PairedCounts
    same_label: int
    classes: tuple[tuple[str, PairedCounts], ...]
    only_a: tuple[ClassOfOne, ...]
    only_b: tuple[ClassOfOne, ...]
    accuracies: tuple[float, float]
    changed: tuple[ChangedImage, ...]

    @property
    def agreement(self) -> float:
        """Share of the images of shared classes that get the same label from both, 0..1."""
        return self.same_label / self.shared.images if self.shared.images else 0.0

    @property
    def verdict(self) -> str:
        """What the figures say, in one sentence."""
        return verdict(self.shared)

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        low, high = self.shared.interval()
        return {
            **self.shared.to_json(),
            "a_accuracy": self.shared.first_accuracy,
            "b_accuracy": self.shared.second_accuracy,
            "difference": self.shared.difference,
            "interval": [low, high],
            "verdict": self.verdict,
            "agreement": self.agreement,
            "classes": [
                {"label": label, "a_recall": its.first_accuracy, "b_recall": its.second_accuracy, **its.to_json()}
                for label, its in self.classes
            ],
            "only_a": [item.to_json() for item in self.only_a],
            "only_b": [item.to_json() for item in self.only_b],
            "a_accuracy_with_only_a": self.accuracies[0],
            "b_accuracy_with_only_b": self.accuracies[1],
            "changed": [item.to_json() for item in self.changed],
        }


def verdict(counts: PairedCounts) -> str:
    """What paired counts say about two classifiers A and B, in one sentence.

    Args:
        counts: A is the first, B the second.
    """
    low, high = counts.interval()
    if low > 0 or high < 0:
        better = "B" if low > 0 else "A"
        ends = sorted((abs(low), abs(high)))
        return f"{better} is better by {abs(counts.difference) * 100:.1f} points ({ends[0] * 100:.1f} to {ends[1] * 100:.1f})"
    return (
        f"no difference that {'these' if counts.images != 1 else 'this'} {counts.images} "
        f"image{'s' if counts.images != 1 else ''} can show: B - A is {counts.difference * 100:+.1f} points "
        f"({low * 100:+.1f} to {high * 100:+.1f})"
    )


def compare_answers(
    paths: "Sequence[Path]",
    true: Sequence[str],
    answers: Sequence[tuple[Answer, Answer]],
    labels: tuple[Sequence[str], Sequence[str]],
) -> Comparison:
    """Compares the answers of two classifiers to the same images.

    Args:
        paths: (N,) the image files.
        true: (N,) the class of each, one that A or B knows.
        answers: (N,) the answers of A and B to each.
        labels: The labels of A and of B; the same class has the same name in both.
    """
    known = [np.array([label in its for label in true], bool) for its in map(set, labels)]
    right = [
        np.array([its[side].label == label for its, label in zip(answers, true, strict=True)], bool) for side in (0, 1)
    ]
    shared = known[0] & known[1]
    same = np.array([first.label == second.label for first, second in answers], bool)
    names = np.array(true, object)
    both = [label for label in labels[1] if label in set(labels[0])]
    changed = [ChangedImage(paths[row], true[row], answers[row]) for row in np.flatnonzero(shared & ~same).tolist()]
    return Comparison(
        shared=paired_counts(right[0][shared], right[1][shared]),
        same_label=int((shared & same).sum()),
        classes=tuple((label, paired_counts(right[0][names == label], right[1][names == label])) for label in both),
        only_a=_classes_of_one(0, labels, names, answers),
        only_b=_classes_of_one(1, labels, names, answers),
        accuracies=(_share(right[0][known[0]]), _share(right[1][known[1]])),
        changed=tuple(sorted(changed, key=lambda item: CHANGES.index(item.change))),
    )


def _classes_of_one(
    side: int,
    labels: tuple[Sequence[str], Sequence[str]],
    names: "IntArray",
    answers: Sequence[tuple[Answer, Answer]],
) -> tuple[ClassOfOne, ...]:
    found = []
    for label in labels[side]:
        if label in set(labels[1 - side]):
            continue
        given = Counter(answers[row][side].label for row in np.flatnonzero(names == label).tolist())
        others = tuple((other, count) for other, count in given.most_common() if other != label)
        found.append(ClassOfOne(label, given.total(), given[label], others))
    return tuple(found)


def _share(values: "BoolArray") -> float:
    return float(values.mean()) if len(values) else 0.0
