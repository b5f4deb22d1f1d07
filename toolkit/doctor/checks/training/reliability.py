"""Checks of a run's results: selection of the best epoch, noise of validation accuracy, dead units."""

import math

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.toolkit.doctor.checks.training.causes import FEW_EPOCHS, has_other_cause
from edgeclf.toolkit.doctor.checks.training.curves import read_curves
from edgeclf.toolkit.doctor.facts import Check, Facts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import more_validation, train_again
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, binomial_standard_error, is_above_chance

# Standard deviation of validation accuracy between epochs for a warning.
_SWING = 0.03
# Histories drawn for the test of a swing.
_SWING_DRAWS = 3_999
# Half width of validation accuracy's 95 % interval for a note.
_WIDE = 0.06
# Fraction of dead units that an untrained layer may have (half of them, by the sign of a random sum, where its input hardly
# varies), and fraction for a problem.
_DEAD_BY_CHANCE, _DEAD_PROBLEM = 0.5, 0.9


def check_selected_weights(facts: Facts) -> list[Finding]:
    """Selected weights that are not those of the best epoch."""
    run = facts.run
    # Epoch 0, which the history does not have: a network that went on and was better before.
    if run is None or run.record.get("best_epoch") == 0:
        return []
    curves = read_curves(run)
    monitor = str(run.record.get("monitor") or "val_loss")
    values = curves.val_accuracy if monitor == "val_accuracy" else -curves.val_loss
    measured = (run.metrics.get("validation") or {}).get("accuracy")
    if measured is None or not np.isfinite(values).any() or not np.isfinite(curves.val_accuracy).any():
        return []
    best = int(np.nanargmax(values))
    expected = float(curves.val_accuracy[best])
    # Rounding may change the prediction of one image.
    if not expected - float(measured) > max(1.5 / max(1, curves.val_images), 0.005):
        return []
    if curves.selected_epoch == best and run.record.get("best_epoch"):
        what = (
            f"the kept weights reach {measured:.1%} on the validation images, where epoch {best + 1} had {expected:.1%}"
        )
    else:
        what = f"{measured:.1%} on the validation images were kept, where epoch {best + 1} had {expected:.1%}"
    if not expected - float(measured) > binomial_standard_error(expected, curves.val_images):
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
    """Validation accuracy that fluctuates, or whose interval is wide."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    values = curves.val_accuracy[np.isfinite(curves.val_accuracy)]
    if not len(values) or not curves.val_images or has_other_cause(run, curves):
        return []
    half = 1.96 * binomial_standard_error(float(values.max()), curves.val_images)
    later = values[len(values) // 2 :]
    swing = float(_swing(later)) if len(later) > FEW_EPOCHS else 0.0
    explained = binomial_standard_error(float(np.median(later)), curves.val_images)
    evidence = {
        "validation_images": curves.val_images,
        "interval_half_width": half,
        "swing": swing,
        "binomial_standard_error": explained,
    }
    if swing > max(_SWING, 2 * explained) and swing > _largest_swing(later, curves.val_images):
        return [
            Finding(
                "noisy-validation",
                "warning",
                f"Validation accuracy swings by {swing:.1%} from epoch to epoch, where {curves.val_images} images explain "
                f"{explained:.1%}: the steps are too large",
                f"Try {train_again(run, learning_rate=_lower_learning_rate(run), average_epochs=1.0)}",
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
                more_validation(run, 0.3),
                evidence,
            )
        ]
    return []


def _swing(values: Float64Array) -> Float64Array:
    """(...) standard deviation of (..., E) values by neighbouring epochs, so that progress does not count: var(a - b) = 2 var(a)."""
    return np.asarray(np.median(np.abs(np.diff(values, axis=-1)), axis=-1) / 0.6745 / math.sqrt(2))


def _largest_swing(values: Float64Array, images: int) -> float:
    """Swing that epochs exceed by chance at `FALSE_ALARM_RATE`, as good as their median and each answering anew.

    Answers to the same images in neighbouring epochs have much in common, so that a healthy training swings less.
    """
    rng = np.random.default_rng(0)
    drawn = np.sort(_swing(rng.binomial(images, float(np.median(values)), (_SWING_DRAWS, len(values))) / images))
    return float(drawn[-round(FALSE_ALARM_RATE * (_SWING_DRAWS + 1))])


def _lower_learning_rate(run: RunFacts) -> float | None:
    rate = (run.record.get("fit") or {}).get("learning_rate")
    return float(rate) / 3 if rate else None


def check_dead_units(facts: Facts) -> list[Finding]:
    """Dead ReLU units: zero on every sampled image."""
    run = facts.run
    probe = None if run is None else run.probes.get("network")
    if run is None or not probe:
        return []
    layers = [layer for layer in probe["relu_layers"] if layer["units"]]
    worst = max(layers, key=lambda layer: layer["dead"] / layer["units"], default=None)
    if worst is None:
        return []
    share = worst["dead"] / worst["units"]
    if not is_above_chance(share, _DEAD_BY_CHANCE, worst["units"], trials=len(layers)):
        return []
    curves = read_curves(run)
    # Units die of high learning rates and large inputs; where a finding names these, dead units are only a symptom.
    unexplained = curves.failed and not has_other_cause(run, curves)
    severity: Severity = "note"
    if unexplained or (share >= _DEAD_PROBLEM and not curves.failed):
        severity = "problem" if share >= _DEAD_PROBLEM and curves.failed else "warning"
    return [
        Finding(
            "dead-units",
            severity,
            f"{worst['dead']} of the {worst['units']} units of {worst['name']} are zero for each of {probe['images']} images",
            f"Try a lower learning rate: {train_again(run, learning_rate=_lower_learning_rate(run))}",
            {
                "layer": worst["name"],
                "share": share,
                "images": probe["images"],
                "layers": {layer["name"]: layer["dead"] / layer["units"] for layer in layers},
            },
            weight=share,
        )
    ]


CHECKS: tuple[Check, ...] = (
    Check(
        "kept-weights",
        "run",
        ("not-best-weights",),
        "the validation accuracy of the kept weights is below that of the best monitored epoch, on the same images, by more than its "
        "standard error",
        check_selected_weights,
    ),
    Check(
        "noisy-validation",
        "run",
        ("noisy-validation",),
        f"neighbouring epochs' validation accuracies differ by more than {_SWING:.0%}, twice the binomial standard error and what epochs that "
        f"are equally good and answer anew differ by (drawn at random, {FALSE_ALARM_RATE:g}); a note where the 95 % interval is wider than +-{_WIDE:.0%}",
        check_noisy_validation,
    ),
    Check(
        "dead-units",
        "run",
        ("dead-units",),
        f"more than half of a layer's ReLU units (binomial test, {FALSE_ALARM_RATE:g} over all layers) are zero at every place of every "
        "sampled image; a "
        f"problem from {_DEAD_PROBLEM:.0%} on where the run failed for no other reason",
        check_dead_units,
    ),
)
