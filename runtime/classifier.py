"""`Classifier`: images and image files in, predictions out."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import EdgeclfError, UsageError
from edgeclf.runtime.images.given_image import ChannelOrder, GivenImage, check_channels, pixels_of
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.prediction import Prediction, predictions_from
from edgeclf.runtime.session.devices import DeviceChoice
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.spec import ModelSpec, Preprocess

if TYPE_CHECKING:
    from edgeclf.runtime.session.foreign.given import ForeignModel
    from edgeclf.runtime.session.self_test import SelfTestResult

SourceT = TypeVar("SourceT", str, Path)


class Classifier:
    """An image classifier read from one `.onnx` file.

    Thread-safe: one instance serves any number of threads. Used in a `with` block it is closed at its end; without, when
    nothing refers to it any more. A forked process opens the file again at its first prediction, and so does whoever
    unpickles a classifier: it can be handed to a pool of processes of any kind. `docs/embedding.md` has examples.

    Args:
        model: The `.onnx` file.
        device: As for `ModelSession`: `auto`, `cpu`, `cuda`, `tensorrt`, `openvino`, ..., or a `DeviceChoice`.
        threads: Threads inside one inference on the CPU; None takes the CPUs this process may use.
        foreign: As for `ModelSession`: how a file without an edgeclf spec is to be used.
        exact: Whether JPEG files are decoded at their full size even where they are much larger than the input, as
            training and evaluation do it. Without it a 12-megapixel file takes a fraction of the time, and a
            photograph on the border between two classes may fall on the other side of it.

    Attributes:
        session: The opened model. It may be exchanged for another one at any time, also while threads classify.
        open_session: Opens the file again with the same options.

    Raises:
        ModelFileError: The file is missing, corrupt, or does not fit its labels.
        DeviceUnavailableError: The device is not there.

    Example:
        >>> clf = Classifier("model.onnx")
        >>> clf.predict(frame_bgr).label
        'gravel'
    """

    def __init__(
        self,
        model: Path | str,
        *,
        device: str | DeviceChoice = "auto",
        threads: int | None = None,
        foreign: "ForeignModel | None" = None,
        exact: bool = False,
    ) -> None:
        self.session = ModelSession(model, device=device, threads=threads, foreign=foreign)
        # A file that takes its place later describes itself, or is used in the way that was said of a foreign one.
        usual = foreign if self.session.is_foreign else None
        self.open_session = partial(_open_again, Path(model), device, threads, usual)
        self._is_exact = exact
        self._local = threading.local()

    @property
    def spec(self) -> ModelSpec:
        """The model's description: labels, input size, precision and the rest."""
        return self.session.spec

    @property
    def provider(self) -> str:
        """ONNX Runtime provider that runs the model, such as `CPUExecutionProvider`."""
        return self.session.provider

    def self_test(self) -> "SelfTestResult":
        """Runs the golden inputs that the file carries: whether it computes here what it computed where it was made.

        Raises:
            ModelFileError: The file has no self-test, or one that cannot be read.
        """
        # Only here: an application that classifies frames needs no golden inputs.
        from edgeclf.runtime.session.self_test import run_self_test

        return run_self_test(self.session)

    def __enter__(self) -> "Classifier":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the model's memory back; afterwards classifying is a UsageError. What is under way goes on to its end."""
        self.session.close()

    def __getstate__(self) -> dict[str, object]:
        """What `pickle` keeps: the file's path and the options. The file itself is opened again."""
        path, *options = self.open_session.args
        return {
            **self.__dict__,
            "_local": None,
            # A process that unpickles it may run in another folder.
            "open_session": partial(_open_again, Path(path).absolute(), *options),
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        """Takes what `__getstate__` gave."""
        self.__dict__.update(state)
        self._local = threading.local()

    def predict(self, image: GivenImage, *, channels: ChannelOrder = "bgr") -> Prediction:
        """Classifies one image.

        Args:
            image: (H, W, 3) uint8 in BGR order, as `cv2.imread` and `VideoCapture.read` give it; a file's path; the bytes
                of an image file, such as an upload; or a Pillow image, which is turned upright and laid on white.
            channels: Order of the channels where `image` is an array: `bgr`, or `rgb` as Pillow, imageio and
                scikit-image give it.

        Raises:
            ImageError: The image cannot be read, or the array has another shape or dtype.
            UsageError: `channels` is something else, or the classifier was closed.
        """
        check_channels(channels)
        session = self.session
        preprocess = session.spec.preprocess
        one_rgb: UInt8Array | None = getattr(self._local, "one_rgb", None)
        if one_rgb is None or one_rgb.shape[1:3] != preprocess.size_hw:
            # Used again for each image of this thread: new memory costs a page fault every 4 KB.
            one_rgb = self._local.one_rgb = np.empty((1, *preprocess.size_hw, 3), np.uint8)
        preprocess_bgr(self._pixels(image, channels, preprocess), preprocess, out=one_rgb[0])
        return predictions_from(session.run(one_rgb), session.spec)[0]

    def predict_batch(self, images: Iterable[GivenImage], *, channels: ChannelOrder = "bgr") -> list[Prediction]:
        """Classifies several images in one inference; see `predict` for what an image may be.

        Raises:
            ImageError: An image cannot be used; none is classified then.
            UsageError: As for `predict`.
        """
        check_channels(channels)
        _check_several(images, "predict_batch")
        images = list(images)
        if not images:
            return []
        session = self.session
        preprocess = session.spec.preprocess
        height, width = preprocess.size_hw
        batch_rgb = np.empty((len(images), height, width, 3), np.uint8)
        for row, image in zip(batch_rgb, images, strict=True):
            preprocess_bgr(self._pixels(image, channels, preprocess), preprocess, out=row)
        return predictions_from(session.run(batch_rgb), session.spec)

    def _pixels(self, image: GivenImage, channels: ChannelOrder, preprocess: Preprocess) -> UInt8Array:
        return pixels_of(image, channels=channels, reduce_for=None if self._is_exact else preprocess)

    @overload
    def stream(
        self,
        paths: Iterable[SourceT],
        *,
        batch_size: int | None = ...,
        workers: int | None = ...,
        on_error: Literal["raise"] = ...,
    ) -> Iterator[tuple[SourceT, Prediction]]: ...

    @overload
    def stream(
        self,
        paths: Iterable[SourceT],
        *,
        batch_size: int | None = ...,
        workers: int | None = ...,
        on_error: Literal["yield"],
    ) -> Iterator[tuple[SourceT, Prediction | EdgeclfError]]: ...

    def stream(
        self,
        paths: Iterable[SourceT],
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: Literal["raise", "yield"] = "raise",
    ) -> Iterator[tuple[SourceT, Prediction | EdgeclfError]]:
        """Classifies image files, any number of them, in order: decoding overlaps inference, memory stays bounded.

        Args:
            paths: Image files; pulled lazily.
            batch_size: Images in one inference; None takes 4 on the CPU and 8 elsewhere.
            workers: Threads that decode, and on the CPU infer as well; None takes the CPUs this process may use. OpenCV's
                own pool is limited, process-wide, meanwhile.
            on_error: What an unreadable image does: `raise` its ImageError, or `yield` it in the prediction's place.

        Yields:
            The path as it was given, and its prediction.

        Raises:
            UsageError: `on_error` is something else, or a count is below 1.
            ImageError: An image cannot be read and `on_error` is `raise`.
        """
        if on_error not in {"raise", "yield"}:
            raise UsageError("bad on_error", got=repr(on_error), expected="'raise' or 'yield'")
        _check_several(paths, "stream")
        # Only here: an application that classifies frames needs no pipeline.
        from edgeclf.runtime.batch.jobs import Job
        from edgeclf.runtime.batch.pipeline import classify_jobs

        # The pipeline pulls jobs ahead of its results; the queue hands each result its own path, as it was given.
        given: deque[SourceT] = deque()
        session = self.session
        reduce_for = None if self._is_exact else session.spec.preprocess

        def jobs() -> Iterator[Job]:
            for path in paths:
                given.append(path)
                yield Job(str(path), partial(load_image, path, reduce_for=reduce_for))

        outcomes = classify_jobs(session, jobs(), batch_size=batch_size, workers=workers)

        def results() -> Iterator[tuple[SourceT, Prediction | EdgeclfError]]:
            with closing(outcomes):
                for outcome in outcomes:
                    path = given.popleft()
                    if outcome.prediction is not None:
                        yield path, outcome.prediction
                    elif outcome.error is not None:
                        if on_error == "raise":
                            raise outcome.error
                        yield path, outcome.error

        return results()


def _check_several(images: object, method: str) -> None:
    """Refuses one path, or the bytes of one file, where several are asked for: a text is a sequence of its letters."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview):
        one = repr(os.fspath(images)) if isinstance(images, str | os.PathLike) else type(images).__name__
        raise UsageError(
            f"{method} takes several images",
            got=f"one: {one}",
            expected="a list or another iterable",
            hint="pass edgeclf.runtime.image_paths([...]) for what is in a folder, or [image] for one",
        )


def _open_again(
    path: Path, device: str | DeviceChoice, threads: int | None, foreign: "ForeignModel | None"
) -> ModelSession:
    """The session of a file that may have been replaced: what is said of files without a spec applies to those alone."""
    if foreign is not None:
        from edgeclf.runtime.session.graph_outline import read_graph_outline
        from edgeclf.runtime.spec import SPEC_KEY

        if SPEC_KEY in read_graph_outline(path).metadata:
            foreign = None
    return ModelSession(path, device=device, threads=threads, foreign=foreign)
