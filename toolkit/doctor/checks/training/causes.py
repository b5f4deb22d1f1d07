"""Causes of failed trainings, each a condition on the facts and curves of a run."""

import math

import numpy as np

from edgeclf.runtime.arrays import Float64Array
from edgeclf.toolkit.doctor.checks.training.curves import POOR_SHARE, Curves, chance_midway, last_learning_rates
from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.statistics import is_above_chance, is_below, mann_tail

# Largest range of the network's input: pixels are 0..255, with or without a mean subtracted.
MAX_INPUT_RANGE = 300.0
# Standard deviation of inputs that networks from random weights can be trained on; 0.2 (pixels / 255) to 1 is usual.
INPUT_STD = (0.02, 10.0)
# Log10 ratio of input variance to batch normalisation statistics from which on these were made with other pixels.
_BATCH_NORM_LOG10_RATIO = 1.0
# Factor between the learning rate and the architecture's usual one from which on it may be the cause.
LEARNING_RATE_FACTOR = 10.0
# Loss relative to that of guessing from which on steps that are too large have raised it.
EXPLODED_LOSS_RATIO = 3.0
# Calibration temperature from which on the model is overconfident: logits that many times too large.
OVERCONFIDENT_TEMPERATURE = 2.0
# RMS of biases relative to that of kernels below which the weights have hardly left their initial values.
UNTRAINED_BIAS_RATIO = 0.01
# Most epochs that are too few to judge a network by.
FEW_EPOCHS = 3
# Fewest epochs for a test of trend, and its significance.
LEAST_TREND, TREND_LEVEL = 7, 0.002
# Fall of a loss that matters, relative to the last; in one epoch, times the images' square root: more than the losses of the same
# images mostly differ by from epoch to epoch.
_FALL, _FALL_OF_ONE = 0.05, 0.25
# Fewest training images that are memorized, to tell of labels without a probe.
_LEAST_MEMORIZED = 300
_ADAPTIVE = ("adam", "adamw", "nadam", "rmsprop")
_KERAS_RATES = {"sgd": 0.01}


def has_wrong_input_scale(run: RunFacts, curves: Curves) -> bool:
    """Whether pixels reach the network on a wrong scale."""
    probe = run.probes.get("network")
    if not probe:
        return False
    # Extrapolated to pixels from 0 to 255, whatever range these images have.
    reach = (probe["input_max"] - probe["input_min"]) * 255 / max(1, probe["pixel_max"] - probe["pixel_min"])
    if reach > MAX_INPUT_RANGE:
        return True
    if run.record.get("pretrained"):
        # Pretrained networks differ in their scaling of pixels, but have statistics that belong to it. Those of a network from
        # random weights may have had too few steps to settle.
        ratio = probe.get("batch_norm_log10_ratio")
        return ratio is not None and bool(ratio > _BATCH_NORM_LOG10_RATIO)
    return curves.failed and not INPUT_STD[0] <= probe["input_std"] <= INPUT_STD[1]


def has_diverged(run: RunFacts, curves: Curves) -> bool:
    """Whether a loss became NaN or infinite."""
    if run.record.get("ending") == "diverged" or run.record.get("diverged"):
        return True
    given = [key for key in ("loss", "val_loss") if run.history and key in run.history[-1]]
    return any(not np.isfinite(getattr(curves, key)).all() for key in given)


def learning_rate_ratio(run: RunFacts) -> float:
    """Learning rate divided by the usual one of architecture and optimizer; NaN where either is not known."""
    fit, suits = run.record.get("fit") or {}, run.record.get("suits") or {}
    rate, optimizer = fit.get("learning_rate"), str(fit.get("optimizer", "")).lower()
    if rate is None:
        rates = last_learning_rates(run.history)
        rate = float(np.nanmax(rates)) if np.isfinite(rates).any() else None
    if rate is None:
        return math.nan
    suitable = suits.get("learning_rate") if optimizer in _ADAPTIVE or not optimizer else _KERAS_RATES.get(optimizer)
    return float(rate) / float(suitable) if suitable else math.nan


def is_unstable(curves: Curves) -> bool:
    """Whether the loss rose far above that of guessing: training loss after the first epoch, or validation loss."""
    losses = np.concatenate([curves.loss[1:], curves.val_loss])
    losses = losses[np.isfinite(losses)]
    first = curves.loss[:1][np.isfinite(curves.loss[:1])]
    return bool(
        (losses > EXPLODED_LOSS_RATIO * curves.chance_loss).any()
        or (first > 2 * EXPLODED_LOSS_RATIO * curves.chance_loss).any()
    )


def temperature_of(run: RunFacts) -> float:
    """Calibration temperature fitted on validation images; NaN where not known."""
    return float((run.metrics.get("calibration") or {}).get("temperature") or math.nan)


def is_learning_rate_too_high(run: RunFacts, curves: Curves) -> bool:
    """Whether a learning rate that is too high explains a failure."""
    ratio = learning_rate_ratio(run)
    if not math.isnan(ratio) and ratio < 1 / LEARNING_RATE_FACTOR:
        return False
    if ratio >= LEARNING_RATE_FACTOR:
        return (
            has_diverged(run, curves)
            or curves.failed
            or is_unstable(curves)
            or temperature_of(run) > OVERCONFIDENT_TEMPERATURE
        )
    later = curves.loss[1:][np.isfinite(curves.loss[1:])]
    exploded = bool((later > EXPLODED_LOSS_RATIO * curves.chance_loss).any())
    return exploded and not curves.learned and not has_wrong_input_scale(run, curves)


