"""The search for an int8 recipe, by trial on held-out images.

Where no recipe passes, `escalate` says what comes next. Nothing here knows what makes a recipe good; the search tries some
and reports what it measured.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from edgeclf.export._onnx import onnx
from edgeclf.export.int8.calibrator import SEQUENTIAL_IMAGES, Calibrator, Quantized, QuantizedNetwork
from edgeclf.export.int8.float_prefix import MeasureLatency, longer_float_prefixes
from edgeclf.export.int8.qat_ranges import TrainedScales
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search.escalation import Allowed, SensitiveLayers, escalate
from edgeclf.export.search.recipes import Effort, candidate_recipes
from edgeclf.export.search.sensitivity import RankingStoppedError, rank_layers
from edgeclf.export.search.trial_cache import TrialCache
from edgeclf.export.search.trials import Trial, best_first
from edgeclf.export.verify.parity import ParityFacts
from edgeclf.export.verify.verdict import Limits, judge_parity
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.progress import Progress

# Images that the quick effort fits rounding and biases to.
_QUICK_SEQUENTIAL_IMAGES = 64
# Images that layers are ranked on.
_RANKING_IMAGES = 48

Judge: TypeAlias = Callable[[Quantized], tuple[ParityFacts, ...]]


def search(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    judge: Judge,
    *,
    limits: Limits,
    effort: Effort,
    base: QuantizationRecipe,
    budget_s: float,
    progress: Progress,
    allowed: Allowed | None = None,
    measure_latency: MeasureLatency | None = None,
    first_in_float: int | None = None,
    cache: TrialCache | None = None,
    trained: TrainedScales | None = None,
) -> list[Trial]:
    """Tries recipes, and where all fail goes on from the best one as `escalate` says, until one does not fail.

    Args:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB calibration images.
        judge: Compares an int8 model with the reference on held-out images; the first comparison decides.
        limits: What an int8 model must keep.
        effort: How many recipes, see `candidate_recipes`.
        base: The fields that all recipes share.
        budget_s: Seconds, beyond which no further trial is to go on: none begins that would end later if it took as long as the
            longest so far. One recipe is always tried, and trials in the cache take no longer than reading them.
        progress: Called at each trial.
        allowed: What may be tried where no recipe passes; None for all that the base recipe's target has.
        measure_latency: Times models in turns, to choose the float prefix. None chooses none; nor is one chosen where ranges
            were trained, because that training was of a network all in 8 bits.
        first_in_float: How many of the first layers stay in float, whatever that costs; None leaves it to `measure_latency`.
        cache: Trials of earlier exports of the same network and images; new ones are added. None stores nothing.
        trained: Scales from quantization-aware training; None where there was none.

    Returns:
        The trials, the best first, see `best_first`.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    budget = _Budget(budget_s, time.perf_counter())
    sequential_images = _QUICK_SEQUENTIAL_IMAGES if effort == "quick" else SEQUENTIAL_IMAGES
    calibrator = Calibrator(model, calibration_rgb, progress, sequential_images=sequential_images, trained=trained)
    runner = _TrialRunner(judge, limits, cache, f"fitted to {sequential_images}")
    if trained is not None:
        measure_latency = None
    progress("choose the first layers", 0, 1)
    base = _with_float_prefix(base, calibrator, measure_latency, first_in_float)
    progress("choose the first layers", 1, 1)
    recipes = candidate_recipes(effort, base, trained=trained is not None)
    # With even channels an equalized recipe gives the same model as the recipe without.
    if not runner.names("uneven channels", base, lambda: ["uneven"] if calibrator.has_uneven_channels else []):
        recipes = [(name, recipe) for name, recipe in recipes if not recipe.equalize]
    networks = _Networks(calibrator)
    trials: list[Trial] = []
    for number, (name, recipe) in enumerate(recipes):
        if trials and not (runner.is_cached(recipe) or budget.has_time_for_one_more(trials)):
            break
        if trials and effort == "quick" and not trials[-1].failures:
            break
        progress(f"recipe {number + 1} of {len(recipes)}: {name}", number, len(recipes))
        trials.append(runner.run(name, recipe, lambda recipe=recipe: networks.of(recipe).write()))  # type: ignore[misc]  # the default binds the loop's value
        networks.keep_only(best_first(trials)[0].recipe)
    best = best_first(trials)[0]
    # A network trained in 8 bits is compared with 8-bit arithmetic; layers in float would lead away from it.
    if best.failures and not best.recipe.trained_ranges and not budget.is_over():
        images_rgb = calibration_rgb[:_RANKING_IMAGES]
        with contextlib.suppress(RankingStoppedError):
            layers = _sensitive_layers(best.recipe, networks, runner, images_rgb, progress, is_over=budget.is_over)
            networks.keep_only(None)
            steps = list(escalate(best.recipe, layers, allowed or Allowed()))
            write = partial(_calibrate, calibrator)
            trials += _try_steps(steps, trials, runner, write=write, budget=budget, progress=progress)
    return best_first(trials)


