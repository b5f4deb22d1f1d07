"""A trained Keras classifier becomes one verified `.onnx` file, or nothing is written."""

import importlib.metadata
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.contract import attach_spec, check_contract
from edgeclf.export.convert import onnx_from_keras
from edgeclf.export.keras_model import KerasModel
from edgeclf.export.parity import FP32_LIMITS, ParityFacts, ParityLimits, compare_probabilities, parity_failures
from edgeclf.export.quantize import QuantizationRecipe, Quantized
from edgeclf.export.recommend import Candidate, Recommendation, recommend
from edgeclf.export.search import Effort, Trial, search
from edgeclf.runtime.bench import LatencyFigures, compare_latency
from edgeclf.runtime.cpus import cpu_info
from edgeclf.runtime.errors import GateError, InputError, UsageError
from edgeclf.runtime.files import replacing
from edgeclf.runtime.pipeline import ProbabilityModel
from edgeclf.runtime.preprocess import UInt8Array
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session import ModelSession
from edgeclf.runtime.spec import ModelSpec

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_BATCH = 32


class ImageRows(Protocol):
    """(N, H, W, 3) uint8 RGB images that are read a slice at a time: an array, a memory map, or a selection of one."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice, /) -> UInt8Array:
        """The images of these rows."""


@dataclass(frozen=True)
class HeldOutImages:
    """Preprocessed images the network was not fitted to.

    Attributes:
        part: `validation` or `test`.
        images_rgb: (N, H, W, 3) uint8, RGB.
        true_indices: (N,) index of each image's class in the spec's labels.
        decides: Whether an int8 model may be refused because of them. Test images only report, so that nothing is
            ever picked by them; a float conversion is exact or broken, and is held to its limits on every part.
    """

    part: str
    images_rgb: ImageRows
    true_indices: npt.NDArray[np.int64]
    decides: bool


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
    """

    out: Path
    written: bool
    precision: str
    candidates: tuple[Candidate, ...]
    recommendation: Recommendation
    recipes: tuple[Candidate, ...] = ()


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
            if report.precision == "int8"
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
    budget_s: float = math.inf,
    progress: Progress = no_progress,
) -> ExportReport:
    """Converts, quantizes if asked, verifies against the Keras model, times, and writes one file.

    Args:
        model: The trained Keras model, uint8 (None, H, W, 3) RGB in, probabilities out.
        spec: Its spec.
        out: The file to write.
        precision: `fp32` or `int8`.
        held_out: The images of the parity gate; at least one part that decides.
        calibration_rgb: (N, H, W, 3) uint8 RGB training images for int8 activation ranges; unused for fp32.
        int8_limits: What an int8 model must keep.
        effort: How many int8 recipes are tried, see `candidate_recipes`.
        recipe: What is common to all of them; None takes the default.
        budget_s: Seconds after which no other recipe is begun.
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
        raise UsageError(f"unknown precision {precision!r}", expected=" or ".join(PRECISIONS), do="choose one of them")
    if not any(part.decides and len(part.images_rgb) for part in held_out):
        raise InputError("cannot verify the export", got="no validation images", expected="at least one")
    parts = [part for part in held_out if len(part.images_rgb)]
    references = [
        probabilities_of(KerasModel(model, spec), part.images_rgb, f"keras on {part.part}", progress) for part in parts
    ]
    gate = _Gate(spec, parts, references, progress)

    progress("convert", 0, 1)
    fp32 = onnx_from_keras(model)
    progress("convert", 1, 1)
    with tempfile.TemporaryDirectory(prefix="edgeclf-export-") as folder_name:
        folder = Path(folder_name)
        protos = {"fp32": fp32}
        candidates = [gate.judge("fp32", fp32, spec, folder, FP32_LIMITS)]
        specs = {"fp32": spec.with_changes(precision="fp32", quantization=None)}
        recipes: list[Candidate] = []
        trials: list[Trial] = []
        if precision == "int8" and not candidates[0].failures:
            trials = search(
                fp32,
                calibration_rgb,
                lambda quantized: gate.compare(quantized, spec, folder),
                limits=int8_limits,
                effort=effort,
                base=recipe or QuantizationRecipe(),
                budget_s=budget_s,
                progress=progress,
            )
            recipes = [_as_candidate(trial) for trial in trials]
            best = trials[0].quantized
            protos["int8"] = best.model
            specs["int8"] = spec.with_changes(precision="int8", quantization=best.recipe)
            candidates.append(gate.judge("int8", best.model, specs["int8"], folder, int8_limits))
        chosen = candidates[-1]
        if chosen.failures:
            raise ParityGateError(_report(out, precision, candidates, recipes, written=False), chosen.failures)
        candidates = _timed(candidates, folder, progress)
        chosen = candidates[-1]
        if recipes:
            recipes = _with_latency(recipes, trials, chosen=chosen, spec=spec, folder=folder, progress=progress)
        limits = FP32_LIMITS if precision == "fp32" else int8_limits
        final = specs[precision].with_changes(
            parity=_parity_record(chosen.parity, limits),
            latency=_latency_record(candidates),
            package_versions={**spec.package_versions, **_versions("tf2onnx", "onnx", "onnxruntime")},
        )
        _write(protos[precision], final, out, parts[0].images_rgb[:8], gate.first_rows[precision])
    return _report(out, precision, candidates, recipes, written=True)


class _Gate:
    """Runs candidate files with the real runtime on the held-out images and compares them with the reference."""

    def __init__(
        self,
        spec: ModelSpec,
        parts: Sequence[HeldOutImages],
        references: Sequence[npt.NDArray[np.float32]],
        progress: Progress,
    ) -> None:
        self._labels = spec.labels
        self._parts = parts
        self._references = references
        self._progress = progress
        self.first_rows: dict[str, npt.NDArray[np.float32]] = {}

    def judge(
        self, precision: str, model: onnx.ModelProto, spec: ModelSpec, folder: Path, limits: ParityLimits
    ) -> Candidate:
        path = folder / f"{precision}.onnx"
        attach_spec(model, spec)
        path.write_bytes(model.SerializeToString())
        session = ModelSession(path, device="cpu")
        facts, failures = [], []
        for number, (part, reference) in enumerate(zip(self._parts, self._references, strict=True)):
            probabilities = probabilities_of(session, part.images_rgb, f"{precision} on {part.part}", self._progress)
            if number == 0:
                # Batches of other sizes may choose other kernels, so the rows to check the written file with are
                # computed in the batch they will be checked in.
                self.first_rows[precision] = session.run(np.asarray(part.images_rgb[:8]))
            compared = compare_probabilities(reference, probabilities, part.part, part.true_indices)
            facts.append(compared)
            if part.decides or precision == "fp32":
                failures.extend(parity_failures(compared, limits))
        return Candidate(precision, path.stat().st_size, tuple(facts), tuple(failures))

    def compare(self, quantized: Quantized, spec: ModelSpec, folder: Path) -> tuple[ParityFacts, ...]:
        """A recipe's comparisons on the images that decide."""
        path = folder / "trial.onnx"
        attach_spec(quantized.model, spec.with_changes(precision="int8", quantization=quantized.recipe))
        path.write_bytes(quantized.model.SerializeToString())
        session = ModelSession(path, device="cpu")
        return tuple(
            compare_probabilities(
                reference,
                probabilities_of(session, part.images_rgb, f"int8 on {part.part}", self._progress),
                part.part,
                part.true_indices,
            )
            for part, reference in zip(self._parts, self._references, strict=True)
            if part.decides
        )


