"""Evidence values and phrases that several findings about a training share."""

import math

import numpy as np

from edgeclf.toolkit.doctor.checks.training.causes import (
    OVERCONFIDENT_TEMPERATURE,
    is_unstable,
    learning_rate_ratio,
    temperature_of,
)
from edgeclf.toolkit.doctor.checks.training.curves import Curves
from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.remedies import sweep_learning_rate, train_again


def accuracy_evidence(curves: Curves) -> dict[str, object]:
    """Accuracies as evidence, None where not finite."""
    return {
        "validation_accuracy": finite(curves.val_selected),
        "validation_images": curves.val_images,
        "chance": curves.chance,
        "training_accuracy": finite(curves.train_last),
        "yardstick_accuracy": finite(curves.baseline),
    }


def finite(value: float) -> float | None:
    """A number as JSON value: None where it is not finite."""
    return value if math.isfinite(value) else None


def percent(share: float) -> str:
    """A fraction as percentage; `unknown` where it is not finite."""
    return f"{share:.1%}" if math.isfinite(share) else "unknown"


def epochs_text(count: int) -> str:
    """A number of epochs in words."""
    return f"{count} epoch{'' if count == 1 else 's'}"


def symptom_text(run: RunFacts, curves: Curves) -> str:
    """Symptom of a wrong learning rate, as a phrase."""
    if not curves.epochs:
        return "the loss stopped being a number in the first epoch"
    if not curves.learned:
        return (
            f"validation accuracy {percent(curves.val_selected)} after {epochs_text(curves.epochs)}, where guessing gives "
            f"{curves.chance:.0%}"
        )
    if curves.gap_to_baseline:
        return f"validation accuracy {percent(curves.val_selected)}, where plain features reach {curves.baseline:.0%}"
    if is_unstable(curves):
        return f"the loss rose to {np.nanmax(np.concatenate([curves.loss, curves.val_loss])):.3g} on the way"
    if temperature_of(run) > OVERCONFIDENT_TEMPERATURE:
        return f"the network's logits are {temperature_of(run):.1f} times too large by the validation images"
    return f"the loss was still falling after {epochs_text(curves.epochs)}"


def lower_learning_rate(run: RunFacts) -> str:
    """Remedy: train again with the usual learning rate where this one is higher, else with a tenth of it."""
    suits = (run.record.get("suits") or {}).get("learning_rate")
    rate = (run.record.get("fit") or {}).get("learning_rate")
    if suits and rate and rate > suits:
        return f"Try {train_again(run, learning_rate=None)}"
    return f"Try {train_again(run, learning_rate=float(rate) / 10)}" if rate else f"Try {sweep_learning_rate(run)}"


def learning_rate_text(evidence: dict[str, object]) -> str:
    """The learning rate with a leading space; empty where not known."""
    rate = evidence.get("learning_rate")
    return f" {rate:g}" if isinstance(rate, float) else ""


def learning_rate_evidence(run: RunFacts, curves: Curves) -> dict[str, object]:
    """Learning rate and its effects as evidence."""
    fit, suits = run.record.get("fit") or {}, run.record.get("suits") or {}
    moved = (run.probes.get("network") or {}).get("bias_to_kernel")
    highest = float(np.nanmax(curves.loss)) if np.isfinite(curves.loss).any() else math.nan
    return {
        "learning_rate": fit.get("learning_rate"),
        "optimizer": fit.get("optimizer"),
        "suitable_learning_rate": suits.get("learning_rate"),
        "ratio": finite(learning_rate_ratio(run)),
        "highest_loss": finite(highest),
        "chance_loss": curves.chance_loss,
        "bias_to_kernel": moved,
        "temperature": finite(temperature_of(run)),
        **accuracy_evidence(curves),
    }
