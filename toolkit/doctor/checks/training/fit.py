"""Checks of the fit: overfitting, underfitting and too much regularization."""

import math
from dataclasses import dataclass

import numpy as np

from edgeclf.toolkit.doctor.checks.training.causes import (
    has_other_cause,
    has_too_few_epochs,
    is_cut_before_any_trend,
    is_still_falling,
)
from edgeclf.toolkit.doctor.checks.training.curves import Curves, chance_midway, read_curves
from edgeclf.toolkit.doctor.checks.training.evidence import accuracy_evidence, finite, percent
from edgeclf.toolkit.doctor.facts import Check, Facts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import train_again, train_pretrained
from edgeclf.toolkit.doctor.statistics import (
    FALSE_ALARM_RATE,
    binomial_standard_error,
    is_below,
    less_accurate_tail,
)

# Gap between training and validation accuracy for a warning and for a problem.
_GAP_WARNING, _GAP_PROBLEM = 0.05, 0.15
# Rise of validation loss above its minimum, relative to the loss of guessing, for a warning.
_RISE = 0.2
# Training accuracy below the baseline for underfitting.
_UNFIT = 0.1
# Dropout rate, mixup alpha and weight decay from which on they may keep a network from learning.
_STRONG_DROPOUT, _STRONG_MIXUP, _STRONG_DECAY = 0.5, 0.4, 0.2


@dataclass(frozen=True)
class Gap:
    """Generalization gap: training minus validation accuracy.

    Attributes:
        size: The larger of the gaps of the selected weights and after the last epoch; NaN where neither is known.
        error: Its standard error.
        chance: p-value of Fisher's exact test that validation images are as often right as training images, times the number of
            gaps that it was chosen from (Bonferroni).
    """

    size: float
    error: float
    chance: float


def gap_of(curves: Curves) -> Gap:
    """The generalization gap; training accuracy is in inference mode where that was measured, as dropout and augmentation lower it."""
    last = float(curves.val_accuracy[-1]) if curves.epochs else math.nan
    measured = [
        (train, images, validation)
        for train, images, validation in (
            (curves.train_selected, curves.train_selected_images, curves.val_selected),
            (curves.train_last, curves.train_last_images, last),
        )
        if math.isfinite(train) and math.isfinite(validation)
    ]
    if not measured:
        return Gap(math.nan, math.nan, 1.0)
    train, images, validation = max(measured, key=lambda figures: figures[0] - figures[2])
    error = math.hypot(binomial_standard_error(train, images), binomial_standard_error(validation, curves.val_images))
    tail = less_accurate_tail(validation, curves.val_images, train, images)
    return Gap(train - validation, error, min(1.0, len(measured) * tail))


def overfit_begin(curves: Curves) -> int | None:
    """First epoch, from 1, in which validation loss rises while training loss falls; None where there is none."""
    losses = curves.val_loss
    if np.isfinite(losses).sum() < 3:
        return None
    # A running median of three: one lucky epoch is no turning point.
    padded = np.concatenate([losses[:1], losses, losses[-1:]])
    smooth = np.nanmedian(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    lowest = int(np.nanargmin(smooth))
    if lowest >= len(losses) - 2:
        return None
    later = smooth[lowest + 1 :]
    training_fell = curves.loss[-1] < curves.loss[lowest]
    return lowest + 2 if training_fell and np.nanmean(later) > smooth[lowest] else None


def val_loss_rise(curves: Curves) -> float:
    """Rise of validation loss from its minimum to its end, relative to the loss of guessing; 0 without a rise."""
    losses = curves.val_loss[np.isfinite(curves.val_loss)]
    if len(losses) < 3:
        return 0.0
    return max(0.0, float(np.median(losses[-3:]) - losses.min()) / max(curves.chance_loss, 1e-9))


def is_overfit(run: RunFacts, curves: Curves) -> bool:
    """Whether the generalization gap is large and beyond chance (Fisher's exact test), without another cause."""
    if not curves.epochs or has_other_cause(run, curves) or has_too_few_epochs(run, curves):
        return False
    gap = gap_of(curves)
    return gap.size > _GAP_WARNING and gap.chance < FALSE_ALARM_RATE


def check_overfit(facts: Facts) -> list[Finding]:
    """Overfitting: a large generalization gap."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not is_overfit(run, curves):
        return []
    found = gap_of(curves)
    gap = found.size
    begin, rise = overfit_begin(curves), val_loss_rise(curves)
    # A gap is harmless where validation accuracy is good all the same.
    serious = gap > _GAP_PROBLEM and (curves.failed or curves.gap_to_baseline > 0 or not math.isfinite(curves.baseline))
    if not serious and gap < _GAP_PROBLEM and rise < _RISE and not curves.gap_to_baseline:
        return []
    since = f" from epoch {begin}" if begin else ""
    rising = f", validation loss {np.nanmin(curves.val_loss):.2f} -> {curves.val_loss[-1]:.2f}" if rise > 0 else ""
    return [
        Finding(
            "overfit",
            "problem" if serious else "warning",
            f"Overfitting{since}: {percent(curves.train_last)} of the training images are right after the last epoch and "
            f"{percent(curves.val_selected)} of the validation images{rising}",
            _fix_overfit(run),
            {
                "from_epoch": begin,
                "gap": gap,
                "gap_standard_error": found.error,
                "validation_loss_rise": rise,
                "lowest_validation_loss": finite(float(np.nanmin(curves.val_loss)))
                if np.isfinite(curves.val_loss).any()
                else None,
                "last_validation_loss": finite(float(curves.val_loss[-1])),
                "training_images": curves.train_images,
                **accuracy_evidence(curves),
            },
            weight=min(1.0, gap),
        )
    ]


def _fix_overfit(run: RunFacts) -> str:
    if not run.record.get("pretrained"):
        return f"Try a pretrained network: {train_pretrained(run)}"
    if run.record.get("freezes_backbone") and not run.record.get("fine_tune"):
        return f"Add images, or try {train_again(run, weight_decay=0.01)}"
    return f"Add images, or try {train_again(run, augment='strong', mixup=0.2)}"


def check_underfit(facts: Facts) -> list[Finding]:
    """Underfitting: low training accuracy in inference mode, with or without strong regularization."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if (
        not curves.epochs
        or has_other_cause(run, curves)
        or has_too_few_epochs(run, curves)
        or is_cut_before_any_trend(run, curves)
        or not (curves.fitted or curves.learned)
    ):
        return []
    # While training, dropout and augmentation hold accuracy down: that is no measure of the fit.
    reached, images = curves.train_measured
    has_baseline = math.isfinite(curves.baseline)
    aim = curves.baseline if has_baseline else chance_midway(curves.chance) + _UNFIT
    is_sure = (
        less_accurate_tail(reached, images, curves.baseline, curves.baseline_images) < FALSE_ALARM_RATE
        if has_baseline
        else is_below(reached, aim, images)
    )
    if not (is_sure and aim - reached > _UNFIT) or is_still_falling(run, curves):
        return []
    strong = _strong_regularization(run)
    held = _held_back(run, curves)
    by = (
        f"plain features reach {curves.baseline:.0%}"
        if math.isfinite(curves.baseline)
        else "hardly half of what is possible"
    )
    evidence = {
        "training_accuracy_inference": reached,
        "training_accuracy_while_training": finite(float(curves.accuracy[-1])),
        **accuracy_evidence(curves),
        "regularization": strong,
    }
    severity: Severity = "problem" if curves.failed else "warning"
    if strong and held:
        return [
            Finding(
                "over-regularized",
                severity,
                f"The network is kept from learning by {', '.join(strong)}: it knows {percent(reached)} of its training "
                f"images, where {by}",
                _fix_over_regularized(run),
                evidence,
            )
        ]
    return [
        Finding(
            "underfit",
            severity,
            f"The network does not fit even its training images: {percent(reached)} of them are right in inference mode, "
            f"where {by}",
            f"Try a pretrained network: {train_pretrained(run)}"
            if not run.record.get("pretrained")
            else f"Try {train_again(run, fine_tune=True)}"
            if not run.record.get("fine_tune")
            else f"Try a larger network: {train_again(run, architecture='efficientnet-lite2')}",
            evidence,
        )
    ]


