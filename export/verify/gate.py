"""The parity gate: model files run by ONNX Runtime on held-out images, and compared with the classifier that is exported."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import attach_spec
from edgeclf.export.graph.light.whole_file import read_light, write_model
from edgeclf.export.source.classifier import SourceClassifier
from edgeclf.export.source.images import LabelledImages
from edgeclf.export.verify.parity import ParityFacts, compare_probabilities
from edgeclf.export.verify.probabilities import BATCH_SIZE, batch_size_of, probabilities_of
from edgeclf.export.verify.recommend import Candidate
from edgeclf.export.verify.rejection import RejectionFit, fit_rejection
from edgeclf.export.verify.verdict import DEFAULT_RULE, Limits, Verdict, judge_parity, judge_replacement
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.progress import Progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec

# The split that decides whether an int8 or fp16 file passes.
_DECIDING_SPLIT = "validation"
# Images of the first split that a written file is checked with once more.
CHECKED_IMAGES = 8


@dataclass(frozen=True, eq=False)
class JudgedModel:
    """A model that was compared with the classifier that is exported.

    Attributes:
        path: The model's file.
        spec: The spec it was judged with; of a rounded model, with a rejection threshold of its own.
        candidate: Its figures.
        first_probabilities: (n, C) float32 for the first `CHECKED_IMAGES` images of the first split, in one batch.
    """

    path: Path
    spec: ModelSpec
    candidate: Candidate
    first_probabilities: FloatArray

    @property
    def model(self) -> onnx.ModelProto:
        """The model, read anew: a light one where it has large weights."""
        return read_light(self.path)


class Gate:
    """Compares models with the classifier that is exported on held-out images.

    Args:
        classifier: The classifier.
        held_out: The held-out images by split; the first split, `validation`, decides about int8 and fp16 models.
        precision: The precision that is exported: int8 models have a reference of their own where the network was trained
            in 8-bit arithmetic.
        folder: Folder for the models' files.
        progress: Called with the number of images done.
        replaced: The network whose place this one takes, and by which rounded models are judged as well; None for
            none.
        replaced_limits: What they must keep of it, see `ExportOptions`.
    """

    def __init__(
        self,
        classifier: SourceClassifier,
        held_out: Mapping[str, LabelledImages],
        precision: str,
        folder: Path,
        progress: Progress,
        *,
        replaced: SourceClassifier | None = None,
        replaced_limits: Limits = DEFAULT_RULE,
    ) -> None:
        self._held_out = held_out
        self._folder = folder
        self._progress = progress
        self._rejection_threshold = classifier.spec.rejection_threshold
        self._batch_size = batch_size_of(classifier.weight_bytes)
        self._references = {"fp32": self._reference(classifier, "fp32")}
        self.has_int8_reference = precision == "int8" and classifier.has_int8_reference
        if self.has_int8_reference:
            self._references["int8"] = self._reference(classifier, "int8")
        self._replaced = replaced
        self._replaced_limits = replaced_limits
        if replaced is not None:
            self._references["replaced"] = self._reference(replaced, "fp32")

    def int8_digest(self) -> str:
        """Hexadecimal digest of the images and reference probabilities that int8 models are compared with."""
        digest = hashlib.blake2b(f"{self._rejection_threshold}".encode(), digest_size=16)
        references = self._references_for("int8")
        for split, images in self._held_out.items():
            digest.update(f"{split} {len(images)}".encode())
            for start in range(0, len(images), BATCH_SIZE):
                digest.update(np.ascontiguousarray(images.images_rgb[start : start + BATCH_SIZE]).data)
            digest.update(np.ascontiguousarray(references[split]).data)
            if images.true_indices is not None:
                digest.update(np.ascontiguousarray(images.true_indices).data)
        return digest.hexdigest()

    def judge(
        self, model: onnx.ModelProto, spec: ModelSpec, limits: Limits, known: Sequence[ParityFacts] = ()
    ) -> JudgedModel:
        """Compares a model on all splits.

        Args:
            model: The model.
            spec: Its spec.
            limits: What it must keep on the split that decides; an fp32 model on all.
            known: Comparisons of this model that need not be made again.
        """
        session = self._open(spec.precision, model, spec)
        # A batch of another size may run other kernels, so the check of the written file uses a batch of this size too.
        first = session.run(np.asarray(next(iter(self._held_out.values())).images_rgb[:CHECKED_IMAGES]))
        rejection = self._fit_rejection(session)
        if rejection is not None:
            spec = spec.with_changes(rejection_threshold=rejection.threshold)
            # What is known was measured with the threshold of the training.
            known = () if rejection.threshold != rejection.trained_threshold else known
        known_by_split = {facts.split: facts for facts in known}
        parity, verdicts = [], []
        for split in self._held_out:
            parity.append(known_by_split.get(split) or self._compare(session, split, spec.rejection_threshold))
            if split == _DECIDING_SPLIT or spec.precision == "fp32":
                verdicts.append(judge_parity(parity[-1], limits))
        size = self._path(spec.precision).stat().st_size
        verdict = Verdict(
            tuple(phrase for item in verdicts for phrase in item.failures),
            tuple(phrase for item in verdicts for phrase in item.doubts),
        )
        replaced = self._compare_with_replaced(session, spec)
        for facts in replaced:
            if facts.split == _DECIDING_SPLIT:
                verdict += judge_replacement(facts, self._replaced_limits)
        candidate = Candidate(spec.precision, size, tuple(parity), verdict, rejection=rejection, replaced=replaced)
        return JudgedModel(self._path(spec.precision), spec, candidate, first)

    def judge_trial(self, model: onnx.ModelProto, spec: ModelSpec) -> tuple[ParityFacts, ...]:
        """Compares the int8 model of a trial on the split that decides."""
        session = self._open("trial", model, spec.with_changes(precision="int8"))
        return (self._compare(session, _DECIDING_SPLIT, spec.rejection_threshold),)

    def _reference(self, classifier: SourceClassifier, precision: str) -> dict[str, FloatArray]:
        model = classifier.reference_for(precision)
        return {
            split: probabilities_of(
                model, images.images_rgb, f"reference on {split}", self._progress, batch_size=self._batch_size
            )
            for split, images in self._held_out.items()
        }

    def _references_for(self, precision: str) -> Mapping[str, FloatArray]:
        return self._references.get(precision, self._references["fp32"])

    def _fit_rejection(self, session: ModelSession) -> RejectionFit | None:
        """The rejection threshold of a rounded model, on the split that decides."""
        precision = session.spec.precision
        if precision == "fp32" or session.spec.rejection_threshold is None or _DECIDING_SPLIT not in self._held_out:
            return None
        reference = self._references_for(precision)[_DECIDING_SPLIT]
        return fit_rejection(session.spec, reference, self._probabilities(session, _DECIDING_SPLIT))

    def _compare(self, session: ModelSession, split: str, rejection_threshold: float | None) -> ParityFacts:
        return compare_probabilities(
            self._references_for(session.spec.precision)[split],
            self._probabilities(session, split),
            split,
            self._held_out[split].true_indices,
            rejection_thresholds=(self._rejection_threshold, rejection_threshold),
        )

    def _compare_with_replaced(self, session: ModelSession, spec: ModelSpec) -> tuple[ParityFacts, ...]:
        """Compares a rounded model with the network whose place it takes, on all splits; empty where there is none."""
        if self._replaced is None or spec.precision == "fp32":
            return ()
        thresholds = (self._replaced.spec.rejection_threshold, spec.rejection_threshold)
        return tuple(
            compare_probabilities(
                self._references["replaced"][split],
                self._probabilities(session, split),
                split,
                images.true_indices,
                rejection_thresholds=thresholds,
            )
            for split, images in self._held_out.items()
        )

    def _probabilities(self, session: ModelSession, split: str) -> FloatArray:
        stage = f"{session.spec.precision} on {split}"
        return probabilities_of(
            session, self._held_out[split].images_rgb, stage, self._progress, batch_size=self._batch_size
        )

    def _open(self, name: str, model: onnx.ModelProto, spec: ModelSpec) -> ModelSession:
        attach_spec(model, spec)
        write_model(model, self._path(name))
        return ModelSession(self._path(name), device="cpu")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.onnx"
