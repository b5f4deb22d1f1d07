"""Live cameras: always the newest frame, its age known, drops said and mended.

A camera delivers at its own pace. Frames that wait in a queue only get older, so one thread grabs and keeps nothing but
the newest (`grabber.py`); whoever asks gets that one, and the rest are counted as dropped.
"""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.images.video import VIDEO_SUFFIXES
from edgeclf.runtime.live.captures import URL_SCHEMES, open_capture
from edgeclf.runtime.live.grabber import CameraFrame, Grabber, GrabCounts

__all__ = ["Camera", "CameraFrame", "CameraStatistics", "masked", "parse_camera"]

_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
# A source that delivers for so long has recovered; one that drops again sooner goes on with the attempts it has left.
_RECOVERED_AFTER_S = 10.0
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")


@dataclass(frozen=True)
class CameraStatistics:
    """Counts since the camera was opened.

    Attributes:
        captured: Frames that arrived whole.
        taken: Frames that were handed out.
        reconnects: Times the source went away and delivered again after it was opened anew.
        skipped: Frames that were not wanted, because of `max_fps` or `every`.
        unreadable: What arrived in a frame's place and could not be decoded.
        size_changes: Times that the picture had another size than before.
    """

    captured: int
    taken: int
    reconnects: int
    skipped: int = 0
    unreadable: int = 0
    size_changes: int = 0

    @property
    def dropped(self) -> int:
        """Frames that were replaced by a newer one before anybody asked."""
        return self.captured - self.taken - self.skipped


