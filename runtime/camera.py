"""Live cameras: always the newest frame, its age known, drops said and mended.

A camera delivers at its own pace. Frames that wait in a queue only get older, so one thread grabs and keeps nothing but
the newest (`grabber.py`); whoever asks gets that one, and the rest are counted as dropped.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.grabber import URL_SCHEMES, CameraFrame, Grabber

__all__ = ["Camera", "CameraFrame", "CameraStatistics", "masked", "parse_camera"]

_RETRY_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
# A source that delivers for so long has recovered; one that drops again sooner goes on with the attempts it has left.
_RECOVERED_AFTER_S = 10.0
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*(?=@)")


@dataclass(frozen=True)
class CameraStatistics:
    """Counts since the camera was opened.

    Attributes:
        captured: Frames that arrived.
        taken: Frames that were handed out.
        reconnects: Times the source went away and delivered again after it was opened anew.
    """

    captured: int
    taken: int
    reconnects: int

    @property
    def dropped(self) -> int:
        """Frames that were replaced by a newer one before anybody asked."""
        return self.captured - self.taken


class Camera:
    """A camera that is iterated for its newest frames until it is closed or gone for good.

    Args:
        source: Device index such as `0`, device path such as `/dev/video0`, or an http, rtsp, rtmp, udp or tcp URL.
        timeout_s: Longest wait for the first frame, and for any later one, before the source counts as gone.
        reconnects: How often a source that went away is opened anew before giving up; 0 for never. One that has
            delivered for 10 s since is entitled to as many again.
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
        source: int | str,
        *,
        timeout_s: float = 4.0,
        reconnects: int = 5,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        if timeout_s <= 0 or reconnects < 0:
            raise UsageError(
                "bad camera options",
                got=f"timeout {timeout_s:g} s, {reconnects} reconnects",
                expected="positive numbers",
            )
        self.source = parse_camera(source)
        self.name = masked(str(self.source))
        self._timeout_s = timeout_s
        self._reconnects = reconnects
        self._on_event = on_event or (lambda _phrase: None)
        self._taken = self._reconnected = self._attempts = 0
        self._grabber = Grabber(self.source, timeout_s, captured=0)
        self._waiting = self._grabber.take(timeout_s)
        if self._waiting is None:
            self._grabber.stop(wait_s=0)
            raise SourceError(
                f"cannot open camera {self.name}",
                got=self._reason("no frame"),
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
        return CameraStatistics(self._grabber.captured, self._taken, self._reconnected)

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

        Args:
            duration_s: Seconds after which to end, also while waiting; None for no limit.

        Raises:
            SourceError: The camera went away and could not be opened anew within the limit.
        """
        deadline_s = math.inf if duration_s is None else time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            frame, self._waiting = self._waiting, None
            frame = frame or self._grabber.take(min(self._timeout_s, deadline_s - time.monotonic()))
            if frame is None and (self._grabber.failure or time.monotonic() < deadline_s):
                frame = self._reopen(deadline_s)
            if frame is None:
                return
            self._taken += 1
            yield frame

    def close(self) -> None:
        """Stops grabbing. A grab that blocks in the driver is left to end by itself."""
        # Long enough for a working camera to finish its frame, too short to notice for one that hangs.
        self._grabber.stop(wait_s=0.5)

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
            time.sleep(max(0.0, min(pause_s, deadline_s - time.monotonic())))
            if time.monotonic() >= deadline_s:
                return None
            self._grabber = Grabber(self.source, self._timeout_s, self._grabber.captured)
            frame = self._grabber.take(min(self._timeout_s, deadline_s - time.monotonic()))
            if frame is not None:
                self._delivers_since_s = time.monotonic()
                self._reconnected += 1
                self._on_event(f"camera {self.name}: delivers again")
                return frame
            if time.monotonic() >= deadline_s and self._grabber.failure is None:
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


def parse_camera(source: int | str) -> int | str:
    """A camera as OpenCV opens it: an index for digits, else a device path or a URL.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(source, int) or source.isdecimal():
        index = int(source)
        if index >= 0:
            return index
    elif source.startswith(("/dev/", *URL_SCHEMES)):
        return source
    raise UsageError(
        f"cannot use {masked(str(source))!r} as a camera",
        expected="a number such as 0, a device such as /dev/video0, or an http:// or rtsp:// URL",
        do="pass a video file as a source instead",
    )
