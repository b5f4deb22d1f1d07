"""Check of covariate shift between splits: image properties compared within classes, most fundamental cause first."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.runtime.errors import command_line
from edgeclf.toolkit.doctor.checks.factors import FACTORS, NOT_IN_PIXELS, Factor
from edgeclf.toolkit.doctor.checks.hidden_class import find_hidden_groups
from edgeclf.toolkit.doctor.checks.separability import (
    Separability,
    binned,
    head_accuracies,
    measure_separability,
    principal_components,
)
from edgeclf.toolkit.doctor.facts import SPLIT_NAMES, Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import SEVERITIES, Finding, Severity
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, cliffs_delta, van_elteren

# Significance of a difference in features alone, in standard deviations of shuffled splits.
_SIGNIFICANT_Z = 6.0
# Cliff's delta beyond the margin for a warning and for a problem.
_WARNING, _PROBLEM = 0.3, 0.5
# A more fundamental property explains others whose delta is up to this many times its own.
_EXPLAINS = 2.0
# AUC above that of shuffled splits from which on a shift in features alone is a note.
_AUC_NOTE = 0.05
# Loss of a linear head's accuracy between splits for a warning and for a problem, and its significance.
_LOSS, _LOSS_PROBLEM, _LOSS_Z = 0.03, 0.1, 3.0
# Fewest images of a split for a comparison.
_FEWEST = 10
_SHOWN = 24
# Comparisons of two splits: of values and of distances from the median, for each factor.
_COMPARISONS = 2 * sum(map(len, FACTORS.values()))


@dataclass(frozen=True)
class PropertyShift:
    """Shift of one property between a split and the training split.

    Attributes:
        name: Name of the property, a key of `FACTORS`.
        factor: The compared quantity.
        delta: Cliff's delta beyond the factor's margin, -1..1, positive where the split has larger values.
        z: Van Elteren's statistic in standard deviations.
        spread: Whether distances from the median of both splits were compared instead of values.
        medians: Medians of the training split and of the split, in the factor's shown property.
    """

    name: str
    factor: Factor
    delta: float
    z: float
    spread: bool
    medians: tuple[float, float]


def compare_properties(images: ImageTable, split: IntArray, train: IntArray) -> list[PropertyShift]:
    """Properties that differ between a split and the training split within classes, most fundamental first.

    Args:
        images: The image table.
        split: Rows of the split.
        train: Rows of the training split.
    """
    rows = np.concatenate([split, train])
    group, labels = np.arange(len(rows)) < len(split), images.labels[rows]
    shifts = []
    for name, factors in FACTORS.items():
        best: PropertyShift | None = None
        for factor in factors:
            values = factor.values(images)[rows]
            medians = _medians(images.properties[factor.shown][rows], group)
            for spread in (False, True):
                compared = _from_median(values, labels) if spread else values
                delta = cliffs_delta(compared, group, labels, factor.margin)
                z, chance = van_elteren(compared, group, labels)
                # A more varied split differs in values and in distances; where it moved, more clearly in values.
                if (
                    chance < FALSE_ALARM_RATE / _COMPARISONS
                    and delta * z > 0
                    and abs(delta) > abs(best.delta if best else 0.05) + 0.1 * spread
                ):
                    best = PropertyShift(name, factor, delta, z, spread, medians)
        if best is not None:
            shifts.append(best)
    return shifts


def _from_median(values: Float64Array, labels: IntArray) -> Float64Array:
    """(N,) distances from the median of their class over both splits.

    From that of one split, its own images would be nearer, the fewer of a class the more.
    """
    result = np.full(len(values), np.nan)
    for label in np.unique(labels):
        rows = labels == label
        if np.isfinite(values[rows]).any():
            result[rows] = np.abs(values[rows] - np.nanmedian(values[rows]))
    return result


def _medians(values: Float64Array, group: BoolArray) -> tuple[float, float]:
    """Medians of the finite values outside and inside the group; NaN where there are none."""

    def median(rows: BoolArray) -> float:
        present = values[rows & np.isfinite(values)]
        return float(np.median(present)) if len(present) else float("nan")

    return median(~group), median(group)


def root_cause(shifts: list[PropertyShift]) -> PropertyShift | None:
    """The most fundamental shift that is large enough to explain the largest one; None without shifts."""
    for in_file_only in (False, True):
        candidates = [shift for shift in shifts if (shift.name in NOT_IN_PIXELS) == in_file_only]
        if candidates:
            largest = max(abs(shift.delta) for shift in candidates)
            return next(shift for shift in candidates if abs(shift.delta) * _EXPLAINS >= largest)
    return None


def _find(facts: Facts) -> list[Finding]:
    data = facts.data
    if data is None or not data.has_splits:
        return []
    findings = []
    for split in ("test", "val"):
        rows, train = (_comparable(data, name) for name in (split, "train"))
        if min(len(rows), len(train)) < _FEWEST:
            continue
        shifts = compare_properties(data.images, rows, train)
        root = root_cause(shifts)
        shift = _feature_shift(data, rows, train)
        if root is not None:
            findings.append(_by_property(data, split, rows, train, root, shifts, shift))
        elif (
            shift is not None
            and shift.separability.z >= _SIGNIFICANT_Z
            and shift.separability.auc - shift.separability.chance_auc >= _AUC_NOTE
        ):
            findings.append(_by_features(data, split, rows, train, shift))
    return findings


def _comparable(data: DataFacts, split: str) -> IntArray:
    """Rows of a split without those of hidden groups."""
    hidden = [item.rows for item in data.derived(find_hidden_groups)]
    rows = data.images.rows_of(split)
    return np.setdiff1d(rows, np.concatenate(hidden)) if hidden else rows


@dataclass(frozen=True, eq=False)
class FeatureShift:
    """Shift of pretrained features between a split and the training split.

    Attributes:
        rows: Rows of the images of both splits.
        separability: Separability of the splits.
        accuracy: Held-out accuracy of a linear head on the training split.
        accuracy_split: Its accuracy on the split.
        loss_z: Loss of accuracy in standard deviations.
    """

    rows: IntArray
    separability: Separability
    accuracy: float
    accuracy_split: float
    loss_z: float

    @property
    def severity(self) -> Severity:
        """Severity by the linear head's loss of accuracy."""
        loss = self.accuracy - self.accuracy_split
        if loss < _LOSS or self.loss_z < _LOSS_Z:
            return "note"
        return "problem" if loss >= _LOSS_PROBLEM else "warning"

    def evidence(self) -> dict[str, float]:
        """Evidence of a finding."""
        return {
            "domain_auc_features": round(self.separability.auc, 3),
            "domain_auc_features_chance": round(self.separability.chance_auc, 3),
            "head_accuracy_train": round(self.accuracy, 4),
            "head_accuracy_part": round(self.accuracy_split, 4),
        }