def is_learning_rate_too_low(run: RunFacts, curves: Curves) -> bool:
    """Whether a learning rate that is too low explains a failure."""
    if not curves.epochs or has_diverged(run, curves):
        return False
    ratio = learning_rate_ratio(run)
    if ratio <= 1 / LEARNING_RATE_FACTOR:
        return curves.failed or is_still_falling(run, curves)
    moved = (run.probes.get("network") or {}).get("bias_to_kernel")
    fresh = not run.record.get("pretrained") and not run.record.get("goes_on")
    if moved is not None and fresh and moved < UNTRAINED_BIAS_RATIO and curves.epochs > FEW_EPOCHS:
        return curves.failed
    return math.isnan(ratio) and curves.failed and _falls_slowly(curves)


def _falls_slowly(curves: Curves) -> bool:
    """Whether training loss fell in nine of ten epochs, by less than 30 % in all."""
    loss = curves.loss
    if len(loss) < 10 or not np.isfinite(loss).all():
        return False
    falls = np.diff(loss) < 0
    fallen = (loss[0] - loss[-1]) / max(loss[0], 1e-9)
    return bool(falls.mean() >= 0.9 and fallen < 0.3 and (loss[0] - loss[-1]) > 0)


def is_still_falling(run: RunFacts, curves: Curves) -> bool:
    """Whether validation loss was still falling over the last fifth of the epochs, at least seven (Mann's test).

    The order of fewer epochs tells nothing for sure: then the run must have been cut short of its usual epochs, the loss have
    fallen in every epoch, and in the last, with training loss, by more than the losses of so many images differ by accident.
    """
    loss = curves.val_loss if np.isfinite(curves.val_loss).any() else curves.loss
    loss = loss[np.isfinite(loss)]
    if len(loss) < 2 or loss[-1] != loss.min():
        return False
    if len(loss) < LEAST_TREND:
        both = ((loss, curves.val_images), (curves.loss, curves.train_images))
        return is_cut_short(run, curves) and bool(
            (np.diff(loss) < 0).all() and all(_fell_in_the_last_epoch(values, images) for values, images in both)
        )
    tail = loss[-max(LEAST_TREND, len(loss) // 5) :]
    later = tail[None, :] > tail[:, None]
    rises = int(np.triu(later, 1).sum())
    return mann_tail(len(tail), rises) < TREND_LEVEL and bool(tail[0] - tail[-1] > _FALL * tail[-1])


def _fell_in_the_last_epoch(loss: Float64Array, images: int) -> bool:
    least = max(_FALL, _FALL_OF_ONE / math.sqrt(max(1, images)))
    return bool(loss[-2] - loss[-1] > least * loss[-1])


def are_labels_unlearnable(run: RunFacts, curves: Curves) -> bool:
    """Whether neither the network nor a linear probe on pretrained features is above chance, and the probe surely not by much.

    Of few images, not to be above chance says nothing: a probe that is right on three of four may not be either.
    """
    if curves.learned:
        return False
    baseline = run.probes.get("linear_probe")
    if baseline:
        images, chance = int(baseline["training_images"]), float(baseline["training_chance"])
        accuracy = float(baseline["training_accuracy"])
        bound = chance + POOR_SHARE * (1 - chance)
        return not is_above_chance(accuracy, chance, images) and is_below(accuracy, bound, images)
    # Without a probe: memorized training images without any generalization, on enough images for a little of it to show.
    bound = curves.chance + POOR_SHARE * (1 - curves.chance)
    return (
        curves.train_last > chance_midway(curves.chance)
        and curves.train_images >= _LEAST_MEMORIZED
        and is_below(curves.val_selected, bound, curves.val_images)
    )


def usual_epochs(run: RunFacts) -> int:
    """Epochs that are usual for the architecture; 0 where not known."""
    return int((run.record.get("suits") or {}).get("epochs") or 0)


def is_cut_short(run: RunFacts, curves: Curves) -> bool:
    """Whether the run ended before the epochs that are usual, or was interrupted, and not by early stopping: a fact."""
    ended = run.record.get("ending", "finished")
    return ended in {"interrupted", "unfinished"} or (ended == "finished" and usual_epochs(run) > curves.epochs)


def is_cut_before_any_trend(run: RunFacts, curves: Curves) -> bool:
    """Whether the run was cut short after so few epochs that no trend can be told, and learned something until then."""
    return curves.epochs < LEAST_TREND and is_cut_short(run, curves) and (curves.fitted or curves.learned)


def has_too_few_epochs(run: RunFacts, curves: Curves) -> bool:
    """Whether the run ended after too few epochs to judge by, without divergence or early stopping."""
    ended = run.record.get("ending", "finished")
    return 0 < curves.epochs <= FEW_EPOCHS and ended in {"finished", "interrupted", "unfinished"}


def has_other_cause(run: RunFacts, curves: Curves) -> bool:
    """Whether input scale, divergence, learning rate or labels explain a failure."""
    return (
        has_wrong_input_scale(run, curves)
        or has_diverged(run, curves)
        or is_learning_rate_too_high(run, curves)
        or is_learning_rate_too_low(run, curves)
        or are_labels_unlearnable(run, curves)
    )
