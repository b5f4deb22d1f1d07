"""Causes of failed trainings, each a condition on the facts and curves of a run."""

import math

import numpy as np

from edgeclf.toolkit.doctor.checks.training.curves import Curves, last_learning_rates
from edgeclf.toolkit.doctor.facts import RunFacts
from edgeclf.toolkit.doctor.statistics import is_above_chance, mann_tail

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
_LEAST_TREND, _TREND = 7, 0.002
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
        return curves.failed or is_still_falling(curves)
    moved = (run.probes.get("network") or {}).get("bias_to_kernel")
    fresh = not run.record.get("pretrained") and not run.record.get("goes_on")
    if moved is not None and fresh and moved < UNTRAINED_BIAS_RATIO and curves.epochs > FEW_EPOCHS:
        return not curves.learned
    return math.isnan(ratio) and curves.failed and _falls_slowly(curves)


def _falls_slowly(curves: Curves) -> bool:
    """Whether training loss fell in nine of ten epochs, by less than 30 % in all."""
    loss = curves.loss
    if len(loss) < 10 or not np.isfinite(loss).all():
        return False
    falls = np.diff(loss) < 0
    fallen = (loss[0] - loss[-1]) / max(loss[0], 1e-9)
    return bool(falls.mean() >= 0.9 and fallen < 0.3 and (loss[0] - loss[-1]) > 0)


def is_still_falling(curves: Curves) -> bool:
    """Whether validation loss was still falling over the last fifth of the epochs, at least seven (Mann's test)."""
    loss = curves.val_loss if np.isfinite(curves.val_loss).any() else curves.loss
    loss = loss[np.isfinite(loss)]
    if len(loss) < 2 or loss[-1] != loss.min():
        return False
    if len(loss) < _LEAST_TREND:
        return bool(loss[-1] < 0.98 * loss[0])
    tail = loss[-max(_LEAST_TREND, len(loss) // 5) :]
    later = tail[None, :] > tail[:, None]
    rises = int(np.triu(later, 1).sum())
    # And by more than a twentieth of the last loss.
    return mann_tail(len(tail), rises) < _TREND and bool(tail[0] - tail[-1] > 0.05 * tail[-1])


def are_labels_unlearnable(run: RunFacts, curves: Curves) -> bool:
    """Whether neither the network nor a linear probe on pretrained features is above chance, on enough images."""
    if curves.learned:
        return False
    baseline = run.probes.get("linear_probe")
    if baseline:
        images, chance = int(baseline["training_images"]), float(baseline["training_chance"])
        return images >= 60 and not is_above_chance(float(baseline["training_accuracy"]), chance, images)
    # Without a probe: memorized training images without any generalization, on enough images for a little of it to show.
    return curves.train_last > chance_midway(curves) and curves.train_images >= 300 and curves.val_images >= 50


def chance_midway(curves: Curves) -> float:
    """Accuracy half-way from chance to 1."""
    return 0.5 + 0.5 * curves.chance


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
