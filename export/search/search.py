"""Which int8 recipe to ship: candidates measured on held-out images, the sensitive layers put back into float where needed.

Nothing here knows what a good recipe is; it only tries some and keeps what was measured.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.int8.calibrator import SEQUENTIAL_IMAGES, Calibrator
from edgeclf.export.int8.float_prefix import Stopwatch
from edgeclf.export.int8.network import Quantized, QuantizedNetwork
from edgeclf.export.int8.qat_ranges import TrainedRanges
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.search.trial_cache import Trials
from edgeclf.export.verify.parity import ParityFacts, ParityLimits, parity_failures
from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.opening import open_session_from_bytes

Effort: TypeAlias = Literal["quick", "normal", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
# Images that the quick effort fits rounding and biases to.
_QUICK_SEQUENTIAL_IMAGES = 64
# Images that layers are ranked on.
_RANKING_IMAGES = 48
# Layers put back into float at most, as a share of all: a network that needs more is a float network.
_MOST_IN_FLOAT = 0.34

Judge: TypeAlias = Callable[[Quantized], tuple[ParityFacts, ...]]


@dataclass(frozen=True, eq=False)
class Trial:
    """A recipe that was tried.

    Attributes:
        name: What sets it apart, for tables.
        quantized: The model it gave.
        parity: Its comparisons with the reference; the first decides.
        failures: What it misses of its limits.
        seconds: What making and judging it took.
    """

    name: str
    quantized: Quantized
    parity: tuple[ParityFacts, ...]
    failures: tuple[str, ...]
    seconds: float


def candidate_recipes(
    effort: Effort, base: QuantizationRecipe, *, trained: bool = False
) -> list[tuple[str, QuantizationRecipe]]:
    """The recipes that an effort tries, the most promising first.

    Args:
        effort: `quick` takes two, of which `search` leaves the second out where the first will do, `normal` four, `max`
            eight; `search` leaves out those that equalize where there is nothing to.
        base: What is common to all of them: the pair constraint, layers kept in float.
        trained: Whether the network was trained with ranges of its own; another recipe then comes before the others.
    """
    variants: list[tuple[str, dict[str, Any]]] = []
    if trained:
        # Weights are on their grid and biases have been fitted with it already.
        variants = [("as trained", {"trained_ranges": True, "learn_rounding": False, "correct_bias": False})]
    variants += [
        ("learned rounding", {}),
        ("learned rounding, equalized", {"equalize": True}),
    ]
    if effort != "quick":
        variants += [
            ("learned rounding, ranges by extremes", {"ranges": "extremes"}),
            ("nearest rounding", {"learn_rounding": False}),
        ]
    if effort == "max":
        variants += [
            ("learned rounding, ranges by extremes, equalized", {"ranges": "extremes", "equalize": True}),
            ("nearest rounding, equalized", {"learn_rounding": False, "equalize": True}),
            ("nearest rounding, ranges by extremes", {"learn_rounding": False, "ranges": "extremes"}),
            ("learned rounding, biases as trained", {"correct_bias": False}),
        ]
    return [(name, replace(base, **changes)) for name, changes in variants]


def search(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    judge: Judge,
    *,
    limits: ParityLimits,
    effort: Effort,
    base: QuantizationRecipe,
    budget_s: float,
    progress: Progress,
    stopwatch: Stopwatch | None = None,
    kept: Trials | None = None,
    trained: TrainedRanges | None = None,
) -> list[Trial]:
    """Tries recipes, and puts layers of the best one back into float where none meets the limits.

    Args:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB calibration images.
        judge: Compares a model with the reference on held-out images; the first comparison decides.
        limits: What a model must keep.
        effort: How many recipes.
        base: What is common to all of them.
        budget_s: Seconds after which nothing new is begun; one recipe is always tried.
        progress: Told of each.
        stopwatch: Times models side by side, to find the first layers that are no slower in float; None leaves none of
            them in float. Nor are they where ranges were trained: what was trained is a network all in 8 bits.
        kept: Trials of the same network and images from earlier; what is tried is added. None keeps nothing.
        trained: Ranges that quantization-aware training has learned; None where there was none.

    Returns:
        What was tried, the best first, see `best_first`.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    begun = time.perf_counter()
    trials: list[tuple[Trial, QuantizationRecipe]] = []
    few = _QUICK_SEQUENTIAL_IMAGES if effort == "quick" else SEQUENTIAL_IMAGES
    calibrator = Calibrator(model, calibration_rgb, progress, sequential_images=few, trained=trained)
    kept = kept or Trials(None)
    if stopwatch is not None and trained is None:
        progress("time the first layers", 0, 1)
        found_entrance = kept.texts("entrance", base, lambda: calibrator.find_entrance(base, stopwatch))
        base = replace(base, float_entrance=found_entrance)
        progress("time the first layers", 1, 1)
    # From a network that is calibrated, files with other layers in float are written at once.
    network_of = functools.cache(calibrator.network)
    workshop = _Workshop(judge, limits, kept, f"fitted to {few}")
    recipes = candidate_recipes(effort, base, trained=trained is not None)
    # Without uneven channels these would come out as the recipes without; an earlier export may have seen to that.
    if not kept.texts("uneven channels", base, lambda: _uneven(calibrator)):
        recipes = [(name, recipe) for name, recipe in recipes if not recipe.equalize]
    for number, (name, recipe) in enumerate(recipes):
        if trials and time.perf_counter() - begun + trials[0][0].seconds > budget_s:
            break
        if trials and effort == "quick" and not trials[-1][0].failures:
            break
        progress(f"recipe {number + 1} of {len(recipes)}: {name}", number, len(recipes))
        trials.append((workshop.trial(name, recipe, lambda recipe=recipe: network_of(recipe).write()), recipe))  # type: ignore[misc]
    found = best_first([trial for trial, _ in trials])
    best = found[0]
    recipe = next(recipe for trial, recipe in trials if trial is best)
    # What was trained in 8 bits is compared with 8-bit arithmetic, and layers in float would lead away from it.
    if best.failures and not recipe.trained_ranges:
        left = budget_s - (time.perf_counter() - begun)
        found += _fall_back(
            best,
            recipe,
            lambda: network_of(recipe),
            workshop,
            images_rgb=calibration_rgb[:_RANKING_IMAGES],
            budget_s=left,
            progress=progress,
        )
    return best_first(found)


