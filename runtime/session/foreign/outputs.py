"""The output of a foreign model: which one has the classes, and how many there are."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray
from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.session.foreign.findings import ASSUMED, GIVEN, IN_GRAPH
from edgeclf.runtime.session.foreign.image_input import TensorFacts, shape_text

_FLOATS = frozenset(("float32", "float16", "float64", "bfloat16"))


class ClassOutput(NamedTuple):
    """The output with the classes.

    Attributes:
        name: Its name.
        classes: Number of values an image; None where the graph does not say.
        origin: Why it is this one.
    """

    name: str
    classes: int | None
    origin: str


def find_class_output(
    outputs: Sequence[TensorFacts], path: Path, *, name: str | None, labels: int, activated: frozenset[str]
) -> ClassOutput | None:
    """The output with the classes; None where several could be.

    Args:
        outputs: The model's outputs.
        path: The model's file, for errors.
        name: The one that the user names; None for none.
        labels: Number of labels; 0 where it is not known.
        activated: Names of the outputs that come out of a softmax or sigmoid.

    Raises:
        UsageError: There is no output of the name.
        ModelFileError: None has one row of floating-point numbers an image.
    """
    if name is not None:
        named = [item for item in outputs if item.name == name]
        if not named:
            raise UsageError(f"{path} has no output {name!r}", expected=" or ".join(item.name for item in outputs))
        outputs = named
    fitting = [item for item in outputs if item.dtype in _FLOATS and _is_row(item.shape)]
    if not fitting:
        raise _no_classifier(outputs, path)
    if len(fitting) > 1 and labels:
        wanted = {labels, 1} if labels == 2 else {labels}
        fitting = [item for item in fitting if _classes(item.shape) in wanted] or fitting
    if len(fitting) > 1:
        fitting = [item for item in fitting if item.name in activated]
    if len(fitting) != 1:
        return None
    origin = (
        GIVEN
        if name is not None
        else IN_GRAPH
        if len(outputs) == 1
        else f"{ASSUMED}: the only one of {len(outputs)} that fits"
    )
    return ClassOutput(fitting[0].name, _classes(fitting[0].shape), origin)


def outputs_text(outputs: Sequence[TensorFacts]) -> str:
    """Outputs with their shapes, for errors."""
    shown = [f"{item.name} {item.dtype} {shape_text(item.shape)}" for item in outputs[:4]]
    more = f" and {len(outputs) - 4} more" if len(outputs) > 4 else ""
    return f"output{'s' if len(outputs) != 1 else ''} {'; '.join(shown) or 'none'}{more}"


def _is_row(shape: Sequence[int | str | None] | None) -> bool:
    """Whether a shape may be one row of values an image: (N, C), perhaps with further dimensions of 1."""
    if shape is None:
        return True
    # A rank of one is a batch of one, squeezed.
    return len(shape) > 0 and len([side for side in shape[1:] if side != 1]) <= 1


def _classes(shape: Sequence[int | str | None] | None) -> int | None:
    if shape is None or len(shape) < 2:
        return None
    sides = [side for side in shape[1:] if side != 1]
    count = sides[0] if sides else 1
    return count if isinstance(count, int) and count > 0 else None


def _no_classifier(outputs: Sequence[TensorFacts], path: Path) -> ModelFileError:
    what = f"{path} is not an image classifier that edgeclf can run"
    expected = "one row of probabilities or logits an image, (N, classes) in floating point"
    if any(item.dtype in {"sequence", "map"} for item in outputs):
        return ModelFileError(
            what,
            got=f"{outputs_text(outputs)}",
            expected=expected,
            hint="export it without ZipMap (zipmap=False of skl2onnx)",
        )
    if outputs and all(item.dtype in {"int64", "int32", "string"} for item in outputs):
        return ModelFileError(
            what,
            got=f"{outputs_text(outputs)}: the class alone",
            expected=expected,
            hint="export it without the ArgMax at its end",
        )
    return ModelFileError(
        what,
        got=outputs_text(outputs),
        expected=expected,
        hint="detectors, segmenters and feature extractors are none: export the classifier alone",
    )


def rows_of(output: AnyArray, count: int) -> FloatArray | None:
    """An output as (N, C) float32; None where it is not one row an image.

    Args:
        output: What ONNX Runtime gave.
        count: Number of images, N.
    """
    scores = np.asarray(output, np.float32)
    if scores.ndim < 2:
        # A batch of one, squeezed; or one value an image, squeezed.
        return scores.reshape(count, -1) if count == 1 or scores.shape == (count,) else None
    if scores.shape[0] != count or sum(side != 1 for side in scores.shape[1:]) > 1:
        return None
    return scores.reshape(count, -1)
