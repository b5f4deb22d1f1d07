"""Do train, validation and test belong together, and is the test part large enough to say anything?"""

import numpy as np

from edgeclf.runtime.arrays import IntArray
from edgeclf.runtime.metrics import Z_95, wilson_interval
from edgeclf.toolkit.doctor.facts import Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import command_line
from edgeclf.toolkit.doctor.statistics import class_mix_difference, detectable_difference

# Chance below which a different mix of classes is no accident; a large difference counts if it may hardly be one.
_BELIEVED, _HARDLY = 1e-3, 0.05
# Share of the images that would have to change class for the mixes to be the same.
_MIX_WARNING, _MIX_LARGE, _MIX_PROBLEM = 0.08, 0.15, 0.25
# Half the width of the interval for the accuracy.
_WIDE, _TOO_WIDE = 0.05, 0.15
# What is assumed where no model was tested yet.
_ASSUMED_ACCURACY = 0.9


def _counts(data: DataFacts, part: str) -> IntArray:
    return np.bincount(data.images.labels[data.images.rows_of(part)], minlength=len(data.classes))


def _find_mix(facts: Facts) -> list[Finding]:
    data = facts.data
    if data is None or not data.has_splits:
        return []
    train = _counts(data, "train")
    findings = []
    for part, word in (("test", "test"), ("val", "validation")):
        other = _counts(data, part)
        # Classes that only one of them has are a finding of their own.
        both = (train > 0) & (other > 0)
        distance, chance = class_mix_difference(train[both], other[both])
        accident = _HARDLY if distance >= _MIX_LARGE else _BELIEVED
        if chance >= accident or distance < _MIX_WARNING / 2:
            continue
        severity: Severity = (
            "problem" if distance >= _MIX_PROBLEM else "warning" if distance >= _MIX_WARNING else "note"
        )
        shares = {name: counts / counts[both].sum() for name, counts in (("train", train), (part, other))}
        moved = int(np.argmax(np.where(both, np.abs(shares["train"] - shares[part]), -1.0)))
        findings.append(
            Finding(
                cause="prior-shift",
                severity=severity,
                title=(
                    f"The {word} part has another mix of classes than the training part: {data.classes[moved]!r} is "
                    f"{shares[part][moved]:.0%} of it and {shares['train'][moved]:.0%} of the training images"
                ),
                fix=(
                    "Divide all images class by class (edgeclf train does, given one folder of class folders), or train with "
                    f"the classes in balance: `{command_line('train', data.given, '--balance', 'weights', '--run', 'RUN')}`"
                ),
                evidence={
                    "part": part,
                    "distance": round(distance, 4),
                    "chance": float(f"{chance:.2g}"),
                    "shares": {
                        data.classes[c]: {name: round(float(share[c]), 4) for name, share in shares.items()}
                        for c in np.argsort(-np.abs(shares["train"] - shares[part]))[:10]
                    },
                },
                weight=min(1.0, distance),
            )
        )
    return findings


def _find_few(facts: Facts) -> list[Finding]:
    data, field = facts.data, facts.field
    part, images, accuracy = "test", 0, _ASSUMED_ACCURACY
    if field is not None and len(field.true):
        part, images = field.part, len(field.true)
        accuracy = float((field.probabilities.argmax(axis=1) == field.true).mean())
    elif data is not None and data.has_splits:
        part = "test" if len(data.images.rows_of("test")) else "val"
        images = len(data.images.rows_of(part))
    if not images:
        return []
    low, high = wilson_interval(accuracy * images, images, z=Z_95)
    half, difference = (high - low) / 2, detectable_difference(accuracy, images)
    severity: Severity = "problem" if half > _TOO_WIDE else "warning" if half > _WIDE else "note"
    measured = "measured" if field is not None else "assumed"
    word = "test" if part == "test" else "validation"
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
                "part": part,
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
            f"the class mix of test or validation differs from train's: total variation from {_MIX_WARNING:g} on (a problem from "
            f"{_MIX_PROBLEM:g} on) where chi-square gives less than {_BELIEVED:g}, or from {_MIX_LARGE:g} on less than {_HARDLY:g}"
        ),
        find=_find_mix,
    ),
    Check(
        name="few-test-images",
        theme="split",
        causes=("too-few",),
        condition=(
            f"the 95 % interval of the accuracy, measured or else {_ASSUMED_ACCURACY:.0%}, is wider than +-{100 * _WIDE:g} points "
            f"(a problem beyond +-{100 * _TOO_WIDE:g}); a note otherwise"
        ),
        find=_find_few,
    ),
)
