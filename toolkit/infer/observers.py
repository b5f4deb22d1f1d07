"""Threads beside the cameras: one that looks for frozen cameras and writes the log, one that looks for a new model."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeclf.runtime.live.model_reload import WatchedModel
    from edgeclf.toolkit.infer.camera_thread import CameraRun, Events
    from edgeclf.toolkit.infer.status_line import LiveLine

_FREEZE_LOOK_S = 0.1
_MODEL_LOOK_S = 1.0


class Ticker(ABC):
    """Calls a function again and again in a thread of its own, until it is closed."""

    def __init__(self, name: str, every_s: float) -> None:
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edgeclf-{name}", daemon=True)
        self._thread.start()

    @abstractmethod
    def tick(self) -> None:
        """What to do each time."""

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            self.tick()

    def __enter__(self) -> "Ticker":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        # A model that is just being opened is not waited for.
        self._thread.join(1.0)


class CameraWatch(Ticker):
    """Says which cameras freeze and move again, and writes a line of figures a camera now and then."""

    def __init__(self, runs: Sequence["CameraRun"], event: "Events", line: "LiveLine", log_every_s: float) -> None:
        self._runs = runs
        self._event = event
        self._line = line
        self._log_every_s = log_every_s
        self._logged_s = time.monotonic()
        super().__init__("watch", _FREEZE_LOOK_S)

    def tick(self) -> None:
        """See `Ticker`."""
        now_s = time.monotonic()
        for run in self._runs:
            if run.freeze is not None and run.camera is not None and run.thread.is_alive():
                self._tell(run, run.freeze.ask(now_s, run.camera.last_frame_s))
        if self._log_every_s and now_s - self._logged_s >= self._log_every_s:
            self._logged_s = now_s
            for run in self._runs:
                if run.camera is not None and run.thread.is_alive():
                    self._line.note(f"camera {run.name}: {run.figures.log_line(run.camera.statistics)}")

    def _tell(self, run: "CameraRun", change: str | None) -> None:
        if change is None:
            return
        if change:
            self._event("frozen", run.name, reason=change)
            self._line.warn(f"camera {run.name} is frozen: {change}")
        else:
            self._event("moving", run.name)
            self._line.warn(f"camera {run.name} moves again")


class ModelWatch(Ticker):
    """Takes a model file that was replaced, or says why not."""

    def __init__(self, model: "WatchedModel", runs: Sequence["CameraRun"], event: "Events", line: "LiveLine") -> None:
        self._model = model
        self._runs = runs
        self._event = event
        self._line = line
        super().__init__("model", _MODEL_LOOK_S)

    def tick(self) -> None:
        """See `Ticker`."""
        frames = [run.newest_bgr for run in self._runs if run.newest_bgr is not None]
        replacement = self._model.look(frames[0] if frames else None)
        if replacement is None:
            return
        path = self._model.session.path
        if replacement.is_accepted:
            self._event("model_reloaded", str(path), labels=replacement.text)
            self._line.note(f"model {path} was replaced and reloaded: {replacement.text}")
        else:
            self._event("model_kept", str(path), reason=replacement.text)
            self._line.warn(f"model {path} was replaced, the old one is kept: {replacement.text}")
