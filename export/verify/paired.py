"""Paired comparison of two classifiers' answers to the same images: counts, the difference of accuracy and its interval."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from edgeclf.runtime.arrays import BoolArray
from edgeclf.runtime.metrics import paired_accuracy_interval

_FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True)
class PairedCounts:
    """Images that two classifiers, the first and the second, both classified.

    Attributes:
        images: Number of images.
        both: Images that both classify correctly.
        lost: Images that the first alone classifies correctly.
        won: Images that the second alone classifies correctly.
    """

    images: int
    both: int
    lost: int
    won: int

    @property
    def first_accuracy(self) -> float | None:
        """Accuracy of the first, 0..1; of the images of one class its recall. None without images."""
        return (self.both + self.lost) / self.images if self.images else None

    @property
    def second_accuracy(self) -> float | None:
        """Accuracy of the second."""
        return (self.both + self.won) / self.images if self.images else None

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first, -1..1; 0 without images."""
        return (self.won - self.lost) / self.images if self.images else 0.0

    def interval(self, comparisons: int = 1) -> tuple[float, float]:
        """Interval of the difference that misses the true one in 5 % of repetitions (Tango 1998).

        Args:
            comparisons: Number of comparisons of which at most 5 % in all shall miss it (Bonferroni).
        """
        z = NormalDist().inv_cdf(1 - _FALSE_ALARM_RATE / 2 / max(1, comparisons))
        # Of the drop from the second to the first: the roles are exchanged, and with them the sign.
        low, high = paired_accuracy_interval(self.won, self.lost, self.images, z=z)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return {"images": self.images, "both": self.both, "lost": self.lost, "won": self.won}


def paired_counts(first: BoolArray, second: BoolArray) -> PairedCounts:
    """Counts the images that two classifiers get right.

    Args:
        first: (N,) whether the first classifies each image correctly.
        second: (N,) whether the second does.

    Raises:
        ValueError: They are not about the same number of images.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected (N,) twice, got {first.shape} and {second.shape}")
    return PairedCounts(
        images=len(first),
        both=int((first & second).sum()),
        lost=int((first & ~second).sum()),
        won=int((~first & second).sum()),
    )
