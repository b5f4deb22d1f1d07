"""The learning-rate range test: a short training whose rate grows exponentially (Smith 2017, arXiv 1506.01186)."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export.keras_backend import KerasModel, KerasOptimizer, KerasTensor
from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.training.data.loader import Batch

_LOWEST, _HIGHEST, _STEPS = 1e-6, 1.0, 100
# The sweep ends when the smoothed loss has come this many times above its lowest.
_EXPLODED = 4.0
_SMOOTHING = 0.9
# The first learning rates are too small to change anything: this share of the steps, and no fewer than so many, show
# where the loss begins and how much it varies from batch to batch.
_IDLE_SHARE, _LEAST_IDLE = 0.1, 5
# A sweep suggests a rate only where the loss falls by this share of its beginning, and by more than it varies. Of 24 sweeps
# over shuffled labels that refuses all but two, which began far above chance and came down to it; of 24 over true ones it
# refuses 4, all with batches of 8.
_LEAST_FALL = 0.03
# Slopes are taken over this many steps to either side.
_SLOPE_STEPS = 5


@dataclass(frozen=True, eq=False)
class LrSweep:
    """The losses of a sweep.

    Attributes:
        learning_rates: (n,) float64, growing.
        losses: (n,) float64, of the batch seen at each.
        smoothed: (n,) float64, their exponential mean, corrected for its start.
        suggestion: The learning rate to train with.
    """

    learning_rates: Float64Array
    losses: Float64Array
    smoothed: Float64Array
    suggestion: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "suggestion": self.suggestion,
            "learning_rates": self.learning_rates.tolist(),
            "losses": self.losses.tolist(),
            "smoothed": self.smoothed.tolist(),
        }


def find_learning_rate(
    model: KerasModel,
    batches: Iterable[Batch],
    optimizer: KerasOptimizer,
    *,
    loss: str | Callable[..., KerasTensor] = "categorical_crossentropy",
    lowest: float = _LOWEST,
    highest: float = _HIGHEST,
    steps: int = _STEPS,
    progress: Progress = no_progress,
) -> LrSweep:
    """Sweeps the learning rate upwards until the loss explodes, restores the weights, and suggests a rate.

    Args:
        model: A Keras model that ends in probabilities; compiled here. Its weights and the states of its random
            generators are afterwards what they were.
        batches: Training batches, gone through again where there are fewer than steps.
        optimizer: A new Keras optimizer whose learning rate is a number, not a schedule; used up here.
        loss: As Keras takes it, to fit the targets of the batches.
        lowest: The first learning rate.
        highest: The last one.
        steps: Batches between them.
        progress: Called with the step; its text has rate and loss.

    Returns:
        The losses, and the suggestion: where, with half of its fall behind it, the smoothed loss falls most steeply over
        the logarithm of the learning rate, and never more than a third of the one with the lowest loss.

    Raises:
        InputError: There are no batches, the loss is no number from the beginning, or it never falls.
    """
    before = [(variable, np.asarray(variable).copy()) for variable in model.variables]
    # jit_compile is off because XLA makes these networks several times slower on CPUs.
    model.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    rates = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    source = _again_and_again(batches)
    try:
        for step, rate in enumerate(rates.tolist(), start=1):
            optimizer.learning_rate = rate
            # The metric is a running mean over the steps since it was reset.
            model.reset_metrics()
            value = float(model.train_on_batch(*next(source), return_dict=True)["loss"])
            if not math.isfinite(value):
                break
            losses.append(value)
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
            smoothed.append(mean / (1 - _SMOOTHING**step))
            progress(f"find-lr: learning rate {rate:.1e}, loss {value:.3f}", step, steps)
            if smoothed[-1] > _EXPLODED * min(smoothed):
                break
    finally:
        for variable, values in before:
            variable.assign(values)
    used = rates[: len(losses)]
    idle = max(_LEAST_IDLE, round(_IDLE_SHARE * steps))
    return LrSweep(
        used, np.array(losses), np.array(smoothed), _suggest(used, np.array(losses), np.array(smoothed), idle)
    )


def _suggest(rates: Float64Array, losses: Float64Array, smoothed: Float64Array, idle: int) -> float:
    """The learning rate to train with, from a sweep whose first `idle` steps changed nothing.

    The mean of the first few losses is one of chance, and so are its steepest slopes: they are looked for only where
    the loss has come below the middle of its fall for good.
    """
    if len(losses) <= idle:
        raise _no_rate(f"a loss that explodes or is no number after {len(losses)} steps")
    start, noise = float(losses[:idle].mean()), float(losses[:idle].std(ddof=1))
    lowest = int(np.argmin(smoothed))
    fall = start - float(smoothed[lowest])
    if lowest < idle or fall < max(_LEAST_FALL * start, noise):
        raise _no_rate(
            f"a loss of {start:.3f} at first and {smoothed[lowest]:.3f} at its lowest, which varies by {noise:.3f} "
            "from batch to batch"
        )
    above = np.flatnonzero(smoothed[:lowest] > start - fall / 2)
    steps = np.arange(above[-1] if len(above) else 0, lowest + 1)
    left, right = np.maximum(steps - _SLOPE_STEPS, 0), np.minimum(steps + _SLOPE_STEPS, lowest)
    slopes = (smoothed[right] - smoothed[left]) / np.log(rates[right] / rates[left])
    return float(min(rates[steps[int(np.argmin(slopes))]], rates[lowest] / 3))


def _no_rate(got: str) -> InputError:
    return InputError(
        "the sweep finds no learning rate",
        got=got,
        expected="a loss that falls clearly before it rises",
        hint="look at the images and their labels, pass a larger --batch-size, or choose a --learning-rate by hand",
    )


def _again_and_again(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise InputError("there is nothing to sweep over", got="no batches", expected="at least one")
