"""One model file, opened and checked: pixels in, probabilities out."""

import copy
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.session.devices import DeviceChoice, check_placement, check_provider, node_placement
from edgeclf.runtime.session.io_binding import FIXED_SHAPE_PROVIDERS, BoundRuns
from edgeclf.runtime.session.opening import open_session
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess, spec_from_json

_FLOAT, _UINT8 = "tensor(float)", "tensor(uint8)"


@dataclass(frozen=True)
class PixelScaling:
    """How a foreign model with a float input wants its pixels: `(pixel - mean) / std`, per RGB channel, in 0..255 units.

    Attributes:
        mean: Subtracted from the pixel values, three numbers in R, G, B order.
        std: What the difference is divided by.
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


@dataclass(frozen=True)
class _InputLayout:
    name: str
    is_float: bool
    is_nchw: bool
    size_hw: tuple[int, int]
    batch: int | None


class ModelSession:
    """A classifier file opened in ONNX Runtime, its inputs and outputs checked against the contract.

    Safe to use from several threads at once: ONNX Runtime's `Run` is, and what changes here after construction is each
    thread's own.

    Args:
        path: The `.onnx` file.
        device: A name out of `edgeclf.runtime.session.devices.DEVICES`, or a `DeviceChoice` with its settings. `auto` is a GPU
            (`cuda`, then `directml`) when the installed ONNX Runtime can really use one, else the CPU.
        threads: Threads inside one inference on the CPU; None takes the CPUs this process may use.
        labels: Class names for a file without an edgeclf spec; must be None for one that has it.
        scaling: Pixel scaling for a foreign file whose input is float; must be None otherwise.

    Attributes:
        path: The file.
        spec: Its spec; for a foreign file, one made of `labels` and the input's size.
        is_foreign: Whether the file came without a spec.
        provider: ONNX Runtime provider that runs it, such as `CPUExecutionProvider`.
        placement: Nodes of the model by the provider that runs them; None where ONNX Runtime (before 1.24) does not tell.
        threads: Threads inside one inference.
        threads_were_chosen: Whether `threads` was given.
        fixed_batch: The only batch size the file accepts, None when any will do.

    Raises:
        ModelFileError: The file is missing, corrupt, or has the wrong inputs or outputs for its labels.
        DeviceUnavailableError: The device is not there.
        UsageError: `threads`, `labels` or `scaling` does not fit the file.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | DeviceChoice = "auto",
        threads: int | None = None,
        labels: Sequence[str] | None = None,
        scaling: PixelScaling | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError("bad number of threads", got=str(threads), expected="at least 1")
        self.path = Path(path)
        self.threads = threads or usable_cpus()
        self.threads_were_chosen = threads is not None
        self._opened = file_identity(self.path)
        self._session = open_session(self.path, device, self.threads)
        self._alone: ModelSession | None = None
        self._alone_lock = threading.Lock()
        self.provider = check_provider(device, list(self._session.get_providers()))
        self.placement = node_placement(self._session)
        check_placement(device, self.placement)
        self._input = _read_input(self._session, self.path)
        self.fixed_batch = self._input.batch
        self._bound = BoundRuns(self._session, self.provider) if self.provider in FIXED_SHAPE_PROVIDERS else None
        text = self._session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        self.is_foreign = text is None
        self._scale: FloatArray | None = None
        self._shift: FloatArray | None = None
        self._apply_softmax = False
        if text is None:
            self.spec = self._foreign_spec(labels, scaling)
        else:
            if labels is not None or scaling is not None:
                raise UsageError(
                    f"{self.path} describes itself",
                    got="labels or pixel scaling",
                    expected="none for a file with an edgeclf spec",
                    do="leave them out",
                )
            self.spec = spec_from_json(text, str(self.path))
            self._check_contract()

    @property
    def is_cpu(self) -> bool:
        """Whether ONNX Runtime's own CPU kernels run it."""
        return self.provider == "CPUExecutionProvider"

    def on_one_thread(self) -> "ModelSession | None":
        """The same model for inferences side by side: each on the CPU in the one thread that calls it.

        Returns:
            This session if it is like that, else another of the same file, opened at the first call; None when the file
            is no longer the one that was opened.

        Raises:
            ModelFileError: The file cannot be opened.
        """
        if self.is_cpu and self.threads == 1:
            return self
        with self._alone_lock:
            if self._alone is None and self._opened is not None and file_identity(self.path) == self._opened:
                alone = copy.copy(self)
                alone._session = open_session(self.path, "cpu", 1)
                alone.threads, alone.provider, alone._bound = 1, "CPUExecutionProvider", None
                if file_identity(self.path) == self._opened:
                    self._alone = alone
            return self._alone

    def run(self, images_rgb: UInt8Array, *, pad_to: int | None = None) -> FloatArray:
        """Classifies preprocessed images.

        Args:
            images_rgb: (N, H, W, 3) uint8, RGB, of the spec's input size; N >= 1.
            pad_to: Images that every inference gets, the last image repeated where there are too few: a GPU plans, or
                even compiles, for each new number. None takes them as they are; ignored where the file fixes a number.

        Returns:
            (N, C) float32 probabilities, rows in the order of the images, columns in the order of the labels.

        Raises:
            InputError: The array has another shape or dtype.
            ModelFileError: ONNX Runtime cannot run the file on it, or it does not give one row an image.
        """
        height, width = self._input.size_hw
        if images_rgb.dtype != np.uint8 or images_rgb.shape[1:] != (height, width, 3) or len(images_rgb) == 0:
            raise InputError(
                "cannot run this batch",
                got=f"shape {images_rgb.shape} {images_rgb.dtype}",
                expected=f"(N, {height}, {width}, 3) uint8 in RGB order",
                do="use edgeclf.runtime.preprocess_bgr",
            )
        batch = self.fixed_batch or pad_to
        if batch is None:
            return self._run_exact(images_rgb)
        rows: list[FloatArray] = []
        for start in range(0, len(images_rgb), batch):
            part = images_rgb[start : start + batch]
            count = len(part)
            if count < batch:
                part = np.concatenate([part, np.repeat(part[-1:], batch - count, axis=0)])
            rows.append(self._run_exact(part)[:count])
        return np.concatenate(rows)

    def _run_exact(self, images_rgb: UInt8Array) -> FloatArray:
        tensor: AnyArray = images_rgb
        if self._input.is_float:
            tensor = images_rgb.astype(np.float32)
            if self._scale is not None:
                tensor *= self._scale
                tensor += self._shift
        if self._input.is_nchw:
            # NHWC to NCHW, as the foreign file wants it.
            tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
        try:
            if self._bound is None:
                (output,) = self._session.run(None, {self._input.name: tensor})
            else:
                output = self._bound.run(tensor)
        except Exception as error:
            # As in `open_session`. Typical is a file made for one image at a time that does not say so in its input's shape.
            raise self._cannot_run(len(tensor), str(error).split("\n", 1)[0][:300]) from error
        probabilities = np.asarray(output, np.float32)
        if probabilities.ndim != 2 or len(probabilities) != len(tensor):
            raise self._cannot_run(len(tensor), f"an output of shape {probabilities.shape}")
        return softmax(probabilities) if self._apply_softmax else probabilities

    def _cannot_run(self, count: int, got: str) -> ModelFileError:
        return ModelFileError(
            f"cannot run {self.path} on a batch of {count}",
            got=got,
            expected="one row of probabilities an image",
            do="export it with a free batch size"
            if count == 1
            else "pass --batch-size 1, or export it with a free one",
        )

    def _check_contract(self) -> None:
        height, width = self.spec.preprocess.size_hw
        if self._input.is_float or self._input.is_nchw or self._input.size_hw != (height, width):
            raise ModelFileError(
                f"{self.path} does not match its own spec",
                got=f"an input of {'float32' if self._input.is_float else 'uint8'} {self._input.size_hw}",
                expected=f"uint8 (N, {height}, {width}, 3)",
                do="export it again",
            )
        self._check_classes(len(self.spec.labels))

    def _check_classes(self, expected: int) -> None:
        outputs = self._session.get_outputs()
        shape = list(outputs[0].shape)
        if len(outputs) != 1 or len(shape) != 2 or outputs[0].type != _FLOAT:
            raise ModelFileError(
                f"{self.path} is not an image classifier that edgeclf can run",
                got=f"outputs {[(o.name, o.type, o.shape) for o in outputs]}",
                expected="one float32 output (N, classes)",
                do="export the classifier without further outputs",
            )
        if isinstance(shape[1], int) and shape[1] != expected:
            raise ModelFileError(
                f"the labels do not match {self.path}",
                got=f"{expected} labels",
                expected=f"{shape[1]}, one for each output",
                do="pass the right labels",
            )

    def _foreign_spec(self, labels: Sequence[str] | None, scaling: PixelScaling | None) -> ModelSpec:
        if not labels:
            raise ModelFileError(
                f"{self.path} has no edgeclf spec",
                got="no labels",
                expected="class names in the order of its outputs",
                do="pass labels=[...] (on the command line --labels FILE, one name a line)",
            )
        if self._input.is_float and scaling is None:
            raise ModelFileError(
                f"{self.path} takes float pixels and does not say how they are scaled",
                got="no mean and std",
                expected="the training normalisation in 0..255 units, RGB",
                do="pass scaling=PixelScaling(mean, std) (--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 "
                "for ImageNet models, --mean 0,0,0 --std 255,255,255 for a plain division by 255)",
            )
        if not self._input.is_float and scaling is not None:
            raise UsageError(
                f"{self.path} takes uint8 pixels", got="mean and std", expected="none", do="leave them out"
            )
        if len(set(labels)) != len(labels):
            raise ModelFileError(
                f"the labels for {self.path} clash", got="the same name twice", expected="different names"
            )
        self._check_classes(len(labels))
        if scaling is not None:
            # (pixel - mean) / std as one multiplication and one addition, broadcast over NHWC.
            self._scale = (1.0 / np.asarray(scaling.std, np.float64)).astype(np.float32)
            self._shift = (-np.asarray(scaling.mean, np.float64) / np.asarray(scaling.std)).astype(np.float32)
        # Nothing in the file says whether a softmax is inside; a grey image shows it.
        probe = self.run(np.full((1, *self._input.size_hw, 3), 128, np.uint8))
        if probe.shape[1] != len(labels):
            raise ModelFileError(
                f"the labels do not match {self.path}",
                got=f"{len(labels)} labels",
                expected=f"{probe.shape[1]}, one for each output",
                do="pass the right labels",
            )
        self._apply_softmax = bool((probe < 0).any()) or abs(float(probe.sum()) - 1.0) > 1e-3
        return ModelSpec(labels=tuple(labels), preprocess=Preprocess(self._input.size_hw), architecture="foreign")


def softmax(logits: AnyArray) -> FloatArray:
    """Softmax along the last axis, shifted by the maximum so that it cannot overflow.

    Args:
        logits: (N, C) float.

    Returns:
        (N, C) float32, rows summing to 1.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def _read_input(session: Any, path: Path) -> _InputLayout:  # noqa: ANN401 - onnxruntime carries no types
    inputs = session.get_inputs()
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
            do="export the model with a fixed image size",
        )
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    return _InputLayout(inputs[0].name, kind == _FLOAT, is_nchw, (int(sides[0]), int(sides[1])), batch)
