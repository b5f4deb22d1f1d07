"""Checks of answers: NaN, the same answer for every image, classes that are never given, and probabilities that are none."""

import math

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray
from edgeclf.toolkit.doctor.facts import Check, Facts, Trial, UseFacts
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.remedies import examine_model, use_model
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE
from edgeclf.toolkit.doctor.use_analysis import answers_of, judge_use

# Share of the images without numbers from which on it is a problem.
_NAN_PROBLEM = 0.01
# Share of one answer that is suspect, and the largest share that its class may have for a problem.
_SAME_ANSWER, _LARGEST_CLASS = 0.95, 0.7
_LEAST_IMAGES = 20
# Images of a class that is never given, for a warning; and the chance that a class of such a recall is never given, over all
# classes of the photographs.
_LEAST_OF_CLASS = 10
_RECALL = 0.5
_SUM_TOLERANCE = 0.02
# Other ways of use in a finding.
_SHOWN = 3
# Values that lie in 0..1 and are further apart than this are no logits.
_LEAST_SPREAD = 0.5
# How far the inner values of a second softmax may lie outside 0..1, and how high most of them must reach.
_INNER_TOLERANCE, _INNER_TOP = 0.02, 0.5


def check_numbers(facts: Facts) -> list[Finding]:
    """Images for which the model gives NaN or infinity."""
    use = facts.use
    if use is None:
        return []
    answers = answers_of(use.trials[0].probabilities)
    rows = np.flatnonzero(answers < 0)
    if not len(rows):
        return []
    other = next(
        (
            trial
            for trial in use.trials[1:]
            if (answers_of(trial.probabilities) >= 0).all() and "--mean" in trial.changes
        ),
        None,
    )
    fix = "Look at these images; if they are like others, export or train the model again"
    if other is not None and use.is_foreign:
        fix = f"The pixels may be on another scale than it expects: with {other.name} all of them get numbers, {use_model(use, other.changes)}"
    share = len(rows) / len(answers)
    return [
        Finding(
            "no-numbers",
            "problem" if share >= _NAN_PROBLEM else "warning",
            f"{use.model} gives NaN or infinity for {len(rows)} of {len(answers)} photographs",
            fix,
            {"images": len(answers), "without_numbers": len(rows)},
            tuple(use.paths[row] for row in rows.tolist()),
            weight=share,
        )
    ]


def check_same_answer(facts: Facts) -> list[Finding]:
    """One answer for nearly all images."""
    use = facts.use
    if use is None:
        return []
    answers = answers_of(use.trials[0].probabilities)
    given = answers[answers >= 0]
    if len(given) < _LEAST_IMAGES:
        return []
    counts = np.bincount(given)
    output, share = int(counts.argmax()), float(counts.max() / len(given))
    largest = float(np.bincount(use.true).max() / len(use.true)) if use.folders else None
    if share < _SAME_ANSWER or (largest is not None and largest > _LARGEST_CLASS):
        return []
    title = f"{use.model} answers {use.labels[output]} for {int(counts.max())} of {len(given)} photographs"
    if largest is not None:
        title += f", of which the most frequent class has {largest:.0%}"
    probabilities = use.trials[0].probabilities[answers >= 0]
    others = sorted(use.trials[1:], key=lambda trial: -_information(trial))[:_SHOWN]
    spread = float(np.ptp(probabilities, axis=0).max())
    return [
        Finding(
            "constant-answer",
            "problem" if largest is not None else "warning",
            title,
            _fix_same(use, is_labelled=largest is not None),
            {
                "images": len(given),
                "share": share,
                "largest_class": largest,
                "largest_change_of_a_probability": spread,
                "answers_by_use": {trial.name: _variety(trial) for trial in (use.trials[0], *others)},
            },
            weight=share,
        )
    ]


def _fix_same(use: UseFacts, *, is_labelled: bool) -> str:
    judgement = use.derived(judge_use)
    if judgement is not None and judgement.is_better:
        return "Put its preprocessing right first, as said above"
    best = max(use.trials, key=_information)
    if use.is_foreign and best.changes and _information(best) > _information(use.trials[0]) + 0.5:
        known = (
            "Its pixels may be on another scale"
            if is_labelled
            else "If they do not all show the same, its pixels may be on another scale"
        )
        return f"{known}: with {best.name} it gives {_variety(best)['answers']} answers, {use_model(use, best.changes)}"
    if is_labelled:
        return "Check the file against the program that trained it, on one of these photographs; or train it again"
    return f"If they do not all show the same, compare photographs of known classes, {examine_model(use, 'FOLDER')}"


def _variety(trial: Trial) -> dict[str, float]:
    """How many answers a trial gives, and how sure it is on average."""
    answers = answers_of(trial.probabilities)
    confidences = trial.probabilities[answers >= 0].max(axis=1) if (answers >= 0).any() else np.zeros(1)
    return {"answers": len(set(answers[answers >= 0].tolist())), "confidence": round(float(confidences.mean()), 4)}


def _information(trial: Trial) -> float:
    """Mutual information between image and answer in bits, by the model's own probabilities: 0 for the same answer always."""
    rows = trial.probabilities[np.isfinite(trial.probabilities).all(axis=1)].astype(np.float64)
    if not len(rows):
        return 0.0
    rows = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)
    return _entropy(rows.mean(axis=0)) - float(np.mean([_entropy(row) for row in rows]))


def _entropy(probabilities: Float64Array) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum())


