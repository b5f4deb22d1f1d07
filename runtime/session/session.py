"""`ModelSession`: a model file opened in ONNX Runtime, preprocessed pixels in, probabilities out."""

import copy
import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.cpus import check_threads, usable_cpus
from edgeclf.runtime.errors import InputError, ModelFileError, UsageError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.session.devices import DeviceChoice, check_placement, check_provider, node_placement
from edgeclf.runtime.session.foreign.image_input import PixelConversion, facts_of_ort, find_image_input
from edgeclf.runtime.session.io_binding import FIXED_SHAPE_PROVIDERS, BoundRuns
from edgeclf.runtime.session.opening import first_line, open_session
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, spec_from_json

if TYPE_CHECKING:
    from edgeclf.runtime.session.foreign.given import Activation, ForeignModel
    from edgeclf.runtime.session.foreign.outputs import OutputCodes
    from edgeclf.runtime.session.foreign.use import ModelUse


class ModelSession:
    """A classifier file opened in ONNX Runtime, its inputs and outputs checked against the contract.

    Safe to use from several threads at once: ONNX Runtime's `Run` is, and what changes here after construction is each
    thread's own. A forked process opens the file again at its first inference, on the CPU; on other devices that is an
    error. Pickling keeps the path and the options: whoever unpickles it opens the file.

    Args:
        path: The `.onnx` file.
        device: A name out of `edgeclf.runtime.session.devices.DEVICES`, or a `DeviceChoice` with its settings. `auto` is a GPU
            (`cuda`, then `directml`) when the installed ONNX Runtime can really use one, else the CPU.
        threads: Threads inside one inference on the CPU; None takes the CPUs this process may use.
        foreign: How a file without an edgeclf spec is to be used, as far as the user knows; `ForeignModel()` leaves all of it to
            the file. None refuses such files; one that has a spec takes None or `ForeignModel()`.

    Attributes:
        path: The file.
        identity: Identity of the file when it was opened; None where it could not be read.
        spec: Its spec; for a foreign file, one made of its labels and preprocessing.
        use: How a foreign file is used, and why; None for a file with a spec.
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
        foreign: "ForeignModel | None" = None,
    ) -> None:
        if threads is not None:
            check_threads("number of threads", threads)
        self.path = Path(path)
        self.threads = threads or usable_cpus()
        self.threads_were_chosen = threads is not None
        self.identity = file_identity(self.path)
        choice = device if isinstance(device, DeviceChoice) else DeviceChoice(device)
        self._choice = choice
        self._given = foreign
        # ONNX Runtime has no types. None once it is closed.
        self._session: Any = open_session(self.path, threads=self.threads, device=choice)
        self._is_of_parent = False
        self._alone: ModelSession | None = None
        self._alone_lock = threading.Lock()
        _SESSIONS.add(self)
        self.provider = check_provider(choice, list(self._session.get_providers()))
        self.placement = node_placement(self._session)
        check_placement(choice, self.placement)
        self.fixed_batch: int | None = None
        self._bound: BoundRuns | None = None
        self.use: ModelUse | None = None
        # Of a foreign file alone: what is left to do to its output, and what its codes stand for.
        self._activation: Activation | None = None
        self._codes: OutputCodes | None = None
        self._is_as_opened = True
        # A file without outputs is refused below.
        self._output_name = next((value.name for value in self._session.get_outputs()), "")
        text = self._session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        if text is None:
            self._open_foreign(foreign)
        else:
            self.spec = self._own_spec(text, foreign)
            if self._session.get_outputs()[0].shape[1] != len(self.spec.labels):
                # A file of others with a spec: how many classes there are only an image shows.
                self.run(np.zeros((1, *self._size_hw, 3), np.uint8))

    @property
    def is_foreign(self) -> bool:
        """Whether the file came without a spec."""
        return self.use is not None

    @property
    def is_cpu(self) -> bool:
        """Whether ONNX Runtime's own CPU kernels run it."""
        return self.provider == "CPUExecutionProvider"

    def __reduce__(self) -> "tuple[object, ...]":
        """The path and the options, for `pickle`."""
        threads = self.threads if self.threads_were_chosen else None
        return _open_pickled, (self.path.absolute(), self._choice, threads, self._given, self.use)

    def close(self) -> None:
        """Gives the model's memory back; afterwards `run` is an error. An inference under way goes on to its end."""
        with self._alone_lock:
            alone, self._alone = self._alone, None
        if alone is not None:
            alone.close()
        self._session = self._bound = None

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
                alone._is_of_parent, alone._alone_lock = False, threading.Lock()
                alone._choice = DeviceChoice("cpu")
                _SESSIONS.add(alone)
                if file_identity(self.path) == self.identity:
                    self._alone = alone
            return self._alone

    def used_as(self, use: "ModelUse") -> "ModelSession":
        """The same opened foreign file, used in another way: other scaling, channels, fit or activation.

        Args:
            use: This session's `use` with some parts replaced; input, output and image size stay.

        Raises:
            ValueError: The file has a spec, or the use is of another input, output or image size.
        """
        if self.use is None or (use.input, use.output, use.size_hw) != (
            self.use.input,
            self.use.output,
            self.use.size_hw,
        ):
            raise ValueError("only scaling, channels, fit, interpolation, activation and labels can be replaced")
        other = copy.copy(self)
        other._alone = None
        other._alone_lock = threading.Lock()
        _SESSIONS.add(other)
        other._conversion = PixelConversion(use.input, is_bgr=use.channels == "bgr", scaling=use.scaling)
        other.use, other.spec, other._activation = use, use.spec, use.activation
        # Whoever tries another use may ask for numbers that are no probabilities.
        other._is_as_opened = replace(use, labels=self.use.labels, origins=self.use.origins) == self.use
        return other

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
            ModelFileError: ONNX Runtime cannot run the file on it, or it does not give one row an image; or the process was
                forked, and the file is another since it was opened.
            UsageError: The session was closed, or runs on another device than the CPU and the process was forked.
        """
        height, width = self._size_hw
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
        return self.probabilities_of(self._raw(images_rgb), len(images_rgb))

    @property
    def output_name(self) -> str:
        """Name of the output with the classes."""
        return str(self._output_name)

    def tensor_of(self, images_rgb: UInt8Array) -> AnyArray:
        """The input tensor of the file for preprocessed images, for runs elsewhere than in this session.

        Args:
            images_rgb: As for `run`.
        """
        return self._conversion(images_rgb)

    def probabilities_of(self, output: AnyArray, count: int) -> FloatArray:
        """The probabilities in an output of the file.

        Args:
            output: The output, as the file gives it.
            count: Number of images.

        Returns:
            (N, C) float32, as `run` gives them.

        Raises:
            ModelFileError: It is not one row an image, or not one column a label.
        """
        if self._activation is None:
            # A copy: whoever keeps an array of ONNX Runtime's keeps all memory of its session, the weights as well.
            probabilities = np.array(output, np.float32)
            if probabilities.ndim != 2 or len(probabilities) != count:
                raise self._cannot_run(count, f"an output of shape {probabilities.shape}")
        else:
            from edgeclf.runtime.session.foreign.activation import probabilities_from
            from edgeclf.runtime.session.foreign.probing import check_scores

            scores = self._scores(output, count)
            if self.use is not None and self._is_as_opened:
                # Probe images may show less than photographs.
                check_scores(self.use, scores, self.path)
            probabilities = probabilities_from(scores, self._activation)
        # A graph may leave the number of its classes free, and give another for another batch.
        if probabilities.shape[1] != len(self.spec.labels):
            raise _labels_mismatch(self.path, len(self.spec.labels), probabilities.shape[1])
        return probabilities

    def _raw(self, images_rgb: UInt8Array) -> AnyArray:
        """The output for a batch, as the file gives it."""
        if self._is_of_parent:
            self._open_after_fork()
        session, bound = self._session, self._bound
        if session is None:
            raise UsageError(f"cannot classify with {self.path}", got="a closed model", hint="open it again")
        tensor = self._conversion(images_rgb)
        try:
            if bound is not None:
                return bound.run(tensor)
            (output,) = session.run([self._output_name], {self._input_name: tensor})
        except Exception as error:
            # As in `open_session`. Typical is a file made for one image at a time that does not say so in its input's shape.
            raise self._cannot_run(len(tensor), first_line(error)) from error
        else:
            return output  # type: ignore[no-any-return]  # ONNX Runtime has no types

    def _open_after_fork(self) -> None:
        """Opens the file in a forked process: the threads of the parent's session, and its GPU, are not there."""
        if not self.is_cpu:
            raise UsageError(
                f"cannot run {self.path} in a forked process",
                got=f"a model opened on {self.provider} before the fork",
                expected="one that is opened in the process that uses it",
                hint='start processes with multiprocessing.get_context("spawn")',
            )
        with self._alone_lock:
            if not self._is_of_parent:
                return
            if file_identity(self.path) != self.identity:
                raise ModelFileError(
                    f"cannot open {self.path} again in this forked process",
                    got="another file than before the fork",
                    expected="the same one",
                    hint="open the model in the process that uses it",
                )
            self._session = open_session(self.path, threads=self.threads, device=self._choice)
            self._is_of_parent = False

    def _leave_to_parent(self) -> None:
        """In a forked process: what is open belongs to the parent."""
        if self._session is not None:
            # Freed here, it would wait for threads that there are not.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._is_of_parent = True
        self._alone, self._alone_lock = None, threading.Lock()

    def _scores(self, output: AnyArray, count: int) -> FloatArray:
        from edgeclf.runtime.session.foreign.outputs import rows_of

        scores = rows_of(output, count, self._codes)
        if scores is None:
            raise self._cannot_run(count, f"an output of shape {np.shape(output)}")
        return scores

    def _cannot_run(self, count: int, got: str) -> ModelFileError:
        return ModelFileError(
            f"cannot run {self.path} on a batch of {count}",
            got=got,
            expected="one row of probabilities an image",
            hint="export it with a free batch size"
            if count == 1
            else "pass --batch-size 1, or export it with a free one",
        )

    def _set_input(self, name: str, size_hw: tuple[int, int], conversion: PixelConversion, batch: int | None) -> None:
        self._input_name, self._size_hw, self._conversion, self.fixed_batch = name, size_hw, conversion, batch
        if self.provider in FIXED_SHAPE_PROVIDERS:
            self._bound = BoundRuns(self._session, self._output_name)

    def _own_spec(self, text: str, foreign: "ForeignModel | None") -> ModelSpec:
        if foreign is not None and not foreign.is_empty:
            raise UsageError(
                f"{self.path} describes itself",
                got="options for files without a spec, such as labels or pixel scaling",
                expected="none for a file with an edgeclf spec",
                hint="leave them out",
            )
        found = find_image_input(facts_of_ort(self._session.get_inputs()), self.path)
        spec = spec_from_json(text, str(self.path))
        height, width = spec.preprocess.size_hw
        if not found.is_uint8 or (found.layout, found.channels, found.size_hw) != ("NHWC", 3, (height, width)):
            raise ModelFileError(
                f"{self.path} does not match its own spec",
                got=f"an input of {found.dtype} {found.shape_text()}",
                expected=f"uint8 (N, {height}, {width}, 3)",
                hint="export it again",
            )
        _check_own_outputs(self._session.get_outputs(), len(spec.labels), self.path)
        self._set_input(found.name, (height, width), PixelConversion(found), found.batch)
        return spec

    def _open_foreign(self, given: "ForeignModel | None") -> None:
        if given is None:
            raise ModelFileError(
                f"{self.path} has no edgeclf spec",
                got="no labels, and no preprocessing",
                expected="a file that edgeclf wrote, or what is known of this one",
                hint="pass foreign=ForeignModel(...) to use a file that others made",
            )
        # Only here: a file with a spec needs none of this.
        from edgeclf.runtime.session.foreign.resolution import resolve_foreign
        from edgeclf.runtime.session.graph_outline import read_graph_outline

        use = resolve_foreign(self.path, read_graph_outline(self.path), given)
        if use.missing:
            raise use.missing[0].error(self.path)
        if use.output is None or use.size_hw is None:
            raise AssertionError(use)
        self._output_name, self._codes = use.output, use.codes
        conversion = PixelConversion(use.input, is_bgr=use.channels == "bgr", scaling=use.scaling)
        self._set_input(use.input.name, use.size_hw, conversion, use.input.batch)
        self.use = use = self._tried(use)
        self.spec, self._activation = use.spec, use.activation

    def _tried(self, use: "ModelUse") -> "ModelUse":
        """The use after a first run, which shows what the graph does not: a baked batch, the number of classes, the activation."""
        from edgeclf.runtime.session.foreign.activation import probe_images
        from edgeclf.runtime.session.foreign.probing import check_scores, completed

        images = probe_images(self._size_hw)
        # A shape more costs a GPU seconds, TensorRT minutes.
        pair = 1 if self.fixed_batch is not None or self.provider in FIXED_SHAPE_PROVIDERS else 2
        try:
            scores = self._scores(self._probe(images[:pair]), pair)
        except ModelFileError:
            if pair == 1:
                raise
            # The batch is free by name alone; should one image fail too, that is the error to show.
            scores = self._scores(self._probe(images[:1]), 1)
            self.fixed_batch = 1
        if use.activation is None:
            rest = [self._scores(self._probe(images[n : n + 1]), 1) for n in range(len(scores), len(images))]
            scores = np.concatenate([scores, *rest])
        use = completed(use, scores, self.path, is_baked=self.fixed_batch == 1 and use.input.batch is None)
        check_scores(use, scores, self.path)
        return use

    def _probe(self, images_rgb: UInt8Array) -> AnyArray:
        """The output for one or two images, or as many as the file is fixed to."""
        count, batch = len(images_rgb), self.fixed_batch or len(images_rgb)
        output = self._raw(np.repeat(images_rgb[:1], batch, axis=0) if batch != count else images_rgb)
        return output if batch == count or np.ndim(output) == 0 else output[:count]


