"""Checks of failed trainings: input scale, divergence, learning rate, labels, too few epochs, stuck at chance.

Different causes have the same symptoms, so that each check first excludes the causes before it in this order.
"""

import math

import numpy as np

from edgeclf.toolkit.doctor.checks.training.causes import (
    EXPLODED_LOSS_RATIO,
    FEW_EPOCHS,
    INPUT_STD,
    LEARNING_RATE_FACTOR,
    LEAST_TREND,
    MAX_INPUT_RANGE,
    OVERCONFIDENT_TEMPERATURE,
    TREND_LEVEL,
    UNTRAINED_BIAS_RATIO,
    are_labels_unlearnable,
    has_diverged,
    has_other_cause,
    has_too_few_epochs,
    has_wrong_input_scale,
    is_cut_before_any_trend,
    is_cut_short,
    is_learning_rate_too_high,
    is_learning_rate_too_low,
    is_still_falling,
    learning_rate_ratio,
    usual_epochs,
)
from edgeclf.toolkit.doctor.checks.training.curves import Curves, read_curves
from edgeclf.toolkit.doctor.checks.training.evidence import (
    accuracy_evidence,
    epochs_text,
    finite,
    learning_rate_evidence,
    learning_rate_text,
    lower_learning_rate,
    percent,
    symptom_text,
)
from edgeclf.toolkit.doctor.facts import Check, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import examine_data, resume, sweep_learning_rate, train_again, train_pretrained
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, is_above_chance

# As conditions name it, see `Curves.failed`.
_FAILED = (
    "failed (surely less than a third of the way from guessing to all right, or clearly below plain features: exact tests, "
    f"{FALSE_ALARM_RATE:g} together)"
)


def check_input_scale(facts: Facts) -> list[Finding]:
    """Input scale: pixels on another scale than the network was made for."""
    run = facts.run
    if run is None or not has_wrong_input_scale(run, read_curves(run)):
        return []
    probe = run.probes["network"]
    low, high = probe["input_min"], probe["input_max"]
    return [
        Finding(
            "input-scale",
            "problem",
            f"Pixels reach the network's first layer ({probe['first_layer']}) as {low:.3g} to {high:.3g}, standard "
            f"deviation {probe['input_std']:.3g}, where about -1 to 1 is meant",
            "Take out the scaling that is doubled, or put in the one that is missing, and train again: "
            f"{train_again(run)}",
            {key: probe[key] for key in ("input_min", "input_max", "input_mean", "input_std", "first_layer")}
            | {"batch_norm_log10_ratio": probe.get("batch_norm_log10_ratio"), "images": probe["images"]},
        )
    ]


def check_divergence(facts: Facts) -> list[Finding]:
    """Divergence: a loss that is NaN or infinite."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not has_diverged(run, curves):
        return []
    at = run.record.get("diverged") or {}
    where = (
        f"after {at.get('steps', '?')} of {at.get('epoch_steps', '?')} steps of its first epoch"
        if at
        else f"in epoch {_bad_epoch(curves)}"
    )
    explained = is_learning_rate_too_high(run, curves) or has_wrong_input_scale(run, curves)
    return [
        Finding(
            "diverged",
            # A finding of its own names the cause.
            "warning" if explained else "problem",
            f"The loss stopped being a number {where}",
            lower_learning_rate(run),
            {
                "epoch": 1 if at else _bad_epoch(curves),
                "loss_before": at.get("loss"),
                **learning_rate_evidence(run, curves),
            },
        )
    ]


def _bad_epoch(curves: Curves) -> int:
    bad = np.flatnonzero(~np.isfinite(curves.loss) | ~np.isfinite(curves.val_loss))
    return int(bad[0]) + 1 if len(bad) else curves.epochs + 1


def check_rate_too_high(facts: Facts) -> list[Finding]:
    """A learning rate that is too high."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not is_learning_rate_too_high(run, curves):
        return []
    evidence = learning_rate_evidence(run, curves)
    ratio = learning_rate_ratio(run)
    what = (
        f"{ratio:.3g} times what suits {run.record.get('architecture')}"
        if ratio >= LEARNING_RATE_FACTOR
        else "too high"
    )
    sign = symptom_text(run, curves)
    return [
        Finding(
            "lr-too-high",
            "problem" if has_diverged(run, curves) or curves.failed else "warning",
            f"The learning rate{learning_rate_text(evidence)} is {what}: {sign}",
            lower_learning_rate(run),
            evidence,
        )
    ]