def _principal_features(data: DataFacts) -> Float64Array:
    return principal_components(data.features.vectors) if data.features is not None else np.empty((0, 0))


def _feature_shift(data: DataFacts, rows: IntArray, train: IntArray) -> FeatureShift | None:
    if data.features is None:
        return None
    shown = np.isin(data.features.rows, np.concatenate([rows, train]))
    table_rows = data.features.rows[shown]
    group, labels = np.isin(table_rows, rows), data.images.labels[table_rows]
    if min(group.sum(), (~group).sum()) < _FEWEST:
        return None
    vectors = data.derived(_principal_features)[shown]
    separability = measure_separability(vectors, group, labels)
    return FeatureShift(
        table_rows, separability, *head_accuracies(vectors[~group], labels[~group], vectors[group], labels[group])
    )


def _property_separability(images: ImageTable, rows: IntArray, train: IntArray) -> Separability:
    both = np.concatenate([rows, train])
    columns = [
        f.values(images)[both] for name, factors in FACTORS.items() if name not in NOT_IN_PIXELS for f in factors
    ]
    return measure_separability(
        binned(np.stack(columns, axis=1)), np.arange(len(both)) < len(rows), images.labels[both]
    )


def _by_property(
    data: DataFacts,
    split: str,
    rows: IntArray,
    train: IntArray,
    root: PropertyShift,
    shifts: list[PropertyShift],
    shift: FeatureShift | None,
) -> Finding:
    images = data.images
    size = abs(root.delta)
    severity: Severity = "problem" if size >= _PROBLEM else "warning" if size >= _WARNING else "note"
    if root.name in NOT_IN_PIXELS:
        severity = "warning" if root.name == "format" and size >= _PROBLEM else "note"
    elif shift is not None:
        severity = min(severity, shift.severity, key=SEVERITIES.index)
    how = "more varied in" if root.spread and root.delta > 0 else "less varied in" if root.spread else ""
    words = f"{how} {root.name}" if how else root.factor.more if root.delta > 0 else root.factor.less
    unit = f" {root.factor.unit}" if root.factor.unit else ""
    figures = f"median {root.factor.shown.replace('_', ' ')} {root.medians[1]:.3g} against {root.medians[0]:.3g}{unit}"
    values = root.factor.values(images)
    outward = np.abs(values - np.nanmedian(values[train])) if root.spread else np.sign(root.delta) * values
    worst = rows[np.argsort(-np.nan_to_num(outward[rows], nan=-np.inf), kind="stable")][:_SHOWN]
    by_properties = _property_separability(images, rows, train)
    return Finding(
        cause="split-shift",
        severity=severity,
        title=f"The {SPLIT_NAMES[split]} images are {words} than the training images ({figures})",
        fix=_fix(data, root.name),
        evidence={
            "part": split,
            "property": root.name,
            "direction": "varied" if root.spread else "more" if root.delta > 0 else "less",
            "delta": round(root.delta, 3),
            "z": round(root.z, 1),
            "median": round(root.medians[1], 4),
            "train_median": round(root.medians[0], 4),
            "also_different": {d.name: round(d.delta, 3) for d in shifts if d.name != root.name},
            "domain_auc_properties": round(by_properties.auc, 3),
            **(shift.evidence() if shift else {}),
            "images": [len(rows), len(train)],
        },
        items=tuple(images.paths[row] for row in worst),
        details=tuple(
            f"{root.factor.shown.replace('_', ' ')} {images.properties[root.factor.shown][row]:.3g}" for row in worst
        ),
        weight=min(1.0, size),
    )


