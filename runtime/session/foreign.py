"""Foreign models, files without an edgeclf spec: labels and scaling from the user, layouts from the file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.spec import ModelSpec, Preprocess

_FLOAT, _UINT8 = "tensor(float)", "tensor(uint8)"
# Probabilities of one image add up to 1 within what float32 rounds.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PixelScaling:
    """Pixel normalisation of a foreign model: `(pixel - mean) / std`, per RGB channel, in 0..255 units.

    Attributes:
        mean: Subtracted from the pixel values, three numbers in R, G, B order.
        std: Divisors of the difference, in the same order.

    Raises:
        UsageError: There are not three finite numbers each, or a divisor is not positive.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(math.isfinite(v) for v in (*self.mean, *self.std)):
            raise UsageError(
                "bad pixel scaling", got=f"{self.mean} and {self.std}", expected="three finite numbers each"
            )
        if not all(value > 0 for value in self.std):
            raise UsageError("bad pixel scaling", got=f"std {self.std}", expected="positive numbers")


class ForeignModel(NamedTuple):
    """Labels and pixel scaling of a model file without an edgeclf spec.

    Attributes:
        labels: Class names in the order of its outputs.
        scaling: Pixel normalisation, for a float input; None for a uint8 one.
    """

    labels: Sequence[str] = ()
    scaling: PixelScaling | None = None


class InputLayout(NamedTuple):
    """Layout of a model's image input.

    Attributes:
        name: The input's name.
        is_float: Whether it is float32; otherwise uint8.
        is_nchw: Whether it is (N, 3, H, W); otherwise (N, H, W, 3).
        size_hw: Height and width in pixels.
        batch: The only batch size it takes; None for any.
    """

    name: str
    is_float: bool
    is_nchw: bool
    size_hw: tuple[int, int]
    batch: int | None

    def tensor_from(self, images_rgb: UInt8Array, scale_shift: tuple[FloatArray, FloatArray] | None) -> AnyArray:
        """The input tensor of a batch of images.

        Args:
            images_rgb: (N, H, W, 3) uint8, RGB.
            scale_shift: Factor and summand of each RGB channel, for a float input; None leaves the pixels 0..255.

        Returns:
            The batch in this layout and dtype, contiguous: `images_rgb` itself where nothing is to be changed.
        """
        tensor: AnyArray = images_rgb
        if self.is_float:
            tensor = images_rgb.astype(np.float32)
            if scale_shift is not None:
                tensor *= scale_shift[0]
                tensor += scale_shift[1]
        if self.is_nchw:
            # NHWC to NCHW.
            tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
        return tensor


def read_input_layout(inputs: Sequence[Any], path: Path) -> InputLayout:
    """Reads the layout from ONNX Runtime's description of a model's inputs.

    Args:
        inputs: What `InferenceSession.get_inputs` gives.
        path: The model's file, for the error.

    Raises:
        ModelFileError: They are not one image of a fixed size.
    """
    shape = list(inputs[0].shape) if inputs else []
    kind = inputs[0].type if inputs else "nothing"
    is_nchw = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
    sides = shape[2:4] if is_nchw else shape[1:3]
    if (
        len(inputs) != 1
        or len(shape) != 4
        or kind not in {_FLOAT, _UINT8}
        or (not is_nchw and shape[3] != 3)
        or not all(isinstance(side, int) and side > 0 for side in sides)
    ):
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=f"inputs {[(i.name, i.type, i.shape) for i in inputs]}",
            expected="one uint8 or float32 input, (N, H, W, 3) or (N, 3, H, W), with fixed H and W",
            hint="export the model with a fixed image size",
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return InputLayout(inputs[0].name, kind == _FLOAT, is_nchw, (int(sides[0]), int(sides[1])), batch)


def check_outputs(outputs: Sequence[Any], classes: int, path: Path) -> None:
    """Checks ONNX Runtime's description of a model's outputs.

    Args:
        outputs: What `InferenceSession.get_outputs` gives.
        classes: Number of labels.
        path: The model's file, for the error.

    Raises:
        ModelFileError: They are not one row of float32 an image, or of another number of classes.
    """
    shape = list(outputs[0].shape)
    if len(outputs) != 1 or len(shape) != 2 or outputs[0].type != _FLOAT:
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=f"outputs {[(o.name, o.type, o.shape) for o in outputs]}",
            expected="one float32 output (N, classes)",
            hint="export the classifier without further outputs",
        )
    if isinstance(shape[1], int) and shape[1] != classes:
        raise labels_mismatch(path, classes, shape[1])


def labels_mismatch(path: Path, labels: int, outputs: int) -> ModelFileError:
    """The error for a number of labels that differs from the number of outputs."""
    return ModelFileError(
        f"the labels do not match {path}",
        got=f"{labels} labels",
        expected=f"{outputs}, one for each output",
        hint="pass the right labels",
    )


def foreign_spec(foreign: ForeignModel | None, layout: InputLayout, path: Path) -> ModelSpec:
    """The spec of a model file that has none: the user's labels, and the input's size.

    Raises:
        ModelFileError: Labels are missing or clash, or a float input has no scaling.
        UsageError: A uint8 input has a scaling.
    """
    labels = () if foreign is None else tuple(foreign.labels)
    scaling = None if foreign is None else foreign.scaling
    if not labels:
        raise ModelFileError(
            f"{path} has no edgeclf spec",
            got="no labels",
            expected="class names in the order of its outputs",
            hint="pass foreign=ForeignModel(labels=[...]) (on the command line --labels FILE, one name a line)",
        )
    if layout.is_float and scaling is None:
        raise ModelFileError(
            f"{path} takes float pixels and does not say how they are scaled",
            got="no mean and std",
            expected="the training normalisation in 0..255 units, RGB",
            hint="pass foreign=ForeignModel(labels, PixelScaling(mean, std)) (--mean 123.675,116.28,103.53 "
            "--std 58.395,57.12,57.375 for ImageNet models, --mean 0,0,0 --std 255,255,255 for a plain division by 255)",
        )
    if not layout.is_float and scaling is not None:
        raise UsageError(f"{path} takes uint8 pixels", got="mean and std", expected="none", hint="leave them out")
    if len(set(labels)) != len(labels):
        raise ModelFileError(f"the labels for {path} clash", got="the same name twice", expected="different names")
    return ModelSpec(labels=labels, preprocess=Preprocess(layout.size_hw), architecture="foreign")


def scale_and_shift(scaling: PixelScaling) -> tuple[FloatArray, FloatArray]:
    """A normalisation as one factor and one summand of each RGB channel, (3,) float32 each: `pixel * scale + shift`."""
    mean, std = np.asarray(scaling.mean, np.float64), np.asarray(scaling.std, np.float64)
    return (1.0 / std).astype(np.float32), (-mean / std).astype(np.float32)


def are_probabilities(output: FloatArray) -> bool:
    """Whether a model's output for one image, (1, C) float32, has been through a softmax already."""
    return not (output < 0).any() and abs(float(output.sum()) - 1.0) <= _SUM_TOLERANCE


def softmax(logits: AnyArray) -> FloatArray:
    """Softmax along the last axis, shifted by the maximum so that it cannot overflow.

    Args:
        logits: (N, C) float.

    Returns:
        (N, C) float32, rows summing to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)