def check_rate_too_low(facts: Facts) -> list[Finding]:
    """A learning rate that is too low."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not is_learning_rate_too_low(run, curves) or has_wrong_input_scale(run, curves):
        return []
    evidence = learning_rate_evidence(run, curves)
    ratio = learning_rate_ratio(run)
    what = (
        f"{ratio:.2g} of what suits {run.record.get('architecture')}"
        if ratio <= 1 / LEARNING_RATE_FACTOR
        else "too low"
    )
    suits = (run.record.get("suits") or {}).get("learning_rate")
    fix = f"Try {train_again(run, learning_rate=None)}" if suits else f"Try {sweep_learning_rate(run)}"
    return [
        Finding(
            "lr-too-low",
            "problem" if curves.failed else "warning",
            f"The learning rate{learning_rate_text(evidence)} is {what}: {symptom_text(run, curves)}",
            fix,
            evidence,
        )
    ]


def check_labels(facts: Facts) -> list[Finding]:
    """Labels that neither the network nor a linear probe on pretrained features can predict."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not are_labels_unlearnable(run, curves) or has_wrong_input_scale(run, curves) or has_diverged(run, curves):
        return []
    baseline = run.probes.get("linear_probe")
    if not baseline:
        return [
            Finding(
                "label-noise",
                "warning",
                f"The network knows {curves.train_last:.0%} of its training images and is no better than guessing "
                f"({percent(curves.val_selected)} of {curves.val_images}) on others: labels that the images contradict look like this",
                f"Look at the labels: {examine_data(run)}",
                accuracy_evidence(curves),
            )
        ]
    return [
        Finding(
            "label-noise",
            "problem",
            f"The labels do not go with the images: features of {baseline['network']}, which tell most things apart, reach "
            f"{baseline['training_accuracy']:.0%} on {baseline['training_images']} training images "
            f"(guessing: {baseline['training_chance']:.0%}), and the network does no better: "
            f"{percent(curves.val_selected)} of {curves.val_images} validation images",
            f"Look at the labels: {examine_data(run)}",
            {**accuracy_evidence(curves), "yardstick": dict(baseline)},
            weight=1.0,
        )
    ]