class Camera:
    """A camera that is iterated for its newest frames until it is closed or gone for good.

    Args:
        source: Device index such as `0`, device path such as `/dev/video0`, an http, rtsp, rtmp, udp or tcp URL, or a
            video file, which plays at its own frame rate and then ends.
        timeout_s: Longest wait for the first frame, and for any later one, before the source counts as gone.
        reconnects: How often a source that went away is opened anew before giving up; 0 for never. One that has
            delivered for 10 s since is entitled to as many again.
        max_fps: Frames handed out per second at most; None for no limit.
        every: Hand out a frame only when so many have arrived since the one before.
        loop: Whether a video file begins again at its end.
        on_event: Told, in a phrase, when the source drops, is opened anew, or delivers again; from the iterating
            thread.

    Attributes:
        source: The source, as it is opened.
        name: The source for people and records: a URL's password is masked.

    Raises:
        SourceError: There is no such camera, or it delivers no frame in time.
        UsageError: The source or a number makes no sense.
    """

    def __init__(
        self,
        source: int | str | Path,
        *,
        timeout_s: float = 4.0,
        reconnects: int = 5,
        max_fps: float | None = None,
        every: int = 1,
        loop: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        if timeout_s <= 0 or reconnects < 0 or every < 1 or not (max_fps is None or max_fps > 0):
            raise UsageError(
                "bad camera options",
                got=f"timeout {timeout_s:g} s, {reconnects} reconnects, every {every}, at most {max_fps} frames/s",
                expected="positive numbers",
            )
        self.source = parse_camera(source)
        self.name = masked(str(self.source))
        self._timeout_s = timeout_s
        self._reconnects = reconnects
        self._period_s = 0.0 if max_fps is None else 1.0 / max_fps
        self._every = every
        self._on_event = on_event or (lambda _phrase: None)
        self._taken = self._reconnected = self._attempts = 0
        self._due_s = 0.0
        self._open = partial(open_capture, self.source, is_looped=loop)
        self._counts = GrabCounts()
        self._stopped = threading.Event()
        self._grabber = Grabber(self._open, timeout_s, self._counts)
        self._waiting = self._grabber.take(timeout_s)
        if self._waiting is None:
            reason = self._reason("no frame")
            self._grabber.stop()
            raise SourceError(
                f"cannot open camera {self.name}",
                got=reason,
                expected="a camera that delivers frames",
                do="check that it is connected, free and permitted",
            )
        self._delivers_since_s = time.monotonic()

    @property
    def fps(self) -> float:
        """Frames per second as the camera reports it; 0 where it does not."""
        return self._grabber.fps

    @property
    def statistics(self) -> CameraStatistics:
        """What has happened so far."""
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
        """`time.monotonic()` when the last frame arrived."""
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

        Ends when a video file does, or after `stop`.

        Args:
            duration_s: Seconds after which to end, also while waiting; None for no limit.

        Raises:
            SourceError: The camera went away and could not be opened anew within the limit.
        """
        deadline_s = math.inf if duration_s is None else time.monotonic() + duration_s
        while time.monotonic() < deadline_s and not self._stopped.is_set():
            frame, self._waiting = self._waiting, None
            # A frame that is not due yet, for `max_fps`, is no sign of a camera that went away.
            patience_s = self._timeout_s + max(0.0, self._due_s - time.monotonic())
            frame = frame or self._grabber.take(min(patience_s, max(0.0, deadline_s - time.monotonic())))
            if frame is None:
                if self._grabber.is_finished or self._stopped.is_set():
                    return
                if self._grabber.failure is None and time.monotonic() >= deadline_s:
                    return
                if self._grabber.failure is None and self._is_delivering:
                    continue
                frame = self._reopen(deadline_s)
            if frame is None:
                return
            self._taken += 1
            self._choose_next(frame)
            yield frame

    def stop(self) -> None:
        """Lets `frames` end at once, from any thread."""
        self._stopped.set()
        self._grabber.stop()

    def close(self) -> None:
        """Stops grabbing. A grab that blocks in the driver is left to end by itself."""
        # Long enough for a working camera to finish its frame, too short to notice for one that hangs.
        self._grabber.stop(wait_s=0.5)

    @property
    def _is_delivering(self) -> bool:
        """Whether frames arrive, though none that is wanted."""
        return time.monotonic() - self.last_frame_s < self._timeout_s

    def _choose_next(self, frame: CameraFrame) -> None:
        """Tells the grabber which frame is wanted next."""
        if self._period_s:
            # A schedule and not a pause, so that the rate is met on average; anew where the camera is slower.
            self._due_s = max(self._due_s, frame.captured_at_s - self._period_s) + self._period_s
        if self._period_s or self._every > 1:
            self._grabber.want(frame.number + self._every, self._due_s)

    def _reopen(self, deadline_s: float) -> CameraFrame | None:
        """The first frame after the source was opened anew; None when the time is over before."""
        if time.monotonic() - self._delivers_since_s >= _RECOVERED_AFTER_S:
            self._attempts = 0
        reason = self._reason("no new frame")
        while self._attempts < self._reconnects:
            self._attempts += 1
            self._on_event(f"camera {self.name}: {reason}; opening it anew ({self._attempts} of {self._reconnects})")
            self.close()
            pause_s = _RETRY_PAUSES_S[min(self._attempts, len(_RETRY_PAUSES_S)) - 1]
            self._stopped.wait(max(0.0, min(pause_s, deadline_s - time.monotonic())))
            if time.monotonic() >= deadline_s or self._stopped.is_set():
                return None
            # A grabber that hangs counts no more; the next one goes on with a copy.
            self._counts = replace(self._counts)
            self._grabber = Grabber(self._open, self._timeout_s, self._counts)
            if self._stopped.is_set():  # between the look above and the new grabber
                self._grabber.stop()
            frame = self._grabber.take(max(0.0, min(self._timeout_s, deadline_s - time.monotonic())))
            if frame is not None:
                self._delivers_since_s = time.monotonic()
                self._reconnected += 1
                self._on_event(f"camera {self.name}: delivers again")
                return frame
            if self._stopped.is_set() or (time.monotonic() >= deadline_s and self._grabber.failure is None):
                return None
            reason = self._reason("no frame")
        self.close()
        raise SourceError(
            f"camera {self.name} went away",
            got=f"{reason}, and {self._attempts} attempts to open it anew" if self._attempts else reason,
            expected="a camera that keeps delivering",
            do="check its cable, power and network",
        )

    def _reason(self, silence: str) -> str:
        return self._grabber.failure or f"{silence} for {self._timeout_s:g} s"


def masked(url: str) -> str:
    """A URL without the password in it."""
    return _PASSWORD.sub(r"\1:***", url)


def parse_camera(source: int | str | Path) -> int | str | Path:
    """A camera as it is opened: an index for digits, a URL or device as it is, a path for a file.

    Raises:
        SourceError: It looks like a video file, and there is none.
        UsageError: It is none of these.
    """
    if isinstance(source, int):
        if source >= 0:
            return source
    elif isinstance(source, str) and source.isdecimal():
        return int(source)
    elif isinstance(source, str) and source.startswith(("/dev/", *URL_SCHEMES)):
        return source
    elif os.path.isfile(source):  # noqa: PTH113 - Path.is_file raises for some impossible names
        return Path(source)
    elif Path(source).suffix.lower() in VIDEO_SUFFIXES:
        raise SourceError(
            f"cannot open camera {source}", got="no such file", expected="a video file", do="check the path"
        )
    raise UsageError(
        f"cannot use {masked(str(source))!r} as a camera",
        expected="a number such as 0, a device such as /dev/video0, an http:// or rtsp:// URL, or a video file",
        do="name one of these",
    )
