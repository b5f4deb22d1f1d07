"""The gate that candidate files pass: run with the real runtime on held-out images and compared with the reference."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.int8.calibrator import Quantized
from edgeclf.export.verify.parity import ParityFacts, ParityLimits, compare_probabilities, parity_failures
from edgeclf.export.verify.recommend import Candidate
from edgeclf.runtime.arrays import FloatArray, IntArray, UInt8Array
from edgeclf.runtime.batch.jobs import ProbabilityModel
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec
from edgeclf.runtime.timing.comparison import compare_models

_BATCH = 32
# Rounds of two inferences in which files of one network are timed against each other.
_ROUNDS = 15


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
    true_indices: IntArray
    decides: bool


class Gate:
    """Judges candidate files.

    Args:
        parts: The held-out images.
        references: (N, C) float32 probabilities of the trained network for each part.
        int8_references: The same for int8 files where the network was trained in 8-bit arithmetic; None for the same ones.
        folder: Where candidate files are written.
        progress: Told how many images are done.

    Attributes:
        first_rows: What each precision's file gave for the first eight images of the first part.
    """

    def __init__(
        self,
        parts: Sequence[HeldOutImages],
        references: Sequence[FloatArray],
        folder: Path,
        progress: Progress,
        *,
        int8_references: Sequence[FloatArray] | None = None,
    ) -> None:
        self._parts = parts
        self._references = references
        self._int8_references = references if int8_references is None else int8_references
        self._folder = folder
        self._progress = progress
        self.first_rows: dict[str, FloatArray] = {}

    def digest(self) -> str:
        """Differs whenever int8 candidates would be compared on other images or with other references."""
        digest = hashlib.blake2b(digest_size=16)
        for part, reference in zip(self._parts, self._int8_references, strict=True):
            digest.update(f"{part.part} {len(part.images_rgb)} {part.decides}".encode())
            for start in range(0, len(part.images_rgb), _BATCH):
                digest.update(np.ascontiguousarray(part.images_rgb[start : start + _BATCH]).data)
            digest.update(np.ascontiguousarray(reference).data)
            digest.update(np.ascontiguousarray(part.true_indices).data)
        return digest.hexdigest()

    def path_of(self, name: str) -> Path:
        """Where the file of a candidate is."""
        return self._folder / f"{name}.onnx"

    def judge(
        self,
        precision: str,
        model: onnx.ModelProto,
        spec: ModelSpec,
        limits: ParityLimits,
        tried: Sequence[ParityFacts] = (),
    ) -> Candidate:
        """Compares a precision's model on all parts, and leaves its file to be timed.

        Args:
            precision: `fp32`, `fp16` or `int8`.
            model: The model.
            spec: Its spec.
            limits: What it must keep on the parts that decide; a float model on all.
            tried: What `try_recipe` gave for this model, which need not be computed again.
        """
        session = self.open(precision, model, spec)
        # Batches of other sizes may choose other kernels, so the rows to check the written file with are computed in
        # the batch they will be checked in.
        self.first_rows[precision] = session.run(np.asarray(self._parts[0].images_rgb[:8]))
        facts, failures = [], []
        known = {item.part: item for item in tried}
        references = self._int8_references if precision == "int8" else self._references
        for part, reference in zip(self._parts, references, strict=True):
            facts.append(known.get(part.part) or self._compare(session, part, reference, precision))
            if part.decides or precision == "fp32":
                failures.extend(parity_failures(facts[-1], limits))
        return Candidate(precision, self.path_of(precision).stat().st_size, tuple(facts), tuple(failures))

    def try_recipe(self, quantized: Quantized, spec: ModelSpec) -> tuple[ParityFacts, ...]:
        """A recipe's comparisons on the parts that decide."""
        session = self.open("trial", quantized.model, spec)
        return tuple(
            self._compare(session, part, reference, "int8")
            for part, reference in zip(self._parts, self._int8_references, strict=True)
            if part.decides
        )

    def open(self, name: str, model: onnx.ModelProto, spec: ModelSpec, *, threads: int | None = None) -> ModelSession:
        """Writes a candidate's file and opens it."""
        attach_spec(model, spec)
        self.path_of(name).write_bytes(model.SerializeToString())
        return ModelSession(self.path_of(name), device="cpu", threads=threads)

    def latencies(self, models: Sequence[onnx.ModelProto], spec: ModelSpec) -> list[float]:
        """Median latencies of models on one thread, relative to the first one's."""
        sessions = {}
        for number, model in enumerate(models):
            sessions[str(number)] = self.open(f"timed-{number}", model, spec, threads=1)
            self.path_of(f"timed-{number}").unlink()
        return [model.latency.ratio for model in compare_models(sessions, duration_s=0, min_rounds=_ROUNDS)]

    def _compare(self, session: ModelSession, part: HeldOutImages, reference: FloatArray, name: str) -> ParityFacts:
        probabilities = probabilities_of(session, part.images_rgb, f"{name} on {part.part}", self._progress)
        return compare_probabilities(reference, probabilities, part.part, part.true_indices)


def probabilities_of(
    model: ProbabilityModel, images_rgb: ImageRows, stage: str, progress: Progress = no_progress
) -> FloatArray:
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
