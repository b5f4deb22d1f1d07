"""Were the parts photographed, and prepared, alike? What differs between them within the classes, most fundamental first."""

from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.toolkit.doctor.checks.factors import FACTORS, NOT_IN_PIXELS, Factor
from edgeclf.toolkit.doctor.checks.hidden_class import find_hidden_groups
from edgeclf.toolkit.doctor.checks.separability import (
    Separability,
    binned,
    head_accuracies,
    measure_separability,
    principal_components,
)
from edgeclf.toolkit.doctor.facts import Check, DataFacts, Facts, ImageTable
from edgeclf.toolkit.doctor.findings import SEVERITIES, Finding, Severity
from edgeclf.toolkit.doctor.remedies import command_line
from edgeclf.toolkit.doctor.statistics import cliffs_delta, van_elteren_z

# A difference is believed beyond this many standard deviations of chance: one clean comparison of 14 properties in a
# thousand has one, since 28 values are tried at 6e-5 each.
_BELIEVED = 4.0
# How much oftener one part must have more than the other, beyond the margin, to be a warning, and a problem.
_WARNING, _PROBLEM = 0.3, 0.5
# A more fundamental property explains those with up to so many times its own difference.
_EXPLAINS = 2.0
# What is told apart by features alone is worth a note from this area above chance's on.
_AUC_NOTE = 0.05
# It matters if a quick head that learned the one part loses so much accuracy on the other, so many standard deviations.
_LOSS, _LOSS_PROBLEM, _LOSS_BELIEVED = 0.03, 0.1, 3.0
# A part, or a class of it, needs so many images to be compared.
_FEWEST = 10
_SHOWN = 24


@dataclass(frozen=True)
class PropertyShift:
    """By how much a part differs in one property from the training part.

    Attributes:
        name: Of the property, a key of `FACTORS`.
        factor: What was compared.
        delta: Cliff's delta beyond the margin, -1..1, positive where the part has more.
        z: Standard deviations beyond chance.
        spread: Whether the distances from the training part's median differ, not the values.
        medians: Of the training part and of the part, in the factor's shown property.
    """

    name: str
    factor: Factor
    delta: float
    z: float
    spread: bool
    medians: tuple[float, float]


def compare_properties(images: ImageTable, part: IntArray, train: IntArray) -> list[PropertyShift]:
    """What differs between two parts within classes, by cause and effect.

    Args:
        images: All of them.
        part: Rows of the one part.
        train: Rows of the other.
    """
    rows = np.concatenate([part, train])
    group, labels = np.arange(len(rows)) < len(part), images.labels[rows]
    found = []
    for name, factors in FACTORS.items():
        best: PropertyShift | None = None
        for factor in factors:
            values = factor.values(images)[rows]
            medians = _medians(images.properties[factor.shown][rows], group)
            for spread in (False, True):
                compared = _from_median(values, group, labels) if spread else values
                delta, z = cliffs_delta(compared, group, labels, factor.margin), van_elteren_z(compared, group, labels)
                # Parts of which one is more varied differ in both, and more clearly in the plain values if they moved.
                if (
                    abs(z) >= _BELIEVED
                    and delta * z > 0
                    and abs(delta) > abs(best.delta if best else 0.05) + 0.1 * spread
                ):
                    best = PropertyShift(name, factor, delta, z, spread, medians)
        if best is not None:
            found.append(best)
    return found


def _from_median(values: Float64Array, group: BoolArray, labels: IntArray) -> Float64Array:
    result = np.full(len(values), np.nan)
    for label in np.unique(labels):
        reference = values[(labels == label) & ~group]
        if np.isfinite(reference).any():
            result[labels == label] = np.abs(values[labels == label] - np.nanmedian(reference))
    return result


def _medians(values: Float64Array, group: BoolArray) -> tuple[float, float]:
    found = [values[rows & np.isfinite(values)] for rows in (~group, group)]
    return tuple(float(np.median(part)) if len(part) else float("nan") for part in found)  # type: ignore[return-value]


