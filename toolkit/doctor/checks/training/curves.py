"""Learning curves of a run as arrays, with final accuracies, the accuracy of guessing and a baseline."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, below_tail, is_above_chance, less_accurate_tail

# Share of the way from guessing to all right up to which a network, or a probe, is poor; gap to the baseline that is clear,
# relative to the baseline's lead over chance.
POOR_SHARE, _CLEAR_GAP = 1 / 3, 0.25
# Share of that way which is hardly better than guessing, though many images tell the difference.
_HARDLY = 0.1
# Training images that accuracy is measured on, at most, where that is not said.
_MEASURED_IMAGES = 256
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
        train_last_images: Number of images that it was measured on.
        is_last_measured: Whether it was measured in inference mode; dropout, augmentation and mixup lower it otherwise.
        train_selected: Training accuracy of the selected weights in inference mode.
        train_selected_images: Number of images that it was measured on.
        baseline: Accuracy of a linear probe on pretrained features, on validation images or, without them, leave-one-out on
            training images.
        baseline_images: Number of images that `baseline` was measured on.
        baseline_train: Accuracy of the linear probe on training images, leave-one-out.
        baseline_train_images: Number of these.
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
    train_last_images: int
    is_last_measured: bool
    train_selected: float
    train_selected_images: int
    baseline: float
    baseline_images: int
    baseline_train: float
    baseline_train_images: int

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.loss)

    @property
    def learned(self) -> bool:
        """Whether the selected weights are above chance on validation or test images; of few images, not to be says little."""
        return is_above_chance(self.val_selected, self.chance, self.val_images, trials=self.epochs) or is_above_chance(
            self.test, self.chance, self.test_images
        )

    @property
    def fitted(self) -> bool:
        """Whether the network is surely better on its training images than a tenth of the way from chance to 1."""
        bound = self.chance + _HARDLY * (1 - self.chance)
        figures = ((self.train_last, self.train_last_images), (self.train_selected, self.train_selected_images))
        if any(is_above_chance(accuracy, bound, images, trials=2) for accuracy, images in figures):
            return True
        return is_above_chance(_highest(self.accuracy), bound, self.train_images, trials=self.epochs)

    @property
    def knows_training_images(self) -> bool:
        """Whether the network is surely better on its training images than half-way from chance to 1."""
        figures = ((self.train_last, self.train_last_images), (self.train_selected, self.train_selected_images))
        midway = chance_midway(self.chance)
        return any(is_above_chance(accuracy, midway, images, trials=2) for accuracy, images in figures)

    @property
    def train_measured(self) -> tuple[float, int]:
        """Training accuracy in inference mode, the better of the selected and the last weights', and its images; NaN and 0 for none."""
        figures = [(self.train_selected, self.train_selected_images)]
        if self.is_last_measured:
            figures.append((self.train_last, self.train_last_images))
        return max((figure for figure in figures if math.isfinite(figure[0])), default=(math.nan, 0))

    @functools.cached_property
    def gap_to_baseline(self) -> float:
        """Baseline minus validation accuracy where that is beyond chance (Fisher's exact test), else 0."""
        tail = less_accurate_tail(self.val_selected, self.val_images, self.baseline, self.baseline_images)
        return self.baseline - self.val_selected if tail < FALSE_ALARM_RATE else 0.0

    @functools.cached_property
    def is_surely_poor(self) -> bool:
        """Whether the network is surely less than a third of the way from chance to 1, or clearly below the baseline.

        On validation images or on training images in inference mode, the baseline leave-one-out on these: whatever comparisons
        there are, together at `FALSE_ALARM_RATE` (Bonferroni). Of few images, not to be above chance is no such evidence.
        """
        validation, training = (self.val_selected, self.val_images), self.train_measured
        bound = self.chance + POOR_SHARE * (1 - self.chance)
        tails = [below_tail(accuracy, bound, images) for accuracy, images in (validation, training) if images]
        for (accuracy, images), (baseline, of) in (
            (validation, (self.baseline, self.baseline_images)),
            (training, (self.baseline_train, self.baseline_train_images)),
        ):
            if images and of:
                is_clear = baseline - accuracy > _CLEAR_GAP * max(0.0, baseline - self.chance)
                tails.append(less_accurate_tail(accuracy, images, baseline, of) if is_clear else 1.0)
        return any(tail * len(tails) < FALSE_ALARM_RATE for tail in tails)

    @property
    def failed(self) -> bool:
        """Whether the run surely came to little.

        It is surely poor, and not to be told from guessing or below the baseline on validation images by more than a quarter of the
        baseline's lead over chance.
        """
        behind = self.gap_to_baseline > _CLEAR_GAP * max(0.0, self.baseline - self.chance)
        return self.is_surely_poor and (behind or not self.learned)


def chance_midway(chance: float) -> float:
    """Accuracy half-way from chance to 1."""
    return 0.5 + 0.5 * chance


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
    ended, kept = run.metrics.get("training_after_last_epoch") or {}, run.probes.get("training") or {}
    train_images, measured = int(train_counts.sum()), _number(ended.get("accuracy"))
    usual = min(train_images, _MEASURED_IMAGES)
    baseline = run.probes.get("linear_probe") or {}
    return Curves(
        loss=_column(history, "loss"),
        accuracy=accuracy,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        chance=float(shares.max()),
        chance_loss=float(-(prior * np.log(np.maximum(prior, 1e-12))).sum()),
        train_images=train_images,
        val_images=int(val_counts.sum()),
        selected_epoch=selected,
        val_selected=_number(validation.get("accuracy"), val_accuracy[selected] if len(val_accuracy) else math.nan),
        test=_number(test.get("accuracy")),
        test_images=int(test.get("count") or 0),
        train_last=measured if math.isfinite(measured) else float(accuracy[-1]) if len(accuracy) else math.nan,
        # While training, every image is seen in every epoch.
        train_last_images=_count(ended.get("images"), usual) if math.isfinite(measured) else train_images,
        is_last_measured=math.isfinite(measured),
        train_selected=_number(kept.get("accuracy")),
        train_selected_images=_count(kept.get("images"), usual),
        baseline=_number(baseline.get("validation_accuracy"), _number(baseline.get("training_accuracy"))),
        baseline_images=int(baseline.get("validation_images") or baseline.get("training_images") or 0),
        baseline_train=_number(baseline.get("training_accuracy")),
        baseline_train_images=int(baseline.get("training_images") or 0),
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


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


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
