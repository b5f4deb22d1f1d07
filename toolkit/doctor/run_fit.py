"""Checks of a training that did learn: how well it fits, what it kept, and what its figures are worth."""

import math

import numpy as np

from edgeclf.toolkit.doctor.causes import FEW_EPOCHS, has_other_cause, is_short, is_still_falling
from edgeclf.toolkit.doctor.commands import train_again, train_pretrained
from edgeclf.toolkit.doctor.curves import Curves, binomial_error, read_curves
from edgeclf.toolkit.doctor.facts import Check, Facts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.run_words import accuracy_evidence, finite, percent

# A gap between training and validation accuracy is worth a word from here on, and a problem from there on.
_GAP_WARNING, _GAP_PROBLEM = 0.05, 0.15
# A rise of validation loss above its lowest that is worth a word.
_RISE = 0.2
# Training accuracy this far below the yardstick does not fit its own images.
_UNFIT = 0.1
# Dropout from which on a network of a few layers may learn nothing.
_STRONG_DROPOUT, _STRONG_MIXUP, _STRONG_DECAY = 0.5, 0.4, 0.2
# Validation accuracy that moves by more than this between epochs, and by twice what its number of images explains.
_SWING = 0.03
# A 95 % interval of validation accuracy wider than this to either side hides most of what training changes.
_WIDE = 0.06
_DEAD_WARNING, _DEAD_PROBLEM = 0.5, 0.9


def gap_of(curves: Curves) -> tuple[float, float]:
    """Training minus validation accuracy, of the kept weights or after the last epoch, and its standard error.

    Training accuracy is that in inference mode where it was measured: with dropout and augmentation on it is lower.
    """
    if math.isfinite(curves.train_kept) and math.isfinite(curves.val_kept):
        kept = curves.train_kept - curves.val_kept
    else:
        kept = -math.inf
    last = curves.val_accuracy[-1] if curves.epochs else math.nan
    end = curves.train_end - last if math.isfinite(last) and math.isfinite(curves.train_end) else -math.inf
    if kept == end == -math.inf:
        return math.nan, math.nan
    train, validation = (curves.train_kept, curves.val_kept) if kept >= end else (curves.train_end, float(last))
    seen = min(curves.train_images, 256) or 256
    return max(kept, end), math.hypot(binomial_error(train, seen), binomial_error(validation, curves.val_images))


def overfit_begin(curves: Curves) -> int | None:
    """The epoch, from 1, from which validation loss rises while training loss falls; None where it does not."""
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
    """How far validation loss ended above its lowest, as a share of that of guessing; 0 where it did not."""
    losses = curves.val_loss[np.isfinite(curves.val_loss)]
    if len(losses) < 3:
        return 0.0
    return max(0.0, float(np.median(losses[-3:]) - losses.min()) / max(curves.chance_loss, 1e-9))


def is_overfit(run: RunFacts, curves: Curves) -> bool:
    """Whether training images are known much better than others, beyond chance."""
    if not curves.epochs or has_other_cause(run, curves) or is_short(run, curves):
        return False
    gap, error = gap_of(curves)
    return math.isfinite(gap) and gap > _GAP_WARNING and gap > 3 * error