def check_stopped_early(facts: Facts) -> list[Finding]:
    """Training that ended after too few epochs, or while validation loss was still falling."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if not curves.epochs or has_other_cause(run, curves):
        return []
    short, cut = has_too_few_epochs(run, curves), is_cut_short(run, curves)
    ended = run.record.get("ending", "finished")
    falling = is_still_falling(run, curves) and ended != "early"
    usual = usual_epochs(run)
    failed = curves.failed and (short or is_cut_before_any_trend(run, curves))
    # That a run was cut short is a fact, which needs no test; what it came to shows only on enough images.
    shows_nothing = short and cut and not curves.learned and not curves.knows_training_images
    if not (falling or failed or shows_nothing):
        return []
    # Where the baseline is no better, there is little left to gain.
    severity: Severity = (
        "warning" if short or failed or curves.gap_to_baseline or not math.isfinite(curves.baseline) else "note"
    )
    if short and failed:
        severity = "problem"
    fit = run.record.get("fit") or {}
    again = max(usual, 3 * curves.epochs, 20)
    fix = (
        resume(run)
        if ended in {"interrupted", "unfinished"}
        else train_again(run, epochs=None if usual >= 3 * curves.epochs else again)
    )
    last, first = curves.val_loss[-1], curves.val_loss[0]
    trend = f"validation loss {first:.3f} -> {last:.3f}, " if math.isfinite(last) and falling else ""
    return [
        Finding(
            "stopped-early",
            severity,
            f"Training ended after {epochs_text(curves.epochs)}"
            f"{f' of the {usual} that are usual' if usual > curves.epochs else ''}"
            f"{', while it was still getting better' if falling else ''}: {trend}"
            f"validation accuracy {percent(curves.val_selected)}",
            f"Try {fix}",
            {
                "epochs": curves.epochs,
                "usual_epochs": usual or None,
                "planned_epochs": fit.get("epochs"),
                "ending": ended,
                "still_falling": falling,
                **accuracy_evidence(curves),
            },
        )
    ]


def check_stuck(facts: Facts) -> list[Finding]:
    """A network at chance on training and on validation images, without another cause."""
    run = facts.run
    if run is None:
        return []
    curves = read_curves(run)
    if (
        not curves.epochs
        or curves.learned
        or curves.fitted
        or not curves.failed
        or has_other_cause(run, curves)
        or has_too_few_epochs(run, curves)
    ):
        return []
    if are_labels_unlearnable(run, curves):
        return []
    learnable = ""
    if is_above_chance(curves.baseline, curves.chance, curves.baseline_images):
        learnable = f"; the data can be learned: plain features reach {curves.baseline:.0%}"
    lowest = float(np.nanmin(curves.loss)) if np.isfinite(curves.loss).any() else math.nan
    return [
        Finding(
            "stuck-at-chance",
            "problem",
            f"The network never got better than guessing in {epochs_text(curves.epochs)}: validation accuracy "
            f"{percent(curves.val_selected)} (guessing: {curves.chance:.0%}), training loss never below {lowest:.3f} "
            f"(guessing: {curves.chance_loss:.3f}){learnable}",
            f"Try a pretrained network: {train_pretrained(run)}"
            if not run.record.get("pretrained")
            else f"Try {sweep_learning_rate(run)}",
            {
                "epochs": curves.epochs,
                "lowest_loss": finite(lowest),
                "chance_loss": curves.chance_loss,
                **accuracy_evidence(curves),
                "dropout": (run.probes.get("network") or {}).get("dropout"),
            },
        )
    ]


CHECKS: tuple[Check, ...] = (
    Check(
        "input-scale",
        "run",
        ("input-scale",),
        f"what reaches the first layer for pixels of 0..255 spans more than {MAX_INPUT_RANGE:g}, or the variance that reaches the first batch "
        f"normalisation is 10 times off what it expects, or a network from random weights {_FAILED} with inputs whose "
        f"standard deviation is outside {INPUT_STD[0]:g}..{INPUT_STD[1]:g}",
        check_input_scale,
    ),
    Check("divergence", "run", ("diverged",), "a loss, of training or of validation, is no number", check_divergence),
    Check(
        "learning-rate-too-high",
        "run",
        ("lr-too-high",),
        f"the learning rate is {LEARNING_RATE_FACTOR:g} times what suits the architecture, and the run diverged, {_FAILED}, or its "
        f"loss rose above {EXPLODED_LOSS_RATIO:g} times that of guessing, or its logits are {OVERCONFIDENT_TEMPERATURE:g} times too large; or, whatever the "
        "rate, the loss rose so and nothing was learned",
        check_rate_too_high,
    ),
    Check(
        "learning-rate-too-low",
        "run",
        ("lr-too-low",),
        f"the learning rate is a {LEARNING_RATE_FACTOR:g}th of what suits the architecture, and the run {_FAILED}, or was still "
        f"getting better (Mann's test at {TREND_LEVEL:g}); or it failed and biases are below {UNTRAINED_BIAS_RATIO:g} of the kernels, or, "
        "where the rate is not known, the loss crept down from epoch to epoch by less than 30 % in all",
        check_rate_too_low,
    ),
    Check(
        "labels-against-features",
        "run",
        ("label-noise",),
        "neither the network nor a linear head on pretrained features, each image judged by a head fitted without it, is "
        f"better than guessing, and the head is surely less than a third of the way from guessing to all right (binomial tests at "
        f"{FALSE_ALARM_RATE:g})",
        check_labels,
    ),
    Check(
        "stopped-too-early",
        "run",
        ("stopped-early",),
        f"validation loss was falling over the last fifth of the epochs, at least {LEAST_TREND} (Mann's test at {TREND_LEVEL:g}), by a "
        f"twentieth of what is left; or the run {_FAILED}, after {FEW_EPOCHS} epochs (a problem) or, if more are usual, fewer than "
        f"{LEAST_TREND}; or, with fewer than are usual, {FEW_EPOCHS} epochs showed nothing better than guessing, or fewer than {LEAST_TREND} "
        "ended while both losses fell, none of the above being the case",
        check_stopped_early,
    ),
    Check(
        "stuck-at-chance",
        "run",
        ("stuck-at-chance",),
        f"neither validation accuracy is better than guessing nor training accuracy than a tenth of the way to all right (binomial tests over "
        f"all epochs), and the run {_FAILED}, none "
        "of the above being the case",
        check_stuck,
    ),
)