def check_dead_classes(facts: Facts) -> list[Finding]:
    """Classes of the photographs that the model never gives."""
    use = facts.use
    judgement = None if use is None else use.derived(judge_use)
    if use is None or judgement is None or judgement.is_better or check_same_answer(facts):
        return []
    answers = answers_of(use.trials[0].probabilities)
    classes = len(np.unique(use.true))
    least = max(_LEAST_OF_CLASS, math.ceil(math.log(FALSE_ALARM_RATE / classes, 1 - _RECALL)))
    dead: dict[str, int] = {}
    for number, (folder, output) in enumerate(zip(use.folders, judgement.outputs.tolist(), strict=True)):
        count = int((use.true == number).sum())
        if output >= 0 and count >= least and not (answers == output).any():
            dead[folder] = count
    if not dead:
        return []
    named = ", ".join(list(dead)[:8])
    rows = [row for row, number in enumerate(use.true.tolist()) if use.folders[number] in dead]
    return [
        Finding(
            "dead-class",
            "warning",
            f"{use.model} never answers {named}, of which there are {sum(dead.values())} of {len(answers)} photographs",
            "Check the names of these classes; if they are right, the model did not learn them: train it with more of their images",
            {"images": len(answers), "classes": dead},
            tuple(use.paths[row] for row in rows),
            weight=len(dead) / len(use.folders),
        )
    ]


def check_activation(facts: Facts) -> list[Finding]:
    """Probabilities that are none: a softmax applied twice, or rows that do not add up to 1."""
    use = facts.use
    if use is None:
        return []
    raw = use.raw[np.isfinite(use.raw).all(axis=1)]
    if len(raw) < _LEAST_IMAGES or raw.shape[1] < 2:
        return []
    sums = raw.sum(axis=1)
    is_in_range = bool(((raw >= -1e-3) & (raw <= 1 + 1e-3)).all())
    adds_up = bool((np.abs(sums - 1) <= _SUM_TOLERANCE).all())
    if use.activation in {"logits", "sigmoid-logits"} and is_in_range and float(np.ptp(raw)) > _LEAST_SPREAD:
        return [_twice_here(use, raw, is_softmax=adds_up and not use.is_one_value)]
    if use.activation == "softmax" and not adds_up:
        return [
            Finding(
                "output-activation",
                "problem",
                f"The outputs of {use.model} are taken for probabilities and add up to {sums.min():.3g} to {sums.max():.3g}",
                f"Try {use_model(use, {'--output-activation': 'sigmoid'})}, if each class is on its own, else --output-activation none",
                {"images": len(raw), "lowest_sum": float(sums.min()), "highest_sum": float(sums.max())},
            )
        ]
    if use.activation in {None, "softmax"} and adds_up and is_in_range and _is_softmax_of_softmax(raw):
        return [_twice_inside(use, raw)]
    return []


def _twice_here(use: UseFacts, raw: FloatArray, *, is_softmax: bool) -> Finding:
    is_sigmoid = use.activation == "sigmoid-logits" or use.is_one_value
    before, after = float(raw.max(axis=1).mean()), float(np.nanmax(use.trials[0].probabilities, axis=1).mean())
    return Finding(
        "output-activation",
        "problem",
        f"The outputs of {use.model} are probabilities already, and a {'sigmoid' if is_sigmoid else 'softmax'} "
        f"is applied to them once more: its mean confidence is {after:.2f} in place of {before:.2f}",
        f"Try {use_model(use, {'--output-activation': 'softmax' if is_softmax else 'sigmoid'})}",
        {"images": len(raw), "mean_confidence": after, "mean_confidence_once": before},
    )


def _is_softmax_of_softmax(raw: FloatArray) -> bool:
    """Whether rows are the softmax of rows that are probabilities: those follow from their logarithms.

    With two classes, any model that is never sure looks so.
    """
    classes = raw.shape[1]
    if classes < 3 or (raw <= 0).any():
        return False
    logs = np.log(raw.astype(np.float64))
    inner = logs - logs.mean(axis=1, keepdims=True) + 1.0 / classes
    if inner.min() < -_INNER_TOLERANCE or inner.max() > 1 + _INNER_TOLERANCE:
        return False
    return float(np.median(inner.max(axis=1))) >= _INNER_TOP


def _twice_inside(use: UseFacts, raw: FloatArray) -> Finding:
    classes = raw.shape[1]
    bound = math.e / (math.e + classes - 1)
    return Finding(
        "output-activation",
        "warning",
        f"{use.model} applies a softmax to probabilities: no photograph gets more than {raw.max():.2f}, and none could get more "
        f"than {bound:.2f}",
        "Its labels are right and its confidences mean nothing: export it without the second softmax at its end",
        {"images": len(raw), "highest_confidence": float(raw.max()), "bound": bound},
    )


CHECKS: tuple[Check, ...] = (
    Check(
        "no-numbers",
        "use",
        ("no-numbers",),
        f"a model file gives NaN or infinity for a photograph; a problem from {_NAN_PROBLEM:.0%} of them on",
        check_numbers,
    ),
    Check(
        "same-answer",
        "use",
        ("constant-answer",),
        f"a model file gives one answer for {_SAME_ANSWER:.0%} of {_LEAST_IMAGES} photographs or more, whose most frequent class "
        f"has no more than {_LARGEST_CLASS:.0%}; a warning where they have no labels",
        check_same_answer,
    ),
    Check(
        "never-answered",
        "use",
        ("dead-class",),
        f"a class is never given by a model file, which gives others: of {_LEAST_OF_CLASS} photographs or more, and so many that one "
        f"with a recall of {_RECALL:.0%} would not be given once in {1 / FALSE_ALARM_RATE:,.0f} times over all classes ({FALSE_ALARM_RATE:g})",
        check_dead_classes,
    ),
    Check(
        "output-activation",
        "use",
        ("output-activation",),
        f"the outputs of a model file are probabilities and a softmax is applied to them; or are taken for probabilities and add "
        f"up to something else (by {_SUM_TOLERANCE:g}); or are the softmax of probabilities, from three classes on",
        check_activation,
    ),
)
