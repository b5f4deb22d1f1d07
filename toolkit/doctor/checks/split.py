"""Checks of splits: class distributions that differ, and a test split too small for its accuracy to mean much."""

from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import IntArray
from edgeclf.runtime.errors import command_line
from edgeclf.runtime.metrics import Z_95, wilson_interval
from edgeclf.toolkit.doctor.facts import SPLIT_NAMES, Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.statistics import class_mix_difference, detectable_difference, holm_rejects

# Chance of a false finding over the splits that are compared with the training split.
_MIX_LEVEL = 0.01
# Total variation distance beyond that of random splits for a note, a warning and a problem.
_MIX_NOTE, _MIX_WARNING, _MIX_PROBLEM = 0.04, 0.08, 0.25
# Half width of the accuracy's 95 % interval for a warning and for a problem.
_WIDE, _TOO_WIDE = 0.05, 0.15
# Accuracy assumed where no model was tested.
_ASSUMED_ACCURACY = 0.9


def _counts(data: DataFacts, split: str) -> IntArray:
    return np.bincount(data.images.labels[data.images.rows_of(split)], minlength=len(data.classes))


def find_prior_shift(facts: Facts) -> list[Finding]:
    """Class distributions of test or validation that differ from the training split's."""
    data = facts.data
    if data is None or not data.has_splits:
        return []
    train = _counts(data, "train")
    compared = {split: _counts(data, split) for split in ("test", "val")}
    # Classes that only one of them has are findings of `hidden_class`.
    differences = {
        split: class_mix_difference(train[(train > 0) & (other > 0)], other[(train > 0) & (other > 0)])
        for split, other in compared.items()
        if other.any()
    }
    beyond = holm_rejects(np.array([chance for _, chance in differences.values()]), _MIX_LEVEL)
    findings = []
    for (split, (distance, chance)), is_beyond in zip(differences.items(), beyond.tolist(), strict=True):
        other = compared[split]
        both = (train > 0) & (other > 0)
        if not is_beyond or distance < _MIX_NOTE:
            continue
        severity: Severity = (
            "problem" if distance >= _MIX_PROBLEM else "warning" if distance >= _MIX_WARNING else "note"
        )
        shares = {name: counts / counts[both].sum() for name, counts in (("train", train), (split, other))}
        moved = int(np.argmax(np.where(both, np.abs(shares["train"] - shares[split]), -1.0)))
        findings.append(
            Finding(
                cause="prior-shift",
                severity=severity,
                title=(
                    f"The {SPLIT_NAMES[split]} split has another mix of classes than the training split: {data.classes[moved]!r} is "
                    f"{shares[split][moved]:.0%} of it and {shares['train'][moved]:.0%} of the training images"
                ),
                fix=(
                    "Divide all images class by class (edgeclf train does, given one folder of class folders), or train with "
                    f"the classes in balance: `{command_line('train', Path(data.given), '--balance', 'weights', '--run', 'RUN')}`"
                ),
                evidence={
                    "part": split,
                    "distance": round(distance, 4),
                    "chance": float(f"{chance:.2g}"),
                    "shares": {
                        data.classes[c]: {name: round(float(share[c]), 4) for name, share in shares.items()}
                        for c in np.argsort(-np.abs(shares["train"] - shares[split]))[:10]
                    },
                },
                weight=min(1.0, distance),
            )
        )
    return findings


def find_few_test_images(facts: Facts) -> list[Finding]:
    """Precision of the accuracy on the held-out images: its interval, and the difference that is detectable."""
    data, model = facts.data, facts.model
    split, images, accuracy = "test", 0, _ASSUMED_ACCURACY
    if model is not None and len(model.true):
        split, images = model.split, len(model.true)
        accuracy = float((model.probabilities.argmax(axis=1) == model.true).mean())
    elif data is not None and data.has_splits:
        split = "test" if len(data.images.rows_of("test")) else "val"
        images = len(data.images.rows_of(split))
    if not images:
        return []
    low, high = wilson_interval(accuracy * images, images, z=Z_95)
    half, difference = (high - low) / 2, detectable_difference(accuracy, images)
    severity: Severity = "problem" if half > _TOO_WIDE else "warning" if half > _WIDE else "note"
    measured = "measured" if model is not None else "assumed"
    word = "test" if split == "test" else "validation"
    return [
        Finding(
            cause="too-few",
            severity=severity,
            title=(
                f"With {images} {word} images an accuracy of {accuracy:.1%} is known to lie between {low:.1%} and {high:.1%}; "
                f"two models must differ by {100 * difference:.1f} points to be told apart"
            ),
            fix=(
                "Test on more images: four times as many halve the interval"
                if severity != "note"
                else "Take smaller differences between models for chance"
            ),
            evidence={
                "part": split,
                "images": images,
                "accuracy": round(accuracy, 4),
                "accuracy_is": measured,
                "interval_95": [round(low, 4), round(high, 4)],
                "smallest_difference": round(difference, 4),
            },
            weight=min(1.0, half),
        )
    ]


CHECKS: tuple[Check, ...] = (
    Check(
        name="prior-shift",
        theme="split",
        causes=("prior-shift",),
        condition=(
            f"the class mix of test or validation differs from train's: total variation of {_MIX_WARNING:g} more than random splits "
            f"have (a problem from {_MIX_PROBLEM:g} on, a note from {_MIX_NOTE:g}), Pearson's statistic beyond that of random splits "
            f"(Holm's correction, {_MIX_LEVEL:g} over both)"
        ),
        find=find_prior_shift,
    ),
    Check(
        name="few-test-images",
        theme="split",
        causes=("too-few",),
        condition=(
            f"the 95 % interval of the accuracy, measured or else {_ASSUMED_ACCURACY:.0%}, is wider than +-{100 * _WIDE:g} points "
            f"(a problem beyond +-{100 * _TOO_WIDE:g}); a note otherwise"
        ),
        find=find_few_test_images,
    ),
)