def check_overfit(facts: Facts) -> list[Finding]:
    """Training images learned by heart."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not is_overfit(run, curves):
        return []
    gap, error = gap_of(curves)
    begin, rise = overfit_begin(curves), val_loss_rise(curves)
    # A gap is harmless where the figures are good all the same.
    serious = gap > _GAP_PROBLEM and (curves.failed or curves.shortfall > 0 or not math.isfinite(curves.yardstick))
    if not serious and gap < _GAP_PROBLEM and rise < _RISE and not curves.shortfall:
        return []
    since = f" from epoch {begin}" if begin else ""
    rising = f", validation loss {np.nanmin(curves.val_loss):.2f} -> {curves.val_loss[-1]:.2f}" if rise > 0 else ""
    return [
        Finding(
            "overfit",
            "problem" if serious else "warning",
            f"Overfitting{since}: {percent(curves.train_end)} of the training images are right after the last epoch and "
            f"{percent(curves.val_kept)} of the validation images{rising}",
            _fix_overfit(run),
            {
                "from_epoch": begin,
                "gap": gap,
                "gap_standard_error": error,
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
    """A network that does not fit its training images, in inference mode, or is kept from it."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if (
        not curves.epochs
        or has_other_cause(run, curves)
        or is_short(run, curves)
        or not (curves.fitted or curves.learned)
    ):
        return []
    reached = max((v for v in (curves.train_end, curves.train_kept) if math.isfinite(v)), default=math.nan)
    aim = curves.yardstick if math.isfinite(curves.yardstick) else 0.5 + 0.5 * curves.chance + _UNFIT
    missing = aim - reached
    noise = binomial_error(reached, min(curves.train_images, 256)) if math.isfinite(reached) else math.inf
    if not missing > max(_UNFIT, 3 * noise) or is_still_falling(curves):
        return []
    strong = _strong_regularization(run)
    held = _held_back(run, curves)
    by = (
        f"plain features reach {curves.yardstick:.0%}"
        if math.isfinite(curves.yardstick)
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
                f"Try {train_again(run, augment='light', mixup=None, weight_decay=None, label_smoothing=None)}",
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
            else f"Try {train_again(run, fine_tune=True)}",
            evidence,
        )
    ]


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
    """Whether training figures, measured with all of it on, lie clearly below those in inference mode, or at guessing."""
    while_training = float(curves.accuracy[-1])
    inference = curves.train_end if run.metrics.get("training_after_last_epoch") else curves.train_kept
    if not (math.isfinite(while_training) and math.isfinite(inference)):
        return False
    noise = binomial_error(while_training, curves.train_images)
    return inference - while_training > max(0.05, 3 * noise) or while_training < curves.chance + 4 * noise


