"""A classifier becomes one verified `.onnx` file, or nothing is written."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.export.file_writer import spec_with_figures, write_model_file
from edgeclf.export.fp16 import convert_fp16
from edgeclf.export.graph.light.moving import moved_in
from edgeclf.export.graph.light.whole_file import serialized
from edgeclf.export.int8.qat_ranges import trained_scales, without_weight_scales
from edgeclf.export.options import ExportOptions
from edgeclf.export.search.search import search
from edgeclf.export.search.trial_cache import TrialCache, TrialKey
from edgeclf.export.search.trials import Trial
from edgeclf.export.source.classifier import SourceClassifier
from edgeclf.export.source.images import ExportImages
from edgeclf.export.verify.gate import CHECKED_IMAGES, Gate, JudgedModel
from edgeclf.export.verify.golden import make_self_test
from edgeclf.export.verify.recommend import Candidate, Recommendation, recommend
from edgeclf.export.verify.timing import latency_ratios, time_models
from edgeclf.export.verify.verdict import Limits, limits_between, limits_that_pass
from edgeclf.export.verify.verification import check_same_labels
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import GateError, InputError
from edgeclf.runtime.files import file_to_write
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.timing.comparison import ComparedModel


@dataclass(frozen=True)
class ExportReport:
    """The figures of an export, and whether its file was written.

    Attributes:
        out: The file asked for.
        written: Whether it was written.
        precision: Precision asked for.
        written_precision: Precision of the file: that asked for, or fp32 with `ExportOptions.or_fp32` where int8 failed; None
            where nothing was written.
        limits: What the file had to keep.
        candidates: The measured precisions, fp32 first.
        recommendation: Which of them to ship, by the latencies of this machine.
        recipes: The int8 recipes that were tried, the best first, with their comparisons on validation images.
        reused_recipes: How many of these an earlier export had tried already.
        trained_in_8_bits: Whether int8 files were compared with the network in the 8-bit arithmetic it was trained in.
        reference: What the files were compared with, as sentences call it.
        images: Numbers of the images that calibrated and judged, by use.
    """

    out: Path
    written: bool
    precision: str
    written_precision: str | None
    limits: Limits
    candidates: tuple[Candidate, ...]
    recommendation: Recommendation
    recipes: tuple[Candidate, ...] = ()
    reused_recipes: int = 0
    trained_in_8_bits: bool = False
    reference: str = "the Keras model"
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def closest(self) -> Candidate:
        """What agrees best with the reference, and so passes with the least change of limits: a recipe, where there are any."""
        return max(self.recipes or self.candidates[-1:], key=lambda item: item.parity[0].agreement)


class ParityGateError(GateError):
    """The exported model is not close enough to the original; nothing was written.

    Attributes:
        report: The figures, to be shown beside the sentence.
    """

    def __init__(self, report: ExportReport, failures: Sequence[str]) -> None:
        super().__init__(
            f"the {report.precision} model does not match {report.reference}, {report.out} was not written",
            got="; ".join(failures),
            hint=_way_out(report),
        )
        self.report = report


def _way_out(report: ExportReport) -> str:
    if report.precision == "fp32" or report.candidates[0].failures:
        return "report this together with the network's architecture"
    limits = limits_that_pass(report.closest.parity[0])
    accept = f", or accept these figures with {' '.join(limits)}" if limits else ""
    return f"{'pass --or-fp32' if report.precision == 'int8' else 'use --precision fp32'} for the fp32 file{accept}"


def export_classifier(
    classifier: SourceClassifier,
    images: ExportImages,
    out: Path | str,
    options: ExportOptions | None = None,
    *,
    replaces: SourceClassifier | None = None,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """Converts, quantizes if asked, verifies against the original, times, and writes one `.onnx` file.

    Args:
        classifier: What is exported.
        images: Held-out images that the file is verified with and, for int8, training images to calibrate on.
        out: The file to write.
        options: Precision, limits, and how much is tried; None takes `ExportOptions()`, which is fp32.
        replaces: int8, fp16: the trained network whose place this one, trained anew from it, takes: the file must keep its
            accuracy too, see `ExportOptions.replaced_limits`. None for none.
        cache_folder: Folder in which tried int8 recipes are stored for the next export of the same network and images;
            None stores nothing.
        progress: Called at each stage.

    Returns:
        The figures, after `out` was written.

    Raises:
        ParityGateError: The model misses its limits; `out` is not touched.
        InputError: The network cannot be converted, or there are no images to compare or calibrate on.
        ModelFileError: The network has other labels than the one whose place it takes.
        UsageError: There is no such layer to keep in float.
        OutputError: `out` cannot be written.
        MissingPackageError: A package of the extras [train] or [export] is not installed.
    """
    options, out = options or ExportOptions(), file_to_write(out)
    if not len(images.validation):
        raise InputError("cannot verify the export", got="no validation images", expected="at least one")
    if images.are_computed and options.precision != "fp32":
        raise InputError(
            f"cannot judge an {options.precision} file",
            got="computed images",
            expected="photographs of what the model will see",
            hint="pass some",
        )
    if replaces is not None:
        check_same_labels("the network", classifier.spec.labels, "the one it replaces", replaces.spec.labels)
    held_out = images.held_out()
    if options.max_held_out_images is not None:
        held_out = {split: part.sample(options.max_held_out_images) for split, part in held_out.items()}
    with tempfile.TemporaryDirectory(prefix="edgeclf-export-") as folder:
        gate = Gate(
            classifier,
            held_out,
            options.precision,
            Path(folder),
            progress,
            replaced=replaces,
            replaced_limits=options.replaced_limits,
        )
        judged, found = _judge_precisions(
            classifier, images, gate=gate, options=options, cache_folder=cache_folder, progress=progress
        )
        candidates = [item.candidate for item in judged]
        recipes = [_as_candidate(trial) for trial in found.trials]
        fp32_limits = _fp32_limits(classifier, options)
        limits = fp32_limits if options.precision == "fp32" else options.limits
        used = {"calibration": _calibration_count(images, options)}
        used |= {split: len(part) for split, part in held_out.items()}
        file = _to_write(judged, or_fp32=options.or_fp32)
        if not candidates[0].failures:
            # Also of what failed: what it costs to go without it.
            candidates = _time_candidates(judged, progress)
        if file is judged[-1]:
            recipes = _time_recipes(found.trials, candidates, judged[0], progress)
            spec = spec_with_figures(
                file.spec,
                candidates,
                limits,
                reference=classifier.runtime_of_reference(options.precision),
                images=used,
                seen_images=images.seen_images if options.precision == "int8" else None,
                replaced_limits=options.replaced_limits,
            )
        elif file is not None:
            spec = spec_with_figures(
                file.spec,
                candidates[:1],
                fp32_limits,
                reference=classifier.runtime_of_reference("fp32"),
                images=used | {"calibration": 0},
                refused=candidates[-1],
            )
        if file is not None:
            spec = spec.with_changes(self_test=make_self_test(file.model, spec, judged[0].model, Path(folder)))
            write_model_file(file, spec, out, next(iter(held_out.values())).images_rgb[:CHECKED_IMAGES])
    report = ExportReport(
        out,
        file is not None,
        options.precision,
        None if file is None else file.spec.precision,
        limits,
        tuple(candidates),
        recommend(candidates),
        tuple(recipes),
        found.reused,
        gate.has_int8_reference,
        classifier.name,
        used,
    )
    if file is None:
        raise ParityGateError(report, candidates[-1].failures)
    return report


def _fp32_limits(classifier: SourceClassifier, options: ExportOptions) -> Limits:
    """What the fp32 file must keep: that of an original in float16 cannot be the same to more digits than these have."""
    return limits_between("fp32", classifier.spec.precision, options.limits)


def _calibration_count(images: ExportImages, options: ExportOptions) -> int:
    """Number of images that the file is calibrated on."""
    return min(options.max_calibration_images, images.training_count) if options.precision == "int8" else 0


def _to_write(judged: Sequence[JudgedModel], *, or_fp32: bool) -> JudgedModel | None:
    """The model that becomes the file: that asked for, which comes last, or fp32 in its place; None where neither may."""
    if not judged[-1].candidate.failures:
        return judged[-1]
    return judged[0] if or_fp32 and not judged[0].candidate.failures else None


@dataclass(frozen=True)
class _Search:
    """The trials of a search, the best first, and how many of them an earlier export had made."""

    trials: Sequence[Trial] = ()
    reused: int = 0


def _judge_precisions(
    classifier: SourceClassifier,
    images: ExportImages,
    *,
    gate: Gate,
    options: ExportOptions,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> tuple[list[JudgedModel], _Search]:
    """Judges the fp32 model and, where that passes, the model of the precision asked for, which comes last."""
    progress("convert", 0, 1)
    # A file is judged, and its size reported, with the spec it is written with, as far as that is known.
    training = without_weight_scales(classifier.spec.training)
    spec = classifier.spec.with_changes(precision="fp32", quantization=None, training=training)
    # Of its model nothing is left in memory but its small weights.
    fp32 = gate.judge(classifier.float_model(), spec, _fp32_limits(classifier, options))
    progress("convert", 1, 1)
    if fp32.candidate.failures or options.precision == "fp32":
        return [fp32], _Search()
    if options.precision == "fp16":
        half = convert_fp16(moved_in(fp32.model), options.keep_float)
        spec = fp32.spec.with_changes(precision="fp16", quantization=half.record)
        return [fp32, gate.judge(half.model, spec, options.limits)], _Search()
    calibration_rgb = images.sample_training(options.max_calibration_images)
    found = _search_recipe(
        classifier, fp32, calibration_rgb, gate=gate, options=options, cache_folder=cache_folder, progress=progress
    )
    best = found.trials[0]
    record = best.quantized.recipe
    spec = fp32.spec.with_changes(precision="int8", quantization=record)
    int8 = gate.judge(best.quantized.model, spec, options.limits, best.parity)
    portable = replace(int8.candidate, portable=record["portable"], portable_reason=record["portable_reason"])
    return [fp32, replace(int8, candidate=portable)], found


def _search_recipe(
    classifier: SourceClassifier,
    fp32: JudgedModel,
    calibration_rgb: UInt8Array,
    *,
    gate: Gate,
    options: ExportOptions,
    cache_folder: CacheFolder | None,
    progress: Progress,
) -> _Search:
    trained = trained_scales(classifier.spec.training)
    cache = None
    if cache_folder is not None:
        cache = TrialCache(
            cache_folder,
            TrialKey(fp32.model, calibration_rgb, gate.int8_digest(), {} if trained is None else trained.to_json()),
        )
    trials = search(
        fp32.model,
        calibration_rgb,
        lambda quantized: gate.judge_trial(quantized.model, fp32.spec),
        limits=options.limits,
        effort=options.effort,
        base=options.recipe,
        budget_s=options.budget_s,
        progress=progress,
        allowed=options.allowed,
        first_in_float=options.first_in_float,
        measure_latency=partial(latency_ratios, spec=fp32.spec) if options.times_float_prefix else None,
        cache=cache,
        trained=trained,
    )
    return _Search(trials, 0 if cache is None else cache.reused)


def _time_candidates(judged: Sequence[JudgedModel], progress: Progress) -> list[Candidate]:
    progress("time", 0, 1)
    timed = time_models([item.model for item in judged], judged[0].spec)
    progress("time", 1, 1)
    return [_with_latency(item.candidate, latency) for item, latency in zip(judged, timed, strict=True)]


def _with_latency(candidate: Candidate, timed: ComparedModel) -> Candidate:
    return replace(candidate, latency=timed.latency, latency_ratio=timed.infer_ratio)


def _as_candidate(trial: Trial) -> Candidate:
    record, size = trial.quantized.recipe, sum(map(len, serialized(trial.quantized.model)))
    candidate = Candidate(trial.name, size, trial.parity, trial.verdict)
    return replace(candidate, portable=record["portable"], portable_reason=record["portable_reason"])


def _time_recipes(
    trials: Sequence[Trial], candidates: Sequence[Candidate], fp32: JudgedModel, progress: Progress
) -> list[Candidate]:
    """The recipes with their latencies; those with the same layers in float32 run the same operators in the same time."""
    # The best recipe is the last candidate.
    by_layers = {_layers_in_float(trials[0]): candidates[-1]} if trials else {}
    timed: list[Candidate] = []
    for trial in trials:
        in_float, candidate = _layers_in_float(trial), _as_candidate(trial)
        if in_float not in by_layers:
            progress("time", len(timed), len(trials))
            _, compared = time_models([fp32.model, trial.quantized.model], fp32.spec)
            by_layers[in_float] = _with_latency(candidate, compared)
        same = by_layers[in_float]
        timed.append(replace(candidate, latency=same.latency, latency_ratio=same.latency_ratio))
    return timed


def _layers_in_float(trial: Trial) -> frozenset[str]:
    record = trial.quantized.recipe
    return frozenset([*record["keep_float"], *record["float_entrance"], *record["fixed_point"]])
