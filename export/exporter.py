"""A trained Keras classifier becomes one verified `.onnx` file, or nothing is written."""

import importlib.metadata
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.fp16 import convert_fp16
from edgeclf.export.graph.contract import attach_spec, check_contract
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.qat_ranges import trained_ranges
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.keras_backend import KerasClassifier
from edgeclf.export.search.recipes import Effort
from edgeclf.export.search.search import search
from edgeclf.export.search.trial_cache import TrialCache, TrialKey
from edgeclf.export.search.trials import Trial
from edgeclf.export.verify.gate import Gate, HeldOutImages, probabilities_of
from edgeclf.export.verify.parity import FP32_LIMITS, ParityFacts, ParityLimits
from edgeclf.export.verify.recommend import Candidate, Recommendation, recommend
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import GateError, InputError, UsageError
from edgeclf.runtime.files import replacing
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec
from edgeclf.runtime.timing.comparison import LatencyFigures, compare_models

# Images by which values of the Keras network are found in its ONNX form.
_COMPARED_IMAGES = 2

Precision = Literal["fp32", "int8", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ExportReport:
    """What an export measured and did.

    Attributes:
        out: The file asked for.
        written: Whether it was written.
        precision: Precision asked for.
        candidates: The measured precisions, fp32 first.
        recommendation: Which one to ship from this machine's point of view.
        recipes: The int8 recipes that were tried, the best first; their comparisons are with the deciding images alone.
        reused_recipes: How many of these an earlier export had tried already.
        trained_in_8_bits: Whether int8 files were compared with the network in the 8-bit arithmetic it was trained in.
    """

    out: Path
    written: bool
    precision: str
    candidates: tuple[Candidate, ...]
    recommendation: Recommendation
    recipes: tuple[Candidate, ...] = ()
    reused_recipes: int = 0
    trained_in_8_bits: bool = False


class ParityGateError(GateError):
    """The exported model is not close enough to the trained one; nothing was written.

    Attributes:
        report: The figures, to be shown beside the sentence.
    """

    def __init__(self, report: ExportReport, failures: Sequence[str]) -> None:
        super().__init__(
            f"the {report.precision} model does not match the trained one, {report.out} was not written",
            got="; ".join(failures),
            do="run edgeclf export with --precision fp32, or other limits if you can accept these figures"
            if report.precision != "fp32"
            else "report this together with the network's architecture",
        )
        self.report = report


def export_classifier(
    model: Any,  # noqa: ANN401 - keras carries no types
    spec: ModelSpec,
    out: Path,
    *,
    precision: str,
    held_out: Sequence[HeldOutImages],
    calibration_rgb: UInt8Array,
    int8_limits: ParityLimits,
    effort: Effort = "normal",
    recipe: QuantizationRecipe | None = None,
    float_entrance: bool = False,
    budget_s: float = math.inf,
    kept_folder: CacheFolder | None = None,
    simulated: Any = None,  # noqa: ANN401
    progress: Progress = no_progress,
) -> ExportReport:
    """Converts, quantizes if asked, verifies against the Keras model, times, and writes one file.

    Args:
        model: The trained Keras model, uint8 (None, H, W, 3) RGB in, probabilities out.
        spec: Its spec.
        out: The file to write.
        precision: `fp32`, `int8`, or `fp16` for GPUs.
        held_out: The images of the parity gate; at least one part that decides.
        calibration_rgb: (N, H, W, 3) uint8 RGB training images for int8 activation ranges; unused for fp32.
        int8_limits: What an int8 or fp16 model must keep.
        effort: How many int8 recipes are tried, see `candidate_recipes`.
        recipe: What is common to all of them; None takes the default. Of it, fp16 has the layers kept in float.
        float_entrance: Whether the first layers stay in float as far as that is no slower here. For a recipe for this
            machine's CPU: float sums differ in their last bits between kinds of CPUs, and what is rounded after them
            with them.
        budget_s: Seconds after which no other recipe is begun.
        kept_folder: Where tried recipes are kept for the next export of the same network; None keeps none.
        simulated: The same network as a Keras model in the 8-bit arithmetic it was trained in, which an int8 file is then
            compared with; None where it was trained in float.
        progress: Told of each stage.

    Returns:
        The figures, after `out` was written.

    Raises:
        ParityGateError: The model to write misses its limits; `out` is not touched.
        InputError: The network cannot be converted, or there is nothing to compare on.
        UsageError: There is no such precision.
        OutputError: `out` cannot be written.
        MissingPackageError: A package of the extras [train] or [export] is not installed.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", expected=", ".join(PRECISIONS), do="choose one of them")
    if not any(part.decides and len(part.images_rgb) for part in held_out):
        raise InputError("cannot verify the export", got="no validation images", expected="at least one")
    parts = [part for part in held_out if len(part.images_rgb)]
    references = _references(model, spec, parts, progress)
    in_8_bits = precision == "int8" and simulated is not None
    int8_references = _references(simulated, spec, parts, progress) if in_8_bits else None
    report = partial(_report, out, precision, trained_in_8_bits=in_8_bits)
    progress("convert", 0, 1)
    fp32 = onnx_from_keras(model)
    progress("convert", 1, 1)
    with tempfile.TemporaryDirectory(prefix="edgeclf-export-") as folder_name:
        gate = Gate(parts, references, Path(folder_name), progress, int8_references=int8_references)
        protos = {"fp32": fp32}
        candidates = [gate.judge("fp32", fp32, spec, FP32_LIMITS)]
        specs = {"fp32": spec.with_changes(precision="fp32", quantization=None)}
        recipes: list[Candidate] = []
        trials: list[Trial] = []
        reused = 0
        if precision == "int8" and not candidates[0].failures:
            ranges = (spec.training or {}).get("ranges_8bit") or {}
            cache = None
            if kept_folder is not None:
                cache = TrialCache(kept_folder, TrialKey(fp32, calibration_rgb, gate.digest(), ranges))
            trials = search(
                fp32,
                calibration_rgb,
                lambda quantized: gate.try_recipe(quantized, spec),
                limits=int8_limits,
                effort=effort,
                base=recipe or QuantizationRecipe(),
                budget_s=budget_s,
                progress=progress,
                stopwatch=partial(gate.latencies, spec=spec) if float_entrance else None,
                cache=cache,
                trained=trained_ranges(model, ranges, calibration_rgb[:_COMPARED_IMAGES]) if ranges else None,
            )
            reused = 0 if cache is None else cache.reused
            recipes = [_as_candidate(trial) for trial in trials]
            best = trials[0].quantized
            protos["int8"] = best.model
            specs["int8"] = spec.with_changes(precision="int8", quantization=best.recipe)
            candidates.append(gate.judge("int8", best.model, specs["int8"], int8_limits, trials[0].parity))
        if precision == "fp16" and not candidates[0].failures:
            half = convert_fp16(fp32, () if recipe is None else recipe.keep_float)
            protos["fp16"] = half.model
            specs["fp16"] = spec.with_changes(precision="fp16", quantization=half.record)
            candidates.append(gate.judge("fp16", half.model, specs["fp16"], int8_limits))
        chosen = candidates[-1]
        if chosen.failures:
            raise ParityGateError(report(candidates, recipes, written=False, reused=reused), chosen.failures)
        candidates = _timed(candidates, gate, progress)
        chosen = candidates[-1]
        if recipes:
            recipes = _with_latency(recipes, trials, chosen=chosen, spec=spec, gate=gate, progress=progress)
        limits = FP32_LIMITS if precision == "fp32" else int8_limits
        final = specs[precision].with_changes(
            parity=_parity_record(chosen.parity, limits, in_8_bits=in_8_bits),
            latency=_latency_record(candidates),
            package_versions={**spec.package_versions, **_versions("tf2onnx", "onnx", "onnxruntime")},
        )
        _write(protos[precision], final, out, parts[0].images_rgb[:8], gate.first_rows[precision])
    return report(candidates, recipes, written=True, reused=reused)


def _references(
    model: Any,  # noqa: ANN401
    spec: ModelSpec,
    parts: Sequence[HeldOutImages],
    progress: Progress,
) -> list[FloatArray]:
    keras_model = KerasClassifier(model, spec)
    return [probabilities_of(keras_model, part.images_rgb, f"keras on {part.part}", progress) for part in parts]


def _timed(candidates: Sequence[Candidate], gate: Gate, progress: Progress) -> list[Candidate]:
    # One thread each: several many-thread pools in one process spin against each other and time nothing but that.
    sessions = {c.precision: ModelSession(gate.path_of(c.precision), device="cpu", threads=1) for c in candidates}
    progress("time", 0, 1)
    compared = compare_models(sessions, duration_s=0)
    progress("time", 1, 1)
    return [replace(one, latency=model.latency) for one, model in zip(candidates, compared, strict=True)]


def _write(
    model: onnx.ModelProto,
    spec: ModelSpec,
    out: Path,
    images_rgb: UInt8Array,
    expected: FloatArray,
) -> None:
    attach_spec(model, spec)
    check_contract(model, spec)
    with replacing(out) as temporary:
        temporary.write_bytes(model.SerializeToString())
        # What was judged had another spec inside; what is shipped must be read back, run, and give the same numbers.
        session = ModelSession(temporary, device="cpu")
        if session.spec.to_json() != spec.to_json() or not np.array_equal(session.run(np.array(images_rgb)), expected):
            raise RuntimeError(f"{temporary} does not give back what was judged")


def _report(
    out: Path,
    precision: str,
    candidates: Sequence[Candidate],
    recipes: Sequence[Candidate],
    *,
    written: bool,
    reused: int,
    trained_in_8_bits: bool,
) -> ExportReport:
    chosen = recommend(candidates)
    return ExportReport(out, written, precision, tuple(candidates), chosen, tuple(recipes), reused, trained_in_8_bits)


def _as_candidate(trial: Trial) -> Candidate:
    return Candidate(trial.name, len(trial.quantized.model.SerializeToString()), trial.parity, trial.failures)


def _with_latency(
    recipes: Sequence[Candidate],
    trials: Sequence[Trial],
    *,
    chosen: Candidate,
    spec: ModelSpec,
    gate: Gate,
    progress: Progress,
) -> list[Candidate]:
    """The recipes with their latencies: those with the same layers in float run the same operators in the same time."""
    known = {_kept_float(trials[0]): chosen.latency}
    timed: list[Candidate] = []
    for candidate, trial in zip(recipes, trials, strict=True):
        kept = _kept_float(trial)
        if kept not in known:
            progress("time", len(timed), len(recipes))
            sessions = {
                "fp32": ModelSession(gate.path_of("fp32"), device="cpu", threads=1),
                "int8": gate.open("trial", trial.quantized.model, spec, threads=1),
            }
            known[kept] = compare_models(sessions, duration_s=0)[1].latency
        timed.append(replace(candidate, latency=known[kept]))
    return timed


def _kept_float(trial: Trial) -> tuple[str, ...]:
    recipe = trial.quantized.recipe
    return tuple(sorted({*recipe["keep_float"], *recipe["float_entrance"]}))


def _parity_record(facts: Sequence[ParityFacts], limits: ParityLimits, *, in_8_bits: bool) -> dict[str, Any]:
    version = importlib.metadata.version("keras")
    return {
        "reference": f"keras {version}, in the 8-bit arithmetic it was trained in" if in_8_bits else f"keras {version}",
        "limits": asdict(limits),
        "parts": [item.to_json() for item in facts],
        "cpu": cpu_info().to_json(),
    }


def _latency_record(candidates: Sequence[Candidate]) -> dict[str, Any]:
    timed: dict[str, LatencyFigures] = {c.precision: c.latency for c in candidates if c.latency is not None}
    return {"cpu": cpu_info().to_json(), **{precision: figures.to_json() for precision, figures in timed.items()}}


def _versions(*distributions: str) -> dict[str, str]:
    found = {}
    for name in distributions:
        # onnxruntime-gpu gives the same module under another distribution name.
        for candidate in (name, f"{name}-gpu"):
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
