"""Verification of a model file on the machine where it will run: the parity gate once more, on image files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeclf.export.source.classifier import TrainedClassifier
from edgeclf.export.verify.parity import ParityFacts, compare_probabilities
from edgeclf.export.verify.probabilities import classify_files
from edgeclf.export.verify.verdict import DEFAULT_RULE, Limits, Verdict, judge_parity, limits_between, recorded_limits
from edgeclf.runtime.batch.jobs import ProbabilityModel
from edgeclf.runtime.errors import EdgeclfError, ModelFileError, UsageError
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession

if TYPE_CHECKING:
    from edgeclf.export.verify.layer_report import LayerFacts

# Images that layers are compared on: ratios of energies settle long before accuracies do.
_LAYER_IMAGES = 32


@dataclass(frozen=True)
class VerificationReport:
    """The comparison of a model file with its reference.

    Attributes:
        parity: The figures.
        limits: What it was judged by.
        recorded_limits: What the file says it was written with; None where it does not say.
        verdict: Whether the file keeps the limits.
        differing: Image files (at most 20) that get another label from the file than from the reference.
        unreadable: Image files that could not be read and were left out, each with its error.
        layers: The layers of an int8 file next to the reference's, in order of execution; empty unless asked for.
    """

    parity: ParityFacts
    limits: Limits
    recorded_limits: Limits | None
    verdict: Verdict
    differing: tuple[Path, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]
    layers: "tuple[LayerFacts, ...]" = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The limits that the file misses, a phrase each; empty when it passes."""
        return self.verdict.failures

    @property
    def passed(self) -> bool:
        """Whether the file is not refused: it keeps its limits, or the images are too few to tell."""
        return not self.failures


def verify_classifier(
    model: ModelSession,
    reference: TrainedClassifier | ProbabilityModel,
    image_paths: Sequence[Path],
    true_indices: Sequence[int] | None = None,
    *,
    limits: Limits | None = None,
    split: str = "given",
    with_layers: bool = False,
    progress: Progress = no_progress,
) -> VerificationReport:
    """Compares a model file with its reference on image files; both run on this machine.

    Args:
        model: The file, opened on the device where it will run.
        reference: The trained network that the file was made from, another file of it, or the original that others made.
        image_paths: The image files.
        true_indices: (N,) index of each image's class in the labels, for the accuracies; None leaves them out.
        limits: What an int8 or fp16 file must keep; None for the limits recorded in the file, or the default rule where there
            are none. Two fp32 models must keep `FP32_LIMITS`.
        split: Name of the images, for reports.
        with_layers: Whether the layers of an int8 file are compared too; needs the extra [export].
        progress: Called with the number of images done.

    Raises:
        UsageError: Layers are compared, and the reference is neither a run nor a file.
        ModelFileError: The two have different labels, or layers are compared of what is no int8 file of the reference.
        InputError: None of the images can be read.
        MissingPackageError: A package of the extras [train] or [export] is needed and not installed.
    """
    layered = reference if isinstance(reference, TrainedClassifier | ModelSession) else None
    if with_layers and layered is None:
        raise UsageError(
            "layers are compared with a float file or a run",
            got="a Keras model that others made",
            expected="one of these",
            hint="export it with --precision fp32 first, and compare with that file",
        )
    check_same_labels(model.path, model.spec.labels, "its reference", reference.spec.labels)
    precision = model.spec.precision
    trusted = reference.reference_for(precision) if isinstance(reference, TrainedClassifier) else reference
    expected = classify_files(trusted, image_paths, "reference", progress)
    got = classify_files(model, image_paths, "candidate", progress)
    for path, error in (*expected.unreadable, *got.unreadable):
        if isinstance(error, ModelFileError):
            # NaN for one image is no image that could not be read: it is what verification is there to find.
            raise ModelFileError(
                f"one of the two models gives no probabilities for {path}", got=error.got, expected=error.expected
            ) from error
    # Both decode with the same code, so the same files fail; anything else is a bug.
    if expected.rows != got.rows:
        raise RuntimeError("the two models could not read the same files")
    paths = [image_paths[row] for row in got.rows]
    layers = _compare_layers(model, layered, paths, progress) if with_layers and layered is not None else ()
    true = None if true_indices is None else np.asarray(true_indices)[list(got.rows)]
    parity = compare_probabilities(
        expected.probabilities,
        got.probabilities,
        split,
        true,
        rejection_thresholds=(reference.spec.rejection_threshold, model.spec.rejection_threshold),
    )
    recorded = recorded_limits(model.spec.parity)
    # What an fp32 file was written with is no rule for rounded ones.
    asked = limits or (recorded if precision != "fp32" else None) or DEFAULT_RULE
    judged_by = limits_between(precision, reference.spec.precision, asked)
    return VerificationReport(
        parity,
        judged_by,
        recorded,
        judge_parity(parity, judged_by),
        tuple(paths[row] for row in parity.disagreements),
        got.unreadable,
        layers,
    )


def check_same_labels(model: object, labels: Sequence[str], reference: object, reference_labels: Sequence[str]) -> None:
    """Checks that two models have the same labels in the same order.

    Args:
        model: Name of the one, for the message.
        labels: Its labels.
        reference: Name of the other.
        reference_labels: The labels of that.

    Raises:
        ModelFileError: They have not.
    """
    if tuple(labels) != tuple(reference_labels):
        raise ModelFileError(
            f"{model} and {reference} are different classifiers",
            got=f"labels {', '.join(labels[:8])} and {', '.join(reference_labels[:8])}",
            expected="the same labels in the same order",
            hint="compare a file with the run it was exported from",
        )


def _compare_layers(
    model: ModelSession, reference: TrainedClassifier | ModelSession, paths: Sequence[Path], progress: Progress
) -> "tuple[LayerFacts, ...]":
    """Compares layers on some of the images, evenly spread, so that all classes of a sorted list are among them."""
    from edgeclf.export.graph.convert import onnx_from_keras, read_model
    from edgeclf.export.verify.layer_report import compare_layers

    rows = np.unique(np.linspace(0, len(paths) - 1, _LAYER_IMAGES).astype(int))
    images_rgb = np.stack([preprocess_bgr(load_image(paths[row]), model.spec.preprocess) for row in rows])
    if isinstance(reference, TrainedClassifier):
        float_model = onnx_from_keras(reference.model)
    else:
        float_model = read_model(reference.path)
    equalized = bool((model.spec.quantization or {}).get("equalized_streams"))
    return compare_layers(float_model, read_model(model.path), images_rgb, equalized=equalized, progress=progress)