def _by_features(data: DataFacts, split: str, rows: IntArray, train: IntArray, shift: FeatureShift) -> Finding:
    order = shift.rows[np.argsort(-shift.separability.scores, kind="stable")]
    most = order[np.isin(order, rows)][:_SHOWN]
    loss = (
        f"; a quick head that has {shift.accuracy:.1%} there has {shift.accuracy_split:.1%} here"
        if shift.severity != "note"
        else ", which costs a quick head no accuracy"
    )
    return Finding(
        cause="split-shift",
        severity=shift.severity,
        title=(
            f"The {SPLIT_NAMES[split]} images show something else than the training images: a pretrained network tells them apart "
            f"(AUC {shift.separability.auc:.2f}, {shift.separability.chance_auc:.2f} by chance){loss}"
        ),
        fix=_fix(data, "content"),
        evidence={"part": split, "property": "content", **shift.evidence(), "images": [len(rows), len(train)]},
        items=tuple(data.images.paths[row] for row in most),
        weight=min(1.0, shift.separability.auc),
    )


def _fix(data: DataFacts, name: str) -> str:
    if name in {"brightness", "contrast", "colour"}:
        return (
            "Prepare both splits alike; if the field looks like both, put images like these into train/, or let training see "
            f"more of the kind: `{command_line('train', Path(data.given), '--augment', 'strong', '--run', 'RUN')}`"
        )
    if name in {"format", "encoding", "orientation"}:
        return "Save both splits by the same program, and look at where they come from"
    return "Prepare both splits alike, or mix the images of both and divide them anew at random"


CHECKS: tuple[Check, ...] = (
    Check(
        name="split-shift",
        theme="split",
        causes=("split-shift",),
        condition=(
            f"within classes, a property of one split's images is larger than of another's, beyond its margin, {_WARNING:.0%} oftener "
            f"than smaller (a problem from {_PROBLEM:.0%} on) and beyond chance (van Elteren's test, {FALSE_ALARM_RATE:g} over all "
            f"{_COMPARISONS} comparisons of two splits); or the features of a pretrained network tell them apart "
            f"({_SIGNIFICANT_Z:g} standard deviations of shuffled splits) and a quick head loses {_LOSS:.0%} ({_LOSS_PROBLEM:.0%} is a problem)"
        ),
        find=_find,
    ),
)
