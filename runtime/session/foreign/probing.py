"""Probing: what the first outputs of a foreign model add to what is known of it, and what they contradict."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.session.foreign.activation import are_in_unit_range, measured_activation
from edgeclf.runtime.session.foreign.findings import GIVEN
from edgeclf.runtime.session.foreign.resolution import labels_mismatch
from edgeclf.runtime.session.foreign.use import ModelUse, label_count


def completed(use: ModelUse, scores: FloatArray, path: Path, *, is_baked: bool) -> ModelUse:
    """How a model is used, with what its first outputs have shown.

    Args:
        use: What is known before.
        scores: (N, C) float32, its outputs for probe images.
        path: The model's file, for errors.
        is_baked: Whether it takes one image at a time although its batch is free by name.

    Raises:
        ModelFileError: The outputs are no numbers, or of another number of classes than the labels.
    """
    count = scores.shape[1]
    if use.labels is not None and len(use.labels) != label_count(count):
        raise labels_mismatch(path, len(use.labels), count)
    activation = use.activation or measured_activation(scores)
    if activation is None:
        raise ModelFileError(
            f"{path} gives no numbers for images of noise",
            got="NaN or infinity",
            expected="probabilities or logits",
            hint="check the preprocessing, or say what its output has been through: --output-activation softmax, sigmoid or logits",
        )
    use = use.with_measured(count, activation)
    if is_baked:
        note = "its batch is free by name and baked to one image inside: images go through it one at a time"
        use = replace(use, notes=(*use.notes, note))
    return use


def check_scores(use: ModelUse, scores: FloatArray, path: Path) -> None:
    """Raises an error where outputs that are said to be probabilities are none.

    Args:
        use: How the model is used.
        scores: (N, C) float32, its outputs for probe images or others.
        path: The model's file.

    Raises:
        UsageError: The user said so.
        ModelFileError: The graph does, or the probe images did.
    """
    if use.activation not in {"softmax", "sigmoid"}:
        return
    origin = use.origins["activation"]
    error = UsageError if origin == GIVEN else ModelFileError
    what = f"{path} does not give probabilities"
    if not are_in_unit_range(scores):
        finite = scores[np.isfinite(scores)]
        raise error(
            what,
            got=f"values from {finite.min():.4g} to {finite.max():.4g}, with a {use.activation} {origin}",
            expected="values from 0 to 1",
            hint="pass --output-activation logits",
        )
    sums = scores[np.isfinite(scores).all(axis=1)].astype(np.float64).sum(axis=1)
    # In 8 bits, a thousand small values may be rounded up, or away.
    off = sums - 1 if use.precision == "int8" or use.codes is not None else 50 * np.abs(sums - 1)
    # What a user said of sigmoids, the doctor finds on photographs.
    is_said_by_file = use.activation == "softmax" and origin != GIVEN
    if is_said_by_file and scores.shape[1] > 1 and off.size and off.max() > 1:
        raise error(
            what,
            got=f"values of an image that add up to {sums[off.argmax()]:.4g}, with a softmax {origin}",
            expected="1",
            hint="its softmax is not along the classes: export it without the softmax, or with that of the axis of the classes",
        )
