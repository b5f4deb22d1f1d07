"""A network camera whose every second is written down: frames, damage, bursts, cuts, silence, a server that is gone."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.camera.mjpeg_camera import jpeg_of
from edgeclf.runtime.live.captures.capture import Capture, CaptureEndedError
from edgeclf.runtime.live.captures.mjpeg import MjpegCapture
from edgeclf.runtime.live.clock import Clock

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
_SIZE_HW = (120, 160)
# Images of a colour, each with other noise: a camera that shows the same one again and again is frozen.
_VARIANTS = 8
_BURST = 3
_STILL_AFTER_S = 100.0
_POLL_S = 0.05
_STUCK_S = 120.0


@dataclass
class Sent:
    """What the camera has sent and done, and so what must be counted.

    Attributes:
        frames: Whole frames.
        behind: Those that a newer one replaced at once.
        damaged: Parts that are no whole image.
        cuts: Times that the stream ended, or no byte came any more.
        refused: Attempts to connect while the server was gone.
        labels: Times that the colour was another than before, the first one included.
        freezes: Times that no new image came for longer than the camera may freeze.
    """

    frames: int = 0
    behind: int = 0
    damaged: int = 0
    cuts: int = 0
    refused: int = 0
    labels: int = 0
    freezes: int = 0


@dataclass(frozen=True)
class Schedule:
    """When what happens, in seconds of the camera's time.

    Attributes:
        seconds: Length of the run.
        fps: Frames a second.
        label_s: Between two changes of the colour.
        cut_s: Between two cuts, 200 at least; every second one is a silence, every fourth a server that is gone for a while.
        gone_s: Time for which a server is gone, and, after every fourth cut but one, one image is repeated.
        damage_every: Frames between two damaged parts.
        burst_every: Frames between two bursts.
    """

    seconds: float
    fps: float = 5.0
    label_s: float = 60.0
    cut_s: float = 900.0
    gone_s: float = 90.0
    damage_every: int = 41
    burst_every: int = 97


@dataclass
class ScriptedCamera:
    """An MJPEG server in memory, which sends the next frame when the last one was classified.

    Args:
        schedule: What happens.
        clock: The clock that it moves on.

    Attributes:
        sent: What must be counted.
    """

    schedule: Schedule
    clock: Clock
    sent: Sent = field(default_factory=Sent)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self._images = {
            label: [
                jpeg_of(np.clip(np.asarray(colour) * 0.6 + rng.normal(40, 8, (*_SIZE_HW, 3)), 0, 255).astype(np.uint8))
                for _ in range(_VARIANTS)
            ]
            for label, colour in COLOURS_BGR.items()
        }
        self._rng = rng
        self._condition = threading.Condition()
        self._wanted = self._taken = 0
        self._label = ""
        self._next_cut_s = self.schedule.cut_s
        self._last_cut_s = self._back_s = 0.0
        self._damaged_at = 0
        self._is_still = False

    def taken(self) -> None:
        """Called when a frame was classified and all that follows from it is done."""
        with self._condition:
            self._taken += 1
            self._condition.notify_all()

    def open(self, _source: object, patience_s: float, is_stopped: Callable[[], bool], **_options: object) -> Capture:
        """Takes the place of `open_capture`."""
        if self.clock.now_s() < self._back_s:
            self.sent.refused += 1
            raise CaptureEndedError("no connection (Connection refused)")
        return MjpegCapture(_Response(self, patience_s, is_stopped), "frame", is_stopped, self.clock)  # type: ignore[arg-type]  # what it reads of a response

    def bytes_of_next(self, patience_s: float, is_stopped: Callable[[], bool]) -> bytes:
        """What the next read gives: a part, several, or nothing for the end of the stream.

        Raises:
            TimeoutError: No byte came for so long.
        """
        schedule, sent, clock = self.schedule, self.sent, self.clock
        self._wait_for_taken(is_stopped)
        if is_stopped():
            return b""
        if self._damaged_at != sent.frames and sent.frames % schedule.damage_every == 1:
            # By itself: of several parts that have come only the newest is decoded, and so known to be damaged.
            self._damaged_at = sent.frames
            return _as_part(self._damaged())
        clock.sleep(1 / schedule.fps)
        now_s = clock.now_s()
        if self._next_cut_s <= now_s < schedule.seconds - 2 * schedule.gone_s:
            self._next_cut_s, self._last_cut_s = now_s + schedule.cut_s, now_s
            sent.cuts += 1
            if sent.cuts % 4 == 0:
                self._back_s = now_s + schedule.gone_s
                sent.freezes += 1
            elif sent.cuts % 2 == 0:
                clock.sleep(patience_s)
                raise TimeoutError
            return b""
        parts = [self._frame(now_s)]
        if sent.frames % schedule.burst_every == 0:
            parts += [self._frame(now_s) for _ in range(_BURST - 1)]
            sent.behind += _BURST - 1
        self._wanted += 1
        return b"".join(map(_as_part, parts))

    def _frame(self, now_s: float) -> bytes:
        labels, sent = list(COLOURS_BGR), self.sent
        since_s = now_s - self._last_cut_s - _STILL_AFTER_S
        is_still = sent.cuts % 4 == 1 and 0 <= since_s < self.schedule.gone_s
        sent.freezes += is_still and not self._is_still
        self._is_still = is_still
        # A stretch of one image keeps the colour with which it begins.
        label = labels[int((now_s - since_s if is_still else now_s) / self.schedule.label_s) % len(labels)]
        sent.labels += label != self._label
        self._label = label
        sent.frames += 1
        return self._images[label][0 if is_still else sent.frames % _VARIANTS]

    def _damaged(self) -> bytes:
        self.sent.damaged += 1
        part, kind = self._images["red"][0], self.sent.damaged % 3
        if kind == 0:
            return self._rng.bytes(len(part))
        # Without its end, or without its middle: the markers of the second are whole, its pixels are not.
        return part[: len(part) // 2] if kind == 1 else part[: len(part) // 2] + part[len(part) * 3 // 4 :]

    def _wait_for_taken(self, is_stopped: Callable[[], bool]) -> None:
        with self._condition:
            waited_s = 0.0
            while not is_stopped() and (self._taken < self._wanted or self.clock.now_s() >= self.schedule.seconds):
                self._condition.wait(_POLL_S)
                waited_s += _POLL_S
                if waited_s > _STUCK_S:
                    raise RuntimeError(f"no frame was classified for {_STUCK_S:g} s")


def _as_part(body: bytes) -> bytes:
    return b"--frame\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(body), body)


class _Response:
    """The two methods of a response that `MjpegCapture` calls."""

    def __init__(self, camera: ScriptedCamera, patience_s: float, is_stopped: Callable[[], bool]) -> None:
        self._camera = camera
        self._patience_s = patience_s
        self._is_stopped = is_stopped

    def read1(self, _most: int) -> bytes:
        """The bytes of the next read."""
        return self._camera.bytes_of_next(self._patience_s, self._is_stopped)

    def close(self) -> None:
        """Nothing is open."""
