"""Check of preprocessing: another scaling, channel order or fit with which the model is right much more often."""

import math
from typing import Any

from edgeclf.toolkit.doctor.facts import Check, Facts, Trial, UseFacts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import examine_model, train_data, use_model
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE
from edgeclf.toolkit.doctor.use_analysis import GAIN_PROBLEM, GAIN_WARNING, Judgement, judge_use

_SCALING, _CHANNELS = "--mean", "--channels"
_AS_THEY_ARE = ("0", "1")
# Other ways in a finding; all are in the JSON of the examination.
_SHOWN = 5
# A difference that is seen only from here on, as a share of the images, is worth a note.
_COARSE = 0.1


def check_preprocessing(facts: Facts) -> list[Finding]:
    """Ways of use in which the model is right much more often than in the given one."""
    use = facts.use
    judgement = None if use is None else use.derived(judge_use)
    if use is None or judgement is None:
        return []
    best = use.trials[judgement.best]
    evidence = _evidence(use, judgement)
    if use.is_scaling_unsaid:
        return [_unsaid(use, judgement, evidence)]
    if not judgement.is_better:
        return []
    severity: Severity = "problem" if judgement.gain >= GAIN_PROBLEM else "warning"
    title = (
        f"{use.model} is right on {judgement.accuracy(0):.1%} of {judgement.count} photographs as it is used, and on "
        f"{judgement.accuracy(judgement.best):.1%} {_in_other_words(use, best)}"
    )
    fix = f"Try {use_model(use, best.changes)}" if use.is_foreign else _fix_of_own(best, facts)
    cause = _cause(best)
    return [Finding(cause, severity, title, fix, evidence, weight=min(1.0, judgement.gain))]


def _unsaid(use: UseFacts, judgement: Judgement, evidence: dict[str, Any]) -> Finding:
    """The finding for a file that does not say how its pixels are scaled."""
    unit = {"--mean": "0", "--std": "255"}
    changes = {**unit, **use.trials[judgement.best].changes} if judgement.is_better else unit
    others = [
        judgement.accuracy(number)
        for number, trial in enumerate(use.trials)
        if {**unit, **trial.changes}["--mean"] != changes["--mean"]
        or {**unit, **trial.changes}["--std"] != changes["--std"]
    ]
    named = " ".join(f"{option} {value}" for option, value in changes.items())
    accuracy = judgement.accuracy(judgement.best if judgement.is_better else 0)
    return Finding(
        "input-scale",
        "problem",
        f"{use.model} does not say how its pixels are scaled; of the usual ways {named} fits best: it is then right on "
        f"{accuracy:.1%} of {judgement.count} photographs, and with another scaling on {max(others, default=0.0):.1%} at most",
        f"Try {use_model(use, changes)}",
        evidence,
        weight=1.0,
    )


def _evidence(use: UseFacts, judgement: Judgement) -> dict[str, Any]:
    """Accuracy of the given way and of the best ones."""
    order = sorted(range(1, len(use.trials)), key=lambda n: -judgement.accuracy(n))[:_SHOWN]
    return {
        "images": judgement.count,
        "accuracy": judgement.accuracy(0),
        "best_accuracy": judgement.accuracy(judgement.best),
        "p_value": judgement.chance,
        "labels_by": "answers" if judgement.follows_answers else "names",
        "options": dict(use.trials[judgement.best].changes),
        "accuracy_by_use": {use.trials[n].name: round(judgement.accuracy(n), 4) for n in (0, *order)},
    }


def _in_other_words(use: UseFacts, trial: Trial) -> str:
    """The changes of a trial, in words with the options in brackets."""
    words = []
    if _SCALING in trial.changes:
        mean, std = trial.changes["--mean"], trial.changes["--std"]
        if (mean, std) == _AS_THEY_ARE and use.scales_itself:
            words.append("with pixels as they are, because its graph normalises them itself: they were scaled twice")
        elif (mean, std) == _AS_THEY_ARE:
            words.append("with pixels as they are, 0..255")
        else:
            words.append(f"with pixels scaled by mean {mean} and std {std}")
    if _CHANNELS in trial.changes:
        words.append(
            "with red and blue in each other's place"
            if not use.is_foreign
            else f"where it gets {trial.changes[_CHANNELS].upper()}"
        )
    if "--fit" in trial.changes:
        fraction = trial.changes.get("--crop-fraction")
        kept = "" if fraction in {None, "1"} else f" to {fraction}"
        words.append(
            {"crop": f"cropped{kept}", "stretch": "stretched", "letterbox": "letterboxed"}[trial.changes["--fit"]]
        )
    if "--interpolation" in trial.changes:
        words.append(f"with {trial.changes['--interpolation']} interpolation")
    return ", ".join(words)


def _cause(trial: Trial) -> str:
    if _SCALING in trial.changes:
        return "input-scale"
    return "channel-order" if _CHANNELS in trial.changes else "image-fit"


def _fix_of_own(trial: Trial, facts: Facts) -> str:
    """The remedy for a file with a spec, which takes no options."""
    if _CHANNELS in trial.changes:
        return (
            "Look at some of the photographs, and at those it was trained with: one of the two has red and blue swapped, as "
            "OpenCV's arrays written by a program that expects RGB have"
        )
    if "--fit" in trial.changes and trial.changes["--fit"] != "crop":
        return f"Train it as it will be used, {train_data(facts, '--fit', trial.changes['--fit'])}"
    if "--fit" in trial.changes:
        return f"Train it as it will be used, {train_data(facts, '--fit', 'crop')}, or take photographs that the object fills"
    return f"Train it as it will be used, {train_data(facts, '--interpolation', trial.changes['--interpolation'])}"


def check_sample(facts: Facts) -> list[Finding]:
    """What the photographs are too few, or too bare of labels, to tell."""
    use = facts.use
    if use is None:
        return []
    if not use.folders:
        return [
            Finding(
                "unchecked",
                "note",
                f"{len(use.paths)} photographs without labels were looked at: whether channels, fit and labels are right can "
                "only be told by photographs in class folders, and the scaling hardly without them",
                f"Put some photographs of each class into folders and run {examine_model(use, 'FOLDER')}",
                {"images": len(use.paths), "labels": False},
            )
        ]
    needed = math.ceil(math.log2(len(use.trials) / FALSE_ALARM_RATE))
    share = needed / len(use.true)
    if share <= _COARSE:
        return []
    return [
        Finding(
            "too-few",
            "note",
            f"{len(use.true)} photographs with labels tell another use from the given one only where it is right on "
            f"{min(needed, len(use.true))} more of them"
            + ("" if share <= 1 else ", and these are fewer: wrong channels, scaling or fit would not be seen"),
            f"Take {math.ceil(needed / GAIN_WARNING)} photographs, which tell a difference of {GAIN_WARNING:.0%}",
            {"images": len(use.true), "needed_difference": needed},
        )
    ]


CHECKS: tuple[Check, ...] = (
    Check(
        "other-preprocessing",
        "use",
        ("input-scale", "channel-order", "image-fit"),
        f"a model file is right on {GAIN_WARNING:.0%} more of the photographs with another usual scaling, with red and blue "
        f"exchanged, or in another fit or interpolation (McNemar's test at {FALSE_ALARM_RATE:g} over all that are tried); a "
        f"problem from {GAIN_PROBLEM:.0%} on, or where nothing says how its pixels are scaled",
        check_preprocessing,
    ),
    Check(
        "enough-photographs",
        "use",
        ("unchecked", "too-few"),
        f"the photographs have no labels, or are so few that only a difference of more than {_COARSE:.0%} would be seen",
        check_sample,
    ),
)
