"""Checks of a trained model on held-out images: recall by class, calibration, robustness and the int8 file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray
from edgeclf.runtime.metrics import expected_calibration_error
from edgeclf.toolkit.doctor.facts import Check, Facts, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import export_with_max_effort, more_validation, train_again
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, binomial_tail, fisher_tails, holm_rejects, paired_drop

# Drop of accuracy under a perturbation for a warning and for a problem.
_DROP_WARNING, _DROP_PROBLEM = 0.05, 0.2
# Smallest expected calibration error for a warning, and simulated samples for its significance: of 499 samples and the model
# itself, one in a hundred is among the five highest.
_ECE = 0.03
_ECE_DRAWS, _ECE_LEVEL = 499, 0.01
# Recall below that of the other classes for a warning and for a problem.
_RECALL_WARNING, _RECALL_PROBLEM = 0.1, 0.3
# Chance of a false warning over all classes of a model, and that a problem is less than a warning in truth.
_CLASS_LEVEL, _PROBLEM_LEVEL = 0.01, 0.01
# Images that a class needs to be judged.
_LEAST_IMAGES = 5
# Largest acceptable loss of accuracy of an int8 file.
_INT8_DROP, _INT8_LEVEL = 0.01, 0.01
# Most images per finding.
_SHOWN = 24


def most_confident_errors(probabilities: FloatArray, true: IntArray) -> IntArray:
    """Positions of the misclassified images, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != true)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def calibration_gap(confidences: Float64Array, correct: BoolArray) -> tuple[float, float]:
    """Expected calibration error, and the error that perfect calibration exceeds once in a hundred times.

    That is estimated by drawing correctness from the confidences themselves (Vaicenavicius et al. 2019, arXiv
    1902.06977).

    Args:
        confidences: (N,) confidences of the predicted classes, 0..1.
        correct: (N,) whether the predictions are correct.

    Returns:
        The error of the predictions, and the error that calibrated predictions exceed in one of a hundred such samples.
    """
    rng = np.random.default_rng(0)
    draws = rng.random((_ECE_DRAWS, len(confidences))) < confidences
    calibrated = [expected_calibration_error(confidences, row) for row in draws]
    highest = np.sort(calibrated)[-round(_ECE_LEVEL * (_ECE_DRAWS + 1))]
    return expected_calibration_error(confidences, correct), float(highest)


def check_class_errors(facts: Facts) -> list[Finding]:
    """Classes of low recall; otherwise the most confident errors, as a note."""
    model = facts.model
    if model is None or not len(model.true):
        return []
    names = _class_names(facts, model)
    right = model.probabilities.argmax(axis=1) == model.true
    order = most_confident_errors(model.probabilities, model.true)
    if not len(order):
        return []
    worst = _worst_class(right, model.true)
    evidence: dict[str, Any] = {
        "part": model.split,
        "images": len(right),
        "errors": len(order),
        "accuracy": float(right.mean()),
        "recall": {
            names[label]: float(right[model.true == label].mean()) for label in sorted(set(model.true.tolist()))
        },
    }
    if worst is None:
        return [
            Finding(
                "class-errors",
                "note",
                f"{len(order)} of {len(right)} {model.split} images are given a wrong label; the most confident errors come first",
                "Look whether their labels are right, and what they have in common.",
                evidence,
                *_items(model, order, names),
            )
        ]
    label, recall, others = worst.label, worst.rate, worst.others
    order = order[(model.true[order] == label) | (model.probabilities[order].argmax(axis=1) == label)]
    confused = model.probabilities[(model.true == label) & ~right].argmax(axis=1)
    mostly = names[int(np.bincount(confused).argmax())]
    gap = others - recall
    return [
        Finding(
            "class-errors",
            "problem" if worst.is_problem else "warning",
            f"{names[label]} is recognized in {recall:.0%} of {int((model.true == label).sum())} {model.split} images, the other "
            f"classes in {others:.0%}; it is mostly taken for {mostly}",
            _fix(facts.run, f"Add images of {names[label]}", balance="weights", monitor="val_macro_f1"),
            evidence | {"class": names[label], "class_recall": recall, "other_recall": others, "taken_for": mostly},
            *_items(model, order, names),
            weight=min(1.0, gap),
        )
    ]


@dataclass(frozen=True)
class _WorstClass:
    """The class that is right least often, beyond chance: its rate, that of all others, and whether it is a problem."""

    label: int
    rate: float
    others: float
    is_problem: bool


