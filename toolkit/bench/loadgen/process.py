"""The process in which the load generator drives a model, and remote calls to it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from edgeclf.runtime import DeviceChoice, ForeignModel
from edgeclf.runtime.errors import DeviceUnavailableError, EdgeclfError, ImageError, MissingPackageError, install_hint
from edgeclf.toolkit.bench.loadgen.sut import RunRecord, RunRequest, Samples, SystemUnderTest
from edgeclf.toolkit.console import environment_error

T = TypeVar("T")
# Most images in memory, as in MLPerf's image classification, and most bytes of them.
MOST_SAMPLES = 1024
_MOST_BYTES = 1 << 30
_POLL_S = 0.1


@dataclass(frozen=True)
class SystemSetup:
    """Configuration of the system under test.

    Attributes:
        model: Path of the model file.
        device: Device that runs the model.
        threads: Threads inside one inference.
        workers: Number of classifying threads in `server` and `offline`.
        batch_size: Largest batch in `server` and `offline`.
        image_paths: Image files that are the samples; empty for the synthetic frame.
        includes_preprocess: Whether resizing and colour conversion are part of every query.
        foreign: How a file without a spec is to be used.
    """

    model: Path
    device: DeviceChoice
    threads: int
    workers: int
    batch_size: int
    image_paths: tuple[Path, ...] = ()
    includes_preprocess: bool = False
    foreign: ForeignModel | None = None


@dataclass(frozen=True)
class SystemFacts:
    """The opened system under test.

    Attributes:
        provider: ONNX Runtime provider that runs the model.
        samples: Number of images in memory.
        unreadable: Number of unreadable image files.
        first_error: Error of the first unreadable file; empty where there is none.
        used_as: How a file without a spec is used, as plain JSON values; None for one that has a spec.
    """

    provider: str
    samples: int
    unreadable: int
    first_error: str
    used_as: dict[str, Any] | None = None


class LoadgenProcess:
    """A process with a model and the load generator; a context manager.

    Args:
        setup: Configuration of the system under test.

    Attributes:
        facts: The opened system, once the block is entered.

    Raises:
        MissingPackageError: mlcommons-loadgen is not installed.
        EdgeclfError: The model, the device or the images cannot be used.
    """

    facts: SystemFacts

    def __init__(self, setup: SystemSetup) -> None:
        check_installed()
        # A fresh interpreter: running threads of ONNX Runtime and OpenCV do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, setup), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "LoadgenProcess":  # noqa: PYI034 - Self is younger than Python 3.10
        try:
            self.facts = self._answer(lambda _seconds: None)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def query_s(self, images: int) -> float:
        """`SystemUnderTest.query_s` in the process: seconds of the fastest of several queries."""
        self._pipe.send(("query_s", images))
        return float(self._answer(lambda _seconds: None))

    def samples_per_s(self, seconds: float) -> float:
        """`SystemUnderTest.samples_per_s` in the process: throughput of all threads."""
        self._pipe.send(("samples_per_s", seconds))
        return float(self._answer(lambda _seconds: None))

    def run(self, request: RunRequest, waiting: Callable[[float], None]) -> RunRecord:
        """Runs the load generator once.

        Args:
            request: The run.
            waiting: Callback with the seconds since the start, several times a second.
        """
        self._pipe.send(("run", request))
        record = self._answer(waiting)
        if not isinstance(record, RunRecord):
            raise TypeError(f"expected a RunRecord, got {type(record).__name__}")
        return record

    def _answer(self, waiting: Callable[[float], None]) -> Any:  # noqa: ANN401 - whatever was asked for
        start = time.perf_counter()
        while not self._pipe.poll(_POLL_S):
            waiting(time.perf_counter() - start)
            if not self._process.is_alive() and not self._pipe.poll(0):
                raise self._ended()
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise self._ended() from None
        if kind == "answer":
            return value
        if kind == "error":
            raise value
        raise RuntimeError(f"in the load generator's process:\n{value}")

    def _ended(self) -> DeviceUnavailableError:
        code = self._process.exitcode
        return DeviceUnavailableError(
            "the process that runs the model ended",
            got=f"signal {-code}" if code is not None and code < 0 else f"exit code {code}",
            expected="an answer",
            hint="try --device cpu, or fewer images if memory ran out",
        )

    def _end(self) -> None:
        # Killing loses nothing: results are on disk or were received.
        self._process.kill()
        self._process.join()
        self._pipe.close()


def check_installed() -> None:
    """Raises MissingPackageError where the load generator is not installed."""
    try:
        import mlperf_loadgen  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            "the load generator cannot be loaded",
            got=str(error),
            expected="the package mlcommons-loadgen",
            hint=install_hint("bench"),
        ) from error


def _serve(pipe: Connection, setup: SystemSetup) -> None:
    """Main function of the process: opens the system, then executes calls until the pipe is closed."""
    # Ctrl-C reaches every process of the terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The sending thread must not wait 5 ms, the default, for the interpreter.
    sys.setswitchinterval(0.0002)
    lock = threading.Lock()

    def failed(error: BaseException) -> None:
        with lock:
            pipe.send(_as_message(error))
        # The generator cannot be stopped: this thread blocks until the parent kills the process.
        threading.Event().wait()

    try:
        system, facts = _open(setup, failed)
        pipe.send(("answer", facts))
        while True:
            question, value = pipe.recv()
            answer = getattr(system, question)(value)
            with lock:
                pipe.send(("answer", answer))
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 - reported to the parent
        failed(error)


def _open(setup: SystemSetup, failed: Callable[[BaseException], None]) -> tuple[SystemUnderTest, SystemFacts]:
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.images._opencv import cv2
    from edgeclf.runtime.timing.queries import synthetic_frame
    from edgeclf.toolkit.foreign import use_json

    session = ModelSession(setup.model, device=setup.device, threads=setup.threads, foreign=setup.foreign)
    # As many threads for a resize as for an inference, for each worker.
    cv2.setNumThreads(setup.threads)
    frames_bgr, errors = _load(setup.image_paths) if setup.image_paths else ([synthetic_frame()], [])
    samples = Samples(frames_bgr, session, includes_preprocess=setup.includes_preprocess)
    system = SystemUnderTest(session, samples, workers=setup.workers, batch_size=setup.batch_size, failed=failed)
    facts = SystemFacts(
        session.provider, samples.count, len(errors), str(errors[0]) if errors else "", use_json(session)
    )
    return system, facts


def _load(paths: Sequence[Path]) -> tuple[list[Any], list[EdgeclfError]]:
    """Decoded images within the limits, and the errors of unreadable ones before them."""
    from edgeclf.runtime import load_image

    frames_bgr: list[Any] = []
    errors: list[EdgeclfError] = []
    held = 0
    for path in paths:
        if len(frames_bgr) == MOST_SAMPLES or held > _MOST_BYTES:
            break
        try:
            frames_bgr.append(load_image(path))
            held += frames_bgr[-1].nbytes
        except ImageError as error:
            errors.append(error)
    if not frames_bgr:
        raise errors[0]
    return frames_bgr, errors


def _as_message(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, EdgeclfError):
        return "error", error
    shown = environment_error(error) if isinstance(error, Exception) else None
    if shown is not None:
        return "error", shown
    return "bug", "".join(traceback.format_exception(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)
