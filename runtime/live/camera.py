"""Live cameras: an iterator over the newest frame and its age, which reopens a source that went away.

A camera delivers at its own pace, and frames in a queue only get older. So one thread grabs and keeps nothing but the
newest frame (`grabber.py`); the others are counted as dropped.
"""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.captures.opening import open_capture
from edgeclf.runtime.live.clock import MONOTONIC, Clock
from edgeclf.runtime.live.events import Disconnected, Reconnected
from edgeclf.runtime.live.grabber import CameraFrame, Grabber, GrabCounts
from edgeclf.runtime.live.results import CameraStatistics
from edgeclf.runtime.live.source import CameraSource, parse_camera

__all__ = ["Camera", "CameraFrame"]

_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
# A source has recovered once it has delivered for this long; one that drops again sooner has only the attempts left over.
_RECOVERED_AFTER_S = 10.0
# Pause between the images of a URL that answers with one, where nothing else is asked for.
_SNAPSHOT_S = 1.0
# Long enough for a working camera to finish its frame, too short to notice for one that hangs.
_CLOSING_S = 0.5


class Camera:
    """A camera that is iterated for its newest frames until it is closed or gone for good.

    Args:
        source: Device index such as `0`, device path such as `/dev/video0`, an http, rtsp, rtmp, udp or tcp URL, a
            video file, which plays at its own frame rate and then ends, or a `CameraSource`.
        timeout_s: Longest wait for the first frame, and for any later one, before the source counts as gone.
        reconnects: How often a source that went away is reopened before it is given up; 0 for never. A source that
            has delivered for 10 s since is entitled to as many attempts again.
        max_fps: Frames handed out per second at most; None for no limit, but a URL that answers with one image is asked
            once a second.
        every: Frames that arrive per frame handed out: 1 hands out all, 3 every third.
        loop: Whether a video file begins again at its end.
        on_event: Called with `Disconnected` and `Reconnected`, from the iterating thread.
        clock: Source of time.

    Attributes:
        source: The camera's identity.

    Raises:
        SourceError: There is no such camera, or it delivers no frame in time.
        UsageError: The source names no camera, or a number is out of its range.
    """

    def __init__(
        self,
        source: int | str | Path | CameraSource,
        *,
        timeout_s: float = 4.0,
        reconnects: int = 5,
        max_fps: float | None = None,
        every: int = 1,
        loop: bool = False,
        on_event: Callable[[Disconnected | Reconnected], None] | None = None,
        clock: Clock = MONOTONIC,
    ) -> None:
        if timeout_s <= 0 or reconnects < 0 or every < 1 or not (max_fps is None or max_fps > 0):
            raise UsageError(
                "bad camera options",
                got=f"timeout {timeout_s:g} s, {reconnects} reconnects, every {every}, at most {max_fps} frames/s",
                expected="positive numbers",
            )
        self.source = parse_camera(source)
        self._timeout_s = timeout_s
        self._reconnects = reconnects
        self._period_s = 0.0 if max_fps is None else 1.0 / max_fps
        self._every = every
        self._on_event = on_event or (lambda _event: None)
        self._clock = clock
        self._taken = self._reconnected = self._attempts = 0
        self._due_s = 0.0
        poll_s = self._period_s or _SNAPSHOT_S
        self._open = partial(open_capture, self.source.opened, is_looped=loop, poll_s=poll_s, clock=clock)
        self._counts = GrabCounts()
        self._closed = threading.Event()
        self._grabber = Grabber(self._open, timeout_s, self._counts, clock)
        # The frame stays with the grabber, where a newer one takes its place until the iteration begins.
        if not self._grabber.has_frame(timeout_s):
            reason = self._reason("no frame")
            self._grabber.stop()
            raise SourceError(
                f"cannot open camera {self.name}",
                got=reason,
                expected="a camera that delivers frames",
                hint="check that it is connected, free and permitted",
            )
        self._delivers_since_s = clock.now_s()

    @property
    def name(self) -> str:
        """The camera's name for people and records, see `CameraSource.name`."""
        return self.source.name

    @property
    def fps(self) -> float:
        """Frames per second as the camera reports them; 0 where it reports none."""
        return self._grabber.fps

    @property
    def statistics(self) -> CameraStatistics:
        """Counts since the camera was opened."""
        counts = self._counts
        return CameraStatistics(
            counts.captured,
            self._taken,
            self._reconnected,
            skipped=counts.skipped,
            unreadable=counts.unreadable,
            size_changes=counts.size_changes,
        )

    @property
    def last_frame_s(self) -> float:
        """Monotonic time at which the last frame arrived, in seconds."""
        return self._counts.last_s or self._delivers_since_s

    def __enter__(self) -> "Camera":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[CameraFrame]:
        """Yields the newest frame each time, see `frames`."""
        return self.frames()

    def frames(self, duration_s: float | None = None) -> Iterator[CameraFrame]:
        """Yields the newest frame each time, waiting for one that has not been yielded.

        Ends when a video file does, or after `close`.

        Args:
            duration_s: Seconds after which to end, also while waiting; None for no limit.

        Raises:
            SourceError: The camera went away and could not be reopened within the limit.
        """
        now_s = self._clock.now_s
        deadline_s = math.inf if duration_s is None else now_s() + duration_s
        while now_s() < deadline_s and not self._closed.is_set():
            # A frame that is not due yet, for `max_fps`, is no sign of a camera that went away.
            patience_s = self._timeout_s + max(0.0, self._due_s - now_s())
            frame = self._grabber.take(min(patience_s, max(0.0, deadline_s - now_s())))
            if frame is None:
                if self._grabber.is_finished or self._closed.is_set():
                    return
                if self._grabber.failure is None and now_s() >= deadline_s:
                    return
                if self._grabber.failure is None and self._is_delivering:
                    continue
                frame = self._reopen(deadline_s)
            if frame is None:
                return
            self._taken += 1
            self._choose_next(frame)
            yield frame

    def close(self, *, wait_s: float = _CLOSING_S) -> None:
        """Ends the iteration and stops grabbing, from any thread; the camera is not opened again.

        Args:
            wait_s: Longest wait for the present grab to end, in seconds. A grab that blocks longer in the driver is left
                to end by itself.
        """
        self._closed.set()
        self._grabber.stop(wait_s=wait_s)

    @property
    def _is_delivering(self) -> bool:
        """Whether frames arrive, wanted or not."""
        return self._clock.now_s() - self.last_frame_s < self._timeout_s

    def _choose_next(self, frame: CameraFrame) -> None:
        """Sets which frame is wanted next."""
        if self._period_s:
            # A schedule and not a pause, so that the rate is met on average; reset where the camera is slower.
            self._due_s = max(self._due_s, frame.captured_at_s - self._period_s) + self._period_s
        if self._period_s or self._every > 1:
            self._grabber.want(frame.number + self._every, self._due_s)

    def _reopen(self, deadline_s: float) -> CameraFrame | None:
        """The first frame after the source was reopened; None when the time is over or the camera closed before."""
        clock = self._clock
        if clock.now_s() - self._delivers_since_s >= _RECOVERED_AFTER_S:
            self._attempts = 0
        reason = self._reason("no new frame")
        while self._attempts < self._reconnects:
            self._attempts += 1
            self._on_event(Disconnected(self.name, reason, self._attempts, self._reconnects))
            self._grabber.stop(wait_s=_CLOSING_S)
            pause_s = _RETRY_PAUSES_S[min(self._attempts, len(_RETRY_PAUSES_S)) - 1]
            clock.wait(self._closed, max(0.0, min(pause_s, deadline_s - clock.now_s())))
            if clock.now_s() >= deadline_s or self._closed.is_set():
                return None
            # A grabber that hangs counts no more; the next one goes on with a copy.
            self._counts = replace(self._counts)
            self._grabber = Grabber(self._open, self._timeout_s, self._counts, clock)
            if self._closed.is_set():  # between the check above and the new grabber
                self._grabber.stop()
            frame = self._grabber.take(max(0.0, min(self._timeout_s, deadline_s - clock.now_s())))
            if frame is not None:
                self._delivers_since_s = clock.now_s()
                self._reconnected += 1
                self._on_event(Reconnected(self.name))
                return frame
            if self._closed.is_set() or (clock.now_s() >= deadline_s and self._grabber.failure is None):
                return None
            reason = self._reason("no frame")
        self._grabber.stop(wait_s=_CLOSING_S)
        raise SourceError(
            f"camera {self.name} went away",
            got=f"{reason}, and {self._attempts} attempts to open it anew" if self._attempts else reason,
            expected="a camera that keeps delivering",
            hint="check its cable, power and network",
        )

    def _reason(self, silence: str) -> str:
        return self._grabber.failure or f"{silence} for {self._timeout_s:g} s"