def root_cause(found: list[PropertyShift]) -> PropertyShift | None:
    """The most fundamental of the differences that is large enough to explain the largest."""
    for unseen in (False, True):
        candidates = [difference for difference in found if (difference.name in NOT_IN_PIXELS) == unseen]
        if candidates:
            largest = max(abs(difference.delta) for difference in candidates)
            return next(difference for difference in candidates if abs(difference.delta) * _EXPLAINS >= largest)
    return None


def _find(facts: Facts) -> list[Finding]:
    data = facts.data
    if data is None or not data.has_splits:
        return []
    findings = []
    for part in ("test", "val"):
        rows, train = (_comparable(data, name) for name in (part, "train"))
        if min(len(rows), len(train)) < _FEWEST:
            continue
        found = compare_properties(data.images, rows, train)
        root = root_cause(found)
        told = _told_by_features(data, rows, train)
        if root is not None:
            findings.append(_by_property(data, part, rows, train, root, found, told))
        elif told is not None and told.told.z >= _BELIEVED + 2 and told.told.auc - told.told.chance_auc >= _AUC_NOTE:
            findings.append(_by_features(data, part, rows, train, told))
    return findings


def _comparable(data: DataFacts, part: str) -> IntArray:
    """The part's pictures without those that are hidden among them."""
    hidden = [item.rows for item in data.derived(find_hidden_groups)]
    rows = data.images.rows_of(part)
    return np.setdiff1d(rows, np.concatenate(hidden)) if hidden else rows


@dataclass(frozen=True, eq=False)
class Seen:
    """What a pretrained network makes of the difference between a part and the training part.

    Attributes:
        rows: Rows of the images, of both.
        told: How well it tells the parts apart.
        accuracy: Of a quick head on the training part, held out.
        accuracy_part: On the other part.
        loss_z: Standard deviations of the loss.
    """

    rows: IntArray
    told: Separability
    accuracy: float
    accuracy_part: float
    loss_z: float

    @property
    def severity(self) -> Severity:
        """By what a quick head loses."""
        loss = self.accuracy - self.accuracy_part
        if loss < _LOSS or self.loss_z < _LOSS_BELIEVED:
            return "note"
        return "problem" if loss >= _LOSS_PROBLEM else "warning"

    def evidence(self) -> dict[str, float]:
        """Figures for a finding."""
        return {
            "domain_auc_features": round(self.told.auc, 3),
            "domain_auc_features_chance": round(self.told.chance_auc, 3),
            "head_accuracy_train": round(self.accuracy, 4),
            "head_accuracy_part": round(self.accuracy_part, 4),
        }


def _reduced(data: DataFacts) -> Float64Array:
    return principal_components(data.features.vectors) if data.features is not None else np.empty((0, 0))


def _told_by_features(data: DataFacts, rows: IntArray, train: IntArray) -> Seen | None:
    if data.features is None:
        return None
    shown = np.isin(data.features.rows, np.concatenate([rows, train]))
    table_rows = data.features.rows[shown]
    group, labels = np.isin(table_rows, rows), data.images.labels[table_rows]
    if min(group.sum(), (~group).sum()) < _FEWEST:
        return None
    vectors = data.derived(_reduced)[shown]
    told = measure_separability(vectors, group, labels)
    return Seen(table_rows, told, *head_accuracies(vectors[~group], labels[~group], vectors[group], labels[group]))


def _told_by_properties(images: ImageTable, rows: IntArray, train: IntArray) -> Separability:
    both = np.concatenate([rows, train])
    columns = [
        f.values(images)[both] for name, factors in FACTORS.items() if name not in NOT_IN_PIXELS for f in factors
    ]
    return measure_separability(
        binned(np.stack(columns, axis=1)), np.arange(len(both)) < len(rows), images.labels[both]
    )


_WORDS = {"val": "validation", "test": "test"}