def probabilities_of(
    model: ProbabilityModel, images_rgb: ImageRows, stage: str, progress: Progress = no_progress
) -> npt.NDArray[np.float32]:
    """A model's probabilities for preprocessed images.

    Args:
        model: A model file or a Keras model.
        images_rgb: (N, H, W, 3) uint8, RGB; read batch by batch.
        stage: Name of this stage for `progress`.
        progress: Told how many images are done.

    Returns:
        (N, C) float32.
    """
    rows = []
    for start in range(0, len(images_rgb), _BATCH):
        batch = np.asarray(images_rgb[start : start + _BATCH])
        rows.append(model.run(batch))
        progress(stage, start + len(batch), len(images_rgb))
    return np.concatenate(rows)


def _timed(candidates: Sequence[Candidate], folder: Path, progress: Progress) -> list[Candidate]:
    # One thread each: several many-thread pools in one process spin against each other and time nothing but that.
    sessions = {c.precision: ModelSession(folder / f"{c.precision}.onnx", device="cpu", threads=1) for c in candidates}
    progress("time", 0, 1)
    figures = compare_latency(sessions)
    progress("time", 1, 1)
    return [Candidate(c.precision, c.file_bytes, c.parity, c.failures, figures[c.precision]) for c in candidates]


def _write(
    model: onnx.ModelProto,
    spec: ModelSpec,
    out: Path,
    images_rgb: UInt8Array,
    expected: npt.NDArray[np.float32],
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
    out: Path, precision: str, candidates: Sequence[Candidate], recipes: Sequence[Candidate], *, written: bool
) -> ExportReport:
    return ExportReport(out, written, precision, tuple(candidates), recommend(candidates), tuple(recipes))


def _as_candidate(trial: Trial) -> Candidate:
    return Candidate(trial.name, len(trial.quantized.model.SerializeToString()), trial.parity, trial.failures)


def _with_latency(
    recipes: Sequence[Candidate],
    trials: Sequence[Trial],
    *,
    chosen: Candidate,
    spec: ModelSpec,
    folder: Path,
    progress: Progress,
) -> list[Candidate]:
    """The recipes with their latencies: those with the same layers in float run the same operators in the same time."""
    known = {_kept_float(trials[0]): chosen.latency}
    timed: list[Candidate] = []
    for candidate, trial in zip(recipes, trials, strict=True):
        kept = _kept_float(trial)
        if kept not in known:
            path = folder / "recipe.onnx"
            attach_spec(trial.quantized.model, spec)
            path.write_bytes(trial.quantized.model.SerializeToString())
            progress("time", len(timed), len(recipes))
            sessions = {
                "fp32": ModelSession(folder / "fp32.onnx", device="cpu", threads=1),
                "int8": ModelSession(path, device="cpu", threads=1),
            }
            known[kept] = compare_latency(sessions)["int8"]
        timed.append(replace(candidate, latency=known[kept]))
    return timed


def _kept_float(trial: Trial) -> tuple[str, ...]:
    return tuple(sorted(trial.quantized.recipe["keep_float"]))


def _parity_record(facts: Sequence[ParityFacts], limits: ParityLimits) -> dict[str, Any]:
    return {
        "reference": f"keras {importlib.metadata.version('keras')}",
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
