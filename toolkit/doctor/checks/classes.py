"""Checks of class counts: imbalance with its effect on recall, and classes with too few training images."""

import numpy as np

from edgeclf.runtime.metrics import Z_95, wilson_interval
from edgeclf.toolkit.doctor.facts import NO_SPLIT, SPLITS, Check, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import train_data
from edgeclf.training.options import DEFAULT_ARCHITECTURE

# Ratios of the most to the least frequent class for a note and for a warning: with two classes at 4:1, always predicting the
# frequent one is right four times in five.
_NOTE_RATIO, _WARNING_RATIO = 2.0, 4.0
# Ratio and image count for a problem: in Buda, Maki and Mazurowski (2018) accuracy falls with the ratio from about 10 on, the
# more the fewer images the rare class has.
_PROBLEM_RATIO, _PROBLEM_IMAGES = 10.0, 100
# Training images of a class for a warning and for a problem. With a fifth as validation images, 50 give ten of them, and an
# accuracy of 0.9 a 95 % interval of 0.6..0.98; fewer than ten give one or two, which say nothing.
_WARNING_IMAGES, _TOO_FEW_IMAGES = 50, 10


def training_counts(facts: Facts) -> dict[str, int]:
    """Training images of each class; all images where the data set is not split.

    Where only a sample was scanned, the counts are those of the sample.
    """
    data = facts.data
    if data is not None and data.classes:
        images = data.images
        used = images.splits == (SPLITS.index("train") if data.has_splits else NO_SPLIT)
        counts = np.bincount(images.labels[used], minlength=len(data.classes))
        return dict(zip(data.classes, counts.tolist(), strict=True))
    return dict(facts.run.counts.get("train", {})) if facts.run is not None else {}


def find_imbalance(facts: Facts) -> list[Finding]:
    """Class imbalance, and whether the rarest class has a lower recall."""
    counts = {label: count for label, count in training_counts(facts).items() if count}
    if len(counts) < 2:
        return []
    rare, frequent = min(counts, key=lambda label: counts[label]), max(counts, key=lambda label: counts[label])
    ratio = counts[frequent] / counts[rare]
    if ratio < _NOTE_RATIO:
        return []
    severity: Severity = "warning" if ratio >= _WARNING_RATIO else "note"
    few = counts[rare] < _PROBLEM_IMAGES if ratio >= _PROBLEM_RATIO else counts[rare] < _TOO_FEW_IMAGES
    if few and severity == "warning":
        severity = "problem"
    majority = counts[frequent] / sum(counts.values())
    title = (
        f"Class {rare!r} has {counts[rare]:,} image{'' if counts[rare] == 1 else 's'} to learn from where {frequent!r} "
        f"has {counts[frequent]:,}, {ratio:,.{0 if ratio >= 10 else 1}f} times as many"
    )
    evidence = {
        "ratio": round(ratio, 2),
        "counts": counts,
        "rarest": rare,
        "most_frequent": frequent,
        "accuracy_of_always_most_frequent": round(majority, 4),
    }
    recall_gap = _lower_recall(facts, rare)
    if recall_gap is not None:
        evidence["recall"] = recall_gap
        title += (
            f"; it is recognized in {recall_gap['rarest']:.1%} of its {recall_gap['part']} images, "
            f"the others in {recall_gap['others']:.1%}"
        )
    balanced = facts.run is not None and facts.run.options.get("balance") not in {None, "none"}
    return [
        Finding(
            cause="imbalance",
            severity=severity,
            title=title,
            fix=f"Collect more of {rare!r}"
            if balanced
            else f"Try `{train_data(facts, '--balance', 'weights', '--monitor', 'val_macro_f1')}`, or collect more of {rare!r}",
            evidence=evidence,
            weight=1.0 - 1.0 / ratio,
        )
    ]


def _lower_recall(facts: Facts, rare: str) -> dict[str, object] | None:
    """Recall of the rare class and of the others, where the model's recall is lower beyond chance; else None."""
    model = facts.model
    classes = facts.run.classes if facts.run is not None else facts.data.classes if facts.data is not None else ()
    if model is None or rare not in classes or model.probabilities.shape[1] != len(classes):
        return None
    is_rare = model.true == classes.index(rare)
    right = model.probabilities.argmax(axis=1) == model.true
    if not is_rare.any() or is_rare.all():
        return None
    hits, count = int(right[is_rare].sum()), int(is_rare.sum())
    others, of_others = int(right[~is_rare].sum()), int((~is_rare).sum())
    interval, against = wilson_interval(hits, count, z=Z_95), wilson_interval(others, of_others, z=Z_95)
    # Disjoint intervals: stricter than a test of the difference.
    if interval[1] >= against[0]:
        return None
    return {
        "part": model.split,
        "rarest": round(hits / count, 4),
        "rarest_interval_95": [round(value, 4) for value in interval],
        "others": round(others / of_others, 4),
        "others_interval_95": [round(value, 4) for value in against],
    }


def find_too_few(facts: Facts) -> list[Finding]:
    """Classes with too few training images."""
    counts = training_counts(facts)
    data = facts.data
    # Counts of a sample are not those of the data set.
    if len(counts) < 2 or not any(counts.values()) or (data is not None and data.sampled_from is not None):
        return []
    # Where other classes have many times as many, imbalance is the finding, with the same remedy.
    most = max(counts.values())
    few = {label: n for label, n in counts.items() if n < _WARNING_IMAGES and (not n or most / n < _WARNING_RATIO)}
    if not few:
        return []
    rarest = min(few, key=lambda label: few[label])
    others = f" ({len(few) - 1} more classes have fewer than {_WARNING_IMAGES})" if len(few) > 1 else ""
    return [
        Finding(
            cause="too-few",
            severity="problem" if few[rarest] < _TOO_FEW_IMAGES else "warning",
            title=f"Class {rarest!r} has only {few[rarest]} image{'' if few[rarest] == 1 else 's'} to learn from{others}",
            fix=f"Collect at least {_WARNING_IMAGES} of every class; until then keep to a frozen, pretrained network: "
            f"`{train_data(facts, '--arch', DEFAULT_ARCHITECTURE)}`",
            evidence={"counts": few, "wanted": _WARNING_IMAGES, "of": "training"},
            weight=1.0 - few[rarest] / _WARNING_IMAGES,
        )
    ]


CHECKS: tuple[Check, ...] = (
    Check(
        "imbalance",
        "classes",
        ("imbalance",),
        f"the most frequent class has {_NOTE_RATIO:g} times (a warning: {_WARNING_RATIO:g} times) the training images of the rarest; then a problem if that has fewer than {_TOO_FEW_IMAGES}, or than {_PROBLEM_IMAGES} from {_PROBLEM_RATIO:g} times on",
        find_imbalance,
    ),
    Check(
        "too-few",
        "classes",
        ("too-few",),
        f"a class has fewer than {_WARNING_IMAGES} training images, and no other {_WARNING_RATIO:g} times as many; a problem below {_TOO_FEW_IMAGES}",
        find_too_few,
    ),
)
