"""`ModelSession`: a model file opened in ONNX Runtime, preprocessed pixels in, probabilities out."""

import copy
import threading
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.session.devices import DeviceChoice, check_placement, check_provider, node_placement
from edgeclf.runtime.session.foreign import (
    ForeignModel,
    are_probabilities,
    check_outputs,
    foreign_spec,
    labels_mismatch,
    read_input_layout,
    scale_and_shift,
    softmax,
)
from edgeclf.runtime.session.io_binding import FIXED_SHAPE_PROVIDERS, BoundRuns
from edgeclf.runtime.session.opening import open_session
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, spec_from_json


class ModelSession:
    """A classifier file opened in ONNX Runtime, its inputs and outputs checked against the contract.

    Safe to use from several threads at once: ONNX Runtime's `Run` is, and what changes here after construction is each
    thread's own.

    Args:
        path: The `.onnx` file.
        device: A name out of `edgeclf.runtime.session.devices.DEVICES`, or a `DeviceChoice` with its settings. `auto` is a GPU
            (`cuda`, then `directml`) when the installed ONNX Runtime can really use one, else the CPU.
        threads: Threads inside one inference on the CPU; None takes the CPUs this process may use.
        foreign: Labels and pixel scaling of a file without an edgeclf spec; must be None for one that has it.

    Attributes:
        path: The file.
        identity: Identity of the file when it was opened; None where it could not be read.
        spec: Its spec; for a foreign file, one made of its labels and the input's size.
        is_foreign: Whether the file came without a spec.
        provider: ONNX Runtime provider that runs it, such as `CPUExecutionProvider`.
        placement: Nodes of the model by the provider that runs them; None where ONNX Runtime (before 1.24) does not tell.
        threads: Threads inside one inference.
        threads_were_chosen: Whether `threads` was given.
        fixed_batch: The only batch size the file accepts, None when any will do.

    Raises:
        ModelFileError: The file is missing, corrupt, or has the wrong inputs or outputs for its labels.
        DeviceUnavailableError: The device is not there.
        UsageError: There is no such device, or `threads` or `foreign` does not fit the file.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        device: str | DeviceChoice = "auto",
        threads: int | None = None,
        foreign: ForeignModel | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError("bad number of threads", got=str(threads), expected="at least 1")
        self.path = Path(path)
        self.threads = threads or usable_cpus()
        self.threads_were_chosen = threads is not None
        self.identity = file_identity(self.path)
        choice = device if isinstance(device, DeviceChoice) else DeviceChoice(device)
        self._session = open_session(self.path, threads=self.threads, device=choice)
        self._alone: ModelSession | None = None
        self._alone_lock = threading.Lock()
        self.provider = check_provider(choice, list(self._session.get_providers()))
        self.placement = node_placement(self._session)
        check_placement(choice, self.placement)
        self._input = read_input_layout(self._session.get_inputs(), self.path)
        self.fixed_batch = self._input.batch
        self._bound = BoundRuns(self._session, self.provider) if self.provider in FIXED_SHAPE_PROVIDERS else None
        self._scale_shift: tuple[FloatArray, FloatArray] | None = None
        self._apply_softmax = False
        text = self._session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        self.is_foreign = text is None
        self.spec = self._foreign_spec(foreign) if text is None else self._own_spec(text, foreign)

    @property
    def is_cpu(self) -> bool:
        """Whether ONNX Runtime's own CPU kernels run it."""
        return self.provider == "CPUExecutionProvider"

    def on_one_thread(self) -> "ModelSession | None":
        """The same model for data-parallel inferences, each on the CPU in the one thread that calls it.

        Returns:
            This session if it runs on one CPU thread already; otherwise a second session of the same file, opened at the
            first call. None when the file is no longer the one that was opened.

        Raises:
            ModelFileError: The file cannot be opened.
        """
        if self.is_cpu and self.threads == 1:
            return self
        with self._alone_lock:
            if self._alone is None and self.identity is not None and file_identity(self.path) == self.identity:
                alone = copy.copy(self)
                alone._session = open_session(self.path, threads=1)
                alone.threads, alone.provider, alone._bound = 1, "CPUExecutionProvider", None
                if file_identity(self.path) == self.identity:
                    self._alone = alone
            return self._alone

    def run(self, images_rgb: UInt8Array, *, pad_to: int | None = None) -> FloatArray:
        """The probabilities of preprocessed images.

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
                hint="use edgeclf.runtime.preprocess_bgr",
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
        tensor = self._input.tensor_from(images_rgb, self._scale_shift)
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
            hint="export it with a free batch size"
            if count == 1
            else "pass --batch-size 1, or export it with a free one",
        )

    def _own_spec(self, text: str, foreign: ForeignModel | None) -> ModelSpec:
        if foreign is not None:
            raise UsageError(
                f"{self.path} describes itself",
                got="labels or pixel scaling",
                expected="none for a file with an edgeclf spec",
                hint="leave them out",
            )
        spec = spec_from_json(text, str(self.path))
        height, width = spec.preprocess.size_hw
        if self._input.is_float or self._input.is_nchw or self._input.size_hw != (height, width):
            raise ModelFileError(
                f"{self.path} does not match its own spec",
                got=f"an input of {'float32' if self._input.is_float else 'uint8'} {self._input.size_hw}",
                expected=f"uint8 (N, {height}, {width}, 3)",
                hint="export it again",
            )
        check_outputs(self._session.get_outputs(), len(spec.labels), self.path)
        return spec

    def _foreign_spec(self, foreign: ForeignModel | None) -> ModelSpec:
        spec = foreign_spec(foreign, self._input, self.path)
        check_outputs(self._session.get_outputs(), len(spec.labels), self.path)
        if foreign is not None and foreign.scaling is not None:
            self._scale_shift = scale_and_shift(foreign.scaling)
        # Nothing in the file says whether a softmax is inside; a grey image shows it.
        output = self.run(np.full((1, *self._input.size_hw, 3), 128, np.uint8))
        if output.shape[1] != len(spec.labels):
            raise labels_mismatch(self.path, len(spec.labels), output.shape[1])
        self._apply_softmax = not are_probabilities(output)
        return spec
