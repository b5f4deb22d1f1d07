"""State of the preview: newest result, counts and events of every camera.

The classifying threads write it (`PreviewState.on_result`, `on_event`) in microseconds: they keep references and counts.
The server's thread reads it and does all other work, only for requests.
"""

import datetime as dt
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeclf.runtime import LiveResult

_REMEMBERED_SECONDS = 300
_REMEMBERED_EVENTS = 200
_TOP_K = 5
# The kind of an event is a label of a Prometheus series; longer texts are no kinds.
_LONGEST_KIND = 64

Activity = Literal["waiting", "live", "stale", "ended"]


@dataclass
class Second:
    """Sums and maxima over the results of one second, for the graph.

    Attributes:
        at_s: The second, since the preview began.
        count: Number of results.
        latency_ms: Sum of latencies.
        worst_latency_ms: Largest latency.
        age_ms: Sum of frame ages.
        worst_age_ms: Largest frame age.
    """

    at_s: int
    count: int = 0
    latency_ms: float = 0.0
    worst_latency_ms: float = 0.0
    age_ms: float = 0.0
    worst_age_ms: float = 0.0

    def add(self, latency_ms: float, age_ms: float) -> None:
        """Adds one result."""
        self.count += 1
        self.latency_ms += latency_ms
        self.worst_latency_ms = max(self.worst_latency_ms, latency_ms)
        self.age_ms += age_ms
        self.worst_age_ms = max(self.worst_age_ms, age_ms)

    def to_json(self) -> list[float]:
        """Second, mean and largest latency, mean and largest age in milliseconds."""
        latency_ms, age_ms = self.latency_ms / self.count, self.age_ms / self.count
        return [self.at_s, *(round(ms, 2) for ms in (latency_ms, self.worst_latency_ms, age_ms, self.worst_age_ms))]


@dataclass(eq=False)
class CameraState:
    """Newest result, counts and last seconds of one camera.

    Attributes:
        number: Position in the order in which cameras were named or seen.
        name: Name of the camera in its results.
        since_s: `time.monotonic()` at which waiting for the camera began.
        newest: Newest result; None before there is one.
        newest_at_s: `time.monotonic()` of its arrival.
        sequence: Results so far, those with an error included.
        failed: Results with an error.
        labels: Number of results of each label.
        has_ended: Whether the camera has ended without an error, as a video file does.
    """

    number: int
    name: str
    since_s: float
    newest: LiveResult | None = None
    newest_at_s: float = 0.0
    sequence: int = 0
    failed: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    has_ended: bool = False
    _seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_SECONDS))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, result: LiveResult, now_s: float, at_s: int) -> None:
        """Adds the newest result."""
        with self._lock:
            if result.outcome.prediction is None:
                self.failed += 1
            elif result.label is not None:
                self.labels[result.label] += 1
            seconds = self._seconds
            if not seconds or seconds[-1].at_s != at_s:
                seconds.append(Second(at_s))
            seconds[-1].add(result.outcome.latency_ms, result.age_ms)
            self.newest, self.newest_at_s = result, now_s
            self.sequence += 1

    def seconds(self, count: int, before_s: int) -> list[list[float]]:
        """The last `count` seconds before `before_s`, oldest first."""
        with self._lock:
            return [second.to_json() for second in self._seconds if before_s - count <= second.at_s < before_s]

    def label_counts(self) -> dict[str, int]:
        """Number of results of each label."""
        with self._lock:
            return dict(self.labels)

    def silence_s(self, now_s: float) -> float:
        """Seconds since the newest result, or since waiting for the camera began."""
        return max(0.0, now_s - (self.newest_at_s if self.newest is not None else self.since_s))

    def activity(self, now_s: float, stale_after_s: float) -> Activity:
        """Whether results arrive: `waiting` for the first, `live`, `stale` after too long a silence, or `ended` for good."""
        if self.has_ended:
            return "ended"
        if self.newest is None:
            return "waiting"
        return "live" if self.silence_s(now_s) <= stale_after_s else "stale"

    def to_json(self, now_s: float, stale_after_s: float) -> dict[str, Any]:
        """The newest result and the counts as plain JSON values."""
        result, activity = self.newest, self.activity(now_s, stale_after_s)
        document: dict[str, Any] = {
            "id": self.number,
            "camera": self.name,
            "state": activity,
            "seconds_since_frame": round(self.silence_s(now_s), 2),
            "frames_classified": self.sequence - self.failed,
            "frames_failed": self.failed,
        }
        if result is None:
            return document
        outcome, prediction, statistics = result.outcome, result.outcome.prediction, result.statistics
        document.update(
            sequence=self.sequence,
            frame=result.frame.number,
            size_hw=list(result.frame.image_bgr.shape[:2]),
            label=result.label,
            rejected=result.rejected,
            confidence=None if result.confidence is None else round(result.confidence, 6),
            # Label and confidence are smoothed, unlike the probabilities of `top_k`.
            smoothing=None if result.smoothing.is_off else result.smoothing.to_json(),
            top_k=[[label, round(sure, 6)] for label, sure in prediction.top_k(_TOP_K)] if prediction else [],
            error=None if outcome.error is None else str(outcome.error),
            latency_ms=round(outcome.latency_ms, 3),
            age_ms=round(result.age_ms, 3),
            fps=round(result.fps, 2) if activity == "live" else 0.0,
            frames_captured=statistics.captured,
            frames_dropped=statistics.dropped,
            reconnects=statistics.reconnects,
        )
        return document