def _fix_over_regularized(run: RunFacts) -> str:
    rates = (run.probes.get("network") or {}).get("dropout") or {}
    if rates and max(rates.values()) >= _STRONG_DROPOUT:
        if run.options.get("qat"):
            return "Train the network that it goes on from again, with --dropout-scale 0, and then this one."
        return f"Try it without dropout: {train_again(run, dropout_scale=0.0)}"
    augment = None if run.record.get("freezes_backbone") and not run.record.get("fine_tune") else "light"
    return f"Try {train_again(run, augment=augment, mixup=None, weight_decay=None)}"


def _strong_regularization(run: RunFacts) -> list[str]:
    fit = run.record.get("fit") or {}
    found = []
    rates = (run.probes.get("network") or {}).get("dropout") or {}
    if rates and max(rates.values()) >= _STRONG_DROPOUT:
        found.append(f"dropout {max(rates.values()):g}")
    if float(fit.get("mixup") or 0) >= _STRONG_MIXUP:
        found.append(f"mixup {fit['mixup']:g}")
    if float(fit.get("weight_decay") or 0) >= _STRONG_DECAY:
        found.append(f"weight decay {fit['weight_decay']:g}")
    if fit.get("augment") == "strong":
        found.append("strong augmentation")
    return found


def _held_back(run: RunFacts, curves: Curves) -> bool:
    """Whether regularization lowers training accuracy clearly below that in inference mode, or to chance."""
    while_training = float(curves.accuracy[-1])
    inference = curves.train_last if run.metrics.get("training_after_last_epoch") else curves.train_selected
    if not (math.isfinite(while_training) and math.isfinite(inference)):
        return False
    noise = binomial_standard_error(while_training, curves.train_images)
    return inference - while_training > max(0.05, 3 * noise) or while_training < curves.chance + 4 * noise


CHECKS: tuple[Check, ...] = (
    Check(
        "overfitting",
        "run",
        ("overfit",),
        f"training accuracy, in inference mode where it was measured, is above validation accuracy by {_GAP_WARNING:.0%} and "
        f"beyond chance (Fisher's exact test, {FALSE_ALARM_RATE:g} over the kept and the last weights), and by {_GAP_PROBLEM:.0%}, or "
        f"validation loss rose by {_RISE:.0%} of that of guessing, or plain features do better; a problem where the first and the last are "
        "the case",
        check_overfit,
    ),
    Check(
        "underfitting",
        "run",
        ("underfit", "over-regularized"),
        f"training accuracy in inference mode is {_UNFIT:.0%} and beyond chance (Fisher's exact test, {FALSE_ALARM_RATE:g}) below what "
        f"plain features reach on validation images, or, without these, below {_UNFIT:.0%} more than half-way from guessing to all right "
        f"(binomial test, {FALSE_ALARM_RATE:g}), no loss still falling; over-regularized where dropout >= {_STRONG_DROPOUT:g}, mixup >= {_STRONG_MIXUP:g}, weight decay "
        f">= {_STRONG_DECAY:g} or strong augmentation also hold the training figures down",
        check_underfit,
    ),
)