def _uneven(calibrator: Calibrator) -> list[str]:
    return ["uneven"] if calibrator.evens_channels else []


@dataclass(frozen=True)
class _Workshop:
    """What every trial needs.

    Attributes:
        judge: See `search`.
        limits: See `search`.
        kept: See `search`.
        images: What the recipes were fitted to, in words.
    """

    judge: Judge
    limits: ParityLimits
    kept: Trials
    images: str

    def trial(self, name: str, recipe: QuantizationRecipe, quantize: Callable[[], Quantized]) -> Trial:
        """One trial, made and judged, or as it was kept."""
        started = time.perf_counter()

        def try_it() -> tuple[Quantized, tuple[ParityFacts, ...]]:
            quantized = quantize()
            return quantized, self.judge(quantized)

        quantized, parity = self.kept.judged(f"{name}, {self.images}", recipe, try_it)
        failures = tuple(parity_failures(parity[0], self.limits))
        return Trial(name, quantized, parity, failures, time.perf_counter() - started)


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Trials in the order of preference.

    Those within the limits come first, and of these the ones with the fewest layers in float. Among them, and among those
    that fail, agreement decides where it differs by more than chance - a handful of images on the border between two
    classes falls one way or the other - and the mean error of the probabilities, which counts every image, where not.
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


def _class_of(trial: Trial) -> tuple[bool, int]:
    return bool(trial.failures), 0 if trial.failures else len(trial.quantized.recipe["keep_float"])


def _disagreements(trial: Trial) -> int:
    return round((1 - trial.parity[0].agreement) * trial.parity[0].images)


def _fall_back(
    best: Trial,
    recipe: QuantizationRecipe,
    network: Callable[[], QuantizedNetwork],
    workshop: _Workshop,
    *,
    images_rgb: UInt8Array,
    budget_s: float,
    progress: Progress,
) -> list[Trial]:
    """Puts the most harmful layers back into float, 1, 2, 4, ... at a time, until the limits hold."""
    if budget_s <= 0:
        return []
    begun = time.perf_counter()
    ranked = workshop.kept.texts(
        f"ranking, {workshop.images}",
        recipe,
        lambda: [name for name, _ in rank_layers(network(), images_rgb, progress)],
    )
    trials: list[Trial] = []
    count = 1
    while count <= max(1, int(_MOST_IN_FLOAT * len(ranked))) and time.perf_counter() - begun < budget_s:
        progress(f"{count} layers in float", count, len(ranked))
        in_float = ranked[:count]
        trials.append(
            workshop.trial(
                f"{best.name}, {count} in float",
                recipe,
                lambda in_float=in_float: network().write(in_float),  # type: ignore[misc]
            )
        )
        if not trials[-1].failures:
            break
        count *= 2
    return trials


def rank_layers(network: QuantizedNetwork, images_rgb: UInt8Array, progress: Progress) -> list[tuple[str, float]]:
    """The layers by the harm that their quantization does, the worst first.

    Args:
        network: The network, calibrated.
        images_rgb: (N, H, W, 3) uint8 RGB images; those of the calibration will do.
        progress: Told how many layers have been tried.

    Returns:
        Name and harm: by how much the mean squared error of the logarithms of the probabilities falls when this layer
        alone is kept in float; negative where its error happens to undo others'.
    """
    whole = network.write()
    reference = _log_probabilities(network.graph.model, images_rgb)
    error = _squared_error(reference, whole.model, images_rgb)
    harms = []
    for number, name in enumerate(whole.layers):
        harms.append((name, error - _squared_error(reference, network.write([name]).model, images_rgb)))
        progress("rank layers", number + 1, len(whole.layers))
    return sorted(harms, key=lambda item: -item[1])


def _squared_error(reference: Float64Array, model: onnx.ModelProto, images_rgb: UInt8Array) -> float:
    return float(np.square(_log_probabilities(model, images_rgb) - reference).mean())


def _log_probabilities(model: onnx.ModelProto, images_rgb: UInt8Array) -> Float64Array:
    """(N, C) float64 logarithms of the probabilities, less their mean: the logits up to what a softmax ignores."""
    session = open_session_from_bytes(model.SerializeToString(), "cpu", threads=1)
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: images_rgb[i : i + 1]})[0] for i in range(len(images_rgb))]
    logs = np.log(np.maximum(np.concatenate(rows).astype(np.float64), 1e-12))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