def check_kept_weights(facts: Facts) -> list[Finding]:
    """Weights that are not those of the best epoch."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    monitor = str(run.record.get("monitor") or "val_loss")
    values = curves.val_accuracy if monitor == "val_accuracy" else -curves.val_loss
    measured = (run.metrics.get("validation") or {}).get("accuracy")
    if measured is None or not np.isfinite(values).any() or not np.isfinite(curves.val_accuracy).any():
        return []
    best = int(np.nanargmax(values))
    expected = float(curves.val_accuracy[best])
    # One image may fall to the other side by rounding.
    if not expected - float(measured) > max(1.5 / max(1, curves.val_images), 0.005):
        return []
    if curves.kept == best and run.record.get("best_epoch"):
        what = (
            f"the kept weights reach {measured:.1%} on the validation images, where epoch {best + 1} had {expected:.1%}"
        )
    else:
        what = f"{measured:.1%} on the validation images were kept, where epoch {best + 1} had {expected:.1%}"
    if not expected - float(measured) > binomial_error(expected, curves.val_images):
        return []
    return [
        Finding(
            "not-best-weights",
            "warning",
            f"The weights are not those of the best epoch: {what}",
            f"Keep the best epoch's weights (in Keras: ModelCheckpoint, or EarlyStopping with restore_best_weights): "
            f"{train_again(run)}",
            {"best_epoch": best + 1, "best_accuracy": expected, "kept_accuracy": measured, "monitor": monitor},
        )
    ]


def check_noisy_validation(facts: Facts) -> list[Finding]:
    """Validation that swings more than what it is to compare."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    values = curves.val_accuracy[np.isfinite(curves.val_accuracy)]
    if not len(values) or not curves.val_images or has_other_cause(run, curves):
        return []
    half = 1.96 * binomial_error(float(values.max()), curves.val_images)
    later = values[len(values) // 2 :]
    # Of neighbours, so that what training still adds does not count: var(a - b) = 2 var(a).
    swing = float(np.median(np.abs(np.diff(later)))) / 0.6745 / math.sqrt(2) if len(later) > FEW_EPOCHS else 0.0
    explained = binomial_error(float(np.median(later)), curves.val_images)
    evidence = {
        "validation_images": curves.val_images,
        "interval_half_width": half,
        "swing": swing,
        "binomial_standard_error": explained,
    }
    if swing > max(_SWING, 2 * explained):
        return [
            Finding(
                "noisy-validation",
                "warning",
                f"Validation accuracy swings by {swing:.1%} from epoch to epoch, where {curves.val_images} images explain "
                f"{explained:.1%}: the steps are too large",
                f"Try {train_again(run, learning_rate=_half_rate(run), average_epochs=1.0)}",
                evidence,
            )
        ]
    if half > _WIDE:
        return [
            Finding(
                "noisy-validation",
                "note",
                f"{curves.val_images} validation images tell accuracies apart only from {2 * half:.0%} on "
                f"({values.max():.0%} +- {half:.0%})",
                f"Add images, or let more of them validate: {train_again(run, val_fraction=0.3)}",
                evidence,
            )
        ]
    return []


def _half_rate(run: RunFacts) -> float | None:
    rate = (run.record.get("fit") or {}).get("learning_rate")
    return float(rate) / 3 if rate else None


def check_dead_units(facts: Facts) -> list[Finding]:
    """ReLU units that are zero whatever the image."""
    run = facts.run
    probe = None if run is None else run.probes.get("network")
    if run is None or not probe:
        return []
    layers = [layer for layer in probe["relu_layers"] if layer["units"]]
    worst = max(layers, key=lambda layer: layer["dead"] / layer["units"], default=None)
    if worst is None or worst["dead"] < _DEAD_WARNING * worst["units"]:
        return []
    share = worst["dead"] / worst["units"]
    curves = read_curves(run)
    # Units die of high learning rates and large inputs; where these are named, they are only a sign of it.
    unexplained = curves.failed and not has_other_cause(run, curves)
    severity: Severity = "note"
    if unexplained or (share >= _DEAD_PROBLEM and not curves.failed):
        severity = "problem" if share >= _DEAD_PROBLEM and curves.failed else "warning"
    return [
        Finding(
            "dead-units",
            severity,
            f"{worst['dead']} of the {worst['units']} units of {worst['name']} are zero for each of {probe['images']} images",
            f"Try a lower learning rate: {train_again(run, learning_rate=_half_rate(run))}",
            {
                "layer": worst["name"],
                "share": share,
                "images": probe["images"],
                "layers": {layer["name"]: layer["dead"] / layer["units"] for layer in layers},
            },
            weight=share,
        )
    ]


FIT_CHECKS: tuple[Check, ...] = (
    Check(
        "overfitting",
        "run",
        ("overfit",),
        f"Training accuracy, in inference mode where it was measured, is above validation accuracy by {_GAP_WARNING:.0%} and "
        f"3 standard errors, and by {_GAP_PROBLEM:.0%}, or validation loss rose by {_RISE:.0%} of that of guessing, or plain "
        "features do better; a problem where the first and the last are the case.",
        check_overfit,
    ),
    Check(
        "underfitting",
        "run",
        ("underfit", "over-regularized"),
        f"Training accuracy in inference mode is {_UNFIT:.0%} and 3 standard errors below what plain features reach on "
        f"validation images; over-regularized where dropout >= {_STRONG_DROPOUT:g}, mixup >= {_STRONG_MIXUP:g}, weight decay "
        f">= {_STRONG_DECAY:g} or strong augmentation also hold the training figures down.",
        check_underfit,
    ),
    Check(
        "kept weights",
        "run",
        ("not-best-weights",),
        "The validation accuracy of the kept weights is below that of the best monitored epoch by more than its standard error.",
        check_kept_weights,
    ),
    Check(
        "noisy validation",
        "run",
        ("noisy-validation",),
        f"Neighbouring epochs' validation accuracies differ by more than {_SWING:.0%} and twice the binomial standard error; a "
        f"note where the 95 % interval is wider than +-{_WIDE:.0%}.",
        check_noisy_validation,
    ),
    Check(
        "dead units",
        "run",
        ("dead-units",),
        f"{_DEAD_WARNING:.0%} of a layer's ReLU units are zero at every place of every sampled image; a problem from "
        f"{_DEAD_PROBLEM:.0%} on where the run failed.",
        check_dead_units,
    ),
)