def _by_property(
    data: DataFacts,
    part: str,
    rows: IntArray,
    train: IntArray,
    root: PropertyShift,
    found: list[PropertyShift],
    told: Seen | None,
) -> Finding:
    images = data.images
    size = abs(root.delta)
    severity: Severity = "problem" if size >= _PROBLEM else "warning" if size >= _WARNING else "note"
    if root.name in NOT_IN_PIXELS:
        severity = "warning" if root.name == "format" and size >= _PROBLEM else "note"
    elif told is not None:
        severity = min(severity, told.severity, key=SEVERITIES.index)
    how = "more varied in" if root.spread and root.delta > 0 else "less varied in" if root.spread else ""
    words = f"{how} {root.name}" if how else root.factor.more if root.delta > 0 else root.factor.less
    unit = f" {root.factor.unit}" if root.factor.unit else ""
    figures = f"median {root.factor.shown.replace('_', ' ')} {root.medians[1]:.3g} against {root.medians[0]:.3g}{unit}"
    values = root.factor.values(images)
    outward = np.abs(values - np.nanmedian(values[train])) if root.spread else np.sign(root.delta) * values
    worst = rows[np.argsort(-np.nan_to_num(outward[rows], nan=-np.inf), kind="stable")][:_SHOWN]
    by_properties = _told_by_properties(images, rows, train)
    return Finding(
        cause="split-shift",
        severity=severity,
        title=f"The {_WORDS[part]} images are {words} than the training images ({figures})",
        fix=_fix(data, root.name),
        evidence={
            "part": part,
            "property": root.name,
            "direction": "varied" if root.spread else "more" if root.delta > 0 else "less",
            "delta": round(root.delta, 3),
            "z": round(root.z, 1),
            "median": round(root.medians[1], 4),
            "train_median": round(root.medians[0], 4),
            "also_different": {d.name: round(d.delta, 3) for d in found if d.name != root.name},
            "domain_auc_properties": round(by_properties.auc, 3),
            **(told.evidence() if told else {}),
            "images": [len(rows), len(train)],
        },
        items=tuple(images.paths[row] for row in worst),
        details=tuple(
            f"{root.factor.shown.replace('_', ' ')} {images.properties[root.factor.shown][row]:.3g}" for row in worst
        ),
        weight=min(1.0, size),
    )


def _by_features(data: DataFacts, part: str, rows: IntArray, train: IntArray, seen: Seen) -> Finding:
    order = seen.rows[np.argsort(-seen.told.scores, kind="stable")]
    most = order[np.isin(order, rows)][:_SHOWN]
    loss = (
        f"; a quick head that has {seen.accuracy:.1%} there has {seen.accuracy_part:.1%} here"
        if seen.severity != "note"
        else ", which costs a quick head no accuracy"
    )
    return Finding(
        cause="split-shift",
        severity=seen.severity,
        title=(
            f"The {_WORDS[part]} images show something else than the training images: a pretrained network tells them apart "
            f"(AUC {seen.told.auc:.2f}, {seen.told.chance_auc:.2f} by chance){loss}"
        ),
        fix=_fix(data, "content"),
        evidence={"part": part, "property": "content", **seen.evidence(), "images": [len(rows), len(train)]},
        items=tuple(data.images.paths[row] for row in most),
        weight=min(1.0, seen.told.auc),
    )


def _fix(data: DataFacts, name: str) -> str:
    if name in {"brightness", "contrast", "colour"}:
        return (
            "Prepare both parts alike; if the field looks like both, put images like these into train/, or let training see "
            f"more of the kind: `{command_line('train', data.given, '--augment', 'strong', '--run', 'RUN')}`"
        )
    if name in {"format", "encoding", "orientation"}:
        return "Save both parts by the same program, and look at where they come from"
    return "Prepare both parts alike, or mix the images of both and divide them anew at random"


CHECKS: tuple[Check, ...] = (
    Check(
        name="split-shift",
        theme="split",
        causes=("split-shift",),
        condition=(
            f"within classes, a property of one part's images is larger than of another's, beyond its margin, {_WARNING:.0%} oftener "
            f"than smaller (a problem from {_PROBLEM:.0%} on) and {_BELIEVED:g} standard deviations beyond chance; or the features of "
            f"a pretrained network tell them apart and a quick head loses {_LOSS:.0%} ({_LOSS_PROBLEM:.0%} is a problem)"
        ),
        find=_find,
    ),
)
