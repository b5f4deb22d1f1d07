"""Figures of a training as sentences and evidence give them."""

import math

from edgeclf.toolkit.doctor.curves import Curves


def accuracy_evidence(curves: Curves) -> dict[str, object]:
    """Accuracies for a finding's evidence."""
    return {
        "validation_accuracy": finite(curves.val_kept),
        "validation_images": curves.val_images,
        "chance": curves.chance,
        "training_accuracy": finite(curves.train_end),
        "yardstick_accuracy": finite(curves.yardstick),
    }


def finite(value: float) -> float | None:
    """A number as JSON has it: None where it is none."""
    return value if math.isfinite(value) else None


def percent(share: float) -> str:
    """A share for a sentence."""
    return f"{share:.1%}" if math.isfinite(share) else "unknown"


def in_epochs(count: int) -> str:
    """A number of epochs for a sentence."""
    return f"{count} epoch{'' if count == 1 else 's'}"
