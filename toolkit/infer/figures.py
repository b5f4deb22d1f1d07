"""What one camera's run comes to: its frame rate, the ages of its frames, a summary as text and as JSON values."""

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeclf.runtime.live.camera import CameraStatistics

# A summary's percentiles look at the newest frames only: a camera may run for months.
_REMEMBERED_AGES = 10_000


class LiveFigures:
    """Counts frames as they are classified; read by other threads.

    Attributes:
        done: Frames classified.
        errors: Those of them without a result.
        seconds: How long the run took, once it is over.
    """

    def __init__(self) -> None:
        self.done = self.errors = 0
        self.seconds = 0.0
        self._started_s = time.monotonic()
        self._times_s: deque[float] = deque(maxlen=30)
        self._ages_ms: deque[float] = deque(maxlen=_REMEMBERED_AGES)
        self._logged_s, self._logged_done = self._started_s, 0

    def add(self, age_ms: float, *, is_error: bool) -> None:
        """Counts a frame, of that age when its result was there."""
        self.done += 1
        self.errors += is_error
        self._times_s.append(time.monotonic())
        self._ages_ms.append(age_ms)

    def end(self) -> None:
        """Stops the clock."""
        self.seconds = time.monotonic() - self._started_s

    @property
    def fps(self) -> float:
        """Frames classified per second over the last 30 frames."""
        if len(self._times_s) < 2:
            return 0.0
        return (len(self._times_s) - 1) / max(self._times_s[-1] - self._times_s[0], 1e-9)

    def age_percentiles_ms(self) -> tuple[float, float] | None:
        """p50 and p95 of the newest ages; None before there is a frame."""
        ages_ms = tuple(self._ages_ms.copy())  # copied in one step, as frames come in meanwhile
        if not ages_ms:
            return None
        import numpy as np

        p50, p95 = np.percentile(np.array(ages_ms), (50, 95))
        return float(p50), float(p95)

    def log_line(self, statistics: "CameraStatistics") -> str:
        """The figures since the last such line, for a service's log."""
        now_s, done = time.monotonic(), self.done
        seconds, frames = max(now_s - self._logged_s, 1e-9), done - self._logged_done
        self._logged_s, self._logged_done = now_s, done
        return (
            f"{frames} frames in {seconds:.0f} s ({frames / seconds:.1f} frames/s); in all {done} frames"
            + self._more(statistics)
        )

    def summary(self, provider: str, statistics: "CameraStatistics") -> str:
        """The whole run in a line."""
        return (
            f"{self.done} frames in {self.seconds:.1f} s ({self.done / max(self.seconds, 1e-9):.1f} frames/s) "
            f"on {provider}" + self._more(statistics)
        )

    def _more(self, statistics: "CameraStatistics") -> str:
        text = f", {statistics.dropped} dropped, {statistics.reconnects} reconnects"
        for count, words in (
            (statistics.skipped, "skipped"),
            (statistics.unreadable, "unreadable"),
            (statistics.size_changes, "changes of size"),
            (self.errors, "without a result"),
        ):
            text += f", {count} {words}" if count else ""
        if (ages_ms := self.age_percentiles_ms()) is not None:
            text += f", frame age p50 {ages_ms[0]:.0f} ms, p95 {ages_ms[1]:.0f} ms"
        return text

    def to_json(self, statistics: "CameraStatistics") -> dict[str, Any]:
        """The whole run as plain JSON values."""
        ages_ms = self.age_percentiles_ms()
        return {
            "frames": self.done,
            "errors": self.errors,
            "seconds": round(self.seconds, 3),
            "captured": statistics.captured,
            "dropped": statistics.dropped,
            "skipped": statistics.skipped,
            "unreadable": statistics.unreadable,
            "size_changes": statistics.size_changes,
            "reconnects": statistics.reconnects,
            "age_p50_ms": None if ages_ms is None else round(ages_ms[0], 1),
            "age_p95_ms": None if ages_ms is None else round(ages_ms[1], 1),
        }