def _worst_class(right: BoolArray, true: IntArray) -> _WorstClass | None:
    """The class whose rate is furthest below that of the others; None where none is beyond chance.

    Classes of fewer than `_LEAST_IMAGES` images are not judged: of two images both are wrong often enough.
    """
    labels, rows = np.unique(true, return_inverse=True)
    counts = np.bincount(rows)
    wrong = np.bincount(rows[~right], minlength=len(labels))
    judged = counts >= _LEAST_IMAGES
    if len(labels) < 2 or not judged.any():
        return None
    rates = 1 - wrong / counts
    others = 1 - (wrong.sum() - wrong) / (len(right) - counts)
    beyond = np.zeros(len(labels), bool)
    beyond[judged] = holm_rejects(fisher_tails(counts, wrong)[judged], _CLASS_LEVEL)
    beyond &= others - rates > _RECALL_WARNING
    if not beyond.any():
        return None
    worst = int(np.where(beyond, others - rates, -1.0).argmax())
    # A small class may be far off by the luck of its images alone: what is sure of the distance counts.
    sure = binomial_tail(int(wrong[worst]), int(counts[worst]), 1 - others[worst] + _RECALL_WARNING) < _PROBLEM_LEVEL
    gap = others[worst] - rates[worst]
    return _WorstClass(int(labels[worst]), float(rates[worst]), float(others[worst]), sure and gap >= _RECALL_PROBLEM)


def check_calibration(facts: Facts) -> list[Finding]:
    """Calibration: confidences against accuracy."""
    model = facts.model
    if model is None or not len(model.true):
        return []
    confidences = model.probabilities.max(axis=1).astype(np.float64)
    right = model.probabilities.argmax(axis=1) == model.true
    error, honest = calibration_gap(confidences, right)
    if not error > max(honest, _ECE):
        return []
    mean, accuracy = float(confidences.mean()), float(right.mean())
    which = "too sure of itself" if mean > accuracy else "less sure of itself than it could be"
    return [
        Finding(
            "calibration",
            "warning",
            f"The model is {which}: it says {mean:.0%} on average and is right in {accuracy:.0%} of {len(right)} {model.split} "
            f"images (calibration error {error:.3f}; honest confidences stay below {honest:.3f})",
            _fix_calibration(facts),
            {
                "expected_calibration_error": error,
                "honest_99_percent": honest,
                "mean_confidence": mean,
                "accuracy": accuracy,
                "images": len(right),
                "part": model.split,
            },
            weight=min(1.0, error),
        )
    ]


def _fix_calibration(facts: Facts) -> str:
    if facts.run is not None:
        return more_validation(facts.run, 0.3)
    if facts.use is not None:
        return "Do not read its confidences as probabilities: choose a threshold for them on photographs like these."
    return "Add validation images, which choose the temperature."


def check_fragility(facts: Facts) -> list[Finding]:
    """Robustness: mild perturbations that cost accuracy."""
    model = facts.model
    if model is None or not model.perturbed:
        return []
    right = model.probabilities.argmax(axis=1) == model.true
    drops = {}
    for name, probabilities in model.perturbed.items():
        drops[name] = paired_drop(right, probabilities.argmax(axis=1) == model.true)
    bound = FALSE_ALARM_RATE / len(drops)
    clear = {name: drop for name, (drop, chance) in drops.items() if drop > _DROP_WARNING and chance < bound}
    if not clear:
        return []
    worst = max(clear, key=lambda name: clear[name])
    after = model.perturbed[worst]
    fell = right & (after.argmax(axis=1) != model.true)
    order = np.flatnonzero(fell)[np.argsort(-after[fell].max(axis=1), kind="stable")]
    names = _class_names(facts, model)
    severity: Severity = "problem" if clear[worst] >= _DROP_PROBLEM else "warning"
    more = f"; so do {', '.join(sorted(set(clear) - {worst}))}" if len(clear) > 1 else ""
    return [
        Finding(
            "fragile",
            severity,
            f"A mild change costs accuracy: {worst} takes {right.mean():.1%} of {len(right)} {model.split} images to "
            f"{right.mean() - clear[worst]:.1%}{more}",
            _fix_fragile(facts.run),
            {
                "change": worst,
                "drop": clear[worst],
                "accuracy": float(right.mean()),
                "drops": {name: drop for name, (drop, _) in drops.items()},
                "images": len(right),
                "part": model.split,
            },
            tuple(model.paths[row] for row in order[:_SHOWN]),
            (),
            tuple(f"{worst}: {_prediction_text(after[row], int(model.true[row]), names)}" for row in order[:_SHOWN]),
            weight=min(1.0, clear[worst]),
        )
    ]


def _fix_fragile(run: RunFacts | None) -> str:
    if run is not None and run.record.get("freezes_backbone"):
        return _fix(run, "Train on varied images", fine_tune=True, augment="strong")
    return _fix(run, "Train on varied images", augment="strong")


