"""Learning curves of a run as arrays, with final accuracies, the accuracy of guessing and a baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.statistics import binomial_standard_error, is_above_chance

_NAMES = {
    "loss": ("loss",),
    "accuracy": ("accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy"),
    "learning_rate": ("learning_rate", "lr"),
}


@dataclass(frozen=True, eq=False)
class Curves:
    """Learning curves and final figures of a run; NaN stands for values that are missing or not finite.

    Attributes:
        loss: (E,) float64 training loss by epoch.
        accuracy: (E,) float64 training accuracy by epoch, with dropout and augmentation on.
        val_loss: (E,) float64 validation loss by epoch.
        val_accuracy: (E,) float64 validation accuracy by epoch.
        chance: Validation accuracy of always predicting its most frequent class.
        chance_loss: Loss of predicting the training split's class frequencies, label smoothing included.
        train_images: Number of training images.
        val_images: Number of validation images; 0 where not known.
        selected_epoch: Position of the epoch whose weights were selected.
        val_selected: Validation accuracy of the selected weights.
        test: Test accuracy of the selected weights.
        test_images: Number of test images.
        train_last: Training accuracy after the last epoch, in inference mode where it was measured.
        train_selected: Training accuracy of the selected weights in inference mode.
        baseline: Accuracy of a linear probe on pretrained features, on validation images or, without them, leave-one-out on
            training images.
        baseline_images: Number of images that `baseline` was measured on.
    """

    loss: Float64Array
    accuracy: Float64Array
    val_loss: Float64Array
    val_accuracy: Float64Array
    chance: float
    chance_loss: float
    train_images: int
    val_images: int
    selected_epoch: int
    val_selected: float
    test: float
    test_images: int
    train_last: float
    train_selected: float
    baseline: float
    baseline_images: int

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.loss)

    @property
    def learned(self) -> bool:
        """Whether the selected weights are above chance on validation or test images."""
        return is_above_chance(self.val_selected, self.chance, self.val_images, trials=self.epochs) or is_above_chance(
            self.test, self.chance, self.test_images
        )

    @property
    def fitted(self) -> bool:
        """Whether the network is above chance on its training images."""
        best = max(
            (value for value in (self.train_last, self.train_selected) if math.isfinite(value)), default=math.nan
        )
        if math.isfinite(best) and is_above_chance(best, self.chance, min(self.train_images, 256), trials=2):
            return True
        return is_above_chance(_highest(self.accuracy), self.chance, self.train_images, trials=self.epochs)

    @property
    def gap_to_baseline(self) -> float:
        """Baseline minus validation accuracy where that is beyond two standard errors, else 0."""
        if not (math.isfinite(self.val_selected) and math.isfinite(self.baseline)):
            return 0.0
        noise = binomial_standard_error(self.val_selected, self.val_images) + binomial_standard_error(
            self.baseline, self.baseline_images
        )
        gap = self.baseline - self.val_selected
        return gap if gap > max(0.0, 2 * noise) else 0.0

    @property
    def failed(self) -> bool:
        """Whether the run is at chance, or below the baseline by more than a quarter of the baseline's lead over chance."""
        return not self.learned or self.gap_to_baseline > 0.25 * max(0.0, self.baseline - self.chance)


def read_curves(run: RunFacts) -> Curves:
    """Reads the curves and final figures of a run from its facts."""
    history = run.history
    smoothing = float((run.record.get("fit") or {}).get("label_smoothing") or 0.0)
    val_counts = _counts(run.counts.get("val"))
    train_counts = _counts(run.counts.get("train"))
    classes = max(2, len(run.classes))
    shares = val_counts / val_counts.sum() if val_counts.sum() else np.full(classes, 1 / classes)
    prior = train_counts / train_counts.sum() if train_counts.sum() else shares
    prior = prior * (1 - smoothing) + smoothing / len(prior)
    val_loss, val_accuracy = _column(history, "loss", "val_"), _column(history, "accuracy", "val_")
    selected = _selected_epoch(run, val_loss, val_accuracy)
    validation, test = (run.metrics.get(split) or {} for split in ("validation", "test"))
    accuracy = _column(history, "accuracy")
    ended = run.metrics.get("training_after_last_epoch") or {}
    baseline = run.probes.get("linear_probe") or {}
    return Curves(
        loss=_column(history, "loss"),
        accuracy=accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        chance=float(shares.max()),
        chance_loss=float(-(prior * np.log(np.maximum(prior, 1e-12))).sum()),
        train_images=int(train_counts.sum()),
        val_images=int(val_counts.sum()),
        selected_epoch=selected,
        val_selected=_number(validation.get("accuracy"), val_accuracy[selected] if len(val_accuracy) else math.nan),
        test=_number(test.get("accuracy")),
        test_images=int(test.get("count") or 0),
        train_last=_number(ended.get("accuracy"), accuracy[-1] if len(accuracy) else math.nan),
        train_selected=_number((run.probes.get("training") or {}).get("accuracy")),
        baseline=_number(baseline.get("validation_accuracy"), _number(baseline.get("training_accuracy"))),
        baseline_images=int(baseline.get("validation_images") or baseline.get("training_images") or 0),
    )


def _highest(values: Float64Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else math.nan


def _column(history: Sequence[Mapping[str, Any]], name: str, prefix: str = "") -> Float64Array:
    keys = [prefix + key for key in _NAMES[name]]
    values = np.array([_number(next((row[key] for key in keys if key in row), None)) for row in history], np.float64)
    if name == "accuracy":
        # Values outside 0..1 are no accuracies.
        values[~((values >= 0) & (values <= 1))] = np.nan
    return values


def last_learning_rates(history: Sequence[Mapping[str, Any]]) -> Float64Array:
    """(E,) learning rate by epoch, NaN where not recorded."""
    return _column(history, "learning_rate")


def _number(value: object, otherwise: float = math.nan) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float(otherwise)


def _counts(by_class: Mapping[str, int] | None) -> Float64Array:
    return np.array(list((by_class or {}).values()), np.float64)


def _selected_epoch(run: RunFacts, val_loss: Float64Array, val_accuracy: Float64Array) -> int:
    """Position of the selected epoch as recorded, else of that with the lowest validation loss."""
    best = run.record.get("best_epoch")
    if isinstance(best, int) and 1 <= best <= len(val_loss):
        return best - 1
    for values in (-val_loss, val_accuracy):
        if np.isfinite(values).any():
            return int(np.nanargmax(values))
    return max(0, len(val_loss) - 1)