class PreviewState:
    """All cameras, the newest events, and the counts that a monitoring system collects; a `Sink`.

    Args:
        model: Returns the description of the model that runs now, for the page and the metrics: plain JSON values.
        cameras: Names of expected cameras; a camera that never delivers is unhealthy only when it is named here.
        stale_after_s: Seconds without a result after which a camera counts as lost.

    Attributes:
        closing: Whether the preview is about to end.
        event_counts: Events by camera and kind.
        url: Address of the preview, without a token.
        last_event: Number of the newest event, 0 before there is one.
    """

    def __init__(
        self, model: Callable[[], dict[str, Any]], cameras: Sequence[str] = (), stale_after_s: float = 10.0
    ) -> None:
        self._model = model
        self.stale_after_s = stale_after_s
        self.closing = False
        self.url = ""
        self.event_counts: Counter[tuple[str, str]] = Counter()
        self._began_s = time.monotonic()
        self._cameras: dict[str, CameraState] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_EVENTS)
        self.last_event = 0
        self._lock = threading.Lock()
        self._listeners: list[Callable[[LiveResult], None]] = []
        for name in cameras:
            self._camera(name)

    def listen(self, listener: Callable[[LiveResult], None]) -> None:
        """Registers a function that is called with every result, in the classifying thread; before the first result."""
        self._listeners.append(listener)

    def on_result(self, result: LiveResult) -> None:
        """Receives a result; takes microseconds and never waits for a client."""
        camera = self._cameras.get(result.camera) or self._camera(result.camera)
        now_s = time.monotonic()
        camera.add(result, now_s, int(now_s - self._began_s))
        for listener in self._listeners:
            listener(result)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Receives an event as names and plain values; counted by its `event` and `source`."""
        # A copy that is JSON for certain: paths and times as text, and no NaN, which browsers do not read.
        copied = json.loads(json.dumps(event, default=str), parse_constant=lambda _: None)
        at = dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds")
        kind = str(copied.get("event", "other"))[:_LONGEST_KIND]
        with self._lock:
            self.last_event += 1
            self._events.append({"id": self.last_event, "at": at, "event": copied})
            self.event_counts[str(copied.get("source", "")), kind] += 1
            camera = self._cameras.get(str(copied.get("source", "")))
            if camera is not None and kind == "ended":
                camera.has_ended = "error" not in copied

    def close(self) -> None:
        """Ends all streams and waits of clients."""
        self.closing = True

    @property
    def model(self) -> dict[str, Any]:
        """Description of the model that runs now, plain JSON values."""
        return self._model()

    @property
    def cameras(self) -> list[CameraState]:
        """All cameras, in the order of their numbers."""
        with self._lock:
            return list(self._cameras.values())

    @property
    def now_s(self) -> float:
        """Seconds since the preview began, the clock of the graph."""
        return time.monotonic() - self._began_s

    def events(self, after: int = 0, last: int = _REMEMBERED_EVENTS) -> list[dict[str, Any]]:
        """The last remembered events with a number above `after`, oldest first."""
        with self._lock:
            found = [event for event in self._events if event["id"] > after]
        return found[-last:] if last > 0 else []

    def counted_events(self) -> dict[tuple[str, str], int]:
        """Events by camera and kind."""
        with self._lock:
            return dict(self.event_counts)

    def status(self) -> list[dict[str, Any]]:
        """Newest result and counts of every camera."""
        now_s = time.monotonic()
        return [camera.to_json(now_s, self.stale_after_s) for camera in self.cameras]

    def problems(self) -> list[str]:
        """Why the preview is not healthy, a phrase a camera; empty while every camera delivers."""
        now_s = time.monotonic()
        return list(_problems(self.cameras, now_s, self.stale_after_s)) if self._cameras else ["no camera yet"]

    def _camera(self, name: str) -> CameraState:
        with self._lock:
            if name not in self._cameras:
                self._cameras[name] = CameraState(len(self._cameras), name, time.monotonic())
            return self._cameras[name]


def _problems(cameras: Iterable[CameraState], now_s: float, stale_after_s: float) -> Iterable[str]:
    for camera in cameras:
        activity = camera.activity(now_s, stale_after_s)
        if activity == "waiting":
            yield f"camera {camera.name}: no frame yet"
        elif activity == "stale":
            yield f"camera {camera.name}: no frame for {camera.silence_s(now_s):.1f} s"