def check_int8(facts: Facts) -> list[Finding]:
    """Agreement of an int8 file with its network, overall and by class."""
    model = facts.model
    if model is None or model.int8 is None or not len(model.true):
        return []
    labels, int8_labels = model.probabilities.argmax(axis=1), model.int8.argmax(axis=1)
    right = labels == model.true
    drop, chance = paired_drop(right, int8_labels == model.true)
    differs = labels != int8_labels
    agreement = float(1 - differs.mean())
    names = _class_names(facts, model)
    classes = sorted(set(model.true.tolist()))
    by_class = {names[label]: float(1 - differs[model.true == label].mean()) for label in classes}
    serious = drop > _INT8_DROP and chance < _INT8_LEVEL
    worst = _worst_class(~differs, model.true)
    if not serious and worst is None:
        return []
    order = np.flatnonzero(differs)
    order = order[np.argsort(-np.abs(model.probabilities - model.int8)[order].max(axis=1), kind="stable")]
    where = f", most of it in {names[worst.label]} (same label on {worst.rate:.0%})" if worst is not None else ""
    again = "" if facts.run is None else export_with_max_effort(facts.run)
    return [
        Finding(
            "int8-gap",
            "problem" if serious else "warning",
            f"The int8 file gives the same label on {agreement:.1%} of {len(labels)} {model.split} images, and accuracy goes from "
            f"{right.mean():.1%} to {(int8_labels == model.true).mean():.1%}{where}",
            f"Try {again}" if again else "Export again with --effort max.",
            {
                "agreement": agreement,
                "agreement_by_class": by_class,
                "accuracy_drop": drop,
                "images": len(labels),
                "part": model.split,
            },
            tuple(model.paths[row] for row in order[:_SHOWN]),
            (),
            tuple(f"int8: {_prediction_text(model.int8[row], int(model.true[row]), names)}" for row in order[:_SHOWN]),
        )
    ]


def _class_names(facts: Facts, model: ModelFacts) -> tuple[str, ...]:
    if facts.run is not None and len(facts.run.classes) == model.probabilities.shape[1]:
        return facts.run.classes
    if model.labels:
        return model.labels
    return tuple(str(index) for index in range(model.probabilities.shape[1]))


def _items(
    model: ModelFacts, order: IntArray, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[()], tuple[str, ...]]:
    shown = order[:_SHOWN]
    return (
        tuple(model.paths[row] for row in shown),
        (),
        tuple(_prediction_text(model.probabilities[row], int(model.true[row]), names) for row in shown),
    )


def _prediction_text(probabilities: FloatArray, true: int, names: Sequence[str]) -> str:
    given = int(probabilities.argmax())
    return f"{names[true]}, taken for {names[given]} ({probabilities[given]:.2f})"


def _fix(run: RunFacts | None, what: str, **changes: object) -> str:
    return f"{what}." if run is None else f"{what}, or try {train_again(run, **changes)}"


CHECKS: tuple[Check, ...] = (
    Check(
        "errors-by-class",
        "field",
        ("class-errors",),
        f"the recall of a class of {_LEAST_IMAGES} images or more is below that of the others by {_RECALL_WARNING:.0%} and beyond "
        f"chance (Fisher's exact test, Holm's correction, {_CLASS_LEVEL:g} over all classes); a problem from {_RECALL_PROBLEM:.0%} "
        f"on, where it is sure of {_RECALL_WARNING:.0%}. Otherwise the most confident errors are shown as a note",
        check_class_errors,
    ),
    Check(
        "calibration",
        "field",
        ("calibration",),
        f"the expected calibration error is above {_ECE:g} and above what honest confidences exceed in one of a hundred samples ({_ECE_LEVEL:g})",
        check_calibration,
    ),
    Check(
        "mild-changes",
        "field",
        ("fragile",),
        f"brightness x0.8 or x1.25, blur, noise, JPEG quality 50, a shift by 6 % or a crop to 90 % costs more than "
        f"{_DROP_WARNING:.0%} of accuracy (McNemar's test at {FALSE_ALARM_RATE:g} over all changes); a problem from {_DROP_PROBLEM:.0%} on",
        check_fragility,
    ),
    Check(
        "int8-against-fp32",
        "field",
        ("int8-gap",),
        f"the int8 file loses more than {_INT8_DROP:.0%} of accuracy (McNemar's test at {_INT8_LEVEL:g}), or its disagreements gather in "
        f"a class by {_RECALL_WARNING:.0%} (Fisher's exact test, Holm's correction, {_CLASS_LEVEL:g} over all classes)",
        check_int8,
    ),
)
