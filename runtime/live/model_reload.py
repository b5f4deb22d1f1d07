"""Model reload: a model file that is replaced while it runs is tried, then taken."""

from collections.abc import Callable

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.jobs import Job, classify_job
from edgeclf.runtime.classifier import Classifier
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.live.clock import MONOTONIC, Clock, Ticker
from edgeclf.runtime.live.events import ModelEvent, ModelKept, ModelReloaded

_CHECK_EVERY_S = 1.0


class ModelReload:
    """A classifier whose session is exchanged for one of the file's new content, once that has classified a frame.

    Threads that classify read `classifier.session` for every frame; one thread calls `check`.

    Args:
        classifier: The model to begin with.

    Attributes:
        reloads: Number of new models taken.
        rejections: Number of times that the old model was kept.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._path = classifier.session.path
        # As the session was opened, which may have been long before: a file replaced since then is a new one.
        self._used = classifier.session.identity
        self._seen = file_identity(self._path)
        self.reloads = self.rejections = 0

    def check(self, frame_bgr: UInt8Array | None = None) -> ModelEvent | None:
        """Checks once whether the file was replaced, and if so tries the new model.

        A file is tried when two checks in a row find the same content, so that one that is still being copied is left
        alone.

        Args:
            frame_bgr: (H, W, 3) uint8 BGR, classified by the new model before it is taken; None for a grey image.

        Returns:
            The decision on a new file; None where there is none.
        """
        before, self._seen = self._seen, file_identity(self._path)
        if self._seen != before or self._seen == self._used:
            return None
        self._used = self._seen
        event = self._try(frame_bgr)
        self.reloads += isinstance(event, ModelReloaded)
        self.rejections += isinstance(event, ModelKept)
        return event

    def _try(self, frame_bgr: UInt8Array | None) -> ModelEvent:
        if self._seen is None:
            return ModelKept(self._path, "the file is gone")
        image_bgr = np.full((64, 64, 3), 128, np.uint8) if frame_bgr is None else frame_bgr
        try:
            session = self._classifier.open_session()
            error = classify_job(session, Job.of_pixels("trial", image_bgr, 0)).error
        except EdgeclfError as failure:
            error = failure
        if error is not None:
            return ModelKept(self._path, str(error).removesuffix("."))
        previous, self._classifier.session = self._classifier.session, session
        return ModelReloaded(self._path, session.spec.labels, previous.spec.labels)


class ModelWatcher(Ticker):
    """A thread that checks every second whether the model's file was replaced.

    Args:
        model: The model.
        newest_frame: Returns a frame to try a new model with, (H, W, 3) uint8 BGR; None where there is none yet.
        on_event: Called with each decision, from this thread.
        clock: Source of time.
    """

    def __init__(
        self,
        model: ModelReload,
        newest_frame: Callable[[], UInt8Array | None],
        on_event: Callable[[ModelEvent], None],
        clock: Clock = MONOTONIC,
    ) -> None:
        super().__init__("model", _CHECK_EVERY_S, clock)
        self._model = model
        self._newest_frame = newest_frame
        self._on_event = on_event

    def tick(self) -> None:
        """See `Ticker`."""
        event = self._model.check(self._newest_frame())
        if event is not None:
            self._on_event(event)