@dataclass
class _Budget:
    """The time that a search has.

    Attributes:
        seconds: How much.
        begun: When it began, by `time.perf_counter`.
    """

    seconds: float
    begun: float

    def is_over(self) -> bool:
        """Whether it is spent."""
        return time.perf_counter() - self.begun > self.seconds

    def has_time_for_one_more(self, trials: Sequence[Trial]) -> bool:
        """Whether another trial ends in time that takes as long as the longest one took."""
        return time.perf_counter() - self.begun + max(trial.seconds for trial in trials) <= self.seconds


def _try_steps(
    steps: Sequence[tuple[str, QuantizationRecipe]],
    earlier: Sequence[Trial],
    runner: "_TrialRunner",
    *,
    write: Callable[[QuantizationRecipe], Quantized],
    budget: _Budget,
    progress: Progress,
) -> list[Trial]:
    """Tries the steps after the best of the earlier trials in their order, until one does not fail or the time is over."""
    best = best_first(earlier)[0]
    trials: list[Trial] = []
    for number, (name, recipe) in enumerate(steps):
        if not (runner.is_cached(recipe) or budget.has_time_for_one_more([*earlier, *trials])):
            break
        progress(f"none passed; {number + 1} of {len(steps)}: {name}", number, len(steps))
        trials.append(runner.run(f"{best.name}, {name}", recipe, partial(write, recipe)))
        if not trials[-1].failures:
            break
    return trials


def _with_float_prefix(
    base: QuantizationRecipe,
    calibrator: Calibrator,
    measure_latency: MeasureLatency | None,
    first_in_float: int | None,
) -> QuantizationRecipe:
    if first_in_float is not None:
        return replace(base, float_prefix=tuple(calibrator.layers(base)[:first_in_float]))
    if measure_latency is None:
        return base
    # Never from the cache: what was faster when an earlier export ran says nothing of this machine now.
    return replace(base, float_prefix=calibrator.find_float_prefix(base, measure_latency))


def _calibrate(calibrator: Calibrator, recipe: QuantizationRecipe) -> Quantized:
    return calibrator.network(recipe).write()


class _Networks:
    """Calibrated networks by recipe: that of the best one is kept, in which layers are ranked."""

    def __init__(self, calibrator: Calibrator) -> None:
        self.calibrator = calibrator
        self._by_recipe: dict[QuantizationRecipe, QuantizedNetwork] = {}

    def of(self, recipe: QuantizationRecipe) -> QuantizedNetwork:
        """The network of a recipe, calibrated now where it is not held."""
        if recipe not in self._by_recipe:
            self._by_recipe[recipe] = self.calibrator.network(recipe)
        return self._by_recipe[recipe]

    def keep_only(self, recipe: QuantizationRecipe | None) -> None:
        """Drops the networks of other recipes: each holds all weights twice."""
        self._by_recipe = {known: network for known, network in self._by_recipe.items() if known == recipe}


@dataclass(frozen=True)
class _TrialRunner:
    """Runs trials, or takes them from the cache.

    Attributes:
        judge: See `search`.
        limits: See `search`.
        cache: See `search`.
        fitted_to: The images that rounding and biases are fitted to, in words: part of a trial's key in the cache.
    """

    judge: Judge
    limits: Limits
    cache: TrialCache | None
    fitted_to: str

    def run(self, name: str, recipe: QuantizationRecipe, quantize: Callable[[], Quantized]) -> Trial:
        """Runs one trial."""

        def measure() -> tuple[Quantized, tuple[ParityFacts, ...], float]:
            started = time.perf_counter()
            quantized = quantize()
            parity = self.judge(quantized)
            return quantized, parity, time.perf_counter() - started

        made = measure() if self.cache is None else self.cache.trial(self.fitted_to, recipe, measure)
        quantized, parity, seconds = made
        return Trial(name, recipe, quantized, parity, judge_parity(parity[0], self.limits), seconds)

    def is_cached(self, recipe: QuantizationRecipe) -> bool:
        """Whether a trial is read rather than made."""
        return self.cache is not None and self.cache.has_trial(self.fitted_to, recipe)

    def names(self, kind: str, recipe: QuantizationRecipe, find: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """Some names that `find` gives, such as those of layers."""
        return tuple(find()) if self.cache is None else self.cache.names(kind, recipe, find)


def _sensitive_layers(
    recipe: QuantizationRecipe,
    networks: _Networks,
    runner: _TrialRunner,
    images_rgb: UInt8Array,
    progress: Progress,
    *,
    is_over: Callable[[], bool],
) -> SensitiveLayers:
    """The layers under the best recipe in the order of their sensitivity; raises RankingStoppedError where the time is over."""
    ranked = runner.names(
        f"ranking, {runner.fitted_to}",
        recipe,
        lambda: [name for name, _ in rank_layers(networks.of(recipe), images_rgb, progress, is_over=is_over)],
    )
    calibrator = networks.calibrator
    prefixes = tuple(longer_float_prefixes(calibrator.layers(recipe)))
    return SensitiveLayers(ranked, calibrator.convolutions, prefixes)
