"""A tried recipe with its figures, and the order of preference among several."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeclf.export.int8.calibrator import Quantized
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.verify.parity import ParityFacts
from edgeclf.export.verify.verdict import OUTCOMES, Verdict


@dataclass(frozen=True, eq=False)
class Trial:
    """One recipe, carried out and compared with the reference.

    Attributes:
        name: What sets the recipe apart, for tables.
        recipe: The recipe that calibrated the network; layers that were put back into float later are in `quantized.recipe`.
        quantized: The int8 model.
        parity: Its comparisons with the reference, one for each split that decides; the first is the one that counts.
        verdict: Whether it keeps the limits.
        seconds: Duration of quantization and comparison when they were made, also where an earlier export did that.
    """

    name: str
    recipe: QuantizationRecipe
    quantized: Quantized
    parity: tuple[ParityFacts, ...]
    verdict: Verdict
    seconds: float

    @property
    def failures(self) -> tuple[str, ...]:
        """The limits that it misses, a phrase each."""
        return self.verdict.failures


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Sorts trials by preference.

    Trials that passed come first, then the undecided ones, then those that failed; of the first two kinds, those that are
    portable, and among them the ones with the fewest layers in float. Among equals, and among those that fail, agreement
    decides where it differs by more than chance - a handful of images on the border between two classes falls one way or the
    other - and where it does not, the mean error of the probabilities, to which every image contributes.
    """
    remaining = list(trials)
    ordered: list[Trial] = []
    while remaining:
        group = [trial for trial in remaining if _class_of(trial) == min(map(_class_of, remaining))]
        fewest = min(map(_disagreements, group))
        # The standard deviation of a count of rare events is its root.
        alike = [trial for trial in group if _disagreements(trial) <= fewest + 2 * math.sqrt(fewest + 1)]
        best = min(alike, key=lambda trial: (trial.parity[0].mean_error, _disagreements(trial)))
        ordered.append(best)
        remaining.remove(best)
    return ordered


def _class_of(trial: Trial) -> tuple[int, bool, int]:
    outcome = OUTCOMES.index(trial.verdict.outcome)
    if trial.failures:
        return outcome, False, 0
    record = trial.quantized.recipe
    return outcome, not record["portable"], len(record["keep_float"])


def _disagreements(trial: Trial) -> int:
    return trial.parity[0].flips
