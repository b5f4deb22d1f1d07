"""A training's figures as arrays, with what chance alone would give, so that checks of it are short."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.statistics import binomial_standard_error, is_above_chance

_NAMES = {
    "loss": ("loss",),
    "accuracy": ("accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy"),
    "learning_rate": ("learning_rate", "lr"),
}


@dataclass(frozen=True, eq=False)
class Curves:
    """A training's figures.

    Attributes:
        loss: (E,) float64 training loss of each epoch, NaN where it is missing or no number, as all of these.
        accuracy: (E,) training accuracy, with dropout and augmentation on.
        val_loss: (E,) validation loss.
        val_accuracy: (E,) validation accuracy.
        chance: Accuracy of always guessing the class that validation has most of.
        chance_loss: Loss of always giving each class its share, label smoothing counted.
        train_images: Training images.
        val_images: Validation images; 0 where their number is not known.
        kept: Position of the epoch whose weights were kept.
        val_kept: Validation accuracy of the kept weights; NaN where it is not known.
        test: Test accuracy of the kept weights; NaN where it is not known.
        test_images: Test images.
        train_end: Training accuracy after the last epoch, in inference mode where that was measured.
        train_kept: Training accuracy of the kept weights in inference mode; NaN where it was not measured.
        yardstick: What a linear head on features of a pretrained network reaches on the validation images; NaN where that
            was not measured.
        yardstick_images: On how many.
    """

    loss: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    val_loss: npt.NDArray[np.float64]
    val_accuracy: npt.NDArray[np.float64]
    chance: float
    chance_loss: float
    train_images: int
    val_images: int
    kept: int
    val_selected: float
    test: float
    test_images: int
    train_last: float
    train_selected: float
    yardstick: float
    baseline_images: int

    @property
    def epochs(self) -> int:
        """Epochs that were finished."""
        return len(self.loss)

    @property
    def learned(self) -> bool:
        """Whether the kept weights are better than guessing on images they were not fitted to."""
        return is_above_chance(self.val_selected, self.chance, self.val_images, trials=self.epochs) or is_above_chance(
            self.test, self.chance, self.test_images
        )

    @property
    def fitted(self) -> bool:
        """Whether the network is better than guessing on its training images."""
        best = max(
            (value for value in (self.train_last, self.train_selected) if math.isfinite(value)), default=math.nan
        )
        if math.isfinite(best) and is_above_chance(best, self.chance, min(self.train_images, 256), trials=2):
            return True
        return is_above_chance(_highest(self.accuracy), self.chance, self.train_images, trials=self.epochs)

    @property
    def gap_to_baseline(self) -> float:
        """How far the kept weights are below the yardstick, beyond what so few images leave open; 0 where they are not."""
        if not (math.isfinite(self.val_selected) and math.isfinite(self.yardstick)):
            return 0.0
        noise = binomial_standard_error(self.val_selected, self.val_images) + binomial_standard_error(
            self.yardstick, self.baseline_images
        )
        gap = self.yardstick - self.val_selected
        return gap if gap > max(0.0, 2 * noise) else 0.0

    @property
    def failed(self) -> bool:
        """Whether the run is useless, or far from what its data allows: by more than a quarter of the way from chance."""
        return not self.learned or self.gap_to_baseline > 0.25 * max(0.0, self.yardstick - self.chance)


def read_curves(run: RunFacts) -> Curves:
    """A run's figures."""
    history = run.history
    smoothing = float((run.record.get("fit") or {}).get("label_smoothing") or 0.0)
    val_counts = _counts(run.counts.get("val"))
    train_counts = _counts(run.counts.get("train"))
    classes = max(2, len(run.classes))
    shares = val_counts / val_counts.sum() if val_counts.sum() else np.full(classes, 1 / classes)
    prior = train_counts / train_counts.sum() if train_counts.sum() else shares
    prior = prior * (1 - smoothing) + smoothing / len(prior)
    val_loss, val_accuracy = _column(history, "loss", "val_"), _column(history, "accuracy", "val_")
    kept = _kept_epoch(run, val_loss, val_accuracy)
    validation, test = (run.metrics.get(part) or {} for part in ("validation", "test"))
    accuracy = _column(history, "accuracy")
    ended = run.metrics.get("training_after_last_epoch") or {}
    yardstick = run.probes.get("yardstick") or {}
    return Curves(
        loss=_column(history, "loss"),
        accuracy=accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        chance=float(shares.max()),
        chance_loss=float(-(prior * np.log(np.maximum(prior, 1e-12))).sum()),
        train_images=int(train_counts.sum()),
        val_images=int(val_counts.sum()),
        kept=kept,
        val_selected=_number(validation.get("accuracy"), val_accuracy[kept] if len(val_accuracy) else math.nan),
        test=_number(test.get("accuracy")),
        test_images=int(test.get("count") or 0),
        train_last=_number(ended.get("accuracy"), accuracy[-1] if len(accuracy) else math.nan),
        train_selected=_number((run.probes.get("training") or {}).get("accuracy")),
        yardstick=_number(yardstick.get("validation_accuracy"), _number(yardstick.get("training_accuracy"))),
        baseline_images=int(yardstick.get("validation_images") or yardstick.get("training_images") or 0),
    )


def _highest(values: npt.NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else math.nan


def _column(history: Sequence[Mapping[str, Any]], name: str, prefix: str = "") -> npt.NDArray[np.float64]:
    keys = [prefix + key for key in _NAMES[name]]
    values = np.array([_number(next((row[key] for key in keys if key in row), None)) for row in history], np.float64)
    if name == "accuracy":
        # What is no share of images is no accuracy.
        values[~((values >= 0) & (values <= 1))] = np.nan
    return values


def last_learning_rates(history: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """(E,) learning rate of each epoch, NaN where it is not known."""
    return _column(history, "learning_rate")


def _number(value: object, otherwise: float = math.nan) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float(otherwise)


def _counts(by_class: Mapping[str, int] | None) -> npt.NDArray[np.float64]:
    return np.array(list((by_class or {}).values()), np.float64)


def _kept_epoch(run: RunFacts, val_loss: npt.NDArray[np.float64], val_accuracy: npt.NDArray[np.float64]) -> int:
    """The epoch that was kept as far as that is recorded, else the one with the lowest validation loss."""
    best = run.record.get("best_epoch")
    if isinstance(best, int) and 1 <= best <= len(val_loss):
        return best - 1
    for values in (-val_loss, val_accuracy):
        if np.isfinite(values).any():
            return int(np.nanargmax(values))
    return max(0, len(val_loss) - 1)