_SESSIONS: "weakref.WeakSet[ModelSession]" = weakref.WeakSet()


def _leave_sessions_to_parent() -> None:
    for session in list(_SESSIONS):
        session._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_sessions_to_parent)


def _open_pickled(
    path: Path, choice: DeviceChoice, threads: int | None, given: "ForeignModel | None", use: "ModelUse | None"
) -> ModelSession:
    session = ModelSession(path, device=choice, threads=threads, foreign=given)
    return session if use is None or use == session.use else session.used_as(use)


def _check_own_outputs(outputs: Sequence[object], classes: int, path: Path) -> None:
    """Checks ONNX Runtime's description of the outputs of a file with a spec."""
    facts = facts_of_ort(outputs)
    shape = facts[0].shape if facts else None
    if len(facts) != 1 or shape is None or len(shape) != 2 or facts[0].dtype != "float32":
        raise ModelFileError(
            f"{path} is not an image classifier that edgeclf can run",
            got=f"outputs {[(item.name, item.dtype, item.shape) for item in facts]}",
            expected="one float32 output (N, classes)",
            hint="export it again",
        )
    if isinstance(shape[1], int) and shape[1] != classes:
        raise _labels_mismatch(path, classes, shape[1])


def _labels_mismatch(path: Path, labels: int, classes: int) -> ModelFileError:
    return ModelFileError(
        f"the labels do not match {path}",
        got=f"{labels} labels",
        expected=f"{classes}, one for each output",
        hint="export it again",
    )
