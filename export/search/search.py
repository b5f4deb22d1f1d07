"""The search for an int8 recipe, by trial on held-out images.

Where no recipe passes, `escalate` says what comes next. Nothing here knows what makes a recipe good; the search tries some
and reports what it measured.
"""

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
from edgeclf.export.search.sensitivity import rank_layers
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
        budget_s: Seconds after which no further trial begins; one recipe is always tried.
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
    begun = time.perf_counter()
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
        if trials and time.perf_counter() - begun + trials[0].seconds > budget_s:
            break
        if trials and effort == "quick" and not trials[-1].failures:
            break
        progress(f"recipe {number + 1} of {len(recipes)}: {name}", number, len(recipes))
        trials.append(runner.run(name, recipe, lambda recipe=recipe: networks.of(recipe).write()))  # type: ignore[misc]  # the default binds the loop's value
        networks.keep_only(best_first(trials)[0].recipe)
    best = best_first(trials)[0]
    # A network trained in 8 bits is compared with 8-bit arithmetic; layers in float would lead away from it.
    if best.failures and not best.recipe.trained_ranges and time.perf_counter() - begun < budget_s:
        layers = _sensitive_layers(best.recipe, networks, runner, calibration_rgb[:_RANKING_IMAGES], progress)
        networks.keep_only(None)
        steps = list(escalate(best.recipe, layers, allowed or Allowed()))
        for number, (name, recipe) in enumerate(steps):
            if time.perf_counter() - begun > budget_s:
                break
            progress(f"none passed; {number + 1} of {len(steps)}: {name}", number, len(steps))
            write = partial(_calibrate, calibrator, recipe)
            trials.append(runner.run(f"{best.name}, {name}", recipe, write))
            if not trials[-1].failures:
                break
    return best_first(trials)


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
        started = time.perf_counter()

        def measure() -> tuple[Quantized, tuple[ParityFacts, ...]]:
            quantized = quantize()
            return quantized, self.judge(quantized)

        quantized, parity = measure() if self.cache is None else self.cache.trial(self.fitted_to, recipe, measure)
        verdict = judge_parity(parity[0], self.limits)
        return Trial(name, recipe, quantized, parity, verdict, time.perf_counter() - started)

    def names(self, kind: str, recipe: QuantizationRecipe, find: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """Some names that `find` gives, such as those of layers."""
        return tuple(find()) if self.cache is None else self.cache.names(kind, recipe, find)


def _sensitive_layers(
    recipe: QuantizationRecipe,
    networks: _Networks,
    runner: _TrialRunner,
    images_rgb: UInt8Array,
    progress: Progress,
) -> SensitiveLayers:
    """The layers under the best recipe in the order of their sensitivity."""
    ranked = runner.names(
        f"ranking, {runner.fitted_to}",
        recipe,
        lambda: [name for name, _ in rank_layers(networks.of(recipe), images_rgb, progress)],
    )
    calibrator = networks.calibrator
    prefixes = tuple(longer_float_prefixes(calibrator.layers(recipe)))
    return SensitiveLayers(ranked, calibrator.convolutions, prefixes)
